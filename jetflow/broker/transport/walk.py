"""Reading a bucket by position, newest first, with no consumer and no index: windows of batched direct gets.

A bucket keeps the last value of each key only, so its stream in falling order of position is its keys, the one written last first.
What is overwritten meanwhile comes back above where the walk began; ``upwards`` reads that.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerUnavailableError
from jetflow.protocol import clock
from jetflow.protocol.headers import parse_headers, status_of

FIRST_ROWS = 64
MOST_ROWS = 4000
"""Rows that a window aims at: few first, for whoever wants only a page, then more and more."""
MOST_BYTES = 8 * 1024 * 1024
"""Of one batch."""
WIDEN = 16
"""A window without a row is followed by one so many times as wide at most."""
SETTLE = 10
"""Seconds by which a replica may lag, at most, for a walk to miss nothing."""
PATIENCE = 5
"""Seconds that a lagging replica is given at the end of a walk."""

_SEQUENCE = b"\r\nNats-Sequence: "
_TIME = b"\r\nNats-Time-Stamp: "
_PENDING = b"\r\nNats-Num-Pending: "


class Row(NamedTuple):
    """One key's value: its place in the stream, what it holds, and the headers that the server gave with it."""

    position: int
    data: bytes
    headers: bytes

    @property
    def stored_ms(self) -> int:
        """When it was stored, ms since the epoch by the server's clock."""
        text = _field(self.headers, _TIME).decode()
        return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp() * 1000)


class Shape(NamedTuple):
    """What there is of a bucket: first and last position, number of keys, and how many of them the filter takes."""

    first: int
    last: int
    keys: int
    taken: int


class Walk:
    """Reads of one bucket.

    Args:
        lane: where to ask.
        stream: the bucket's stream.
        subject_filter: which keys; all when not given.
        replicated: whether answers may come from a replica that lags.
    """

    def __init__(self, lane: Lane, stream: str, subject_filter: str | None = None, *, replicated: bool = False) -> None:
        self._lane = lane
        self._stream = stream
        self._filter = subject_filter
        self._replicated = replicated

    async def shape(self) -> Shape:
        """Asked of the leader; with a filter one read more."""
        state = (await self._lane.stream_info(self._stream))["state"]
        keys = state["messages"]
        return Shape(state["first_seq"], state["last_seq"], keys, keys if self._filter is None else await self.taken())

    async def taken(self) -> int:
        """Keys that the filter takes, counted by the server; those deleted that still leave a marker too."""
        rows, pending = await self._batch(1, 1)
        return len(rows) + pending

    async def tail_from(self, top: int) -> int:
        """Where ``upwards`` is to begin once all up to ``top`` was walked: for a replica that lags a little before it."""
        if not self._replicated:
            return top + 1
        since = datetime.fromtimestamp(clock.now_ms() / 1000 - SETTLE, UTC).isoformat().replace("+00:00", "Z")
        rows, _ = await self._ask({"start_time": since, "batch": 1})
        return min(top + 1, rows[0].position) if rows else top + 1

    async def downwards(self, shape: Shape, below: int, wanted: int = FIRST_ROWS) -> AsyncGenerator[tuple[int, list[Row]], None]:
        """Windows from ``below`` down to the first key: where each begins, and its rows, newest first.

        Args:
            shape: as it was when the walk began, to guess how wide the windows are to be.
            below: the first window ends before this position.
            wanted: rows that the reader would like to have at once.
        """
        rows_wanted = min(max(wanted, FIRST_ROWS), MOST_ROWS)
        density = max(shape.taken, 1) / max(shape.last - shape.first + 1, 1)
        lowest = max(shape.first, 1)
        ahead: asyncio.Task[tuple[int, list[Row]]] | None = None
        try:
            while below > lowest:
                low, rows = await (ahead or self._windows(below, lowest, density, rows_wanted))
                density = max(len(rows) / (below - low), density / WIDEN)
                below, rows_wanted, ahead = low, min(rows_wanted * 2, MOST_ROWS), None
                if rows_wanted == MOST_ROWS and below > lowest:  # a long way: the server reads on while these are looked at
                    ahead = asyncio.create_task(self._windows(below, lowest, density, rows_wanted))
                yield below, rows[::-1]
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _windows(self, below: int, lowest: int, density: float, rows_wanted: int) -> tuple[int, list[Row]]:
        """A window of about so many rows, narrower if there is far more in it than was thought: where it begins, and what is there."""
        span = min(int(rows_wanted / density) + 1, below - lowest)
        while (rows := await self._window(below - span, below, rows_wanted)) is None:
            span, rows_wanted = max(span // 8, 1), max(rows_wanted // 4, 16)
        return below - span, rows

    async def _window(self, low: int, below: int, expected: int) -> list[Row] | None:
        """All rows from ``low`` up to before ``below``; None if there are far more than expected."""
        found: list[Row] = []
        start, size = low, 0
        while start < below:
            rows, pending = await self._batch(start, min(below - start, expected + expected // 2 + 16))
            found += [row for row in rows if row.position < below]
            if not rows or not pending or rows[-1].position >= below - 1:
                break
            start = rows[-1].position + 1
            size += sum(len(row.data) for row in rows)
            if below - low > 1 and (len(found) > 4 * expected or size > 2 * MOST_BYTES):
                return None
        return found

    async def upwards(self, start: int, batch: int = MOST_ROWS) -> AsyncIterator[list[Row]]:
        """Rows from a position on, oldest first, until there are none: a key that moves meanwhile is met again, none is missed."""
        newest = await self._lane.last_message(self._stream, self._filter or ">") if self._replicated else None
        last = 0 if newest is None else newest.seq
        give_up = clock.monotonic() + PATIENCE
        while True:
            rows, pending = await self._batch(start, batch)
            if rows:
                yield rows
                start = rows[-1].position + 1
            if not rows or not pending:
                if start > last or clock.monotonic() > give_up:
                    return
                await asyncio.sleep(0.05)  # this replica has not come as far as the leader had

    async def _batch(self, start: int, size: int) -> tuple[list[Row], int]:
        request: dict[str, object] = {"seq": max(start, 1), "batch": size}
        if self._filter is not None:
            request["next_by_subj"] = self._filter
        return await self._ask(request)

    async def _ask(self, request: dict[str, object]) -> tuple[list[Row], int]:
        """Rows, and how many more there are behind them."""
        body = msgspec.json.encode(request | {"max_bytes": MOST_BYTES})
        parts = await self._lane.ask(f"$JS.API.DIRECT.GET.{self._stream}", body, many=True)
        end = parts[-1][1]
        if status_of(end) not in (204, 404):
            raise BrokerUnavailableError(f"reading {self._stream}: {parse_headers(end)['']}")
        rows = [Row(position_of(headers), data, headers) for data, headers in parts[:-1]]
        return rows, int(_field(end, _PENDING) or 0)


def position_of(headers: bytes) -> int:
    """Where the stream has a message, by the headers that the server gives with it."""
    return int(_field(headers, _SEQUENCE) or 0)


def _field(headers: bytes, name: bytes) -> bytes:
    """A header field as the server adds it, behind a message's own."""
    at = headers.rfind(name)
    if at < 0:
        return b""
    at += len(name)
    return headers[at : headers.index(b"\r", at)]
