"""Telling other services what happens to workflows, while they want to know.

Events are an effect of the commit that they are about: they go out after it, are answered before its command is acked, and after
a crash go out again with the same ids. What the stream refuses (it is full, or too large for it) stops no workflow.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec

from jetflow.broker.stores.lifecycle import LifecycleStream
from jetflow.broker.transport.lane import check_ack
from jetflow.core.ids import to_token
from jetflow.core.operation import RunInfo
from jetflow.engine.context import Context
from jetflow.errors import BrokerError, PayloadTooLargeError
from jetflow.protocol.headers import status_of
from jetflow.protocol.lifecycle import lifecycle_events

log: logging.Logger = logging.getLogger("jetflow.worker")

LOOK_EVERY = 5
"""Seconds between looks whether the stream has come or gone."""

Told = list["asyncio.Future[Any]"]


class Lifecycle:
    """What one worker tells.

    Attributes:
        on: whether anybody wants to know.
    """

    def __init__(self, context: Context) -> None:
        self.on = False
        self._queue_token = context.queue_token
        self._stream = LifecycleStream(context.broker.lane, context.broker.names)

    async def look(self) -> None:
        """Looks whether the stream is there."""
        try:
            self.on = await self._stream.exists()
        except BrokerError as error:
            log.debug("whether lifecycle events are wanted is not known: %s", error)

    async def run(self) -> None:
        """Looks again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    def tell(self, info: RunInfo, events: list[Any]) -> Told:
        """Sends what a commit means to others; the answers are for ``settled``.

        Raises:
            BrokerUnavailableError: not connected now.
        """
        told: Told = []
        for event in lifecycle_events(info, events):
            try:
                answer = self._stream.send(self._queue_token, to_token(info.workflow_id), event.kind, event.id, msgspec.json.encode(event))
            except PayloadTooLargeError as error:
                log.warning("lifecycle event %s is not sent: %s", event.id, error)
                continue
            answer.add_done_callback(_heard)
            told.append(answer)
        return told

    async def settled(self, told: Told) -> None:
        """Returns once the broker has them.

        Raises:
            BrokerUnavailableError: whether it has them is unknown.
        """
        while told:
            data, headers = await told[-1]
            told.pop()
            if status_of(headers):
                self.on: bool = False  # the stream is gone
                continue
            try:
                check_ack(data, "lifecycle event")
            except BrokerError as error:
                log.warning("a lifecycle event was refused: %s", error)


def _heard(answer: asyncio.Future[Any]) -> None:
    """Whoever drops a workflow need not ask what became of its events."""
    if not answer.cancelled():
        answer.exception()
