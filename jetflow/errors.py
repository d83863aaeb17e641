"""Every error jetflow raises, in one tree.

::

    JetflowError
    ├── FailureError                    something failed elsewhere: type, message, code, stack, cause
    │   ├── WorkflowFailedError         a workflow's own failure, raised by ``handle.result()``
    │   │   └── WorkflowTerminatedError 410: it was terminated
    │   ├── ActivityError               596 timed out, 597 retries exhausted, 598 not retryable
    │   ├── ChildWorkflowError          a child workflow failed; ``cause`` has the child's failure
    │   ├── CancelledFailure            the workflow was asked to cancel
    │   ├── QueryError                  a query that cannot be answered, or whose handler failed
    │   └── UpdateError                 an update that was refused, or whose handler failed
    ├── NonRetryableError               598: raise it in an activity to stop its retries
    ├── WorkflowNotFoundError           404: no such workflow, or its record expired
    ├── WorkflowAlreadyStartedError     409: the id is taken
    ├── WorkflowAlreadyClosedError      the workflow has already ended
    ├── NondeterminismError             replayed code does something else than what was recorded
    ├── NotAllowedInWorkflowError       real I/O, threads or blocking calls in workflow code
    ├── WrongEventLoopError             a client used in another event loop or thread than its own
    ├── InvalidInputError               an argument, a payload or a name that cannot be used
    ├── PayloadTooLargeError            more bytes than the broker takes in one message
    ├── ResultTimeoutError              ``result(timeout=…)`` ran out; the workflow goes on
    ├── RegistrationError               a worker was given workflows or activities it cannot serve
    ├── WorkerFailedError               a worker cannot keep one of its own loops going, and ends
    └── BrokerError                     nats-server cannot be reached or cannot be used
        ├── BrokerUnavailableError      no answer in time; what was asked may or may not have happened
        ├── ConflictError               a compare-and-set lost: somebody else wrote first
        └── TopologyError               streams or buckets exist with another configuration
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

UNKNOWN = 500
"""Code of a failure that nothing more is known of."""


class Kind(StrEnum):
    """What kind of failure it is, as the engine marks it. An error's ``code`` and type name decide nothing."""

    ERROR = "error"
    """User code raised an error, whatever its type is called and whatever code it carries."""
    TERMINATED = "terminated"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    EXHAUSTED = "exhausted"
    FATAL = "fatal"
    CHILD = "child"
    """A child workflow failed; the cause has its failure, and the kind of that."""
    REFUSED = "refused"
    """A start, a query or an update that could not be taken."""


class Failure(Struct, omit_defaults=True, frozen=True):
    """An error on the wire: its type's name, message, code, traceback, cause and kind.

    ``kind`` is the engine's own mark, a value of ``Kind``. Older records lack it. ``mark`` reads those too.
    """

    type: str
    message: str = ""
    code: int = UNKNOWN
    stack: str = ""
    cause: Failure | None = None
    kind: str | None = None

    @property
    def mark(self) -> str:
        """The kind. In a record without one, which is older than kinds, the type and the code are the mark."""
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
    """Base of every error jetflow raises."""


class FailureError(JetflowError):
    """Raised for a failure that happened somewhere else and was recorded.

    Attributes:
        type: name of the original exception's type, such as ``"ValueError"``.
        message: the original message.
        kind: what kind of failure it is: ``"error"`` (user code raised it), ``"terminated"``, ``"cancelled"``, ``"timed_out"``,
            ``"exhausted"``, ``"fatal"``, ``"child"`` or ``"refused"``. The engine sets it; no code and no type name changes it.
        code: the error's own number if it carries one, otherwise as in the tree above; 500 when nothing more is known.
        stack: the remote traceback as text, or ``""``.
        failure: the whole record, with its chain of causes.
    """

    def __init__(self, message: str = "", *, failure: Failure | None = None) -> None:
        super().__init__(message or (failure.message if failure else ""))
        self.failure = failure
        self.type: str = failure.type if failure else type(self).__name__
        self.message: str = failure.message if failure else message
        self.kind: str = failure.mark if failure else Kind.ERROR.value
        self.code: int = failure.code if failure else UNKNOWN
        self.stack: str = failure.stack if failure else ""

    @property
    def cause(self) -> BaseException | None:
        """The error that caused this one, rebuilt from its record."""
        return self.__cause__


class WorkflowFailedError(FailureError):
    """Raised by ``handle.result()`` when the workflow's code raised an error."""

    def __str__(self) -> str:
        return f"{self.type}: {self.message}" if self.message else self.type


class WorkflowTerminatedError(WorkflowFailedError):
    """Raised by ``handle.result()`` when the workflow was terminated (code 410 unless another was given)."""


class ActivityError(FailureError):
    """Raised in workflow code when an activity has failed for good.

    ``kind`` is ``"timed_out"`` (code 596), ``"exhausted"`` (597: no retries are left) or ``"fatal"`` (598: not retryable). ``cause`` is the
    last attempt's error, with the code that it carried itself.
    """


class ChildWorkflowError(FailureError):
    """Raised in workflow code when a child workflow failed or could not be started."""


class CancelledFailure(FailureError):  # noqa: N818 - the field's name for it, fixed by the public surface
    """Raised in workflow code at the pending or next durable operation after ``handle.cancel()``."""

    def __init__(self, message: str = "Workflow cancelled", *, failure: Failure | None = None) -> None:
        super().__init__(message, failure=failure)
        if failure is None:
            self.kind: str = Kind.CANCELLED.value


class NonRetryableError(JetflowError):
    """Raise it in an activity to fail at once, whatever the retry policy says (code 598)."""


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
    """Raised when a command needs a running workflow and this one has ended."""

    code = 410

    def __init__(self, workflow_id: str, status: str) -> None:
        super().__init__(f"workflow {workflow_id!r} has already ended ({status})")
        self.workflow_id = workflow_id
        self.status = status


class NondeterminismError(JetflowError):
    """Raised when replayed workflow code does something else than what its timeline says.

    The workflow is parked, not failed: a worker with matching code goes on with it.

    Attributes:
        recorded: what the timeline has at this point.
        attempted: what the code does now.
        location: ``file:line`` in the workflow's code, or where it stands waiting.
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
    """Raised when workflow code does real I/O, blocks, or starts threads: work that belongs into an activity."""

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
    """Raised for an argument, payload or name that cannot be used; the message says where and what to write."""


class PayloadTooLargeError(InvalidInputError):
    """Raised when a payload is larger than the broker's ``max_payload``."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        super().__init__(f"{what} is {size:,} bytes, the broker takes at most {limit:,}: keep large data in an object store and pass its key")


class QueryError(FailureError):
    """Raised by ``handle.query()`` when there is no such query, or its handler raised, or tried to do more than read.

    ``type``, ``message`` and ``stack`` are those of what the handler raised.
    """


class UpdateError(FailureError):
    """Raised by ``handle.update()`` when there is no such update, its validator refused it, its handler raised, or the workflow ended first.

    ``type``, ``message`` and ``stack`` are those of what was raised.
    """


class ResultTimeoutError(JetflowError, TimeoutError):
    """Raised when ``result(timeout=…)`` runs out. The workflow goes on; ask again."""


class RegistrationError(JetflowError):
    """Raised when a worker is given workflows or activities that it cannot serve."""


class WorkerFailedError(JetflowError):
    """Raised by ``Worker.run()`` when one of the worker's own loops fails again and again: a bug, or a broker that nothing can be done with."""


class BrokerError(JetflowError):
    """Raised when nats-server cannot be reached or cannot be used as it is.

    Attributes:
        err_code: JetStream's number for what it refused; 0 where there is none.
    """

    err_code = 0


class BrokerUnavailableError(BrokerError):
    """Raised when the broker gave no answer in time: what was asked may or may not have happened."""


class ConflictError(BrokerError):
    """Raised when a compare-and-set lost: somebody else wrote first.

    Attributes:
        stream: the stream that refused it, where that is known.
    """

    stream = ""


class TopologyError(BrokerError):
    """Raised when streams or buckets exist with a configuration that jetflow cannot work with."""
