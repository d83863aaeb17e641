"""The replay machine: one run of a workflow as a pure function of its inputs.

``feed`` applies something that happened, runs the code until it waits, and adds what was decided to ``decided``;
the owner commits that list before anything of it becomes visible. ``replay`` applies recorded commits the same way
and checks that the code decides the same again. There is no clock, no randomness and no I/O in here: time is that of
the last input.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

from jetflow.core import events as ev
from jetflow.core.calls import Calls
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.describing import describe
from jetflow.core.failures import FATAL, is_cancellation, to_failure
from jetflow.core.inputs import APPLY
from jetflow.core.interrupts import is_interrupt
from jetflow.core.loop import Stop
from jetflow.core.operation import Operation, RunInfo
from jetflow.core.values import encode
from jetflow.errors import CancelledFailure, InvalidInputError, JetflowError, Kind

MAX_SENDERS = 1000
"""Senders of one signal's name whose last numbers a following generation still knows: those heard last."""


class Machine(Calls):
    """One generation of one run, as its owner sees it. ``Recorder`` says what it consists of, ``Calls`` what its code may do.

    Args:
        definition, info: the workflow, and which run of it.
        max_payload: bytes that one event may carry.
        host: the event loop inside which it is always called, if there is one.
    """

    def __init__(
        self, definition: WorkflowDefinition[Any, Any], info: RunInfo, max_payload: int = 1 << 20, host: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(definition, info, max_payload, host)

    def replay(self, commits: Sequence[Sequence[Any]], *, unfinished: bool = False) -> None:
        """Rebuilds the run from the events of its commits, first to last.

        Args:
            commits: the events of each.
            unfinished: the last commit was to go on in a key that was never written: what the code decides past its end is new.

        Raises:
            NondeterminismError: if the code does something else than what was recorded.
            UnfitResultError: if the code cannot take a recorded result.
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
        self.ended: list[Operation] = []
        self.begun: list[Operation] = [operation for operation in self.begun if any(operation.event is event for event in self.decided)]

    def feed(self, event: Any) -> bool:
        """Applies an input; False, and nothing done, if it comes too late to matter.

        Raises:
            UnfitResultError: it is a result that the code cannot take. It is decided, and the last thing that this machine decides.
        """
        if self.closing is not None or not self._matters(event):
            return False
        self.decided.append(event)
        self._apply(event)
        return True

    # ---- what the owner asks

    def is_repeat(self, signal: str, sender: str | None, number: int) -> bool:
        """Whether a signal that its sender has numbered was taken before."""
        return sender is not None and number <= self.consumed_from.get(signal, {}).get(sender, -1)

    def waiter(self, signal: str) -> Operation | None:
        """The operation that the next signal of this name resolves."""
        queue = self.waits.get(signal)
        return queue[0] if queue else None

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
            self.now: int = event.at
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

    def _check_predicates(self) -> bool:
        if not self.predicates:
            return False
        progress, waiting = False, []
        for item in self.predicates:
            predicate, future, _, context = item
            if future.done():
                continue
            try:
                met = bool(context.run(predicate))
            except BaseException as error:
                if is_interrupt(error):
                    raise
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
                self.end(ev.Failed(at=self.now, failure=to_failure(problem, FATAL, kind=Kind.FATAL)))
        elif is_cancellation(error) and not isinstance(error, CancelledFailure):
            self.end(ev.Failed(at=self.now, failure=to_failure(self.cancelled_failure(), FATAL)), error)
        elif is_cancellation(error):
            self.end(ev.Failed(at=self.now, failure=to_failure(error, FATAL, kind=Kind.CANCELLED)), error)
        else:
            self.end(ev.Failed(at=self.now, failure=to_failure(error)), error)


def last_generation(commits: Sequence[ev.Commit]) -> list[list[Any]]:
    """The events of a run's last generation, commit by commit; it may begin inside a commit."""
    events: list[list[Any]] = []
    goes_on = False
    for commit in commits:
        if goes_on:  # one commit, over several keys
            events[-1].extend(commit.events)
        else:
            events.append(list(commit.events))
        goes_on = commit.more
    for number in range(len(events) - 1, -1, -1):
        for place in range(len(events[number]) - 1, -1, -1):
            if isinstance(events[number][place], ev.Started):
                return [events[number][place:], *events[number + 1 :]]
    raise JetflowError("a timeline without a started event: its first entries are missing")
