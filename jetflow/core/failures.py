"""Failures as data: writing an exception to the timeline, and raising it again elsewhere."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Iterable
from typing import Any

from jetflow.core.interrupts import is_interrupt
from jetflow.core.location import is_own_file
from jetflow.errors import (
    UNKNOWN,
    ActivityError,
    CancelledFailure,
    ChildWorkflowError,
    Failure,
    FailureError,
    Kind,
    NonRetryableError,
    OriginalError,
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
_LONGEST_NAME = 200

_NAME: Any = type.__dict__["__name__"]
_CAUSE: Any = BaseException.__dict__["__cause__"]
_CONTEXT: Any = BaseException.__dict__["__context__"]
_SUPPRESS: Any = BaseException.__dict__["__suppress_context__"]
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]
_PARTS: Any = BaseExceptionGroup.__dict__["exceptions"]


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


def type_name(cls: type) -> str:
    """Return the name of a type as JSON can hold it, whatever its metaclass says."""
    name: str = _NAME.__get__(cls)
    return _writable(name[:_LONGEST_NAME]) or "?"


def own_code(error: BaseException) -> int | None:
    """Return the code of an error, or None if it has none."""
    if issubclass(type(error), NonRetryableError):
        return FATAL
    try:
        own = getattr(error, "code", None)
    except BaseException as broken:  # a property that raises
        if is_interrupt(broken):
            raise
        return None
    if not issubclass(type(own), int) or issubclass(type(own), bool):
        return None
    number = int.__index__(own)  # type: ignore[arg-type]
    return number if -(2**63) <= number < 2**63 else None


def to_failure(error: BaseException, code: int | None = None, depth: int = 0, *, kind: Kind | None = None, without_code: int = UNKNOWN) -> Failure:
    """Return the failure that records an exception, with its chain of causes (at most 10).

    Whatever the exception's own class makes of its attributes, there is a record: a property or a ``__str__`` that raises is left out.

    Args:
        error: the exception. If it was raised from a recorded failure, that failure is returned.
        code: the engine's code, instead of the error's own.
        depth: how deep the error is in a chain of causes.
        kind: the failure's kind. Default: ``ERROR``, or the kind of jetflow's own class.
        without_code: the code for an error that has none.
    """
    return _to_failure(error, code, depth, kind, without_code, ())


def _to_failure(
    error: BaseException, code: int | None, depth: int, kind: Kind | None, without_code: int, effects: tuple[BaseException, ...]
) -> Failure:
    cls = type(error)
    if issubclass(cls, FailureError) and (known := _record_of(error)) is not None:
        return known
    effects = (*effects, error)
    cause = _CAUSE.__get__(error)
    if cause is None and not _SUPPRESS.__get__(error):
        cause = _CONTEXT.__get__(error)
    if code is None:
        own = own_code(error)
        code = without_code if own is None else own
    if kind is None:
        kind = Kind.CANCELLED if issubclass(cls, CancelledFailure) else Kind.REFUSED if issubclass(cls, (QueryError, UpdateError)) else Kind.ERROR
    if issubclass(cls, BaseExceptionGroup):
        parts: tuple[BaseException, ...] = _PARTS.__get__(error)
        message = "; ".join(f"{type_name(type(part))}: {message_of(part)}" for part in parts)
        cause = parts[0] if cause is None else cause
    else:
        message = message_of(error)
    if any(cause is effect for effect in effects):  # a circle
        cause = None
    return Failure(
        type=type_name(cls),
        message=_writable(message[:MAX_MESSAGE]),
        code=code,
        stack=_writable(_stack(error)[-MAX_STACK:]),
        cause=_to_failure(cause, None, depth + 1, None, UNKNOWN, effects) if cause is not None and depth < MAX_CAUSES else None,
        kind=kind,
    )


def _record_of(error: BaseException) -> Failure | None:
    """Return the record that an error was raised for, None for an error that somebody has raised anew."""
    try:
        known = error.failure  # type: ignore[attr-defined]
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        return None
    return known if type(known) is Failure else None


def _stack(error: BaseException) -> str:
    try:
        told = traceback.TracebackException(type(error), error, _TRACEBACK.__get__(error), lookup_lines=False)
        told.stack = traceback.StackSummary.from_list([frame for frame in told.stack if not is_own_file(frame.filename)])
        return "".join(told.format(chain=False))
    except BaseException as broken:  # it looks at attributes of the error
        if is_interrupt(broken):
            raise
        return "".join(traceback.format_tb(_TRACEBACK.__get__(error))) + type_name(type(error))


def message_of(error: BaseException) -> str:
    """Return an error's message, also if the error cannot say it."""
    try:
        return str.__getitem__(str(error), slice(MAX_MESSAGE))  # a plain string, also of a subclass
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        why = type_name(type(broken))
    try:
        told = BaseException.__str__(error)[:MAX_MESSAGE]
    except BaseException as broken:
        if is_interrupt(broken):
            raise
        told = ""
    return told or f"<message not readable: {why}>"


def _writable(text: str) -> str:
    """Return text that can be written as JSON. Lone surrogates, as in undecodable file names, are escaped."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def to_error(failure: Failure) -> FailureError:
    """Return the exception to raise for a recorded failure: jetflow's own error for its kind, or ``WorkflowFailedError``."""
    return _to_error(failure, WorkflowFailedError)


def _to_error(failure: Failure, other: type[FailureError]) -> FailureError:
    error = _ERRORS.get((failure.mark, failure.type), other)(failure.message, failure=failure)
    if failure.cause is not None:
        error.__cause__ = _to_error(failure.cause, OriginalError if type(error) is ActivityError else other)
    return error


def is_cancellation(error: BaseException) -> bool:
    """Return whether an error means only that the workflow was asked to cancel. Looks into exception groups too."""
    if issubclass(type(error), BaseExceptionGroup):
        return all(is_cancellation(part) for part in _PARTS.__get__(error))
    return issubclass(type(error), (CancelledFailure, asyncio.CancelledError))


def is_retryable(error: BaseException, non_retryable: Iterable[str]) -> bool:
    """Return whether an activity may be retried after an error, by a policy's ``non_retryable`` type names."""
    if issubclass(type(error), NonRetryableError):
        return False
    names = {type_name(cls) for cls in type(error).__mro__}
    return not names.intersection(non_retryable)
