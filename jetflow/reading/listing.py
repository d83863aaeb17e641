"""Lists of workflows, the one changed last first, in pages that stay right while workflows come and go.

There is no index, so nothing is paid while workflows run: a page is read from the state bucket's end backwards, and what is not
asked for is skipped as it passes. A workflow that changes during the walk moves to the bucket's new end. So the walk goes
down from where the end was when it began, and then up from there: what it meets there and has not given yet it gives then. It
knows runs by their number, and takes those that were started since for none of its business.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import zlib
from array import array
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from typing import Literal, NamedTuple

import msgspec
from msgspec import Struct

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.walk import Row, Shape, Walk
from jetflow.core.ids import to_token
from jetflow.errors import InvalidInputError
from jetflow.protocol.record import StateRecord, decode_state
from jetflow.reading.filters import Filters, Glance, matcher

DENSE = 8
"""A task queue with at least one in so many of all records is read with the others': asking for it alone would cost the server more."""
CLOCKS = 60_000
"""Milliseconds by which the clocks of servers may differ."""

CountBy = Literal["status", "workflow_type", "task_queue"]


class Page(NamedTuple):
    """Some workflows of a list.

    Attributes:
        workflows: their state records, the one changed last first.
        cursor: for ``list_page``, to go on behind them; None when there are no more.
        examined: records that were read for it.
    """

    workflows: list[StateRecord]
    cursor: str | None
    examined: int


class _Place(Struct, array_like=True):
    """Where a walk is. It has no more of the past than the runs that it gave."""

    filters: str
    top: int
    """Last position when it began."""
    newest: int
    """Newest run when it began."""
    below: int
    """Everything from here to ``top`` has been seen."""
    tail: int
    """Once nothing is left below: the next position above."""
    gave: list[int]
    """Runs in rising order, each as the distance from the one before."""


class _Gave:
    """Runs that were given already; eight bytes each."""

    def __init__(self, runs: Iterable[int] = ()) -> None:
        self._runs = array("Q", runs)
        self._sorted = True
        self._late: set[int] = set()

    def add(self, run: int) -> None:
        self._runs.append(run)
        self._sorted = False

    def add_late(self, run: int) -> None:
        """As ``add``, once it is looked up too."""
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
    """One walk over the records that filters take; begun by ``Listing.begin`` or resumed by ``Listing.resume``.

    Attributes:
        examined: records read so far.
    """

    def __init__(self, broker: Broker, filters: Filters, shape: Shape, walk: Walk, place: _Place) -> None:
        self.examined: int = 0
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
        """A walk over what there is now."""
        inbox = await broker.lane.stream_info(broker.names.inbox_stream)  # before the records: a run later than this is a later one
        walk, shape = await _walk(broker, filters)
        tail = await walk.tail_from(shape.last)
        return cls(broker, filters, shape, walk, _Place(filters.digest(), shape.last, inbox["state"]["last_seq"], shape.last + 1, tail, []))

    @classmethod
    async def resume(cls, broker: Broker, filters: Filters, cursor: str) -> Listing:
        """A walk from where a page ended.

        Raises:
            InvalidInputError: the cursor is none, or was given for other filters.
        """
        try:
            place = msgspec.msgpack.decode(zlib.decompress(base64.urlsafe_b64decode(cursor)), type=_Place)
        except (ValueError, binascii.Error, zlib.error, msgspec.DecodeError) as error:
            raise InvalidInputError(f"{cursor[:40]!r} is not a cursor that a page gave") from error
        if place.filters != filters.digest():
            raise InvalidInputError("the cursor was given for other filters: begin without one")
        walk, shape = await _walk(broker, filters)
        return cls(broker, filters, shape, walk, place)

    def cursor(self) -> str | None:
        """To go on behind what was taken from ``matches`` so far; None once there is nothing more."""
        if self._over:
            return None
        self._place.gave = self._gave.distances()
        return base64.urlsafe_b64encode(zlib.compress(msgspec.msgpack.encode(self._place))).decode()

    async def matches(self, wanted: int = 0) -> AsyncGenerator[tuple[Glance, Row] | None, None]:
        """Every match once, and None whenever a batch was read, for whoever wants to stop without one.

        Args:
            wanted: how many the reader would like to have, to read no more than it needs at first.
        """
        place = self._place
        async with aclosing(self._walk.downwards(self._shape, place.below, wanted)) as windows:
            async for low, rows in windows:
                self.examined += len(rows)
                for row in rows:
                    seen = self._match(row.data)
                    if seen is not None:
                        place.below = row.position
                        self._gave.add(seen.run)
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
        """What was changed last before a time was not started after it, nor was anything below."""
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
    """Every record that filters take, each once, at most ``limit``."""
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
    """The next ``limit`` of a list, or what was found of them in ``examine`` records."""
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
    """How many there are. All of the namespace, or of a task queue, are counted by the server; for anything else all are read."""
    if not filters.everything:
        return sum((await count_by(broker, filters, "status")).values())
    names = broker.names
    if filters.task_queue is None:
        beside = await Walk(broker.lane, names.state_stream, names.every_tenure).taken()
        return (await Walk(broker.lane, names.state_stream).shape()).keys - beside
    return await Walk(broker.lane, names.state_stream, names.states(to_token(filters.task_queue))).taken()


async def count_by(broker: Broker, filters: Filters, field: CountBy) -> dict[str, int]:
    """How many there are of each status, type or task queue, most first; every record is read."""
    attribute = "shown_status" if field == "status" else field
    if attribute not in ("shown_status", "workflow_type", "task_queue"):
        raise InvalidInputError(f"counted by status, workflow_type or task_queue, not by {field!r}")
    found: Counter[str] = Counter()
    async for match in (await Listing.begin(broker, filters)).matches():
        if match is not None:
            found[getattr(match[0], attribute)] += 1
    return dict(found.most_common())
