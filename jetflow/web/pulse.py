"""Checks whether the broker answers. A server that is frozen or cut off leaves its connection open and sends nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from jetflow.broker.transport.connection import Broker
from jetflow.errors import BrokerError

EVERY = 0.75
"""Seconds between an answer and the next request."""
PATIENCE = 1.25
"""The most seconds that an answer may take. Together with ``EVERY``, a silence is noticed within two seconds."""


class Pulse:
    """Sends requests to the broker at intervals.

    Args:
        broker: the connection.
        changed: called when the broker falls silent, and when it answers again.
    """

    def __init__(self, broker: Broker, changed: Callable[[], None]) -> None:
        self._broker = broker
        self._changed = changed
        self._answered = time.monotonic()
        self._silent = False

    @property
    def shown(self) -> dict[str, Any]:
        """Return ``connected``, and for how many ms the broker has been ``silent``, 0 while it answers."""
        connected = not self._silent and self._broker.wire.is_connected
        return {"connected": connected, "silent": 0 if connected else int((time.monotonic() - self._answered) * 1000)}

    async def beat(self) -> None:
        """Send requests until cancelled."""
        self._answered, self._silent = time.monotonic(), False
        while True:
            answers = await self._answers()
            if answers:
                self._answered = time.monotonic()
            if answers == self._silent:
                self._silent = not answers
                self._changed()
            await asyncio.sleep(EVERY if answers else EVERY / 3)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._broker.lane.api("INFO")
        except (TimeoutError, BrokerError):
            return False
        return True
