"""Counts how many workflows start and end, from notices that come anyway."""

from __future__ import annotations

import time

from jetflow.protocol.record import StateRecord

WINDOW_MS = 15_000
"""The most ms between a start or end and its notice. Later notices are not counted."""
MOST = 200_000


class Throughput:
    """Counts each run's start and end once, though its record is written many times."""

    def __init__(self) -> None:
        self.starts: int = 0
        self.closes: int = 0
        self._seen: dict[tuple[str, str, bool], int] = {}

    def count(self, record: StateRecord, now_ms: int | None = None) -> None:
        """Count the start and the end in a written record, each once."""
        now = int(time.time() * 1000) if now_ms is None else now_ms
        if self._is_new(record, closed=False, at=record.started_at, now=now):
            self.starts += 1
        if record.closed_at is not None and self._is_new(record, closed=True, at=record.closed_at, now=now):
            self.closes += 1

    def take(self) -> tuple[int, int]:
        """Return the numbers of starts and ends since the last call."""
        taken = self.starts, self.closes
        self.starts = self.closes = 0
        self._forget(int(time.time() * 1000) - WINDOW_MS)
        return taken

    def _is_new(self, record: StateRecord, *, closed: bool, at: int, now: int) -> bool:
        key = (f"{record.task_queue}/{record.workflow_id}", record.run_id, closed)
        if now - at > WINDOW_MS or key in self._seen or len(self._seen) >= MOST:
            return False
        self._seen[key] = at
        return True

    def _forget(self, before: int) -> None:
        self._seen = {key: at for key, at in self._seen.items() if at >= before}
