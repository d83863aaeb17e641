"""The stream of lifecycle events. Owners publish to it while it exists."""

from __future__ import annotations

import asyncio
from typing import Any

from jetflow.broker.transport.codes import STREAM_NOT_FOUND
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.topology import SECOND, stream_config
from jetflow.errors import BrokerError
from jetflow.protocol.headers import header_block
from jetflow.protocol.lifecycle import CONTENT_TYPE
from jetflow.protocol.subjects import Names

DUPLICATE_WINDOW = 120
"""Seconds in which the broker drops a repeated event. Consumers recognise later repeats by the id."""


class LifecycleStream:
    """The stream of lifecycle events of one namespace."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def exists(self) -> bool:
        """Return whether the stream exists."""
        return await stream_config(self._lane, self._names.events_stream) is not None

    async def create(self, keep_ms: int | None, replicas: int) -> None:
        """Create the stream, or change how long it stores events (ms; None for forever).

        Raises:
            BrokerError: another stream has its subjects, or this user lacks the rights.
        """
        config: dict[str, Any] = {
            "name": self._names.events_stream,
            "subjects": [f"{self._names.events_prefix}>"],
            "retention": "limits",
            "storage": "file",
            "num_replicas": replicas,
            "allow_direct": True,
            "max_age": 0 if keep_ms is None else keep_ms * SECOND // 1000,
            "duplicate_window": min(DUPLICATE_WINDOW * 1000, keep_ms or DUPLICATE_WINDOW * 1000) * SECOND // 1000,
            "description": "jetflow events: what happens to workflows, as CloudEvents, by task queue, workflow and kind",
        }
        operation = "UPDATE" if await self.exists() else "CREATE"
        await self._lane.api(f"STREAM.{operation}.{self._names.events_stream}", config)

    async def delete(self) -> None:
        """Delete the stream with all its events. Do nothing if there is no stream."""
        try:
            await self._lane.api(f"STREAM.DELETE.{self._names.events_stream}")
        except BrokerError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise

    def send(self, queue_token: str, id_token: str, kind: str, event_id: str, body: bytes) -> asyncio.Future[Any]:
        """Publish one event and return the future of the answer: a status if the stream is gone.

        Raises:
            BrokerUnavailableError: not connected now; nothing was sent.
        """
        headers = header_block(Nats_Msg_Id=event_id, content_type=CONTENT_TYPE)
        return self._lane.begin(f"{self._names.events_prefix}{queue_token}.{id_token}.{kind}", body, headers, retry=False)
