"""Log lines that concern a workflow: their fields, and the line of a run that ended without a result."""

from __future__ import annotations

import logging
from typing import Any

from jetflow.core import events as ev
from jetflow.core.log_fields import about, in_one_line
from jetflow.core.operation import RunInfo
from jetflow.engine.turn.actor import Actor
from jetflow.errors import Kind

log: logging.Logger = logging.getLogger("jetflow.worker")


def fields_of(actor: Actor) -> dict[str, Any]:
    """Return the fields of a log line that concerns a workflow."""
    info = actor.run.info
    return info.log_fields if info is not None else about(actor.workflow_id, actor.context.task_queue)


def log_end(info: RunInfo, closing: ev.Failed | ev.Terminated) -> None:
    """Log the end of a run: ERROR for one that failed, INFO for one that somebody cancelled or terminated."""
    if isinstance(closing, ev.Terminated):
        log.info("workflow %s (%s) was terminated: %s", info.workflow_id, info.workflow_type, in_one_line(closing.reason), extra=info.log_fields)
        return
    failure = closing.failure
    what, level = ("was cancelled", logging.INFO) if failure.mark == Kind.CANCELLED else ("failed", logging.ERROR)
    stack = f"\n{failure.stack}" if failure.stack and log.isEnabledFor(logging.DEBUG) else ""
    error = in_one_line(failure.message)
    fields = info.log_fields | {"error": failure.type}
    log.log(level, "workflow %s (%s) %s: %s: %s%s", info.workflow_id, info.workflow_type, what, failure.type, error, stack, extra=fields)
