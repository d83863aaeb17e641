"""Every error that jetflow raises, in one tree.

::

    JetflowError
    ├── FailureError                    something failed elsewhere: type, message, code, stack, cause
    │   ├── WorkflowFailedError         a workflow's own failure, raised by ``handle.result()``
    │   │   └── WorkflowTerminatedError 410: it was terminated
    │   ├── ActivityError               596 timed out, 597 retries exhausted, 598 not retryable
    │   ├── OriginalError               the ``cause`` of an ActivityError: what the activity's code raised
    │   ├── ChildWorkflowError          a child workflow failed; ``cause`` has the child's failure
    │   ├── CancelledFailure            the workflow was asked to cancel
    │   ├── QueryError                  a query that cannot be answered, or whose handler failed
    │   └── UpdateError                 an update that was refused, or whose handler failed
    ├── NonRetryableError               598: raise it in an activity to stop its retries
    ├── WorkflowNotFoundError           404: no such workflow, or its record has expired
    ├── WorkflowAlreadyStartedError     409: the id is taken
    ├── WorkflowAlreadyClosedError      the workflow has already ended
    ├── NondeterminismError             replayed code does not do what was recorded
    ├── NotAllowedInWorkflowError       real I/O, threads or blocking calls in workflow code
    ├── WrongEventLoopError             a client used in another event loop or thread than its own
    ├── InvalidInputError               an invalid argument, payload or name
    ├── PayloadTooLargeError            more bytes than the broker accepts in one message
    ├── ResultTimeoutError              ``result(timeout=…)`` ran out; the workflow continues
    ├── RegistrationError               a worker was given workflows or activities it cannot serve
    ├── WorkerFailedError               one of a worker's own loops failed repeatedly; the worker ends
    └── BrokerError                     nats-server cannot be reached or cannot be used
        ├── BrokerUnavailableError      no answer in time; the request may or may not have been carried out
        ├── ConflictError               a compare-and-set failed: another writer was first
        └── TopologyError               streams or buckets exist with another configuration
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

UNKNOWN = 500
"""Code of a failure with no code of its own."""


class Kind(StrEnum):
    """The kind of a failure, set by the engine. An error's ``code`` and type name do not affect it."""

    ERROR = "error"
    """User code raised an error, of any type and with any code."""
    TERMINATED = "terminated"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    EXHAUSTED = "exhausted"
    FATAL = "fatal"
    CHILD = "child"
    """A child workflow failed. The cause has the child's failure and its kind."""
    REFUSED = "refused"
    """A start, a query or an update was refused."""


class Failure(Struct, omit_defaults=True, frozen=True):
    """An error on the wire: type name, message, code, traceback, cause and kind.

    ``kind`` is a value of ``Kind``, set by the engine. Older records lack it; ``mark`` works with those too.
    """

    type: str
    message: str = ""
    code: int = UNKNOWN
    stack: str = ""
    cause: Failure | None = None
    kind: str | None = None

    @property
    def mark(self) -> str:
        """The kind. For an older record without one, the type and the code decide."""
        return _kind_before(self) if self.kind is None else self.kind


def _kind_before(failure: Failure) -> str:
    if failure.type == "ActivityError":
        return {596: Kind.TIMED_OUT, 597: Kind.EXHAUSTED}.get(failure.code, Kind.FATAL)
    return _KINDS_OF_TYPES.get(failure.type, Kind.ERROR)


_KINDS_OF_TYPES = {
    "WorkflowTerminatedError": Kind.TERMINATED,
    "CancelledFailure": Kind.CANCELLED,
    "ChildWorkflowError": Kind.CHILD,
    "QueryError": Kind.REFUSED,
    "UpdateError": Kind.REFUSED,
}


class JetflowError(Exception):
    """Base of every error that jetflow raises."""


class FailureError(JetflowError):
    """Raised for a recorded failure of a workflow, an activity or a handler.

    Attributes:
        type: name of the original exception's type, such as ``"ValueError"``.
        message: the original message.
        kind: the kind of failure: ``"error"`` (user code raised it), ``"terminated"``, ``"cancelled"``, ``"timed_out"``,
            ``"exhausted"``, ``"fatal"``, ``"child"`` or ``"refused"``. The engine sets it. The code and the type name do not affect it.
        code: the error's own number if it has one, otherwise the number in the tree above, or 500.
        stack: the remote traceback as text, or ``""``.
        failure: the recorded failure, with its chain of causes.
    """

    def __init__(self, message: str = "", *, failure: Failure | None = None) -> None:
        super().__init__(message or (failure.message if failure else ""))
        self.failure = failure
        self.type: str = failure.type if failure else type(self).__name__
        self.message: str = failure.message if failure else message
        self.kind: str = failure.mark if failure else Kind.ERROR.value
        self.code: int = failure.code if failure else UNKNOWN
        self.stack: str = _stack_of(failure)

    @property
    def cause(self) -> BaseException | None:
        """The error that caused this one, rebuilt from its record."""
        return self.__cause__


def _stack_of(failure: Failure | None) -> str:
    """Return the stack of a failure. An activity's or a child's failure has that of its cause, which is stored once."""
    while failure is not None and not failure.stack and failure.type in ("ActivityError", "ChildWorkflowError"):
        failure = failure.cause
    return failure.stack if failure is not None else ""


class WorkflowFailedError(FailureError):
    """Raised by ``handle.result()`` when the workflow's code raised an error."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class WorkflowTerminatedError(WorkflowFailedError):
    """Raised by ``handle.result()`` when the workflow was terminated (code 410 by default)."""


class ActivityError(FailureError):
    """Raised in workflow code when an activity has failed and will not be retried.

    ``kind`` is ``"timed_out"`` (code 596), ``"exhausted"`` (597: no retries are left) or ``"fatal"`` (598: not retryable). ``cause`` is the
    last attempt's error, with its own code.
    """


class OriginalError(FailureError):
    """The ``cause`` of an ``ActivityError``: the error of its last attempt, with the type name, message, code and stack that it had there."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class ChildWorkflowError(FailureError):
    """Raised in workflow code when a child workflow failed or could not be started."""


class CancelledFailure(FailureError):  # noqa: N818 - the field's name for it, fixed by the public surface
    """Raised in workflow code after ``handle.cancel()``, by the pending or the next durable operation."""

    def __init__(self, message: str = "Workflow cancelled", *, failure: Failure | None = None) -> None:
        super().__init__(message, failure=failure)
        if failure is None:
            self.kind: str = Kind.CANCELLED.value


class NonRetryableError(JetflowError):
    """Raise it in an activity to fail without another attempt, whatever the retry policy says (code 598)."""


class WorkflowNotFoundError(JetflowError):
    """Raised when no workflow has this id, or its record has expired (code 404)."""

    code = 404

    def __init__(self, workflow_id: str, task_queue: str, run_id: str | None = None) -> None:
        run = f" with run id {run_id}" if run_id else ""
        super().__init__(f"no workflow {workflow_id!r}{run} on task queue {task_queue!r}: it was never started, or its record has expired")
        self.workflow_id = workflow_id
        self.task_queue = task_queue


class WorkflowAlreadyStartedError(JetflowError):
    """Raised by ``client.start`` when the id is taken (code 409)."""

    code = 409

    def __init__(self, workflow_id: str, task_queue: str, run_id: str | None = None) -> None:
        run = f" (run {run_id})" if run_id else ""
        super().__init__(
            f"workflow id {workflow_id!r} is already taken on task queue {task_queue!r}{run}; "
            "use another id, or attach to it with client.get_handle()"
        )
        self.workflow_id = workflow_id
        self.run_id = run_id


class WorkflowAlreadyClosedError(JetflowError):
    """Raised when a command needs a running workflow, but the workflow has ended."""

    code = 410

    def __init__(self, workflow_id: str, status: str) -> None:
        super().__init__(f"workflow {workflow_id!r} has already ended ({status})")
        self.workflow_id = workflow_id
        self.status = status


class NondeterminismError(JetflowError):
    """Raised when replayed workflow code does not do what its timeline says.

    The workflow is parked, not failed. A worker with matching code resumes it.

    Attributes:
        recorded: what the timeline has at this point.
        attempted: what the code does now.
        location: ``file:line`` in the workflow's code, or the line where it waits.
    """

    def __init__(self, recorded: str, attempted: str, location: str) -> None:
        super().__init__(
            f"recorded: {recorded}; attempted now: {attempted}; at {location}. "
            "The code changed under a running workflow: bring the old code back, or guard the change with patched()"
        )
        self.recorded = recorded
        self.attempted = attempted
        self.location = location


class NotAllowedInWorkflowError(JetflowError):
    """Raised when workflow code does real I/O, blocks, or starts threads. Such work belongs in an activity."""

    def __init__(self, what: str, location: str, fix: str = "move it into an @activity and await that") -> None:
        super().__init__(f"{what} is not allowed in workflow code, at {location}: {fix}")
        self.location = location


class WrongEventLoopError(JetflowError, RuntimeError):
    """Raised when a client, or a handle of its, is used in another event loop or thread than the one that it was connected in."""

    def __init__(self, thread: str | None = None) -> None:
        where = "another event loop" if thread is None else f"the event loop of thread {thread!r}"
        super().__init__(
            f"This client belongs to {where}, where it was connected. Connect another one here: async with Client.connect(…) as client. "
            "Or have the other loop make the call: asyncio.run_coroutine_threadsafe(client.start(…), loop)"
        )


class InvalidInputError(JetflowError, ValueError):
    """Raised for an invalid argument, payload or name. The message says where it is and what to write instead."""


class PayloadTooLargeError(InvalidInputError):
    """Raised when a payload is larger than its limit, which is the broker's ``max_payload`` for most payloads."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} is {size:,} bytes, the limit is {limit:,}. Store large data in an object store and pass its key")


class QueryError(FailureError):
    """Raised by ``handle.query()`` when there is no such query, its handler raised, or its handler tried to do more than read.

    ``type``, ``message`` and ``stack`` are those of the error that the handler raised.
    """


class UpdateError(FailureError):
    """Raised by ``handle.update()`` when there is no such update, its validator refused it, its handler raised, or the workflow ended first.

    ``type``, ``message`` and ``stack`` are those of the error that the handler or the validator raised.
    """


class ResultTimeoutError(JetflowError, TimeoutError):
    """Raised when ``result(timeout=…)`` runs out. The workflow continues; call ``result`` again."""


class RegistrationError(JetflowError):
    """Raised when a worker is given workflows or activities that it cannot serve."""


class WorkerFailedError(JetflowError):
    """Raised by ``Worker.run()`` when one of the worker's own loops fails repeatedly, from a bug or an unusable broker."""


class BrokerError(JetflowError):
    """Raised when nats-server cannot be reached, refuses a request, or has an unusable configuration.

    Attributes:
        err_code: JetStream's error code; 0 if it gave none.
    """

    err_code = 0


class BrokerUnavailableError(BrokerError):
    """Raised when the broker gave no answer in time. It may or may not have carried out the request."""


class ConflictError(BrokerError):
    """Raised when a compare-and-set failed because another writer was first.

    Attributes:
        stream: the stream that refused the write; ``""`` if unknown.
    """

    stream = ""


class TopologyError(BrokerError):
    """Raised when streams or buckets exist with a configuration that jetflow cannot work with."""
