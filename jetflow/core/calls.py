"""The calls of workflow code, made through ``jetflow.workflow``. Each call decides something, or waits for an operation."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, NoReturn

from msgspec import Raw

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.definitions import ActivityDefinition, ActivityOptions, WorkflowDefinition
from jetflow.core.failures import to_error, to_failure
from jetflow.core.handlers import Handlers
from jetflow.core.ids import child_id, to_name, to_token
from jetflow.core.interrupts import is_interrupt
from jetflow.core.loop import Stop, WorkflowFuture
from jetflow.core.operation import RunInfo, plain
from jetflow.core.recorder import Recorder, shielded
from jetflow.core.values import TypedDecoder, encode, encode_args


class Calls(Recorder):
    """The part of a run that its code calls."""

    def __init__(self, definition: WorkflowDefinition[Any, Any], info: RunInfo, max_payload: int, host: asyncio.AbstractEventLoop | None) -> None:
        super().__init__(definition, info, max_payload, host)
        self._random: random.Random | None = None
        self._patches: set[str] = set()
        self._patch_answers: dict[str, bool] = {}

    # ---- operations that the code waits for

    async def run_activity(self, activity: ActivityDefinition[Any, Any], args: Sequence[Any], options: ActivityOptions | None = None) -> Any:
        """Schedule an activity and return its typed result."""
        options = options or activity.options
        body = encode_args(args, activity.name)
        operation = self._begin(
            lambda index: ev.ActivityScheduled(index=index, at=self.now, name=activity.name, input=body, task_queue=options.task_queue)
        )
        operation.decode, operation.options = activity.signature.result, options
        return await operation.future  # type: ignore[misc]

    async def run_named_activity(self, name: str, args: Sequence[Any], options: ActivityOptions, result_type: Any = Any) -> Any:
        """Schedule an activity by name and return its result, decoded as ``result_type``."""
        to_token(name, "activity name")
        body, decode = encode_args(args, name), TypedDecoder(result_type, f"activity {name!r}, result")
        operation = self._begin(lambda index: ev.ActivityScheduled(index=index, at=self.now, name=name, input=body, task_queue=options.task_queue))
        operation.decode, operation.options = decode, options
        return await self._outcome(operation)

    async def wait_signal(self, signal: str, timeout_ms: int | None, model: Any) -> Any:
        """Return the payload of the next signal of a name, or ``TIMED_OUT`` after the timeout."""
        to_token(signal, "signal name")
        decode = plain if model is Any else TypedDecoder(model, f"signal {signal!r}")
        due = None if timeout_ms is None else self.now + timeout_ms
        operation = self._begin(lambda index: ev.WaitStarted(index=index, at=self.now, signal=signal, due=due))
        operation.decode = decode
        if not self.halted:
            self.waits.setdefault(signal, deque()).append(operation)
        return await self._outcome(operation)

    async def wait_until(self, predicate: Callable[[], Any]) -> None:
        """Return when the predicate is true. It runs after every input."""
        future = WorkflowFuture(self.loop)
        if not self.halted:
            self._raise_if_cancelled()
            if predicate():
                self._count_at_once(1)
                return
            self.predicates.append((predicate, future, not shielded.get(), copy_context()))
        await future

    async def start_child(self, child: ev.ChildStarted, decode: Callable[[Raw], Any]) -> Any:
        """Start a child workflow. Return its result if it is awaited, otherwise its run id once its owner has accepted it.

        Set ``child.index``, and ``child.workflow_id`` if that is empty.
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

    # ---- calls that return at once

    def send_signal(self, workflow_id: str, task_queue: str, signal: str, data: Raw, expire: int | None) -> None:
        """Send a signal to another workflow, once, after the commit."""
        self.decide(
            ev.SignalSent(
                index=self._take_index(), at=self.now, workflow_id=workflow_id, task_queue=task_queue, signal=signal, data=data, expire=expire
            )
        )

    def side_effect(self, function: Callable[[], Any]) -> Any:
        """Call a function once and record its value. A replay returns the recorded value."""
        index = self._take_index()
        if not self._live:
            event = ev.SideEffect(index=index, at=self.now)
        else:
            try:
                event = ev.SideEffect(index=index, at=self.now, value=encode(self.loop.outside(function), "side_effect value"))
                self.check_size(event)
            except BaseException as error:
                if is_interrupt(error):
                    raise
                event = ev.SideEffect(index=index, at=self.now, failure=to_failure(error))
        event = self.decide(event)
        if event.failure is not None:
            raise to_error(event.failure)
        return plain(event.value)

    @property
    def random(self) -> random.Random:
        """The run's random generator, with the same values in every replay."""
        if self._random is None:
            self._random = random.Random(f"{self.info.workflow_id}/{self.info.run}/{self.info.generation}")
        return self._random

    def patched(self, patch_id: str) -> bool:
        """Return whether this run takes the new code of a patch. The first answer for an id stays."""
        to_name(patch_id, "patch id")
        answer = self._patch_answers.get(patch_id)
        if answer is None:
            if self.halted:
                raise Stop
            answer = self._live or patch_id in self._patches
            self._patch_answers[patch_id] = answer
            if answer and not (self._live and patch_id in self._patches):
                self.decide(ev.Patched(id=patch_id, at=self.now))
        return answer

    def deprecate_patch(self, patch_id: str) -> None:
        """Accept a recorded patch whose old branch is gone from the code."""
        to_name(patch_id, "patch id")
        if self._expected and isinstance(self._expected[0], ev.Patched) and self._expected[0].id == patch_id:
            self._expected.popleft()
            self._patch_answers[patch_id] = True

    def user_data(self, change: bool) -> UserData:
        """Return the run's user data. ``change`` says that the caller is about to change it; a halted run refuses that."""
        if change and self.halted:
            raise Stop
        if self.data is None:
            self.data: UserData | None = UserData(self.max_payload // 2)
        return self.data

    def given_out(self) -> Handlers:
        """Return the run's handlers, to which the code adds queries and updates."""
        if self.halted:
            raise Stop
        if self.handlers is None:
            self.handlers: Handlers | None = Handlers()
        return self.handlers

    def continue_as_new(self, workflow_type: str, args: Raw) -> NoReturn:
        """End this generation. The next one begins in the same commit."""
        self._raise_if_cancelled()
        if self.fail_unawaited(ev.ContinuedAsNew):
            raise Stop
        self.end(ev.ContinuedAsNew(at=self.now, workflow_type=workflow_type, input=args))
        raise Stop
