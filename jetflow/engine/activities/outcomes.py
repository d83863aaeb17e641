"""The outcome of one attempt of a remote activity: the body that its worker publishes, and how others read it."""

from __future__ import annotations

from typing import Any

import msgspec

from jetflow.activity import Attempt
from jetflow.broker.stores.tasks import Task
from jetflow.core import events as ev
from jetflow.core.failures import own_code, type_name
from jetflow.engine.activities.steps import AttemptTimeout, failure_of, is_final


class _Seen(msgspec.Struct):
    run: int
    attempt: int


def success(task: Task, result: msgspec.Raw) -> bytes:
    """Return the body for an attempt that has a result."""
    return msgspec.json.encode(_head(task) | {"result": result})


def failure(task: Task, error: BaseException, attempt: Attempt, limit: int) -> bytes:
    """Return the body for an attempt that has failed, within ``limit`` bytes if possible."""
    told = msgspec.to_builtins(failure_of(error))
    told["bases"] = [type_name(cls) for cls in type(error).__mro__[1:-2]]
    if (code := own_code(error)) is not None:
        told["code"] = code  # also if it is the default
    if is_final(error):
        told["non_retryable"] = True
    if isinstance(error, AttemptTimeout):
        told["timed_out"] = True
    body = msgspec.json.encode(_head(task) | {"failure": told, "details": attempt.details})
    if len(body) > limit:
        told |= {"message": told["message"][:1000], "stack": "", "cause": None}
        body = msgspec.json.encode(_head(task) | {"failure": told, "details": attempt.details})
    return body


def _head(task: Task) -> dict[str, Any]:
    return {"run": task.run, "attempt": task.attempt}


def is_outcome_of(body: bytes, run: int, attempt: int) -> bool:
    """Return whether an outcome's body belongs to this attempt of the run, or to a later one."""
    try:
        seen = msgspec.json.decode(body, type=_Seen)
    except msgspec.DecodeError:
        return False
    return seen.run == run and seen.attempt >= attempt


def settles(event: Any, task: Task) -> bool:
    """Return whether an event of the timeline makes an attempt unnecessary."""
    if isinstance(event, ev.Started):
        return event.first_index > task.index
    if getattr(event, "index", None) != task.index:
        return False
    if isinstance(event, ev.ActivityRetrying):
        return event.attempt >= task.attempt
    return isinstance(event, (ev.ActivityCompleted, ev.ActivityFailed, ev.OperationCancelled))
