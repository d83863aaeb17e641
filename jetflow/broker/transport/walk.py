"""Reads a bucket by position, newest first, in windows of batched direct gets. It needs no consumer and no index.

A bucket stores only the last value of each key, so its stream in falling order of position is its keys, the newest first. A key that is overwritten
meanwhile comes again above the position where the walk began. ``upwards`` reads those keys.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerUnavailableError
from jetflow.protocol import clock
from jetflow.protocol.headers import parse_headers, status_of

FIRST_ROWS = 64
MOST_ROWS = 4000
"""The most rows that a window aims at. The first windows aim at fewer, since some readers want only one page."""
MOST_BYTES = 8 * 1024 * 1024
"""The most bytes of one batch."""
WIDEN = 16
"""The most times that a window may be wider than the one before, if that had no row."""
SETTLE = 10
"""The most seconds that a replica may lag for a walk to miss nothing."""
PATIENCE = 5
"""Seconds that a lagging replica has to catch up at the end of a walk."""

_SUBJECT = b"\r\nNats-Subject: "
_SEQUENCE = b"\r\nNats-Sequence: "
_TIME = b"\r\nNats-Time-Stamp: "
_PENDING = b"\r\nNats-Num-Pending: "


class Row(NamedTuple):
    """One key's value: its position in the stream, its data, and the headers that the server adds."""

    position: int
    data: bytes
    headers: bytes

    @property
    def subject(self) -> str:
        """Its subject."""
        return _field(self.headers, _SUBJECT).decode(errors="replace")

    @property
    def stored_ms(self) -> int:
        """When it was stored, ms since the epoch, by the server's clock."""
        text = _field(self.headers, _TIME).decode()
        return int(datetime.fromisoformat(text[:19]).replace(tzinfo=UTC).timestamp() * 1000)


class Shape(NamedTuple):
    """The size of a bucket: first and last position, number of keys, and how many of them the filter matches."""

    first: int
    last: int
    keys: int
    taken: int


class Walk:
    """Reads of one bucket.

    Args:
        lane: the connection.
        stream: the bucket's stream.
        subject_filter: the filter of the keys; all keys if not given.
        replicated: whether a replica that lags may answer.
    """

    def __init__(self, lane: Lane, stream: str, subject_filter: str | None = None, *, replicated: bool = False) -> None:
        self._lane = lane
        self._stream = stream
        self._filter = subject_filter
        self._replicated = replicated

    async def shape(self) -> Shape:
        """Return the bucket's size from the leader. A filter costs one more read."""
        state = (await self._lane.stream_info(self._stream))["state"]
        keys = state["messages"]
        return Shape(state["first_seq"], state["last_seq"], keys, keys if self._filter is None else await self.taken())

    async def taken(self) -> int:
        """Return the number of keys that the filter matches, counted by the server, with the markers of deleted keys."""
        rows, pending = await self._batch(1, 1)
        return len(rows) + pending

    async def tail_from(self, top: int) -> int:
        """Return where ``upwards`` must begin after a walk from ``top`` down: a little earlier on replicated streams, since replicas may lag."""
        if not self._replicated:
            return top + 1
        since = datetime.fromtimestamp(clock.now_ms() / 1000 - SETTLE, UTC).isoformat().replace("+00:00", "Z")
        rows, _ = await self._ask({"start_time": since, "batch": 1})
        return min(top + 1, rows[0].position) if rows else top + 1

    async def downwards(self, shape: Shape, below: int, wanted: int = FIRST_ROWS) -> AsyncGenerator[tuple[int, list[Row]], None]:
        """Yield windows from ``below`` down to the first key: the position where each begins, and its rows, newest first.

        Args:
            shape: the bucket's size at the start of the walk, to guess the width of windows.
            below: the first window ends before this position.
            wanted: the number of rows that the reader wants at once.
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
                if rows_wanted == MOST_ROWS and below > lowest:  # a long walk: read ahead while the caller handles this window
                    ahead = asyncio.create_task(self._windows(below, lowest, density, rows_wanted))
                yield below, rows[::-1]
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _windows(self, below: int, lowest: int, density: float, rows_wanted: int) -> tuple[int, list[Row]]:
        """Return where a window of about ``rows_wanted`` rows begins, and its rows. Make it narrower if it has far more rows than expected."""
        span = min(int(rows_wanted / density) + 1, below - lowest)
        while (rows := await self._window(below - span, below, rows_wanted)) is None:
            span, rows_wanted = max(span // 8, 1), max(rows_wanted // 4, 16)
        return below - span, rows

    async def _window(self, low: int, below: int, expected: int) -> list[Row] | None:
        """Return all rows from ``low`` to before ``below``, or None if there are far more than expected."""
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

    async def upwards(self, start: int, batch: int = MOST_ROWS) -> AsyncGenerator[list[Row], None]:
        """Yield rows from a position on, oldest first, until there are no more. A key that is overwritten meanwhile comes again; none is missed."""
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
                await asyncio.sleep(0.05)  # this replica has not reached the leader's position yet

    async def _batch(self, start: int, size: int) -> tuple[list[Row], int]:
        request: dict[str, object] = {"seq": max(start, 1), "batch": size}
        if self._filter is not None:
            request["next_by_subj"] = self._filter
        return await self._ask(request)

    async def _ask(self, request: dict[str, object]) -> tuple[list[Row], int]:
        """Return rows, and how many more there are behind them."""
        body = msgspec.json.encode(request | {"max_bytes": MOST_BYTES})
        parts = await self._lane.ask(f"$JS.API.DIRECT.GET.{self._stream}", body, many=True)
        end = parts[-1][1]
        if status_of(end) not in (204, 404):
            raise BrokerUnavailableError(f"reading {self._stream}: {parse_headers(end)['']}")
        rows = [Row(position_of(headers), data, headers) for data, headers in parts[:-1]]
        return rows, int(_field(end, _PENDING) or 0)


def position_of(headers: bytes) -> int:
    """Return a message's position from the headers that the server adds."""
    return int(_field(headers, _SEQUENCE) or 0)


def _field(headers: bytes, name: bytes) -> bytes:
    """Return a header field that the server added, behind the message's own fields."""
    at = headers.rfind(name)
    if at < 0:
        return b""
    at += len(name)
    return headers[at : headers.index(b"\r", at)]
