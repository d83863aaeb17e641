"""The log line of a failed attempt, of a local or a remote activity."""

from __future__ import annotations

import logging
from typing import Any

from jetflow.activity import ActivityInfo
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.failures import message_of, type_name
from jetflow.core.log_fields import about, in_one_line
from jetflow.core.times import to_iso

log: logging.Logger = logging.getLogger("jetflow.worker")


def fields_of(info: ActivityInfo, attempt: int, **more: Any) -> dict[str, Any]:
    """Return the fields of a log line that concerns an attempt."""
    return about(info.workflow_id, info.task_queue, info.workflow_type, info.run_id, activity=info.activity_type, attempt=attempt, **more)


def log_dropped(info: ActivityInfo | None) -> None:
    """Log that an activity was cancelled after its workflow was rebuilt."""
    if info is not None:
        text = "workflow %s: activity %s is cancelled: its workflow no longer waits for it"
        log.info(text, info.workflow_id, info.activity_type, extra=fields_of(info, info.attempt))


def log_failed_task(info: ActivityInfo, error: BaseException) -> None:
    """Log a failed attempt where the workflow's owner, which decides on a retry, has a log of its own."""
    log.warning(
        "workflow %s: attempt %d of activity %s failed: %s: %s; the workflow's owner decides whether an attempt follows",
        info.workflow_id, info.attempt, info.activity_type, type_name(type(error)), in_one_line(message_of(error)),
        exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
        extra=fields_of(info, info.attempt, error=type_name(type(error))),
    )  # fmt: skip


def log_failed(info: ActivityInfo, outcome: ev.ActivityRetrying | ev.ActivityFailed, options: ActivityOptions) -> None:
    """Log a failed attempt, its error, and when the next attempt is due. At level DEBUG the line has the traceback too."""
    failure = outcome.failure
    if isinstance(outcome, ev.ActivityRetrying):
        due: str | None = to_iso(outcome.due)
        follows = f"attempt {outcome.attempt + 1} is due in {max(0, outcome.due - outcome.at) / 1000:.3g} s, at {due}"
    else:
        due, follows = None, "no attempt follows"
    stack = f"\n{failure.stack}" if failure.stack and log.isEnabledFor(logging.DEBUG) else ""
    log.warning(
        "workflow %s: attempt %d of %d of activity %s failed: %s: %s; %s%s",
        info.workflow_id, outcome.attempt, options.retry.maximum_attempts, info.activity_type, failure.type, in_one_line(failure.message),
        follows, stack, extra=fields_of(info, outcome.attempt, error=failure.type, next_attempt=due),
    )  # fmt: skip
