"""Changes for browsers: one subscription for all of them while a page is open, and a small buffer with a limit for each.

A browser that is slow, or that would get more changes than it could show, gets the newest state of a few workflows and a note that there were more.
It then reads its page again. So neither ten browsers nor ten thousand changes a second cost the broker more than one subscriber.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from jetflow.client import Client
from jetflow.core.ids import from_token
from jetflow.errors import BrokerError, InvalidInputError
from jetflow.protocol.record import StateRecord, decode_state
from jetflow.web.pulse import Pulse
from jetflow.web.rows import row
from jetflow.web.throughput import Throughput

EVERY = 0.2
"""Seconds between two batches for one browser."""
TICK = 1.0
MOST_ROWS = 150
"""The most workflows in one batch."""
REMEMBERED = 120
"""The most ticks that a newly opened page gets, if other pages were open before."""
MAX_BROWSERS = 200
"""The most browsers that listen at once. Further ones get status 503 and try again."""
LINGER = 5.0
"""Seconds that the subscription stays after the last browser has left, since that may only load another page."""


@dataclass(frozen=True)
class Interest:
    """The changes that one browser wants. A field that is None admits everything. ``queue`` and ``workflow_type`` are prefixes."""

    queue: str | None = None
    workflow_id: str | None = None
    workflow_type: str | None = None
    text: str | None = None
    nothing: bool = False

    def takes(self, record: StateRecord) -> bool:
        """Return whether the page may show a workflow. Its status does not matter, since the page must also hear when a row leaves a list."""
        return not (
            self.nothing
            or (self.queue is not None and not record.task_queue.lower().startswith(self.queue.lower()))
            or (self.workflow_id is not None and record.workflow_id != self.workflow_id)
            or (self.workflow_type is not None and not record.workflow_type.lower().startswith(self.workflow_type.lower()))
            or (self.text is not None and self.text.lower() not in record.workflow_id.lower())
        )


class Buffer:
    """The next messages for one browser: the newest record of each workflow, at most ``MOST_ROWS`` of them."""

    def __init__(self, interest: Interest) -> None:
        self._interest = interest
        self._news = asyncio.Event()
        self._records: dict[tuple[str, str], StateRecord | None] = {}
        self._ticks: list[dict[str, Any]] = []
        self._broker: list[dict[str, Any]] = []
        self._more = False

    def change(self, key: tuple[str, str], record: StateRecord | None) -> None:
        """Add a workflow's new record, or None if the record has gone."""
        if record is not None and not self._interest.takes(record):
            return
        if key in self._records or len(self._records) < MOST_ROWS:
            self._records[key] = record
        else:
            self._more = True
        self._news.set()

    def missed(self) -> None:
        """Note that changes may have been missed."""
        self._more = True
        self._news.set()

    def tick(self, shown: dict[str, Any]) -> None:
        """Add the figures of the last second. Only the newest stay."""
        self._ticks = [shown]
        self._news.set()

    def broker(self, shown: dict[str, Any]) -> None:
        """Add the news that the broker is silent, or answers again."""
        self._broker = [shown]
        self._news.set()

    def close(self) -> None:
        """Wake the waiting reader."""
        self._news.set()

    async def next(self) -> list[tuple[str, Any]]:
        """Wait for messages, and return them with their names."""
        await self._news.wait()
        self._news.clear()
        messages: list[tuple[str, Any]] = [("tick", tick) for tick in self._ticks]
        messages += [("broker", shown) for shown in self._broker]
        if self._records or self._more:
            rows = [row(record) for record in self._records.values() if record is not None]
            gone = [list(key) for key, record in self._records.items() if record is None]
            messages.append(("rows", {"rows": rows, "gone": gone, "more": self._more}))
        self._records, self._ticks, self._broker, self._more = {}, [], [], False
        return messages


class Feed:
    """The one subscription, and the browsers that listen.

    Attributes:
        ticks: the figures of the last seconds in which a page was open.
        pulse: checks whether the broker answers, while a page is open.
        closed: whether the feed has ended.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._buffers: set[Buffer] = set()
        self._sid: int | None = None
        self._throughput = Throughput()
        self.pulse: Pulse = Pulse(client.broker, self._on_pulse)
        self.ticks: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._tasks: list[asyncio.Task[None]] = []
        self._leaving: asyncio.TimerHandle | None = None
        self.closed = False

    @property
    def listening(self) -> bool:
        """Whether the broker sends changes at the moment."""
        return self._sid is not None

    @property
    def is_full(self) -> bool:
        """Whether ``MAX_BROWSERS`` browsers listen already."""
        return len(self._buffers) >= MAX_BROWSERS

    @asynccontextmanager
    async def listen(self, interest: Interest) -> AsyncIterator[Buffer]:
        """Return a buffer that fills while the block runs."""
        buffer = Buffer(interest)
        self._buffers.add(buffer)
        try:
            self._begin()
            yield buffer
        finally:
            self._buffers.discard(buffer)
            if not self._buffers and not self.closed:
                self._leaving = asyncio.get_running_loop().call_later(LINGER, self._stop)

    def close(self) -> None:
        """End every listener."""
        self.closed: bool = True
        self._stop()
        for buffer in self._buffers:
            buffer.close()

    def _begin(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        if self._sid is None:
            wire, names = self._client.broker.wire, self._client.broker.names
            self._sid = wire.listen(names.every_change, self._on_change)
            wire.on_reconnect.append(self._on_reconnect)
            self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self.pulse.beat())]

    def _stop(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        if self._sid is not None:
            wire = self._client.broker.wire
            wire.on_reconnect.remove(self._on_reconnect)
            with contextlib.suppress(BrokerError):  # not connected: the server has no subscription any more
                wire.unlisten(self._sid)
            self._sid = None

    def _on_change(self, subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        record = decode_state(data)
        if record is not None:
            self._throughput.count(record)
            key = (record.task_queue, record.workflow_id)
        else:
            queue_token, id_token = self._client.broker.names.workflow_of_change(subject.decode(errors="replace"))
            try:
                key = (from_token(queue_token), from_token(id_token))
            except InvalidInputError:
                return
        self._tell(lambda buffer: buffer.change(key, record))

    def _on_reconnect(self) -> None:
        self._tell(Buffer.missed)

    def _on_pulse(self) -> None:
        self._tell(lambda buffer: buffer.broker(self.pulse.shown))

    def _tell(self, what: Callable[[Buffer], None]) -> None:
        for buffer in self._buffers:
            what(buffer)

    async def _tick(self) -> None:
        self._throughput.take()
        self.ticks.clear()  # otherwise the seconds without an open page would be missing
        while True:
            await asyncio.sleep(TICK)
            starts, closes = self._throughput.take()
            shown = {"starts": starts, "closes": closes, **self.pulse.shown}
            self.ticks.append(shown)
            self._tell(lambda buffer, shown=shown: buffer.tick(shown))
