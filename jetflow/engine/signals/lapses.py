"""Signals that expire before a wait takes them. Each becomes a dead letter, with its data and the reason.

The owner decides in a turn of the workflow, so a signal is either taken by a wait or becomes a dead letter. The bucket stores a signal for longer
than its ``expire``, so the broker never removes one that no owner has looked at. The owner knows the next expiry of each workflow: from its own
writes, and from one read of each workflow with early signals when the tenure begins.

    1  a signal expires: the workflow gets a turn, in which a wait that began in time takes the signal first
    2  the owner writes a dead letter for a signal that no wait has taken
    3  the owner removes the signal from the bucket, or acks its command

After a crash between 2 and 3 the next owner does 2 again. The broker drops the repeat by the letter's message id.
"""

from __future__ import annotations

import heapq

MARGIN_MS = 100
"""Milliseconds from a signal's expiry until the owner looks at it. An input that begins a wait carries a time slightly before its turn."""
AGAIN_MS = 5_000
"""Milliseconds until the owner looks again at a workflow whose signals cannot be decided yet: it is parked, or about to be removed."""
LOOKS_AT_ONCE = 64
"""The most workflows that get a turn for their expired signals in one sweep."""


class Lapses:
    """The next expiry of each workflow of one tenure that has signals which no wait has taken."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, str]] = []
        self._due: dict[str, int] = {}

    def note(self, id_token: str, expires: int) -> None:
        """Look at a workflow when its signal expires (ms since the epoch)."""
        self._look_at(id_token, expires + MARGIN_MS)

    def again(self, id_token: str, now: int) -> None:
        """Look at a workflow again in a while."""
        self._look_at(id_token, now + AGAIN_MS)

    def _look_at(self, id_token: str, due: int) -> None:
        known = self._due.get(id_token)
        if known is None or due < known:
            self._due[id_token] = due
            heapq.heappush(self._heap, (due, id_token))

    def pop_due(self, now: int) -> list[str]:
        """Remove and return the workflows to look at now, at most ``LOOKS_AT_ONCE``."""
        found: list[str] = []
        heap = self._heap
        while heap and heap[0][0] <= now and len(found) < LOOKS_AT_ONCE:
            due, id_token = heapq.heappop(heap)
            if self._due.get(id_token) == due:  # otherwise an earlier time has replaced it
                del self._due[id_token]
                found.append(id_token)
        return found
