"""A look, now and again, whether the namespace is still as the engine needs it.

Whoever has the ``nats`` CLI can change a stream or consume from it while workers run. A worker logs what it finds, and tells it in its
heartbeat, so that ``jetflow stats`` shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from jetflow.broker.transport.connection import Broker
from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")

EVERY = 120.0
"""Seconds between two looks. Workers that share a connection share a look."""
SETTLE = 1.0
"""Seconds after a reconnect until the server is asked: it may have been restarted with other streams."""


class Inspection:
    """Looks for one worker.

    Attributes:
        complaints: what was found at the last look, each a sentence.
    """

    def __init__(self, broker: Broker) -> None:
        self.complaints: list[str] = list(broker.topology.complaints)
        self._broker = broker
        self._reconnected = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        self._broker.wire.on_reconnect.append(self._reconnected.set)
        try:
            while True:
                within = await self._wait()
                try:
                    self.complaints = list(await self._broker.complaints(newer_than=within))
                except BrokerError as error:
                    log.debug("the namespace is looked at later: %s", error)
        finally:
            self._broker.wire.on_reconnect.remove(self._reconnected.set)

    async def _wait(self) -> float:
        """Wait until it is time; gives how old another worker's look may be."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVERY):
                await self._reconnected.wait()
                self._reconnected.clear()
                await asyncio.sleep(SETTLE)
                return SETTLE
        return EVERY / 2
