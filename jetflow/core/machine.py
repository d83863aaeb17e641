"""The replay machine: one run of a workflow as a pure function of its inputs.

``feed`` applies an input, runs the code until it waits, and adds the code's decisions to ``decided``. The owner commits
that list before any of it becomes visible. ``replay`` applies recorded commits the same way, and checks that the code
decides the same again. There is no clock, no randomness and no I/O here. The time is that of the last input.
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
"""Most senders of one signal name whose last numbers the next generation gets: those heard last."""


class Machine(Calls):
    """One generation of one run, as its owner sees it. ``Recorder`` has its state, ``Calls`` the calls of its code.

    Args:
        definition, info: the workflow and the run.
        max_payload: most bytes of one event.
        host: the event loop that always calls this machine, if there is one.
    """

    def __init__(
        self, definition: WorkflowDefinition[Any, Any], info: RunInfo, max_payload: int = 1 << 20, host: asyncio.AbstractEventLoop | None = None
    ) -> None:
        super().__init__(definition, info, max_payload, host)

    def replay(self, commits: Sequence[Sequence[Any]], *, unfinished: bool = False) -> None:
        """Rebuild the run from the events of its commits, first to last.

        Args:
            commits: the events of each commit.
            unfinished: the last commit should have continued in a key that was never written. What the code decides after it is new.

        Raises:
            NondeterminismError: the code does not do what was recorded.
            UnfitResultError: a recorded result does not fit its type in the code.
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
        """Apply an input. Return False, and do nothing, if it comes too late to matter.

        Raises:
            UnfitResultError: it is a result that does not fit its type in the code. It is decided, and no more code runs.
        """
        if not self.matters(event):
            return False
        self.decided.append(event)
        self._apply(event)
        return True

    # ---- questions of the owner

    def is_repeat(self, signal: str, sender: str | None, number: int) -> bool:
        """Return whether a signal with its sender's number was taken before."""
        return sender is not None and number <= self.consumed_from.get(signal, {}).get(sender, -1)

    def waiter(self, signal: str) -> Operation | None:
        """Return the operation that the next signal of this name resolves."""
        queue = self.waits.get(signal)
        return queue[0] if queue else None

    def carried_over(self) -> dict[str, Any]:
        """Return the fields of the next generation's ``Started`` beside its input."""
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

    def matters(self, event: Any) -> bool:
        """Return whether ``feed`` would apply an input."""
        if self.closing is not None:
            return False
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
        except Stop:  # the code does not wait for this input
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
            if self.fail_unawaited(ev.Completed):
                return
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
    """Return the events of a run's last generation, commit by commit. The generation may begin inside a commit."""
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
    raise JetflowError("the timeline has no started event: its first entries are missing")
