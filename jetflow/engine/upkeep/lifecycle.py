"""Lifecycle events for other services, published while their stream exists.

Events are effects of a commit. They go out after it, and the broker answers them before the commit's command is acked. After a crash they go out
again with the same ids. An event that the stream refuses, because it is full or the event too large, stops no workflow.
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
"""Seconds between two checks whether the stream exists."""

Told = list["asyncio.Future[Any]"]


class Lifecycle:
    """Publishes the lifecycle events of one worker's workflows.

    Attributes:
        on: whether the stream exists.
    """

    def __init__(self, context: Context) -> None:
        self.on = False
        self._queue_token = context.queue_token
        self._stream = LifecycleStream(context.broker.lane, context.broker.names)

    async def look(self) -> None:
        """Check whether the stream exists."""
        try:
            self.on = await self._stream.exists()
        except BrokerError as error:
            log.debug("the stream of lifecycle events could not be looked up: %s", error)

    async def run(self) -> None:
        """Check every few seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    def tell(self, info: RunInfo, events: list[Any]) -> Told:
        """Publish the lifecycle events of a commit. Pass the returned answers to ``settled``.

        Raises:
            BrokerUnavailableError: not connected now.
        """
        told: Told = []
        for event in lifecycle_events(info, events):
            try:
                answer = self._stream.send(self._queue_token, to_token(info.workflow_id), event.kind, event.id, msgspec.json.encode(event))
            except PayloadTooLargeError as error:
                log.warning("lifecycle event %s is not sent: %s", event.id, error, extra=info.log_fields)
                continue
            answer.add_done_callback(_heard)
            told.append(answer)
        return told

    async def settled(self, told: Told) -> None:
        """Return once the broker has answered for the events.

        Raises:
            BrokerUnavailableError: whether the broker has stored them is unknown.
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
    """Read the answer's exception, so that asyncio does not warn when a dropped workflow never awaits it."""
    if not answer.cancelled():
        answer.exception()
