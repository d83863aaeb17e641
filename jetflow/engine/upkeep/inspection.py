"""Checks from time to time that the namespace is as the engine needs it.

People can change a stream or consume from it with the ``nats`` CLI while workers run. A worker logs what it finds and reports it in its heartbeat,
so that ``jetflow stats`` shows it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from jetflow.broker.transport.connection import Broker
from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")

EVERY = 120.0
"""Seconds between two checks. Workers that share a connection share a check."""
SETTLE = 1.0
"""Seconds between a reconnect and the check that follows it: a restarted server may have other streams."""


class Inspection:
    """Checks the namespace for one worker.

    Attributes:
        complaints: what the last check found, each a sentence.
    """

    def __init__(self, broker: Broker) -> None:
        self.complaints: list[str] = list(broker.topology.complaints)
        self._broker = broker
        self._reconnected = asyncio.Event()

    async def run(self) -> None:
        """Check until cancelled."""
        self._broker.wire.on_reconnect.append(self._reconnected.set)
        try:
            while True:
                within = await self._wait()
                try:
                    self.complaints = list(await self._broker.complaints(newer_than=within))
                except BrokerError as error:
                    log.debug("the namespace is checked later: %s", error)
        finally:
            self._broker.wire.on_reconnect.remove(self._reconnected.set)

    async def _wait(self) -> float:
        """Wait until the next check. Return how old (s) another worker's check may be to replace it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EVERY):
                await self._reconnected.wait()
                self._reconnected.clear()
                await asyncio.sleep(SETTLE)
                return SETTLE
        return EVERY / 2
