"""The decision after a failed attempt of an activity: when the next attempt begins, or the kind of the final failure."""

from __future__ import annotations

from typing import NamedTuple

from jetflow.core.definitions import ActivityOptions
from jetflow.errors import Kind


class Verdict(NamedTuple):
    """``due``: when the next attempt begins, ms since the epoch; None: no attempt follows, and ``kind`` is the failure's kind."""

    due: int | None
    kind: Kind = Kind.ERROR


def after_failure(
    options: ActivityOptions, attempt: int, scheduled_at: int, now: int, *, retryable: bool, timed_out: bool = False, jitter: float = 0.5
) -> Verdict:
    """Decide what follows a failed attempt, of a local or a remote activity.

    Args:
        options: the activity's options, with its retry policy.
        attempt: number of the failed attempt, from 1.
        scheduled_at: when the workflow scheduled the activity, ms since the epoch.
        now: when the attempt failed, ms since the epoch.
        retryable: False if the activity or its policy does not allow a retry after this error.
        timed_out: the attempt took too long, or its heartbeat was late.
        jitter: a random number from 0 to 1.
    """
    if not retryable:
        return Verdict(None, Kind.FATAL)
    if not options.retry.allows(attempt):
        return Verdict(None, Kind.TIMED_OUT if timed_out else Kind.EXHAUSTED)
    due = now + options.retry.delay_ms(attempt, jitter)
    if options.schedule_to_close is not None and due >= scheduled_at + options.schedule_to_close:
        return Verdict(None, Kind.TIMED_OUT)
    return Verdict(due)
