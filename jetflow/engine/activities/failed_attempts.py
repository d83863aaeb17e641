"""Failed attempts of a local activity with a backoff under a second, until the next commit of the workflow records them."""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.core.log_fields import in_one_line
from jetflow.errors import Failure

WHOLE = 10
"""Attempts in a row that are recorded with traceback and cause. Later ones have type and message."""
MAX_FAILED = 100
"""Attempts in a row that are recorded: the latest ones."""


class FailedAttempts:
    """The failed attempts of one activity since its last durable backoff.

    Args:
        recorded: number of the last failed attempt that the timeline has.
    """

    __slots__ = ("_attempts", "_count", "_recorded")

    def __init__(self, recorded: int) -> None:
        self._attempts: list[ev.ActivityRetrying] = []
        self._count = 0
        self._recorded = recorded

    def add(self, attempt: ev.ActivityRetrying) -> None:
        """Remember a failed attempt."""
        self._count += 1
        if self._count > WHOLE:
            failure = attempt.failure
            attempt.failure = Failure(failure.type, in_one_line(failure.message), failure.code, kind=failure.kind)
        if len(self._attempts) >= MAX_FAILED:
            del self._attempts[0]
        self._attempts.append(attempt)

    def starts_over(self, recorded: int) -> None:
        """Note that the workflow was rebuilt, and that its timeline has the attempts up to this number."""
        self._recorded = recorded

    def take(self) -> list[ev.ActivityRetrying]:
        """Return the attempts that the workflow's code has not got, and count them as recorded."""
        found = [attempt for attempt in self._attempts if attempt.attempt > self._recorded]
        if found:
            self._recorded = found[-1].attempt
        return found
