"""The decisions of one run's code, and the operations that the code waits for.

A new decision is collected for the next commit. A decision that was recorded before is compared with its event. The code must decide
the same again, in the same order. Otherwise the run stops.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.describing import describe
from jetflow.core.failures import FATAL, to_failure
from jetflow.core.handlers import Handlers
from jetflow.core.location import await_location, end_of, raised_at, user_location
from jetflow.core.loop import DurableTimerHandle, Stop, WorkflowFuture, WorkflowLoop, WorkflowTask
from jetflow.core.operation import NOWHERE, Operation, OperationFuture, RunInfo
from jetflow.errors import CancelledFailure, Kind, NondeterminismError, NotAllowedInWorkflowError, PayloadTooLargeError

log: logging.Logger = logging.getLogger("jetflow.workflow")

MAX_AT_ONCE = 10_000
"""Most operations between two inputs that end at once, plus 10 for each task. More of them fail the run. An operation that is refused because
the workflow is cancelled counts ``REFUSED`` times."""
REFUSED = 5
"""Refusing an operation takes about this many times as long as a condition that is already true."""

shielded: ContextVar[bool] = ContextVar("jetflow_non_cancellable", default=False)
"""True inside ``CancellationScope.non_cancellable()``."""


class UnfitResultError(Exception):
    """Raised when a recorded result does not fit the type that the code gives it now. The run stops there until other code goes on with it."""


class Recorder:
    """The decisions of one generation of one run, and its operations.

    Args:
        definition, info: the workflow and the run.
        max_payload: most bytes of one event.
        host: the event loop that always runs the code, if there is one.

    Attributes:
        now: the workflow's time, ms since the epoch.
        pending: operations not yet resolved, by index, in order.
        waits: pending waits for signals by signal name, the oldest first.
        decided: events to commit.
        begun: operations begun since the last ``take``. Their effects follow the commit.
        ended: operations that ended since the last ``take``.
        children: every child started. The parent-close policy applies to them when this run ends.
        consumed: inbox sequence of the last signal taken, by name. A signal at or below it is a repeat.
        consumed_from: number of the last signal taken, by name and sender. A signal at or below it is a repeat.
        data: the user data; None without any.
        handlers: the handlers of queries and updates; None without any.
        next_index: index of the next operation. The next generation continues from it.
        predicates: the predicates of ``condition``, each with its future, whether a cancel reaches it, and its context.
        closing: the event that ended the run; None while it runs.
        delay: the timer of a delayed start, until the code begins; None without one.
        told_time: whether the code has asked for the time, so that its decisions may depend on it.
        unawaited: the error of a call that the code did not await; it fails the run at its end. None without one.
        halted: True when no more code may run.
    """

    delay: Operation | None = None
    _input: Sequence[Any] = ()

    def __init__(self, definition: WorkflowDefinition[Any, Any], info: RunInfo, max_payload: int, host: asyncio.AbstractEventLoop | None) -> None:
        self.definition = definition
        self.max_payload = max_payload
        self.info = info
        self.now: int = info.started_at
        self.pending: dict[int, Operation] = {}
        self.waits: dict[str, deque[Operation]] = {}
        self.decided: list[Any] = []
        self.begun: list[Operation] = []
        self.ended: list[Operation] = []
        self.children: list[ev.ChildStarted] = []
        self.consumed: dict[str, int] = {}
        self.consumed_from: dict[str, dict[str, int]] = {}
        self.data: UserData | None = None
        self.handlers: Handlers | None = None
        self.closing: ev.Completed | ev.Failed | ev.Terminated | ev.ContinuedAsNew | None = None
        self.cancel_requested: ev.CancelRequested | None = None
        self.next_index: int = 1
        self.predicates: list[tuple[Callable[[], Any], WorkflowFuture, bool, Context]] = []
        self.told_time = False
        self.unawaited: NotAllowedInWorkflowError | None = None
        self.halted = False
        self._at_once = 0
        self._expected: deque[Any] | None = None
        self._open_end = False
        self._broken: NondeterminismError | None = None
        self._main: WorkflowTask | None = None
        self.loop: WorkflowLoop = WorkflowLoop(self, info.workflow_id, info.run, host)

    @property
    def log_fields(self) -> dict[str, Any]:
        """The fields of a log line that concerns the workflow."""
        return self.info.log_fields

    # ---- deciding

    @property
    def _live(self) -> bool:
        """Return True if the code's decisions are new, False while it repeats recorded ones."""
        return self._expected is None or (self._open_end and not self._expected)

    def decide(self, event: Any, where: Any = None) -> Any:
        """Record an output and return it. In a replay, check it against the recorded output and return that."""
        if self.halted or self._broken is not None:
            raise Stop
        if self._live:
            self.check_size(event)
            self.decided.append(event)
            return event
        expected = self._expected
        recorded = expected[0] if expected else None
        if recorded is not None and isinstance(recorded, ev.Output) and (recorded == event or describe(recorded) == describe(event)):
            return expected.popleft()  # type: ignore[union-attr]
        self.check_size(event)  # a refused event was never recorded
        there = "nothing more at this point" if recorded is None or isinstance(recorded, ev.Input) else describe(recorded)
        why = f" ({event.failure.type}: {event.failure.message})" if isinstance(event, ev.Failed) else ""
        location = user_location() or self.standing_at() if where is None else raised_at(where) if isinstance(where, BaseException) else end_of(where)
        self.mismatch(there, describe(event) + why, location)
        raise Stop

    def check_size(self, event: Any) -> None:
        field = _PAYLOADS.get(type(event))
        payload = None if field is None else getattr(event, field)
        if payload is None:
            return
        limit = self.max_payload
        if self.data is not None and isinstance(event, (ev.Completed, ev.ContinuedAsNew)):
            limit -= self.data.size  # one message holds both
        if len(payload) > limit:
            raise PayloadTooLargeError(f"the payload of {describe(event)}", len(payload), limit)

    def take(self) -> tuple[list[Any], list[Operation], list[Operation]]:
        """Return what was decided since the last call: events to commit, operations begun, and operations ended."""
        taken = self.decided, self.begun, self.ended
        self.decided, self.begun, self.ended = [], [], []
        return taken

    def take_begun(self) -> list[Operation]:
        """Return the operations begun since the last call, for effects that do not wait for the commit."""
        begun, self.begun = self.begun, []
        return begun

    def mismatch(self, recorded: str, attempted: str, location: str) -> None:
        """Stop the run, because the code does not do what was recorded."""
        if self._broken is None:
            self._broken = NondeterminismError(recorded, attempted, location)
        self.halted: bool = True

    def standing_at(self) -> str:
        """Return where in its code the main function waits."""
        return await_location(self._main.get_coro()) if self._main is not None and not self._main.done() else "the end of the workflow"

    # ---- operations

    def _take_index(self) -> int:
        if self.halted:
            raise Stop
        index = self.next_index
        self.next_index += 1
        return index

    def _begin(
        self, make: Callable[[int], Any], *, future: WorkflowFuture | None = None, cancellable: bool | None = None, check: bool = True
    ) -> Operation:
        if check:
            future = OperationFuture(self.loop)
            if self.halted:  # nothing resolves the operation: the code waits here until it is closed
                return Operation(NOWHERE, future, False)
            if self.cancel_requested is not None:
                self._raise_if_cancelled()
        index = self._take_index()
        operation = Operation(self.decide(make(index)), future, not shielded.get() if cancellable is None else cancellable)
        if check:
            future.index = index  # type: ignore[union-attr]
        self.pending[index] = operation
        self.begun.append(operation)
        return operation

    async def _outcome(self, operation: Operation) -> Any:
        assert operation.future is not None
        return await operation.future

    def start_timer(self, handle: DurableTimerHandle) -> None:
        """Make a timer of asyncio durable. A cancel of the workflow reaches it if ``asyncio.sleep`` started it."""
        sleeper = handle.sleeper()
        if self.halted:
            return
        if sleeper is not None:
            self._raise_if_cancelled()
        if handle.when() - self.now / 1000 > ev.FOREVER_MS / 1000:
            if sleeper is not None:  # only a cancel of the workflow ends it
                self.predicates.append((bool, sleeper, not shielded.get(), copy_context()))
            return
        due = math.ceil(handle.when() * 1000 - 0.001)  # never early, except for rounding errors of floats
        operation = self._begin(
            lambda index: ev.TimerStarted(index=index, at=self.now, due=due),
            future=sleeper,
            cancellable=sleeper is not None and not shielded.get(),
            check=False,
        )
        operation.handle = handle
        handle.index = operation.index

    def cancel_operation(self, index: int) -> None:
        """End an operation that the code no longer waits for."""
        if self.halted or index not in self.pending:
            return
        operation = self.resolve(index)
        self.decide(ev.OperationCancelled(index=index, at=self.now))
        self.ended.append(operation)

    def awaited(self, index: int) -> Operation:
        """Return a pending operation. Stop the run if there is none of this index."""
        operation = self.pending.get(index)
        if operation is None:
            self.mismatch(f"a result for operation {index}", "no such operation is pending", self.standing_at())
            raise Stop
        return operation

    def resolve(self, index: int) -> Operation:
        """Return an operation that has ended, and remove it from the pending ones."""
        operation = self.awaited(index)
        del self.pending[index]
        event = operation.event
        if isinstance(event, ev.WaitStarted):
            queue = self.waits[event.signal]
            queue.remove(operation)
            if not queue:
                del self.waits[event.signal]
        return operation

    # ---- the run's beginning and end

    def start_code(self, args: Sequence[Any]) -> None:
        """Start the workflow's function. It runs when the current input has been applied."""
        self._main = self.loop.create_task(self.definition.function(*args), name=self.definition.name)
        self._main.add_done_callback(self._on_main_done)

    def delay_code(self, args: Sequence[Any], begins: int) -> None:
        """Start the workflow's function when a timer fires that is due at ``begins``."""
        self._input = args
        self.delay = self._begin(lambda index: ev.TimerStarted(index=index, at=self.now, due=begins), cancellable=False, check=False)

    def start_delayed_code(self) -> None:
        """Start the workflow's function, since the timer of its delayed start has fired."""
        args, self._input, self.delay = self._input, (), None
        self.start_code(args)

    def _on_main_done(self, _: Any) -> None:
        self.loop.clear()
        self.predicates.clear()

    def end(self, closing: Any, where: Any = None) -> None:
        """End the run. ``where`` is the place for a mismatch: the error that ended the code, or the function that returned."""
        try:
            self.closing = self.decide(closing, where)
        except Stop:
            return
        self.ended.extend(self.pending.values())
        self.dispose()

    def dispose(self) -> None:
        """Close the code without letting it decide anything more."""
        self.halted = True
        self.loop.dispose()

    def release(self) -> None:
        """Close the code and break reference cycles, so that its memory is freed without the garbage collector."""
        self.dispose()
        self.pending.clear()
        self.handlers = None
        self._main = None
        self.loop.tasks.clear()
        del self.loop

    def note_unawaited(self, what: str, where: str) -> None:
        """Fail the run at its end, since its code has made a call that it did not await; the first one is told."""
        error = NotAllowedInWorkflowError(f"calling {what} without await", where, "nothing of it has run; put await before the call")
        if self.unawaited is None:
            self.unawaited = error
        if self._live:
            log.warning("workflow %s: %s. The run fails when it ends", self.info.workflow_id, error)

    def fail_unawaited(self, instead_of: type) -> bool:
        """End a run whose code did not await a call; False where there is none, or where the record has it that the run went on."""
        if self.unawaited is None or (not self._live and self._expected and type(self._expected[0]) is instead_of):
            return False
        self.end(ev.Failed(at=self.now, failure=to_failure(self.unawaited, FATAL, kind=Kind.FATAL)))
        return True

    def give_up_spinning(self, steps: int, what: str = "callbacks", location: str = "") -> None:
        """Fail a run whose code does not wait."""
        error = NotAllowedInWorkflowError(
            f"running {steps:,} {what} without waiting for anything",
            location or self.standing_at(),
            "wait for a durable operation in the loop, and leave it on CancelledFailure",
        )
        self.end(ev.Failed(at=self.now, failure=to_failure(error, FATAL, kind=Kind.FATAL)))

    # ---- time and cancellation

    def tell_time(self) -> int:
        """Return the time, and note that the code has asked for it."""
        self.told_time: bool = True
        return self.now

    def _raise_if_cancelled(self) -> None:
        if self.halted:
            raise Stop
        if self.cancel_requested is not None and not shielded.get():
            self._count_at_once(REFUSED)
            raise self.cancelled_failure()

    def _count_at_once(self, weight: int) -> None:
        self._at_once += weight
        if self._at_once > MAX_AT_ONCE and self._at_once > MAX_AT_ONCE + 10 * len(self.loop.tasks):
            self.give_up_spinning(self._at_once // weight, "operations", user_location())
            raise Stop

    def cancelled_failure(self) -> CancelledFailure:
        """Return the error that the code gets when the workflow is cancelled."""
        reason = self.cancel_requested.reason if self.cancel_requested else None
        return CancelledFailure(f"Workflow cancelled: {reason}" if reason else "Workflow cancelled")


_PAYLOADS: dict[type, str] = {
    ev.ActivityScheduled: "input",
    ev.ChildStarted: "input",
    ev.ContinuedAsNew: "input",
    ev.SignalSent: "data",
    ev.SideEffect: "value",
    ev.UpdateCompleted: "result",
    ev.Completed: "result",
}
