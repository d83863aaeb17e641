"""Failures as data: writing an exception to the timeline, and raising it again elsewhere."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable

from jetflow.errors import (
    UNKNOWN,
    ActivityError,
    CancelledFailure,
    ChildWorkflowError,
    Failure,
    FailureError,
    Kind,
    NonRetryableError,
    QueryError,
    UpdateError,
    WorkflowFailedError,
    WorkflowTerminatedError,
)

INTERRUPTED = 410
ACTIVITY_TIMEOUT = 596
RETRIES_EXHAUSTED = 597
FATAL = 598
RETRYABLE = 599

MAX_STACK = 8_000
MAX_MESSAGE = 16_000
MAX_CAUSES = 10


CODES: dict[str, int] = {Kind.TIMED_OUT: ACTIVITY_TIMEOUT, Kind.EXHAUSTED: RETRIES_EXHAUSTED, Kind.FATAL: FATAL}
"""The codes of an activity's final failure, by kind."""


def termination(workflow_id: str, reason: str, code: int, stack: str | None, kind: str | None) -> Failure:
    """Return the failure of a terminated run."""
    return Failure("WorkflowTerminatedError", f"workflow {workflow_id!r} was terminated: {reason}", code, stack or "", kind=kind)


_ERRORS: dict[tuple[str, str], type[FailureError]] = {
    (Kind.TERMINATED, "WorkflowTerminatedError"): WorkflowTerminatedError,
    (Kind.CANCELLED, "CancelledFailure"): CancelledFailure,
    (Kind.TIMED_OUT, "ActivityError"): ActivityError,
    (Kind.EXHAUSTED, "ActivityError"): ActivityError,
    (Kind.FATAL, "ActivityError"): ActivityError,
    (Kind.CHILD, "ChildWorkflowError"): ChildWorkflowError,
}
"""jetflow's own error for each kind of failure. User code may use any type name, so the type name alone does not decide."""


def own_code(error: BaseException) -> int | None:
    """Return the code of an error, or None if it has none."""
    if isinstance(error, NonRetryableError):
        return FATAL
    try:
        own = getattr(error, "code", None)
    except Exception:  # a property that raises
        return None
    return int(own) if isinstance(own, int) and not isinstance(own, bool) else None


def to_failure(error: BaseException, code: int | None = None, depth: int = 0, *, kind: Kind | None = None, without_code: int = UNKNOWN) -> Failure:
    """Return the failure that records an exception, with its chain of causes (at most 10).

    Args:
        error: the exception. If it was raised from a recorded failure, that failure is returned.
        code: the engine's code, instead of the error's own.
        depth: how deep the error is in a chain of causes.
        kind: the failure's kind. Default: ``ERROR``, or the kind of jetflow's own class.
        without_code: the code for an error that has none.
    """
    if isinstance(error, FailureError) and error.failure is not None:
        return error.failure
    cause = error.__cause__
    if cause is None and not error.__suppress_context__:
        cause = error.__context__
    if code is None:
        own = own_code(error)
        code = without_code if own is None else own
    if kind is None:
        kind = Kind.CANCELLED if isinstance(error, CancelledFailure) else Kind.REFUSED if isinstance(error, (QueryError, UpdateError)) else Kind.ERROR
    if isinstance(error, BaseExceptionGroup):
        message = "; ".join(f"{type(part).__name__}: {_message(part)}" for part in error.exceptions)
        cause = error.exceptions[0] if cause is None else cause
    else:
        message = _message(error)
    return Failure(
        type=type(error).__name__,
        message=_writable(message[:MAX_MESSAGE]),
        code=code,
        stack=_writable("".join(traceback.format_exception(error, chain=False))[-MAX_STACK:]),
        cause=to_failure(cause, depth=depth + 1) if cause is not None and depth < MAX_CAUSES else None,
        kind=kind,
    )


def _message(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as broken:
        return f"<message not readable: {type(broken).__name__}>"


def _writable(text: str) -> str:
    """Return text that can be written as JSON. Lone surrogates, as in undecodable file names, are escaped."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def to_error(failure: Failure) -> FailureError:
    """Return the exception to raise for a recorded failure: jetflow's own error for its kind, or ``WorkflowFailedError``."""
    error = _ERRORS.get((failure.mark, failure.type), WorkflowFailedError)(failure.message, failure=failure)
    if failure.cause is not None:
        error.__cause__ = to_error(failure.cause)
    return error


def is_cancellation(error: BaseException) -> bool:
    """Return whether an error means only that the workflow was asked to cancel. Looks into exception groups too."""
    if isinstance(error, BaseExceptionGroup):
        return all(is_cancellation(part) for part in error.exceptions)
    return isinstance(error, (CancelledFailure, asyncio.CancelledError))


def is_retryable(error: BaseException, non_retryable: Iterable[str]) -> bool:
    """Return whether an activity may be retried after an error, by a policy's ``non_retryable`` type names."""
    if isinstance(error, NonRetryableError):
        return False
    names = {cls.__name__ for cls in type(error).__mro__}
    return not names.intersection(non_retryable)
