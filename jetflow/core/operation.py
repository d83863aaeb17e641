"""A durable operation that workflow code waits for, and the run it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw, Struct

from jetflow.core import events as ev
from jetflow.core.log_fields import about
from jetflow.core.loop import DurableTimerHandle, WorkflowFuture
from jetflow.core.values import TypedDecoder
from jetflow.errors import Failure


class RunInfo(Struct, frozen=True):
    """The identity of a run. Times are ms since the epoch."""

    workflow_id: str
    task_queue: str
    workflow_type: str
    run: int
    namespace: str = "jetflow"
    generation: int = 1
    parent: ev.Parent | None = None
    origin: str | None = None
    started_at: int = 0
    expire: int | None = None

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields of a log line that concerns the run."""
        return about(self.workflow_id, self.task_queue, self.workflow_type, self.run)


class Operation:
    """A durable operation that the code waits for.

    Attributes:
        index: its index among the run's operations, from 1.
        event: the output that recorded it.
        attempt: number of an activity's attempts that are known to have failed, the last of them with ``failure``.
        details: the details of the last heartbeat of a failed attempt.
        remote: whether the activity runs as a task, on any worker that takes it.
        due: when a timer or a timeout fires, ms since the epoch; None: never.
    """

    __slots__ = ("attempt", "cancellable", "decode", "details", "due", "event", "failure", "future", "handle", "index", "options", "remote")

    def __init__(self, event: Any, future: WorkflowFuture | None, cancellable: bool) -> None:
        self.index: int = event.index
        self.event: Any = event
        self.future: WorkflowFuture | None = future
        self.cancellable: bool = cancellable
        self.handle: DurableTimerHandle | None = None
        self.decode: Callable[[Raw], Any] = plain
        self.options: Any = None
        self.attempt: int = 0
        self.failure: Failure | None = None
        self.details: Raw = ev.NULL
        self.remote: bool = type(event) is ev.ActivityScheduled and event.task_queue is not None
        self.due: int | None = getattr(event, "due", None)

    def fires(self, now: int) -> int:
        """Mark the operation as fired, so that it does not fire again. Return when it fired, ms since the epoch."""
        at, self.due = max(now, self.due or 0), None
        return at

    def succeed(self, value: Any) -> None:
        """Resume the waiting code with a value."""
        if self.future is not None and not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Resume the waiting code with an error."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class OperationFuture(WorkflowFuture):
    """A future that ends its operation when the code cancels it (by a timeout or a cancelled task)."""

    index = 0

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.index:
            self.get_loop().machine.cancel_operation(self.index)  # type: ignore[attr-defined]
        return cancelled


plain: TypedDecoder = TypedDecoder(Any, "payload")
"""Decodes a value without a given type."""

TIMED_OUT: Any = object()
"""What a wait for a signal gives when its timeout came first. No payload is this."""

NOWHERE = ev.TimerStarted(index=0, at=0, due=0)
"""An operation that is never resolved."""
