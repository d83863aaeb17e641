"""Following workflows live: each change of a record as it happens, and after a gap at least the last change of each workflow.

The broker publishes a notice of each change. A notice may be lost. Each notice has the record's position in the stream, so the reader
can read missed changes from the stream. It does so after a reconnect, when it was too slow, and at intervals without a notice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.walk import Walk, position_of
from jetflow.core.ids import to_token
from jetflow.errors import BrokerError
from jetflow.protocol.record import StateRecord, decode_state
from jetflow.reading.filters import Filters, matcher

MOST = 10_000
"""Most buffered notices. A slower reader reads the stream instead."""
LOOK_EVERY = 5.0
"""Seconds without a notice after which the reader reads the stream."""


class Changes:
    """Changes of the workflows that match filters. Enter it with ``async with``, then iterate over it."""

    def __init__(self, broker: Broker, filters: Filters) -> None:
        queue = "*" if filters.task_queue is None else to_token(filters.task_queue)
        names = broker.names
        self._wire = broker.wire
        self._match = matcher(filters)
        self._subject = names.changed(queue)
        only = names.states(queue) if filters.task_queue is not None else None
        self._walk = Walk(broker.lane, names.state_stream, only, replicated=broker.topology.replicas > 1)
        self._notices: deque[tuple[int, bytes]] = deque()
        self._news = asyncio.Event()
        self._behind = False
        self._position = 0
        self._sid: int | None = None

    async def __aenter__(self) -> Changes:
        self._wire.on_reconnect.append(self._missed)
        self._sid = self._wire.listen(self._subject, self._on_notice)
        self._position = (await self._walk.shape()).last
        return self

    async def __aexit__(self, *_: object) -> None:
        self._wire.on_reconnect.remove(self._missed)
        if self._sid is not None:
            with contextlib.suppress(BrokerError):  # not connected: the server has dropped the subscription already
                self._wire.unlisten(self._sid)

    async def __aiter__(self) -> AsyncIterator[StateRecord]:
        while True:
            if self._behind:
                async for record in self._catch_up():
                    yield record
            while self._notices and not self._behind:
                position, data = self._notices.popleft()
                if position > self._position:
                    self._position = position
                    record = self._wanted(data)
                    if record is not None:
                        yield record
            self._news.clear()
            if not self._notices and not self._behind:
                try:
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._news.wait()
                except TimeoutError:
                    self._behind = True

    async def _catch_up(self) -> AsyncIterator[StateRecord]:
        self._behind = False
        self._notices.clear()
        try:
            async for rows in self._walk.upwards(self._position + 1):
                for row in rows:
                    self._position = row.position
                    record = self._wanted(row.data)
                    if record is not None:
                        yield record
        except BrokerError:
            if self._wire.is_closed:
                raise
            self._behind = True  # the connection broke; read again after the reconnect
            await asyncio.sleep(0.25)

    def _wanted(self, data: bytes) -> StateRecord | None:
        return decode_state(data) if self._match(data) is not None else None

    def _on_notice(self, _subject: bytes, _reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._news.set()
        if len(self._notices) >= MOST:
            self._behind = True
        elif headers is not None and not self._behind:
            self._notices.append((position_of(headers), data))

    def _missed(self) -> None:
        self._behind = True
        self._news.set()
