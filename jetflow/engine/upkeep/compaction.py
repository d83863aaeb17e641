"""Compaction: each run that has ended becomes one timeline key, in the background.

A run that ends in the process that began it, without having rested, has its whole history in memory. Its closing commit is then that key, and if it
is the second commit, it replaces the first. Any other run is read back and its last key replaced. Either way the last key has everything before the
other keys go, so a crash leaves the whole history once or twice, never less.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jetflow.broker.stores.timeline import MAX_COMPACTED, Entry
from jetflow.core import events as ev
from jetflow.core.log_fields import of_tokens
from jetflow.engine import faults
from jetflow.engine.context import Context
from jetflow.engine.ports import Timelines
from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")

AT_ONCE = 128
"""The most runs that are compacted together."""
MAX_QUEUED = 50_000
"""The most runs that wait for compaction. Further ones keep their keys until they expire."""
PAUSE = 0.05
"""Seconds to wait for more runs before a round of compaction."""


class History:
    """The committed events of a run, as long as they may become one key."""

    __slots__ = ("events", "keys", "size")

    def __init__(self) -> None:
        self.events: list[Any] | None = []
        self.keys: int = 0
        self.size: int = 0

    def add(self, events: Sequence[Any], keys: int, size: int) -> None:
        """Add a commit of ``keys`` keys and ``size`` bytes."""
        self.keys += keys
        self.size += size
        if not self.fits:
            self.events = None
        elif self.events is not None:
            self.events.extend(events)

    def rest(self) -> None:
        """Drop the events. Only the numbers of keys and bytes stay in memory."""
        self.events = None

    @property
    def fits(self) -> bool:
        """Whether the run may become one key."""
        return self.size <= MAX_COMPACTED

    def whole(self, run: int, cause: int, closing: Sequence[Any]) -> bytes | None:
        """Return the closing commit with all earlier events, or None if memory does not have them or they are too large."""
        if not self.keys or self.events is None:
            return None
        body = ev.encode_commit(ev.Commit(run=run, cause=cause, events=[*self.events, *closing], compacted=len(self.events)))
        return body if len(body) <= MAX_COMPACTED else None


class Closed(NamedTuple):
    """A run that has ended with key ``seq``.

    Attributes:
        position: the position of that key, if it has the whole history already.
    """

    id_token: str
    seq: int
    position: int = 0


class Compaction:
    """The queue of runs to compact. A crash loses the queue, and those runs keep their keys until they expire.

    Args:
        is_over: returns whether the tenure is over.
    """

    def __init__(self, context: Context, timeline: Timelines, is_over: Callable[[], bool]) -> None:
        self._is_in_memory: Callable[[str], bool] = _never
        self._background = context.background
        self._timeline = timeline
        self._is_over = is_over
        self._queue_token = context.queue_token
        self._queue: deque[Closed] = deque()
        self._empty = asyncio.Event()
        self._empty.set()
        self._undisturbed: set[str] = set()

    def spare(self, is_in_memory: Callable[[str], bool]) -> None:
        """Skip runs whose workflow (as a token) is in memory."""
        self._is_in_memory = is_in_memory

    def disturb(self, id_token: str) -> None:
        """Stop compacting a workflow that gets a command: another run of the id may begin, and its keys must lie behind the earlier ones."""
        self._undisturbed.discard(id_token)

    def add(self, closed: Closed) -> None:
        """Queue a run for compaction. If ``MAX_QUEUED`` wait, leave it as it is and count it in the worker's failures."""
        if len(self._queue) >= MAX_QUEUED:
            self._background.failures["compaction left out"] += 1
            return
        self._queue.append(closed)
        if self._empty.is_set():
            self._empty.clear()
            self._background.spawn(self._run())

    async def emptied(self, seconds: float) -> None:
        """Wait until the queue is empty, but not longer than ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            log.debug("%d runs stay uncompacted", len(self._queue))

    async def _run(self) -> None:
        try:
            while self._queue and not self._is_over():
                if len(self._queue) < AT_ONCE:
                    await asyncio.sleep(PAUSE)
                together = [self._queue.popleft() for _ in range(min(AT_ONCE, len(self._queue)))]
                await asyncio.gather(*(self._quietly(closed) for closed in together))
        finally:
            self._empty.set()

    async def _quietly(self, closed: Closed) -> None:
        try:
            await self._compact(closed)
        except BrokerError as error:
            log.debug("%s stays uncompacted: %s", closed.id_token, error, extra=of_tokens(self._queue_token, closed.id_token))
        except Exception:  # one bad run must not stop the others
            self._background.failures["compaction"] += 1
            log.exception("%s stays uncompacted", closed.id_token, extra=of_tokens(self._queue_token, closed.id_token))

    async def _compact(self, closed: Closed) -> None:
        timeline, queue, id_token = self._timeline, self._queue_token, closed.id_token
        faults.reach("before_compaction")
        position = closed.position or await self._make_one(closed)
        faults.reach("after_compaction")
        if position and closed.seq > 1:
            await timeline.remove(queue, id_token, position, only=1 if closed.seq == 2 else "*")

    async def _make_one(self, closed: Closed) -> int:
        """Write the whole run as one key and return its position, or 0 if it was not written.

        Write it only if no command of the id has come since its keys were read, and the same workflow is not being compacted already.
        """
        id_token = closed.id_token
        if id_token in self._undisturbed or self._is_in_memory(id_token):
            return 0
        self._undisturbed.add(id_token)
        try:
            return await self._write_one(closed)
        finally:
            self._undisturbed.discard(id_token)

    async def _write_one(self, closed: Closed) -> int:
        timeline, queue, id_token = self._timeline, self._queue_token, closed.id_token
        last = await timeline.last(queue, id_token)
        if last is None or last.seq != closed.seq or not isinstance(last.commit.events[-1], ev.CLOSING):
            return 0
        if last.commit.compacted:
            return last.position
        entries = await timeline.run(queue, id_token, last)
        if entries[-1].commit.compacted:
            return entries[-1].position
        body = _one_key(entries)
        if body is None or id_token not in self._undisturbed:
            return 0
        return await timeline.append(queue, id_token, last.seq, body)


def _never(_: str) -> bool:
    """Return False: at first no workflow is in memory."""
    return False


def _one_key(entries: list[Entry]) -> bytes | None:
    if sum(entry.size for entry in entries) > MAX_COMPACTED:
        return None
    last, first = entries[-1].commit, len(entries) - 1
    while first > 0 and entries[first - 1].commit.more:  # the last decision may have several keys
        first -= 1
    events = [event for entry in entries for event in entry.commit.events]
    before = sum(len(entry.commit.events) for entry in entries[:first])
    return ev.encode_commit(ev.Commit(run=last.run, cause=last.cause, events=events, compacted=before))
