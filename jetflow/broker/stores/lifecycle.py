"""The stream of lifecycle events: there when somebody wants them, and published to for as long as it is."""

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
"""Seconds in which the broker drops an event that a crash has sent again; later ones are for the consumer to tell by their id."""


class LifecycleStream:
    """One namespace's stream."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def exists(self) -> bool:
        """Whether events are wanted."""
        return await stream_config(self._lane, self._names.events_stream) is not None

    async def create(self, keep_ms: int | None, replicas: int) -> None:
        """Makes the stream, or changes how long it keeps events.

        Raises:
            BrokerError: another stream takes its subjects, or its rights are missing.
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
        """Ends the stream, with every event in it; no stream is fine."""
        try:
            await self._lane.api(f"STREAM.DELETE.{self._names.events_stream}")
        except BrokerError as error:
            if error.err_code != STREAM_NOT_FOUND:
                raise

    def send(self, queue_token: str, id_token: str, kind: str, event_id: str, body: bytes) -> asyncio.Future[Any]:
        """Publishes one event; the future is the answer, a status if there is no stream any more.

        Raises:
            BrokerUnavailableError: not connected now; nothing was sent.
        """
        headers = header_block(Nats_Msg_Id=event_id, content_type=CONTENT_TYPE)
        return self._lane.begin(f"{self._names.events_prefix}{queue_token}.{id_token}.{kind}", body, headers, retry=False)
