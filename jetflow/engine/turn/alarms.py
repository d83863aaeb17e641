"""The times that an actor waits for: due times in memory, to the millisecond, and whether the broker has a schedule for them."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

from jetflow.protocol.clock import now_ms

MAX_SLEEP = 3600
"""The longest time, in seconds, that one in-memory timer waits before it looks again."""
SPARE = 64
"""Forgotten alarms that may stay in the heap, besides one for each live alarm."""


class Alarms:
    """Due times by operation index.

    Args:
        wake: called when an operation is due.

    Attributes:
        unscheduled: operations that may have no schedule at the broker.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.unscheduled: set[int] = set()
        self._wake = wake
        self._due: dict[int, int] = {}
        self._heap: list[tuple[int, int]] = []
        self._scheduled: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0

    def watch(self, index: int, due: int, *, maybe_scheduled: bool = False) -> None:
        """Watch an operation that is due at ``due`` (ms since the epoch)."""
        self._due[index] = due
        heapq.heappush(self._heap, (due, index))
        self.unscheduled.add(index)
        if maybe_scheduled:
            self._scheduled.add(index)

    def due_at(self, index: int) -> int | None:
        """Return when an operation is due (ms since the epoch), or None if it is not watched."""
        return self._due.get(index)

    def hasten(self, index: int) -> None:
        """Make an operation due now, whatever the local clock says."""
        if index in self._due:
            self._due[index] = 0
            heapq.heappush(self._heap, (0, index))

    def forget(self, index: int) -> bool:
        """Stop watching an operation. Return True if the broker may have a schedule to remove."""
        if self._due.pop(index, None) is not None:
            self._tidy()
        self.unscheduled.discard(index)
        if index in self._scheduled:
            self._scheduled.discard(index)
            return True
        return False

    def _tidy(self) -> None:
        """Remove forgotten alarms from the heap once they are most of it."""
        if len(self._heap) > 2 * len(self._due) + SPARE:
            self._heap = [(due, index) for index, due in self._due.items()]
            heapq.heapify(self._heap)

    def scheduled(self, indexes: set[int]) -> None:
        """Note that the broker has schedules for these operations."""
        self._scheduled |= indexes
        self.unscheduled -= indexes

    def all_scheduled(self) -> None:
        """Note that the broker has a schedule for each operation."""
        self._scheduled |= self.unscheduled
        self.unscheduled.clear()

    def pop_due(self, now: int) -> list[int]:
        """Return the operations that are due, and stop watching them."""
        found = []
        while (due := self.next_due()) is not None and due <= now:
            _, index = heapq.heappop(self._heap)
            del self._due[index]
            self.unscheduled.discard(index)
            self._scheduled.discard(index)  # nothing to cancel: the broker's copy fires too
            found.append(index)
        return found

    def next_due(self) -> int | None:
        """Return the earliest due time, or None without any."""
        heap = self._heap
        while heap and self._due.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def arm(self) -> None:
        """Set the in-memory timer to the earliest due time."""
        due = self.next_due()
        if self._timer is not None:
            if due == self._timer_due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer_due = due
            delay = min(max(0.0, due / 1000 - now_ms() / 1000), MAX_SLEEP)
            self._timer = asyncio.get_running_loop().call_later(delay, self._ring)

    def _ring(self) -> None:
        self._timer = None
        due = self.next_due()
        if due is not None and due <= now_ms():
            self._wake()
        else:
            self.arm()

    def close(self) -> None:
        """Forget everything, and wake nothing any more."""
        self.clear()
        self._wake = _nobody

    def clear(self) -> None:
        """Forget everything."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._due.clear()
        self._heap.clear()
        self._scheduled.clear()
        self.unscheduled.clear()


def _nobody() -> None:
    """Wake nothing: the actor is closed."""
