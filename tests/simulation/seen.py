"""What a run did, read back from its trace: runs by workflow id, their commits, activity executions, commands and what became of them.

The trace has everything in the order in which it happened. One pass over it keeps, for each moment, what the timelines said by then, so
that a checker can ask "was this stored when that happened?" without a tolerance in time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from jetflow.broker.stores.signals import CANCEL
from jetflow.core import events as ev
from jetflow.protocol.headers import EXPIRE, NEW_ID, PARENT, REPLACE, SENDER
from jetflow.protocol.subjects import EXPIRED
from tests.simulation.run import NAMES, Simulation

INBOX, TIMELINE, STATE = NAMES.inbox_stream, NAMES.timeline_stream, NAMES.state_stream
ANSWER = 0.05
"""Seconds in which the answer to a write may be under way."""
GOES_ON = 0.5
"""Seconds in which a process that stood still runs what had piled up."""


@dataclass
class Problem:
    """A promise that was broken: by what, for which workflow ids."""

    check: str
    text: str
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.check}: {self.text}"


@dataclass
class Key:
    """One stored timeline key."""

    order: int
    time: float
    sender: str
    number: int
    position: int
    commit: ev.Commit


@dataclass
class Run:
    """A run as its timeline had it at some moment.

    Attributes:
        events: all of them, in order.
        pending: operations without an outcome, by index.
        outcomes: by the index of an activity, the order and time at which its outcome was stored.
        attempts: the last attempt of an activity that is known to have failed, with the order and time.
        scheduled: the order at which an activity's scheduling was stored, by index.
        closed: the order and time of the closing commit.
    """

    id: str
    number: int
    events: list[Any] = field(default_factory=list)
    keys: list[Key] = field(default_factory=list)
    pending: dict[int, Any] = field(default_factory=dict)
    outcomes: dict[int, tuple[int, float]] = field(default_factory=dict)
    attempts: dict[int, tuple[int, int, float]] = field(default_factory=dict)
    scheduled: dict[int, int] = field(default_factory=dict)
    consumed: dict[int, ev.Signaled] = field(default_factory=dict)
    updates: set[str] = field(default_factory=set)
    closing: Any = None
    closed: tuple[int, float] | None = None
    cancelled: bool = False
    parent: ev.Parent | None = None


@dataclass
class Ident:
    """Everything of one workflow id.

    Attributes:
        runs: by number, in the order of their first commit.
        present: timeline keys that are stored now: their positions, by key number.
        early: inbox sequences of signals and cancels that were put into the bucket, with the order.
        taken_back: whether a delayed start was purged.
        cancel: position of a cancel that waits for the start, 0 for none.
        recorded: by run, the order at which its closing record was first stored.
        expired: the orders at which a record of it expired.
    """

    id: str
    runs: dict[int, Run] = field(default_factory=dict)
    present: dict[int, int] = field(default_factory=dict)
    early: dict[int, int] = field(default_factory=dict)
    taken_back: int = 0
    recorded: dict[int, int] = field(default_factory=dict)
    cancel: int = 0
    expired: list[int] = field(default_factory=list)

    @property
    def latest(self) -> Run | None:
        return next(reversed(self.runs.values())) if self.runs else None


@dataclass
class Command:
    """A message of the inbox and when it came and went."""

    seq: int
    id: str
    kind: str
    name: str
    message: Any
    order: int
    time: float
    gone: tuple[int, float, str] | None = None

    @property
    def index(self) -> int:
        return int(self.name)


@dataclass
class Execution:
    """One attempt of an activity that began."""

    order: int
    time: float
    process: str
    id: str
    run: int
    index: int
    attempt: int


class Seen:
    """See the module. ``problems`` are those that only this pass can see, at the moment when they happen."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.kept = simulation.kept
        self.ids: dict[str, Ident] = {}
        self.commands: dict[int, Command] = {}
        self.executions: list[Execution] = []
        self.dead: set[bytes] = set()
        self.letters: dict[str, list[int]] = {}
        self.children: set[tuple[str, int, int]] = set()
        self.problems: list[Problem] = []
        self.sent: dict[tuple[str, int, int], ev.SignalSent] = {}
        self.records: dict[str, tuple[int, int]] = {}
        self.order = 0
        for order, line in enumerate(simulation.trace):
            self.order = order
            what = line[2]
            if what == "stored":
                self._stored(order, *line[:2], *line[3:])
            elif what in ("done", "purged", "expired", "replaced", "deleted", "fired", "back"):
                self._gone(order, line[0], what, line[3], line[4], line[5])
            elif what == "begins":
                self._began(order, line)

    def problem(self, check: str, text: str, *ids: str) -> None:
        self.problems.append(Problem(check, f"{text} (at {self.simulation.trace[self.order][0]:.6f})", ids))

    def ident(self, id: str) -> Ident:
        """A workflow id; none of a simulation's is spelled otherwise on the wire."""
        found = self.ids.get(id)
        if found is None:
            found = self.ids[id] = Ident(id)
        return found

    # ---- what is stored

    def _stored(self, order: int, time: float, sender: str, stream: str, subject: str, seq: int) -> None:
        message = self.kept[stream][seq]
        if stream == TIMELINE:
            if subject.startswith(NAMES.timeline_prefix) and message.data:
                _, _, _, id, number = subject.split(".")
                ident = self.ident(id)
                key = Key(order, time, sender, int(number), seq, ev.decode_commit(message.data))
                self._commit(ident, key)
                ident.present[key.number] = seq
        elif stream == INBOX:
            tokens = subject.split(".")
            if tokens[0] == NAMES.namespace:
                name = tokens[5] if len(tokens) > 5 else ""
                self.commands[seq] = Command(seq, tokens[3], tokens[4], name, message, order, time)
                self._follows_a_commit(self.commands[seq])
        elif stream == NAMES.signal_stream:
            if subject.startswith(NAMES.signal_prefix):
                tokens = subject.split(".")
                ident = self.ident(tokens[3])
                ident.early.setdefault(int(tokens[5]), order)
                if tokens[4] == CANCEL:
                    ident.cancel = seq
        elif stream == NAMES.dead_stream and subject.startswith(NAMES.dead_prefix):
            self.dead.add(message.data)
            if subject.endswith(f".{EXPIRED}"):
                self.letters.setdefault(message.fields["Nats-Msg-Id"], []).append(order)
        elif stream == STATE and subject.startswith(NAMES.state_prefix):
            id = subject.rpartition(".")[2]
            self.records[id] = (0, seq)
            if message.data:
                record = msgspec.json.decode(message.data)
                self.records[id] = (int(record["run_id"]), seq)
                if record["status"] != "running":
                    self.ident(id).recorded.setdefault(int(record["run_id"]), order)
            else:
                self.ident(id).expired.append(order)

    def _follows_a_commit(self, command: Command) -> None:
        """What a workflow sends is in its timeline before it is published."""
        fields = command.message.fields
        if command.kind == "signal" and SENDER in fields:
            who, _, number = fields[SENDER].rpartition("/")
            id, run = who.split(".")[1:]
            if (id, int(run), int(number)) not in self.sent:
                self.problem("effects follow commits", f"{id}, run {run}, sends signal {number}, which is not committed", id)
        elif command.kind == "start" and PARENT in fields:
            parent = msgspec.json.decode(fields[PARENT], type=ev.Parent)
            if (parent.workflow_id, parent.run, parent.index) not in self.children:
                self.problem("effects follow commits", f"child {parent.index} of {parent.workflow_id} is not committed", command.id)

    def _commit(self, ident: Ident, key: Key) -> None:
        """One committer for each position: keys are a row without gaps, and nothing is written anew but a whole run."""
        commit, latest = key.commit, ident.latest
        where = f"key {key.number} of {ident.id}, run {commit.run}, by {key.sender}"
        if latest is None or commit.run != latest.number:
            if commit.run in ident.runs:
                self.problem("one committer", f"{where}: the run was followed by run {latest.number if latest else 0}", ident.id)
                return
            if latest is not None and latest.closing is None:
                self.problem("one committer", f"{where}: run {latest.number} goes on", ident.id)
            if latest is not None and latest.number > commit.run:
                self.problem("one committer", f"{where}: a later run was there before: {latest.number}", ident.id)
            if not isinstance(commit.events[0], ev.Started):
                self.problem("one committer", f"{where}: the run begins with {commit.events[0]}", ident.id)
            expected = {max(ident.present, default=0) + 1}
            if latest is not None:  # an owner may have read the run before just before its keys went
                expected.add(latest.keys[-1].number + 1)
            if key.number not in expected:
                self.problem("one committer", f"{where}: key {expected} was the next", ident.id)
            run = ident.runs[commit.run] = Run(ident.id, commit.run)
            run.keys.append(key)
            self._take(run, key, commit.events)
            ends = (ev.ContinuedAsNew, ev.Completed, ev.Failed, *([ev.Terminated] if commit.events[0].begins else []))
            if ident.cancel and not run.cancelled and not isinstance(commit.events[-1], ends):
                self.problem("nothing lost", f"{where}: it was cancelled before it started, and begins all the same", ident.id)
            return
        run, last = latest, latest.keys[-1]
        if run.closing is not None and key.number == last.number and commit == last.commit:
            run.keys.append(key)  # a run that was compacted already, or of one key: the same again
            return
        if commit.compacted:
            known = len(run.events)
            if commit.events[:known] != run.events[: len(commit.events)]:
                self.problem("one committer", f"{where}: the whole run differs from what was committed", ident.id)
            if run.closing is not None and len(commit.events) != known:
                self.problem("one committer", f"{where}: compaction has {len(commit.events)} events of {known}", ident.id)
            if key.number not in ident.present and key.number != last.number + 1:
                self.problem("one committer", f"{where}: written into a gap", ident.id)
            elif key.number not in (last.number, last.number + 1):
                self.problem("one committer", f"{where}: key {last.number} is the last one", ident.id)
            fresh = commit.events[known:]
        else:
            if run.closing is not None:
                self.problem("one committer", f"{where}: the run has ended with key {last.number}", ident.id)
            if key.number != last.number + 1:
                self.problem("one committer", f"{where}: key {last.number} is the last one", ident.id)
            if commit.cause < last.commit.cause:
                self.problem("inbox order", f"{where}: its cause {commit.cause} is before {last.commit.cause}", ident.id)
            fresh = commit.events
        run.keys.append(key)
        self._take(run, key, fresh)

    def _take(self, run: Run, key: Key, events: list[Any]) -> None:
        """Adds events to a run."""
        for event in events:
            run.events.append(event)
            match event:
                case ev.Started():
                    run.parent = event.parent
                    run.pending.clear()
                case ev.ActivityScheduled() | ev.TimerStarted() | ev.WaitStarted() | ev.ChildStarted():
                    run.pending[event.index] = event
                    if isinstance(event, ev.ChildStarted):
                        self.children.add((run.id, run.number, event.index))
                    if isinstance(event, ev.ActivityScheduled):
                        run.scheduled[event.index] = key.order
                case ev.ActivityRetrying():
                    run.attempts[event.index] = (event.attempt, key.order, key.time)
                case ev.ActivityCompleted() | ev.ActivityFailed():
                    if event.index in run.outcomes:
                        self.problem("no step twice", f"{run.id}, run {run.number}: operation {event.index} has two outcomes", run.id)
                    run.outcomes[event.index] = (key.order, key.time)
                    run.pending.pop(event.index, None)
                case ev.Signaled():
                    self._consumed(run, event)
                    run.pending.pop(event.index, None)
                case ev.TimerFired() | ev.WaitTimedOut():
                    self._fired(run, event, key)
                    run.pending.pop(event.index, None)
                case ev.ChildAccepted():
                    if not getattr(run.pending.get(event.index), "awaited", True):
                        run.pending.pop(event.index, None)
                case ev.ChildCompleted() | ev.ChildFailed() | ev.OperationCancelled():
                    run.pending.pop(event.index, None)
                case ev.Updated():
                    if event.id in run.updates:
                        self.problem("no step twice", f"{run.id}, run {run.number}: update {event.id} was applied twice", run.id)
                    run.updates.add(event.id)
                case ev.CancelRequested():
                    run.cancelled = True
                case ev.ContinuedAsNew():
                    run.pending.clear()
                case ev.SignalSent():
                    self.sent[run.id, run.number, event.index] = event
                case ev.Completed() | ev.Failed() | ev.Terminated():
                    if run.closing is not None:
                        self.problem("closes once", f"{run.id}, run {run.number} closes twice", run.id)
                    run.closing, run.closed = event, (key.order, key.time)
                    run.pending.clear()

    def _fired(self, run: Run, event: Any, key: Key) -> None:
        started = run.pending.get(event.index)
        due = getattr(started, "due", None)
        early = 0 if due is None else due - int((1_800_000_000 + key.time) * 1000)
        if early > 2 + 2000 * self.simulation.plan.skew:
            self.problem("never short", f"{run.id}, run {run.number}: {type(started).__name__} {event.index} fired {early} ms early", run.id)

    def _consumed(self, run: Run, event: ev.Signaled) -> None:
        where = f"{run.id}, run {run.number}: {event.signal!r}, number {event.seq or event.number}"
        if not event.seq:
            return
        if any(event.seq in other.consumed for other in self.ids[run.id].runs.values()):
            self.problem("no step twice", f"{where} was taken twice", run.id)
        later = [seq for seq, other in run.consumed.items() if other.signal == event.signal and seq > event.seq]
        if later:
            self.problem("inbox order", f"{where} was taken after {later}", run.id)
        command = self.commands.get(event.seq)
        if command is None or command.kind != "signal" or command.id != run.id or (command.message.data or b"null") != bytes(event.data):
            self.problem("inbox order", f"{where} is not what was sent: {bytes(event.data)!r}", run.id)
        if command is not None and SENDER in command.message.fields:
            sender = command.message.fields[SENDER]
            for other in run.consumed:
                if self.commands[other].message.fields.get(SENDER) == sender:
                    self.problem("no step twice", f"{where} of sender {sender} was taken as {other} before", run.id)
        run.consumed[event.seq] = event

    # ---- what goes

    def _gone(self, order: int, time: float, what: str, stream: str, subject: str, seq: int) -> None:
        if stream == INBOX:
            command = self.commands.get(seq)
            if command is not None and command.gone is None:
                command.gone = (order, time, what)
                if what == "done":
                    self._acked(command)
                elif not (what == "deleted" and command.kind == "start"):
                    self.problem("nothing lost", f"command {seq}, {command.kind} of {command.id}, was {what}", command.id)
            elif subject.startswith(NAMES.timer_prefix) and subject.endswith(".start.at") and what == "purged":
                self.ident(subject.split(".")[2]).taken_back = order
        elif stream == NAMES.signal_stream and subject.startswith(NAMES.signal_prefix):
            ident = self.ident(subject.split(".")[3])
            if ident.cancel == seq and what != "replaced":
                ident.cancel = 0
        elif stream == STATE and subject.startswith(NAMES.state_prefix):
            id = subject.rpartition(".")[2]
            if self.records.get(id, (0, 0))[1] == seq:
                self.records[id] = (0, seq)
        elif stream == TIMELINE and subject.startswith(NAMES.timeline_prefix):
            ident = self.ident(subject.split(".")[3])
            number = int(subject.rpartition(".")[2])
            if what == "back":
                ident.present[number] = seq
            elif ident.present.get(number) == seq:
                del ident.present[number]
                if what != "replaced":
                    self._removed(ident, number, seq, what)

    def _removed(self, ident: Ident, number: int, seq: int, what: str) -> None:
        """Keys go once one key has the whole run, or once the run's record has expired."""
        run = next((run for run in ident.runs.values() if any(key.position == seq for key in run.keys)), None)
        if run is None:
            return
        where = f"key {number} of {ident.id}, run {run.number}, was {what}"
        if run.closing is None:
            self.problem("nothing lost", f"{where}: the run goes on", ident.id)
        whole = any(key.commit.compacted and len(key.commit.events) == len(run.events) and key.position in ident.present.values() for key in run.keys)
        if not whole and run.number not in ident.recorded:
            self.problem("nothing lost", f"{where}: nobody was told how the run ended", ident.id)
        if not whole and ident.latest is run and self.records.get(ident.id, (0, 0))[0] == run.number:
            self.problem("nothing lost", f"{where}: its record is still there, and no key has the whole run", ident.id)

    def _acked(self, command: Command) -> None:
        """Nothing acknowledged is lost: what a command leads to is stored before the command goes."""
        ident = self.ident(command.id)
        latest, runs = ident.latest, ident.runs
        text = f"{command.kind} {command.name} of {command.id}, number {command.seq}, is acked"
        fields = command.message.fields
        match command.kind:
            case "start":
                if command.seq in runs or any(number > command.seq for number in runs):
                    return
                lineage = fields.get(PARENT)
                if lineage and latest is not None and latest.parent == msgspec.json.decode(lineage, type=ev.Parent):
                    return
                earlier = (one for one in self.commands.values() if (one.kind, one.id, one.gone) == ("start", command.id, None))
                if latest is None and any(one.seq < command.seq for one in earlier):
                    return  # refused for one that is there, and whose first commit is to come
                if latest is None or fields.get(REPLACE) == "1":
                    self.problem("nothing lost", f"{text}, and no run of it is committed", command.id)
            case "signal":
                if command.seq in ident.early or any(command.seq in run.consumed for run in runs.values()):
                    return
                if latest is not None and latest.closing is not None:
                    return
                if any(run.closed is not None and run.closed[0] > command.order for run in runs.values()):
                    return
                if self.letter_of(command) or self.is_repeat(ident, command):
                    return
                self.problem("nothing lost", f"{text}, and was neither taken nor kept, and is no dead letter", command.id)
            case "cancel" | "terminate":
                body = msgspec.json.decode(command.message.data) if command.message.data else {}
                parent = body.get("parent")
                meant = body.get("run") or 0
                if command.seq in ident.early or command.message.data in self.dead or ident.taken_back > command.order or (latest is None and parent):
                    return
                if latest is None:
                    self.problem("nothing lost", f"{text}, and there is no run, and nobody keeps it", command.id)
                elif latest.closing is None and not (command.kind == "cancel" and latest.cancelled) and latest.number < command.seq:
                    if (parent and msgspec.convert(parent, ev.Parent) != latest.parent) or (meant and meant != latest.number):
                        return
                    self.problem("nothing lost", f"{text}, and run {latest.number} goes on", command.id)
            case "update":
                caller = fields.get("Jetflow-Update", "")
                if (
                    command.message.data in self.dead
                    or latest is None
                    or latest.number > command.seq  # no run had begun: it was answered so
                    or latest.closing is not None
                    or any(caller in run.updates for run in runs.values())
                ):
                    return
                self.problem("nothing lost", f"{text}, and run {latest.number} goes on without it", command.id)
            case "timer" | "child" | "activity":
                body = msgspec.json.decode(command.message.data)
                if latest is None or latest.closing is not None or latest.cancelled or body["run"] != latest.number:
                    return  # an operation that a cancellation has ended leaves no event
                pending = latest.pending.get(command.index)
                if command.kind == "timer" and not isinstance(pending, (ev.TimerStarted, ev.WaitStarted)):
                    return
                if command.kind == "activity" and latest.attempts.get(command.index, (0,))[0] >= body["attempt"]:
                    return
                if command.kind == "child" and (not isinstance(pending, ev.ChildStarted) or (body["outcome"] == "accepted" and pending.awaited)):
                    return
                if pending is not None:
                    self.problem("nothing lost", f"{text}, and run {latest.number} still waits for it", command.id)

    def letter_of(self, command: Command) -> list[int]:
        """The orders at which an expired signal became a dead letter."""
        return self.letters.get(f"{NAMES.namespace}-{command.seq}", [])

    def expires(self, command: Command) -> float:
        """When a signal expires, in seconds of the simulation."""
        expire = command.message.fields.get(EXPIRE, "600000ms")
        return command.time + int(expire.removesuffix("ms")) / 1000

    def is_repeat(self, ident: Ident, command: Command) -> bool:
        """Whether its sender has sent it before, or a later one that was taken."""
        sender, slash, number = command.message.fields.get(SENDER, "").rpartition("/")
        if not slash:
            return False
        for other in self.commands.values():
            if other.seq != command.seq and other.id == command.id and other.name == command.name and SENDER in other.message.fields:
                who, _, count = other.message.fields[SENDER].rpartition("/")
                if who == sender and int(count) >= int(number) and any(other.seq in run.consumed for run in ident.runs.values()):
                    return True
        return False

    # ---- what runs

    def _began(self, order: int, line: tuple[Any, ...]) -> None:
        """No committed step runs again; nothing of a run that is over begins; what was not committed begins only where the id is new."""
        id, run_number, index = line[4].rsplit("/", 2)
        one = Execution(order, line[0], line[1], id, int(run_number), int(index), line[5])
        self.executions.append(one)
        ident = self.ident(id)
        run = ident.runs.get(one.run)
        where = f"attempt {one.attempt} of step {one.index} of {id}, run {one.run}, begins on {one.process}"
        if run is None:
            command = self.commands.get(one.run)
            if command is not None and command.message.fields.get(NEW_ID) != "1":
                self.problem("committed before it begins", f"{where}: nothing of the run is committed", id)
            return
        if one.index not in run.scheduled and self.commands[one.run].message.fields.get(NEW_ID) != "1":
            self.problem("committed before it begins", f"{where}: it is not scheduled", id)
        if one.index in run.outcomes and not self._excused(one, run.outcomes[one.index]):
            self.problem("no step twice", f"{where}: its outcome was stored at {run.outcomes[one.index][1]:.6f}", id)
        elif one.index in run.attempts and run.attempts[one.index][0] >= one.attempt and not self._excused(one, run.attempts[one.index][1:]):
            self.problem("no step twice", f"{where}: the attempt's failure was stored at {run.attempts[one.index][2]:.6f}", id)
        elif run.closed is not None and not self._excused(one, run.closed, run.scheduled.get(one.index, 0)):
            self.problem("nothing of a run that is over", f"{where}: the run was over at {run.closed[1]:.6f}", id)

    def _excused(self, one: Execution, stored: tuple[int, float], scheduled: int = 0) -> bool:
        """Whether the process could not know what was stored.

        It stood still at some moment after that, or just before, and began as it went on: a worker looks at its lease and begins in one callback.
        Or it had written that very thing itself, in a later commit than the one that had the activity begin, and had no answer yet.
        """
        if one.process.startswith("far") and one.time - stored[1] < ANSWER:
            return True  # a worker that only runs activities hears of an end a moment later
        writer = self.simulation.trace[stored[0]][1]
        if writer == one.process and 0 < scheduled < stored[0] and one.time - stored[1] < ANSWER:
            return True
        return any(ended >= stored[1] - 0.001 and one.time - ended < GOES_ON for _, ended in self.simulation.resumed.get(one.process, ()))
