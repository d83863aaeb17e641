"""Reading a run's timeline from its first event, page by page, and then its new events.

Compaction may replace a run's keys with one key during the reading. So the reader counts the events that it has read, since their
order never changes. When the last key has the whole run, the reader continues in that key after as many events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

from jetflow.broker.stores.timeline import PAGE, Entry, begins_run
from jetflow.errors import BrokerError, BrokerUnavailableError

LAGS = 20
LAG_PAUSE = 0.05
"""Most requests for a page while the answering server does not have it yet, and the seconds between two of them."""


class ReadableTimeline(Protocol):
    """The calls of ``Timeline`` that a reader uses."""

    async def last(self, queue_token: str, id_token: str) -> Entry | None: ...

    async def between(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]: ...

    async def has(self, queue_token: str, id_token: str, seq: int) -> bool: ...


class RunReader:
    """Reads one run forward.

    Attributes:
        run: the run. If None was given, the first read sets it to the latest run of the id.
        last: the run's newest key at the last read.
        next_seq: number of the next key to read; 0 while the run's first key is unknown.
        first_seq: number of the run's first key; 0 while unknown.
        seen: number of events returned.
        gone: whether the last read found no keys of this run, or none any more.
    """

    def __init__(self, timeline: ReadableTimeline, queue_token: str, id_token: str, run: int | None = None) -> None:
        self.run = run
        self.last: Entry | None = None
        self.next_seq: int = 0
        self.first_seq: int = 0
        self.seen: int = 0
        self.gone = False
        self._timeline = timeline
        self._queue = queue_token
        self._id = id_token
        self._ahead: list[Entry] = []

    async def unread(self) -> AsyncIterator[list[Any]]:
        """Yield the events that were not returned yet, page by page. Yield none if the timeline is gone or belongs to another run.

        Raises:
            BrokerError: keys are missing.
        """
        last = await self._newest()
        while last is not None and (last.commit.compacted or self.next_seq <= last.seq):
            if last.commit.compacted:
                self.next_seq, self._ahead = last.seq + 1, []
                events = last.commit.events[self.seen :]
                last = None
            else:
                entries = await self._page(last)
                if entries is None:  # keys are gone: the run is one key now, or has expired
                    last = await self._newest()
                    if last is not None and not last.commit.compacted:
                        raise BrokerError(f"timeline of {self._id} on {self._queue} is incomplete: entry {self.next_seq} or one after it is missing")
                    continue
                if entries[-1].commit.compacted:  # the run became one key after the last key was read; the other keys still exist
                    self.last = last = entries[-1]
                    continue
                self.next_seq = entries[-1].seq + 1
                events = [event for entry in entries for event in entry.commit.events]
            self.seen += len(events)
            if events:
                yield events

    async def _newest(self) -> Entry | None:
        last = await self._timeline.last(self._queue, self._id)
        if last is not None and self.run is None:
            self.run = last.commit.run
        self.gone: bool = last is None or last.commit.run != self.run
        if last is None or self.gone:
            return None
        self.last = last
        return last

    async def _page(self, last: Entry) -> list[Entry] | None:
        """Return the next keys of the run; None if some are missing."""
        if not self.next_seq:
            self.next_seq = self.first_seq = await self._first(last)
        high = min(last.seq, self.next_seq + PAGE - 1)
        if self.next_seq == last.seq:  # if nothing was read and this key is not the run's first, the keys before it are gone by now
            return [last] if self.seen or begins_run(last) else None
        for _ in range(LAGS):
            ahead, self._ahead = self._ahead, []
            entries = ahead or await self._timeline.between(self._queue, self._id, self.next_seq, high)
            entries = [entry for entry in entries if entry.commit.run == self.run and entry.seq >= self.next_seq]
            if entries and entries[-1].commit.compacted:
                return entries
            row = next((place for place, entry in enumerate(entries) if entry.seq != self.next_seq + place), len(entries))
            if row == len(entries) and entries and (ahead or entries[-1].seq == high):
                return entries
            if not await self._timeline.has(self._queue, self._id, self.next_seq + row):
                return None
            await asyncio.sleep(LAG_PAUSE)
        raise BrokerUnavailableError(f"timeline of {self._id}: the answering server does not have entry {high} yet")

    async def _first(self, last: Entry) -> int:
        """Return the number of the run's first key: the first key that exists, unless an earlier run had the id."""
        if begins_run(last):
            return last.seq
        entries = await self._timeline.between(self._queue, self._id, 1, min(PAGE, last.seq))
        own = [entry for entry in entries if entry.commit.run == self.run]
        if own and begins_run(own[0]):
            self._ahead = own
            return own[0].seq
        low, high = 1, last.seq
        while low < high:  # the keys of a run are contiguous and end with the last one
            middle = (low + high) // 2
            found = await self._timeline.between(self._queue, self._id, middle, middle)
            if found and found[0].commit.run == self.run:
                high = middle
            else:
                low = middle + 1
        return low
