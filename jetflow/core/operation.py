"""A durable operation that workflow code waits for, and the run it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Raw, Struct

from jetflow.core import events as ev
from jetflow.core.loop import DurableTimerHandle, WorkflowFuture
from jetflow.core.values import TypedDecoder
from jetflow.errors import Failure


class RunInfo(Struct, frozen=True):
    """Which run this is. Times are milliseconds since the epoch."""

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


class Operation:
    """A durable operation that the code waits for.

    Attributes:
        index: its place among the run's operations, from 1.
        event: the output that recorded it.
        attempt: attempts of an activity that are known to have failed, the last of them with ``failure``.
        details: what the last heartbeat of a failed attempt said.
        remote: an activity that runs on other workers, or on whichever takes its task.
        due: when it fires by itself, ms since the epoch; None for never.
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
        """Its time has come, and does not come again: when that was, ms since the epoch."""
        at, self.due = max(now, self.due or 0), None
        return at

    def succeed(self, value: Any) -> None:
        """The code that waits goes on with a value."""
        if self.future is not None and not self.future.done():
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """The code that waits goes on with an error."""
        if self.future is not None and not self.future.done():
            self.future.set_exception(error)


class OperationFuture(WorkflowFuture):
    """A future whose cancellation by the code (a timeout, a cancelled task) ends its operation."""

    index = 0

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled and self.index:
            self.get_loop().machine.cancel_operation(self.index)  # type: ignore[attr-defined]
        return cancelled


plain: TypedDecoder = TypedDecoder(Any, "payload")
"""Decodes what no type was given for."""

TIMED_OUT: Any = object()
"""What a wait for a signal gives when its timeout came first. No payload is this."""

NOWHERE = ev.TimerStarted(index=0, at=0, due=0)
"""Stands for an operation that nothing will ever resolve."""
