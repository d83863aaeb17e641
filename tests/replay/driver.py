"""Runs a workflow on a ``Machine`` with no server: the caller says what happens to its pending operations.

``Run`` keeps the history as an owner would, one list of events for each commit, through the bytes of the wire.
``check_replay`` rebuilds every prefix of it and goes on from there: the same must be pending and the same must follow.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from jetflow.core import events as ev
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.describing import describe
from jetflow.core.failures import to_failure
from jetflow.core.machine import Machine
from jetflow.core.operation import Operation, RunInfo
from jetflow.core.values import encode
from jetflow.errors import Failure

START = 1_700_000_000_000
Commit = list[Any]

_events = msgspec.json.Decoder(list[ev.AnyInput | ev.AnyOutput])


def recorded(events: Sequence[Any]) -> Commit:
    """The events as they come back from the wire."""
    return _events.decode(msgspec.json.encode(events))


def comparable(event: Any) -> Any:
    """An event as plain data, without tracebacks and the memory addresses in anyio's messages."""

    def strip(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: strip(value) for key, value in part.items() if key != "stack"}
        if isinstance(part, str):
            return re.sub(r"cancel scope [0-9a-f]+", "cancel scope", part)
        return [strip(item) for item in part] if isinstance(part, list) else part

    return strip(msgspec.json.decode(msgspec.json.encode(event)))


class Run:
    """One run, from its start; ``commits`` is its history, the present generation's."""

    def __init__(self, definition: WorkflowDefinition[..., Any], *args: Any, workflow_id: str = "wf-1", run: int = 7, max_payload: int = 1 << 20):
        self.definition = definition
        self.info = RunInfo(workflow_id=workflow_id, task_queue="q", workflow_type=definition.name, run=run, started_at=START)
        self.machine = Machine(definition, self.info, max_payload)
        self.now = START
        self.commits: list[Commit] = []
        self.generations: list[list[Commit]] = []
        self.sent: list[ev.SignalSent] = []
        self._signal_seq = 100
        self.feed(ev.Started(at=START, workflow_type=definition.name, input=encode(list(args))))

    # ---- what may happen

    def feed(self, *inputs: Any) -> bool:
        """Applies inputs and commits what they lead to; False if none of them mattered."""
        applied = [event for event in inputs if self.machine.feed(event)]
        self.commit()
        return bool(applied)

    def commit(self) -> None:
        events, _, _ = self.machine.take()
        self.sent += [event for event in events if isinstance(event, ev.SignalSent)]
        if events:
            self.commits.append(recorded(events))
        if isinstance(self.machine.closing, ev.ContinuedAsNew):
            self._next_generation(self.machine.closing)

    def _next_generation(self, closing: ev.ContinuedAsNew) -> None:
        before = self.machine
        self.generations.append(self.commits)
        self.commits = []
        started = ev.Started(
            at=self.now,
            workflow_type=closing.workflow_type,
            input=closing.input,
            generation=before.info.generation + 1,
            **before.carried_over(),
        )
        self.info = msgspec.structs.replace(self.info, generation=started.generation, started_at=started.at)
        self.machine = Machine(self.definition, self.info, before.max_payload)
        self.feed(started)

    def complete(self, which: str | int = "activity", result: Any = 0, *, after: int = 1) -> None:
        """An activity or child comes back with a result; ``which`` is an index or the beginning of what it is called."""
        operation = self.find(which)
        event = ev.ChildCompleted if isinstance(operation.event, ev.ChildStarted) else ev.ActivityCompleted
        assert self.feed(event(index=operation.index, at=self.tick(after), result=encode(result)))

    def fail(self, which: str | int = "activity", error: BaseException | None = None) -> None:
        operation = self.find(which)
        event = ev.ChildFailed if isinstance(operation.event, ev.ChildStarted) else ev.ActivityFailed
        failure = to_failure(error or ValueError("no"))
        assert self.feed(event(index=operation.index, at=self.tick(), failure=failure))

    def retrying(self, which: str | int = "activity", attempt: int = 1) -> None:
        operation = self.find(which)
        due = self.now + 1000
        assert self.feed(
            ev.ActivityRetrying(index=operation.index, at=self.tick(), attempt=attempt, due=due, failure=Failure("ValueError", "try again"))
        )

    def fire(self, which: str | int = "timer") -> None:
        """A timer, or a wait's timeout, comes due."""
        operation = self.find(which)
        assert operation.due is not None
        self.now = max(self.now, operation.due)
        event = ev.WaitTimedOut if isinstance(operation.event, ev.WaitStarted) else ev.TimerFired
        assert self.feed(event(index=operation.index, at=self.now))

    def signal(self, name: str, data: Any = None) -> None:
        operation = self.machine.waiter(name)
        assert operation is not None, f"nobody waits for {name!r}: {self.pending}"
        self._signal_seq += 1
        assert self.feed(ev.Signaled(index=operation.index, at=self.tick(), signal=name, seq=self._signal_seq, data=encode(data)))

    def accept(self, which: str | int = "child", run: int = 55) -> None:
        assert self.feed(ev.ChildAccepted(index=self.find(which).index, at=self.tick(), run=run))

    def cancel(self, reason: str = "enough") -> bool:
        return self.feed(ev.CancelRequested(at=self.tick(), reason=reason))

    def terminate(self) -> None:
        assert self.feed(ev.Terminated(at=self.tick(), reason="stop"))

    def tick(self, ms: int = 1) -> int:
        self.now += ms
        return self.now

    # ---- what is seen

    def find(self, which: str | int) -> Operation:
        if isinstance(which, int):
            return self.machine.pending[which]
        found = [operation for operation in self.machine.pending.values() if describe(operation.event).startswith(which)]
        assert found, f"no {which!r} is pending: {self.pending}"
        return found[0]

    @property
    def pending(self) -> list[str]:
        return [describe(operation.event) for operation in self.machine.pending.values()]

    @property
    def events(self) -> list[Any]:
        return [event for commit in self.commits for event in commit]

    @property
    def outputs(self) -> list[str]:
        return [describe(event) for event in self.events if isinstance(event, ev.Output)]

    @property
    def closed(self) -> bool:
        return self.machine.closing is not None

    @property
    def result(self) -> Any:
        closing = self.machine.closing
        assert isinstance(closing, ev.Completed), f"not completed: {closing or self.pending}"
        return msgspec.json.decode(closing.result)

    @property
    def failure(self) -> Failure:
        closing = self.machine.closing
        assert isinstance(closing, ev.Failed), f"not failed: {closing or self.pending}"
        return closing.failure

    def dispose(self) -> None:
        self.machine.dispose()


def rebuild(run: Run, commits: Sequence[Commit] | None = None, definition: WorkflowDefinition[..., Any] | None = None, *, unfinished: bool = False):
    """A new machine from a run's history, perhaps with other code."""
    machine = Machine(definition or run.definition, run.info, run.machine.max_payload)
    machine.replay([recorded(commit) for commit in (run.commits if commits is None else commits)], unfinished=unfinished)
    return machine


def state(machine: Machine) -> dict[str, Any]:
    """Everything of a machine that an owner acts on."""
    return {
        "pending": {
            index: (comparable(op.event), op.due, op.attempt, comparable(op.failure), op.cancellable) for index, op in machine.pending.items()
        },
        "waits": {name: [op.index for op in queue] for name, queue in machine.waits.items()},
        "consumed": machine.consumed,
        "children": [comparable(child) for child in machine.children],
        "closing": comparable(machine.closing),
        "cancelled": comparable(machine.cancel_requested),
        "next": machine.next_index,
        "now": machine.now,
        "random": hash(machine.random.getstate()),
    }


def resume(machine: Machine, commits: Iterable[Commit]) -> list[list[Any]]:
    """Feeds the inputs of recorded commits to a machine; what it decides, commit by commit."""
    decided = []
    for commit in commits:
        for event in recorded(commit):
            if isinstance(event, ev.Input):
                machine.feed(event)
        decided.append([comparable(event) for event in machine.take()[0]])
    return decided


def check_prefix(run: Run, length: int) -> None:
    """Replaying the first commits and going on gives what the run gave."""
    machine = rebuild(run, run.commits[:length])
    try:
        begun = {operation.index for operation in machine.begun}
        decided_anew = [machine.decided, begun, machine.ended]
        assert not any(decided_anew), "a replay of whole commits decided something new"
        going_on = resume(machine, run.commits[length:])
        assert going_on == [[comparable(event) for event in commit] for commit in run.commits[length:]]
        assert state(machine) == state(run.machine)
    finally:
        machine.dispose()


def check_unfinished(run: Run, commit: int, cut: int) -> None:
    """A commit of which only the first events were written decides the rest up to the next input again."""
    events = run.commits[commit]
    rest = []
    for event in events[cut:]:
        if isinstance(event, ev.Input):
            break
        rest.append(comparable(event))
    machine = rebuild(run, [*run.commits[:commit], events[:cut]], unfinished=True)
    try:
        assert [comparable(event) for event in machine.take()[0]] == rest
    finally:
        machine.dispose()


def check_replay(run: Run) -> None:
    """All prefixes, whole and cut within a commit, of the present generation."""
    for length in range(1, len(run.commits) + 1):
        check_prefix(run, length)
    for number, commit in enumerate(run.commits):
        for cut in range(1, len(commit)):
            check_unfinished(run, number, cut)
