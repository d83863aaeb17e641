"""Signals that expire before anyone waits for them: each becomes a dead letter, with its data and the reason.

The owner decides, in a turn of the workflow, so that a signal is either taken by a wait or becomes a dead letter. The bucket stores
a signal for longer than its ``expire``, so that the broker never removes one that no owner has looked at. The owner knows when the
next signal of each workflow expires: from its own writes, and from one look at each workflow that has some when the tenure begins.

    1  a signal expires: the workflow is given a turn, in which a wait that began in time takes it first
    2  what no wait has taken is written to the dead letters
    3  it is removed from the bucket, or its command is acked

After a crash between 2 and 3 the next owner does 2 again. The letter's message id has the broker drop the repeat.
"""

from __future__ import annotations

import heapq

MARGIN_MS = 100
"""Milliseconds after its expiry that a signal is looked at: what begins a wait has its time a moment before its turn."""
AGAIN_MS = 5_000
"""Milliseconds until a workflow is looked at again about whose signals nothing can be decided yet: a parked one, or one that is being removed."""
LOOKS_AT_ONCE = 64
"""Workflows given a turn for their expired signals in one sweep."""


class Lapses:
    """When the signals expire that one tenure's workflows have not taken. It has one time for each workflow that has any."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}

    def note(self, id_token: str, expires: int) -> None:
        """Have a workflow looked at when a signal expires, ms since the epoch."""
        self._look_at(id_token, expires + MARGIN_MS)

    def again(self, id_token: str, now: int) -> None:
        """Have a workflow looked at again in a while."""
        self._look_at(id_token, now + AGAIN_MS)

    def _look_at(self, id_token: str, due: int) -> None:
        known = self._due.get(id_token)
        if known is None or due < known:
            self._due[id_token] = due
            heapq.heappush(self._heap, (due, id_token))

    def pop_due(self, now: int) -> list[str]:
        """Return the workflows to look at now, not too many at once."""
        found: list[str] = []
        heap = self._heap
        while heap and heap[0][0] <= now and len(found) < LOOKS_AT_ONCE:
            due, id_token = heapq.heappop(heap)
            if self._due.get(id_token) == due:  # otherwise an earlier time was noted since
                del self._due[id_token]
                found.append(id_token)
        return found
