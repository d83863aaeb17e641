"""The replay machine: one run of a workflow as a pure function of its inputs.

``feed`` applies something that happened, runs the code until it waits, and adds what was decided to ``decided``;
the owner commits that list before anything of it becomes visible. ``replay`` applies recorded commits the same way
and checks that the code decides the same again. There is no clock, no randomness and no I/O in here: time is that of
the last input.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, NoReturn

from msgspec import Raw

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.definitions import ActivityDefinition, ActivityOptions, WorkflowDefinition
from jetflow.core.describing import describe
from jetflow.core.failures import FATAL, is_cancellation, to_error, to_failure
from jetflow.core.handlers import Handlers
from jetflow.core.ids import child_id
from jetflow.core.inputs import APPLY
from jetflow.core.location import await_location, end_of, raised_at, user_location
from jetflow.core.loop import DurableTimerHandle, Stop, WorkflowFuture, WorkflowLoop, WorkflowTask
from jetflow.core.operation import NOWHERE, Operation, OperationFuture, RunInfo, plain
from jetflow.core.values import TypedDecoder, encode, encode_args
from jetflow.errors import CancelledFailure, InvalidInputError, JetflowError, NondeterminismError, NotAllowedInWorkflowError, PayloadTooLargeError

FOREVER_MS = 100 * 365 * 86_400_000
"""A timer further away than this never fires."""

MAX_SENDERS = 1000
"""Senders of one signal's name whose last numbers a following generation still knows: those heard last."""

MAX_AT_ONCE = 100_000
"""Operations answered at once (refused, or true already) between two inputs before the code counts as spinning."""

shielded: ContextVar[bool] = ContextVar("jetflow_non_cancellable", default=False)
"""True inside ``CancellationScope.non_cancellable()``."""


class Machine:
    """One generation of one run.

    Args:
        definition, info: the workflow, and which run of it.
        max_payload: bytes that one event may carry.
        host: the event loop inside which it is always called, if there is one.

    Attributes:
        now: the workflow's time, ms since the epoch.
        pending: operations not yet resolved, by index, in order.
        decided: events to commit; taken with ``take``.
        begun: operations issued since the last ``take``, whose effects follow the commit.
        ended: operations that no one waits for any more since the last ``take``.
        children: every child started, for what becomes of them when this run ends.
        consumed: inbox sequence of the last signal taken, by name; one at or below it is a repeat.
        consumed_from: number of the last signal taken, by name and sender; one at or below it is a repeat.
        data: what the code tells about itself; None while it tells nothing.
        handlers: the queries and updates that the code has given out; None without any.
        next_index: index of the next operation; a following generation goes on from here.
        predicates: what ``condition`` waits for, with the future of each, whether cancellation reaches it, and its context.
        closing: the event that ended the run, once there is one.
        told_time: whether the code has asked for its time, on which what it decides may depend.
        halted: True when no more code may run.
    """

    def __init__(
        self, definition: WorkflowDefinition[Any, Any], info: RunInfo, max_payload: int = 1 << 20, host: asyncio.AbstractEventLoop | None = None
    ) -> None:
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
        self.halted = False
        self.told_time = False
        self._random: random.Random | None = None
        self.next_index: int = 1
        self.predicates: list[tuple[Callable[[], Any], WorkflowFuture, bool, Context]] = []
        self._at_once = 0
        self._expected: deque[Any] | None = None
        self._open_end = False
        self._patches: set[str] = set()
        self._patch_answers: dict[str, bool] = {}
        self._broken: NondeterminismError | None = None
        self._main: WorkflowTask | None = None
        self.loop: WorkflowLoop = WorkflowLoop(self, host)

    # ---- what the owner calls

    def replay(self, commits: Sequence[Sequence[Any]], *, unfinished: bool = False) -> None:
        """Rebuilds the run from the events of its commits, first to last.

        Args:
            commits: the events of each.
            unfinished: the last commit was to go on in a key that was never written: what the code decides past its end is new.

        Raises:
            NondeterminismError: if the code does something else than what was recorded.
        """
        self._patches = {event.id for commit in commits for event in commit if isinstance(event, ev.Patched)}
        for number, commit in enumerate(commits, 1):
            expected = self._expected = deque(commit)
            self._open_end = unfinished and number == len(commits)
            while expected:
                event = expected.popleft()
                if not isinstance(event, ev.Input):
                    self.mismatch(describe(event), "nothing", self.standing_at())
                else:
                    self._apply(event)
                if self._broken is not None:
                    self.dispose()
                    raise self._broken
        self._expected = None
        self.ended = []
        self.begun = [operation for operation in self.begun if any(operation.event is event for event in self.decided)]

    def feed(self, event: Any) -> bool:
        """Applies an input; False, and nothing done, if it comes too late to matter."""
        if self.closing is not None or not self._matters(event):
            return False
        self.decided.append(event)
        self._apply(event)
        return True

    def take(self) -> tuple[list[Any], list[Operation], list[Operation]]:
        """What was decided since the last call: events to commit, operations begun and ended."""
        taken = self.decided, self.begun, self.ended
        self.decided, self.begun, self.ended = [], [], []
        return taken

    def take_begun(self) -> list[Operation]:
        """Operations issued since the last call, whose effects do not wait for the commit."""
        begun, self.begun = self.begun, []
        return begun

    def dispose(self) -> None:
        """Puts the code away without letting it do anything more."""
        self.halted = True
        self.loop.dispose()

    def release(self) -> None:
        """Puts the code away for good and unties what it was made of, so that none of it waits for the garbage collector."""
        self.dispose()
        self.pending.clear()
        self.handlers = None
        self._main = None
        self.loop.tasks.clear()
        del self.loop

    def tell_time(self) -> int:
        """The time, as the code asks for it."""
        self.told_time: bool = True
        return self.now

    def is_repeat(self, signal: str, sender: str | None, number: int) -> bool:
        """Whether a signal that its sender has numbered was taken before."""
        return sender is not None and number <= self.consumed_from.get(signal, {}).get(sender, -1)

    def waiter(self, signal: str) -> Operation | None:
        """The operation that the next signal of this name resolves."""
        queue = self.waits.get(signal)
        return queue[0] if queue else None

    @property
    def random(self) -> random.Random:
        """The run's own chance, the same in every replay."""
        if self._random is None:
            self._random = random.Random(f"{self.info.workflow_id}/{self.info.run}/{self.info.generation}")
        return self._random

    def carried_over(self) -> dict[str, Any]:
        """What the next generation's start says beside its input."""
        carried: dict[str, Any] = {"first_index": self.next_index, "consumed": self.consumed}
        if self.consumed_from:
            carried["consumed_from"] = {signal: dict(list(numbers.items())[-MAX_SENDERS:]) for signal, numbers in self.consumed_from.items()}
        if self.cancel_requested is not None:
            carried["cancel_reason"] = self.cancel_requested.reason
        if self.data is not None:
            carried |= {"data": self.data.fields, "entity": self.data.document}
        if self.handlers is not None:
            carried |= self.handlers.carried(self.now)
        return carried

    # ---- applying inputs

    def _matters(self, event: Any) -> bool:
        kind = type(event)
        if kind is ev.Updated:
            return not (self.handlers is not None and self.handlers.knows_update(event.id))
        if kind is ev.CancelRequested:
            return self.cancel_requested is None
        index = getattr(event, "index", None)
        return index is None or index in self.pending

    def _apply(self, event: Any) -> None:
        if event.at > self.now:
            self.now = event.at
        self._at_once = 0
        try:
            APPLY[type(event)](self, event)
        except Stop:  # the input does not fit what the code waits for
            return
        if not self.halted:
            self.loop.run_ready(self._check_predicates)
            if self.halted:
                self.loop.dispose()
        if self._broken is None and self.closing is None and self._main is not None and self._main.done():
            self._close()

    def start_code(self, args: Sequence[Any]) -> None:
        """Begins the workflow's function; it runs with the input that is being applied."""
        self._main = self.loop.create_task(self.definition.function(*args), name=self.definition.name)
        self._main.add_done_callback(self._on_main_done)

    def _on_main_done(self, _: Any) -> None:
        self.loop.clear()
        self.predicates.clear()

    def awaited(self, index: int) -> Operation:
        operation = self.pending.get(index)
        if operation is None:
            self.mismatch(f"a result for operation {index}", "no such operation is pending", self.standing_at())
            raise Stop
        return operation

    def resolve(self, index: int) -> Operation:
        operation = self.awaited(index)
        del self.pending[index]
        event = operation.event
        if isinstance(event, ev.WaitStarted):
            queue = self.waits[event.signal]
            queue.remove(operation)
            if not queue:
                del self.waits[event.signal]
        return operation

    def _check_predicates(self) -> bool:
        if not self.predicates:
            return False
        progress, waiting = False, []
        for item in self.predicates:
            predicate, future, _, context = item
            if future.done():
                continue
            try:
                met = context.run(predicate)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                future.set_exception(RuntimeError("the predicate raised StopIteration") if isinstance(error, StopIteration) else error)
                progress = True
                continue
            if met:
                future.set_result(True)
                progress = True
            else:
                waiting.append(item)
        self.predicates = waiting
        return progress

    # ---- closing

    def _close(self) -> None:
        main = self._main
        assert main is not None
        error = asyncio.CancelledError() if main.cancelled() else main.exception()
        if isinstance(error, Stop):
            return
        if error is None:
            try:
                result = encode(main.result(), self.definition.signature.result.what)
                self.end(ev.Completed(at=self.now, result=result), self.definition.function)
            except InvalidInputError as problem:
                self.end(ev.Failed(at=self.now, failure=to_failure(problem, FATAL)))
        elif is_cancellation(error) and not isinstance(error, CancelledFailure):
            self.end(ev.Failed(at=self.now, failure=to_failure(self.cancelled_failure(), FATAL)), error)
        else:
            self.end(ev.Failed(at=self.now, failure=to_failure(error, FATAL if is_cancellation(error) else None)), error)

    def end(self, closing: Any, where: Any = None) -> None:
        """Closes the run. ``where`` tells a mismatch its place: the error that ended the code, or the function that returned."""
        try:
            self.closing = self._decide(closing, where)
        except Stop:
            return
        self.ended.extend(self.pending.values())
        self.dispose()

    def give_up_spinning(self, steps: int, what: str = "callbacks", location: str = "") -> None:
        """Fails a run whose code never comes to wait."""
        error = NotAllowedInWorkflowError(
            f"running {steps:,} {what} without waiting for anything",
            location or self.standing_at(),
            "wait for a durable operation in the loop, and leave it on CancelledFailure",
        )
        self.end(ev.Failed(at=self.now, failure=to_failure(error, FATAL)))

    # ---- what workflow code calls, through jetflow.workflow and asyncio

    async def run_activity(self, activity: ActivityDefinition[Any, Any], args: Sequence[Any], options: ActivityOptions | None = None) -> Any:
        """One durable activity: scheduled, and its typed result."""
        options = options or activity.options
        body = encode_args(args, activity.name)
        operation = self._begin(
            lambda index: ev.ActivityScheduled(index=index, at=self.now, name=activity.name, input=body, task_queue=options.task_queue)
        )
        operation.decode, operation.options = activity.signature.result, options
        return await operation.future  # type: ignore[misc]

    async def run_named_activity(self, name: str, args: Sequence[Any], options: ActivityOptions, result_type: Any = Any) -> Any:
        """An activity known by name only."""
        body = encode_args(args, name)
        operation = self._begin(lambda index: ev.ActivityScheduled(index=index, at=self.now, name=name, input=body, task_queue=options.task_queue))
        operation.decode, operation.options = TypedDecoder(result_type, f"activity {name!r}, result"), options
        return await self._outcome(operation)

    def start_timer(self, handle: DurableTimerHandle) -> None:
        """A timer of asyncio's, made durable. ``asyncio.sleep``'s own callback also takes the workflow's cancellation."""
        sleeping = handle._callback is asyncio.futures._set_result_unless_cancelled  # type: ignore[attr-defined]
        if self.halted:
            return
        if sleeping:
            self._raise_if_cancelled()
        if handle.when() - self.now / 1000 > FOREVER_MS / 1000:
            if sleeping:  # only the workflow's cancellation ends it
                self.predicates.append((bool, handle._args[0], not shielded.get(), copy_context()))
            return
        due = math.ceil(handle.when() * 1000 - 0.001)  # never early, but for what floats make of whole milliseconds
        operation = self._begin(
            lambda index: ev.TimerStarted(index=index, at=self.now, due=due),
            future=handle._args[0] if sleeping else None,
            cancellable=sleeping and not shielded.get(),
            check=False,
        )
        operation.handle = handle
        handle.index = operation.index

    async def wait_signal(self, signal: str, timeout_ms: int | None, model: Any) -> Any:
        """The payload of the next signal of a name, or False when the timeout came first."""
        due = None if timeout_ms is None else self.now + timeout_ms
        operation = self._begin(lambda index: ev.WaitStarted(index=index, at=self.now, signal=signal, due=due))
        if model is not Any:
            operation.decode = TypedDecoder(model, f"signal {signal!r}")
        if not self.halted:
            self.waits.setdefault(signal, deque()).append(operation)
        return await self._outcome(operation)

    async def wait_until(self, predicate: Callable[[], Any]) -> None:
        """Returns when the predicate is true; it is looked at after every input."""
        future = WorkflowFuture(self.loop)
        if not self.halted:
            self._raise_if_cancelled()
            if predicate():
                self._count_at_once()
                return
            self.predicates.append((predicate, future, not shielded.get(), copy_context()))
        await future

    async def start_child(self, child: ev.ChildStarted, decode: Callable[[Raw], Any]) -> Any:
        """A child workflow: its result when awaited, otherwise its run id once its owner has accepted it.

        ``child.index`` and an empty ``workflow_id`` are filled in here.
        """

        def event(index: int) -> ev.ChildStarted:
            child.index = index
            child.workflow_id = child.workflow_id or child_id(self.info.workflow_id, self.info.run, index)
            return child

        operation = self._begin(event)
        if not self.halted:
            self.children.append(operation.event)
        if child.awaited:
            operation.decode = decode
        return await self._outcome(operation)

    def user_data(self, change: bool) -> UserData:
        """The run's data. ``change`` says that it is about to be changed, which code that is being put away may not."""
        if change and self.halted:
            raise Stop
        if self.data is None:
            self.data = UserData(self.max_payload // 2)
        return self.data

    def given_out(self) -> Handlers:
        """Where the code gives out queries and updates."""
        if self.halted:
            raise Stop
        if self.handlers is None:
            self.handlers = Handlers()
        return self.handlers

    def send_signal(self, workflow_id: str, task_queue: str, signal: str, data: Raw, expire: int | None) -> None:
        """A signal to another workflow, sent once after the commit."""
        self._decide(
            ev.SignalSent(
                index=self._take_index(), at=self.now, workflow_id=workflow_id, task_queue=task_queue, signal=signal, data=data, expire=expire
            )
        )

    def side_effect(self, function: Callable[[], Any]) -> Any:
        """The function's value, taken once and recorded."""
        index = self._take_index()
        if not self._live:
            event = ev.SideEffect(index=index, at=self.now)
        else:
            try:
                event = ev.SideEffect(index=index, at=self.now, value=encode(self.loop.outside(function), "side_effect value"))
                self._check_size(event)
            except Exception as error:
                event = ev.SideEffect(index=index, at=self.now, failure=to_failure(error))
        event = self._decide(event)
        if event.failure is not None:
            raise to_error(event.failure)
        return plain(event.value)

    def patched(self, patch_id: str) -> bool:
        """Whether this run takes the code behind a patch; the first answer for an id stays."""
        answer = self._patch_answers.get(patch_id)
        if answer is None:
            if self.halted:
                raise Stop
            answer = self._live or patch_id in self._patches
            self._patch_answers[patch_id] = answer
            if answer and not (self._live and patch_id in self._patches):
                self._decide(ev.Patched(id=patch_id, at=self.now))
        return answer

    def deprecate_patch(self, patch_id: str) -> None:
        """Accepts a recorded patch whose old branch is gone from the code."""
        if self._expected and isinstance(self._expected[0], ev.Patched) and self._expected[0].id == patch_id:
            self._expected.popleft()
            self._patch_answers[patch_id] = True

    def continue_as_new(self, workflow_type: str, args: Raw) -> NoReturn:
        """Ends this generation; the next begins in the same commit."""
        self._raise_if_cancelled()
        self.end(ev.ContinuedAsNew(at=self.now, workflow_type=workflow_type, input=args))
        raise Stop

    def cancel_operation(self, index: int) -> None:
        """The code no longer waits for one of its operations."""
        if self.halted or index not in self.pending:
            return
        operation = self.resolve(index)
        self._decide(ev.OperationCancelled(index=index, at=self.now))
        self.ended.append(operation)

    # ---- issuing and checking

    @property
    def _live(self) -> bool:
        """True when the code decides something new, False while it repeats what was recorded."""
        return self._expected is None or (self._open_end and not self._expected)

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
            if self.halted:  # nothing resolves it: the code stays here until it is closed
                return Operation(NOWHERE, future, False)
            if self.cancel_requested is not None:
                self._raise_if_cancelled()
        index = self._take_index()
        operation = Operation(self._decide(make(index)), future, not shielded.get() if cancellable is None else cancellable)
        if check:
            future.index = index  # type: ignore[union-attr]
        self.pending[index] = operation
        self.begun.append(operation)
        return operation

    async def _outcome(self, operation: Operation) -> Any:
        assert operation.future is not None
        return await operation.future

    def _decide(self, event: Any, where: Any = None) -> Any:
        """Records an output, or checks it against the recorded one and gives that back."""
        if self.halted or self._broken is not None:
            raise Stop
        if self._live:
            self._check_size(event)
            self.decided.append(event)
            return event
        expected = self._expected
        recorded = expected[0] if expected else None
        if recorded is not None and isinstance(recorded, ev.Output) and (recorded == event or describe(recorded) == describe(event)):
            return expected.popleft()  # type: ignore[union-attr]
        self._check_size(event)  # refused at the time, so it is not in the record
        there = "nothing more at this point" if recorded is None or isinstance(recorded, ev.Input) else describe(recorded)
        why = f" ({event.failure.type}: {event.failure.message})" if isinstance(event, ev.Failed) else ""
        location = user_location() or self.standing_at() if where is None else raised_at(where) if isinstance(where, BaseException) else end_of(where)
        self.mismatch(there, describe(event) + why, location)
        raise Stop

    def _check_size(self, event: Any) -> None:
        field = _PAYLOADS.get(type(event))
        payload = None if field is None else getattr(event, field)
        if payload is None:
            return
        limit = self.max_payload
        if self.data is not None and isinstance(event, (ev.Completed, ev.ContinuedAsNew)):
            limit -= self.data.size  # one message has both
        if len(payload) > limit:
            raise PayloadTooLargeError(f"the payload of {describe(event)}", len(payload), limit)

    def mismatch(self, recorded: str, attempted: str, location: str) -> None:
        if self._broken is None:
            self._broken = NondeterminismError(recorded, attempted, location)
        self.halted: bool = True

    def standing_at(self) -> str:
        """Where in its code the main function waits."""
        return await_location(self._main.get_coro()) if self._main is not None and not self._main.done() else "the end of the workflow"

    def _raise_if_cancelled(self) -> None:
        if self.halted:
            raise Stop
        if self.cancel_requested is not None and not shielded.get():
            self._count_at_once()
            raise self.cancelled_failure()

    def _count_at_once(self) -> None:
        self._at_once += 1
        if self._at_once > MAX_AT_ONCE:
            self.give_up_spinning(self._at_once, "operations", user_location())
            raise Stop

    def cancelled_failure(self) -> CancelledFailure:
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


def last_generation(commits: Sequence[ev.Commit]) -> list[list[Any]]:
    """The events of a run's last generation, commit by commit; it may begin inside a commit."""
    events = [list(commit.events) for commit in commits]
    for number in range(len(events) - 1, -1, -1):
        for place in range(len(events[number]) - 1, -1, -1):
            if isinstance(events[number][place], ev.Started):
                return [events[number][place:], *events[number + 1 :]]
    raise JetflowError("a timeline without a started event: its first entries are missing")
