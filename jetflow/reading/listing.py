"""Lists of workflows, the last changed first, in pages that stay correct while workflows start, change and end.

There is no index, so running workflows cost nothing extra. A walk reads the state bucket backwards and skips records that do not
match. A workflow that changes during the walk moves to the bucket's new end. So the walk first reads down from the end as it was at
the beginning, and then up from there. On the way up it yields the records that it has not yielded yet. The walk recognises runs by
their run ids. Runs that started after it began are ignored.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import zlib
from array import array
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.walk import Row, Shape, Walk
from jetflow.core.ids import to_token
from jetflow.errors import InvalidInputError
from jetflow.protocol.record import PENDING, StateRecord, decode_state
from jetflow.reading.filters import Filters, Glance, matcher
from jetflow.reading.pending import may_match, pending

DENSE = 8
"""If a task queue has at least one in so many of all records, the walk reads all records: a filter would cost the server more."""
CLOCKS = 60_000
"""Largest difference between the clocks of servers, in ms."""

CountBy = Literal["status", "workflow_type", "task_queue"]


class Page(NamedTuple):
    """One page of a list.

    Attributes:
        workflows: state records, the last changed first.
        cursor: the cursor of the next page, for ``list_page``; None if there are no more.
        examined: number of records read for the page.
    """

    workflows: list[StateRecord]
    cursor: str | None
    examined: int


class _Place(Struct, array_like=True):
    """The state of a walk, with the runs that it has yielded."""

    filters: str
    top: int
    """Last position when the walk began."""
    newest: int
    """Newest run when the walk began."""
    below: int
    """The walk has read every position from here to ``top``."""
    tail: int
    """The next position to read upwards, when nothing is left below."""
    gave: list[int]
    """Yielded runs in rising order, each as the difference from the one before."""
    starts: int = 0
    """The walk has read every start of the inbox from here on; 0: it reads no more."""


class _Gave:
    """Runs that the walk has yielded, in eight bytes each."""

    def __init__(self, runs: Iterable[int] = ()) -> None:
        self._runs = array("Q", runs)
        self._sorted = True
        self._late: set[int] = set()

    def add(self, run: int) -> None:
        self._runs.append(run)
        self._sorted = False

    def add_late(self, run: int) -> None:
        """Add a run after lookups have begun, without sorting again."""
        self._late.add(run)

    def __contains__(self, run: int) -> bool:
        if run in self._late:
            return True
        self._sort()
        at = bisect.bisect_left(self._runs, run)
        return at < len(self._runs) and self._runs[at] == run

    def _sort(self) -> None:
        if not self._sorted:
            self._runs, self._sorted = array("Q", sorted(self._runs)), True

    def distances(self) -> list[int]:
        every = sorted([*self._runs, *self._late])
        return [run - before for before, run in zip([0, *every], every, strict=False)]


class Listing:
    """One walk over the records that match filters. ``Listing.begin`` begins one, ``Listing.resume`` resumes one.

    Attributes:
        examined: records read so far.
    """

    def __init__(self, broker: Broker, filters: Filters, shape: Shape, walk: Walk, place: _Place) -> None:
        self.examined: int = 0
        self._broker = broker
        self._shape = shape
        self._walk = walk
        self._filters = filters
        self._match = matcher(filters)
        self._place = place
        runs, run = [], 0
        for distance in place.gave:
            run += distance
            runs.append(run)
        self._gave = _Gave(runs)
        self._over = False

    @classmethod
    async def begin(cls, broker: Broker, filters: Filters) -> Listing:
        """Begin a walk over the present records."""
        inbox = await broker.lane.stream_info(broker.names.inbox_stream)  # read first, so that a later run started after the walk began
        walk, shape = await _walk(broker, filters)
        tail = await walk.tail_from(shape.last)
        newest = inbox["state"]["last_seq"]
        starts = newest + 1 if inbox["state"]["messages"] and may_match(filters) else 0
        below = 0 if filters.statuses == (PENDING,) else shape.last + 1
        return cls(broker, filters, shape, walk, _Place(filters.digest(), shape.last, newest, below, tail, [], starts))

    @classmethod
    async def resume(cls, broker: Broker, filters: Filters, cursor: str) -> Listing:
        """Resume a walk where a page ended.

        Raises:
            InvalidInputError: the cursor is malformed, or belongs to other filters.
        """
        try:
            place = msgspec.msgpack.decode(zlib.decompress(base64.urlsafe_b64decode(cursor)), type=_Place)
        except (ValueError, binascii.Error, zlib.error, msgspec.DecodeError) as error:
            raise InvalidInputError(f"{cursor[:40]!r} is not the cursor of a page") from error
        if place.filters != filters.digest():
            raise InvalidInputError("the cursor belongs to other filters; begin without a cursor")
        walk, shape = await _walk(broker, filters)
        return cls(broker, filters, shape, walk, place)

    def cursor(self) -> str | None:
        """Return the cursor after the last match taken from ``matches``; None if there are no more."""
        if self._over:
            return None
        self._place.gave = self._gave.distances()
        return base64.urlsafe_b64encode(zlib.compress(msgspec.msgpack.encode(self._place))).decode()

    def _matching(self, rows: list[Row]) -> Iterator[tuple[Glance, Row]]:
        """Yield those of a window's rows that match, and note their runs."""
        self.examined += len(rows)
        for row in rows:
            seen = self._match(row.data)
            if seen is not None:
                self._gave.add(seen.run)
                yield seen, row

    async def matches(self, wanted: int = 0) -> AsyncGenerator[tuple[Glance, Row] | None, None]:
        """Yield every match once. Also yield None after each batch read, so that the caller can stop without a match.

        Args:
            wanted: number of matches that the caller needs, which limits the first batch; 0: unknown.
        """
        place = self._place
        if place.starts:
            async with aclosing(pending(self._broker, self._filters, place.starts, wanted)) as starts:
                async for low, rows in starts:
                    for seen, row in self._matching(rows):
                        place.starts = row.position
                        yield seen, row
                    place.starts = low
                    yield None
            place.starts = 0
        if self._filters.statuses == (PENDING,):
            self._over = True
            return
        async with aclosing(self._walk.downwards(self._shape, place.below, wanted)) as windows:
            async for low, rows in windows:
                for seen, row in self._matching(rows):
                    place.below = row.position
                    yield seen, row
                place.below = low
                if self._too_old(rows):
                    break
                yield None
        place.below = 0
        async for rows in self._walk.upwards(place.tail):
            self.examined += len(rows)
            for row in rows:
                place.tail = row.position + 1
                seen = self._match(row.data)
                if seen is not None and seen.run <= place.newest and seen.run not in self._gave:
                    self._gave.add_late(seen.run)
                    yield seen, row
            yield None
        self._over = True

    def _too_old(self, rows: list[Row]) -> bool:
        """Return whether these records, and so all below, changed last before ``started_after``. None of them started after it."""
        after = self._filters.started_after
        return after is not None and bool(rows) and rows[-1].stored_ms < after - CLOCKS


async def _walk(broker: Broker, filters: Filters) -> tuple[Walk, Shape]:
    names, replicated = broker.names, broker.topology.replicas > 1
    everything = Walk(broker.lane, names.state_stream, replicated=replicated)
    if filters.task_queue is None:
        return everything, await everything.shape()
    one = Walk(broker.lane, names.state_stream, names.states(to_token(filters.task_queue)), replicated=replicated)
    shape = await one.shape()
    if shape.taken * DENSE < shape.keys:
        return one, shape
    return everything, shape._replace(taken=shape.keys)


async def records(broker: Broker, filters: Filters, limit: int | None) -> AsyncIterator[StateRecord]:
    """Yield every record that matches the filters, once, at most ``limit``."""
    if limit is not None and limit < 1:
        return
    found = 0
    async with aclosing((await Listing.begin(broker, filters)).matches(limit or 0)) as matches:
        async for match in matches:
            record = None if match is None else decode_state(match[1].data)
            if record is not None:
                yield record
                found += 1
                if found == limit:
                    return


async def page(broker: Broker, filters: Filters, limit: int, cursor: str | None, examine: int | None) -> Page:
    """Return the next ``limit`` matches of a list, or those found in ``examine`` records."""
    if limit < 1 or (examine is not None and examine < 1):
        raise InvalidInputError("limit and examine must be at least 1")
    listing = await (Listing.begin(broker, filters) if cursor is None else Listing.resume(broker, filters, cursor))
    found: list[StateRecord] = []
    async with aclosing(listing.matches(limit)) as matches:
        async for match in matches:
            record = None if match is None else decode_state(match[1].data)
            if record is not None:
                found.append(record)
                if len(found) == limit:
                    break
            elif examine is not None and listing.examined >= examine:
                break
    return Page(found, listing.cursor(), listing.examined)


async def count(broker: Broker, filters: Filters) -> int:
    """Count matches. The server counts all workflows of the namespace, or of a task queue. For other filters, read all records."""
    if not filters.everything:
        return sum((await count_by(broker, filters, "status")).values())
    names = broker.names
    waiting = await count(broker, msgspec.structs.replace(filters, statuses=(PENDING,)))
    if filters.task_queue is None:
        beside = await Walk(broker.lane, names.state_stream, names.every_tenure).taken()
        return (await Walk(broker.lane, names.state_stream).shape()).keys - beside + waiting
    return await Walk(broker.lane, names.state_stream, names.states(to_token(filters.task_queue))).taken() + waiting


async def count_by(broker: Broker, filters: Filters, field: CountBy) -> dict[str, int]:
    """Count matches by status, type or task queue, the largest count first. Read all records."""
    attribute = "shown_status" if field == "status" else field
    if attribute not in ("shown_status", "workflow_type", "task_queue"):
        raise InvalidInputError(f"count_by takes status, workflow_type or task_queue, not {field!r}")
    found: Counter[str] = Counter()
    async for match in (await Listing.begin(broker, filters)).matches():
        if match is not None:
            found[getattr(match[0], attribute)] += 1
    return dict(found.most_common())
