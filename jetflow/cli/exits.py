"""Exit codes, by which a script recognises an outcome."""

from __future__ import annotations

from enum import IntEnum

from jetflow.errors import (
    BrokerError,
    FailureError,
    InvalidInputError,
    JetflowError,
    RegistrationError,
    ResultTimeoutError,
    WorkflowAlreadyClosedError,
    WorkflowAlreadyStartedError,
    WorkflowNotFoundError,
)


class ExitCode(IntEnum):
    """The exit codes and their meanings, as ``jetflow --help`` shows them."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    DONE = 0, "done"
    FAILED = 1, "the workflow failed or was terminated"
    CANNOT_RUN = 2, "wrong usage, the app cannot be loaded, or NATS cannot be reached or used"
    NOT_FOUND = 3, "no such workflow, or its record has expired"
    TIMED_OUT = 4, "the timeout ran out; the workflow continues"
    CONFLICT = 5, "the id is taken, or the workflow has already ended"
    INTERRUPTED = 130, "ended by Ctrl-C"


_CODES: tuple[tuple[type[JetflowError], ExitCode], ...] = (
    (FailureError, ExitCode.FAILED),
    (WorkflowNotFoundError, ExitCode.NOT_FOUND),
    (ResultTimeoutError, ExitCode.TIMED_OUT),
    (WorkflowAlreadyStartedError, ExitCode.CONFLICT),
    (WorkflowAlreadyClosedError, ExitCode.CONFLICT),
    (BrokerError, ExitCode.CANNOT_RUN),
    (RegistrationError, ExitCode.CANNOT_RUN),
    (InvalidInputError, ExitCode.CANNOT_RUN),
)


def exit_code_of(error: JetflowError) -> ExitCode:
    """Return the exit code for an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ExitCode.FAILED)


def exit_code_help() -> str:
    """Return the table of exit codes, one per line."""
    return "\n".join(f"{code.value:>5}  {code.meaning}" for code in ExitCode)
