"""What follows a failed attempt of an activity: another attempt, and when; or the failure for good, and its kind."""

from __future__ import annotations

from typing import NamedTuple

from jetflow.core.definitions import ActivityOptions
from jetflow.errors import Kind


class Verdict(NamedTuple):
    """``due``: when the next attempt is to begin, ms since the epoch; None for none, with ``kind`` for the failure."""

    due: int | None
    kind: Kind = Kind.ERROR


def after_failure(
    options: ActivityOptions, attempt: int, scheduled_at: int, now: int, *, retryable: bool, timed_out: bool = False, jitter: float = 0.5
) -> Verdict:
    """Decides on a failed attempt, wherever it ran.

    Args:
        options: the activity's own; its retry policy decides.
        attempt: which one failed, from 1.
        scheduled_at: when the workflow asked for the activity, ms since the epoch.
        now: when the attempt failed.
        retryable: False for an error that the activity or its policy calls final.
        timed_out: the attempt took too long, or was silent for too long.
        jitter: chance, 0 to 1.
    """
    if not retryable:
        return Verdict(None, Kind.FATAL)
    if not options.retry.allows(attempt):
        return Verdict(None, Kind.TIMED_OUT if timed_out else Kind.EXHAUSTED)
    due = now + options.retry.delay_ms(attempt, jitter)
    if options.schedule_to_close is not None and due >= scheduled_at + options.schedule_to_close:
        return Verdict(None, Kind.TIMED_OUT)
    return Verdict(due)
