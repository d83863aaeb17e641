"""What every run must keep: one function for each promise. Those that can be told at the moment when they are broken are in ``seen.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from jetflow.core import events as ev
from jetflow.errors import (
    BrokerError,
    CancelledFailure,
    JetflowError,
    QueryError,
    ResultTimeoutError,
    UpdateError,
    WorkflowAlreadyClosedError,
    WorkflowAlreadyStartedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
)
from jetflow.protocol.headers import EXPIRE, START_DELAY
from jetflow.testing.virtual import EPOCH
from tests.simulation.run import NAMES, Simulation
from tests.simulation.seen import INBOX, Problem, Seen
from tests.simulation.workflows import fits_program

KEPT = 1.0
"""Seconds that a record is kept at least. A client that hears of its start later cannot tell a run that was refused from one that has gone."""
EXPECTED: tuple[str, ...] = ()
"""Parts of error lines that a fault explains."""


def nothing_acknowledged_is_lost(seen: Seen) -> Iterator[Problem]:
    """Every start whose client has a run id has begun, and every signal that workflow code sent was published."""
    for asked in seen.simulation.asked:
        late = (asked.ended or 0.0) - asked.begun > KEPT
        if asked.call.what == "start" and asked.run is not None and not late and asked.run not in seen.ident(asked.id).runs:
            start = seen.commands.get(asked.run)
            same = [seq for seq, other in seen.commands.items() if start and other.id == asked.id and other.message.data == start.message.data]
            if any(seq in seen.ident(asked.id).runs for seq in same):
                continue  # it was sent again after an unknown outcome, to a server that had forgotten its message id
            yield Problem("nothing lost", f"start {asked.run} of {asked.id} was acknowledged, and there is no such run", (asked.id,))
    published = {command.message.fields.get("Jetflow-Sender") for command in seen.commands.values() if command.kind == "signal"}
    for (id, run, index), sent in seen.sent.items():
        if f"q.{id}.{run}/{index}" not in published:
            yield Problem(
                "nothing lost", f"{id}, run {run}, told {sent.workflow_id} {sent.signal!r}, and no signal was published", (id, sent.workflow_id)
            )


def delayed_starts_are_honoured(seen: Seen) -> Iterator[Problem]:
    """A delayed start is a run whose code begins when its delay is over, unless a command ends it first. A scheduled one is a run, is withdrawn,
    or is a dead letter.
    """
    for asked in seen.simulation.asked:
        if asked.call.what != "schedule" or asked.outcome != "done":
            continue
        body, ident = msgspec.json.encode(asked.call.facts["program"]), seen.ident(asked.id)
        fired = [command.seq for command in seen.commands.values() if command.id == asked.id and command.message.data == body]
        if not (ident.taken_back or body in seen.dead or any(seq in ident.runs for seq in fired)):
            yield Problem("delayed starts", f"the scheduled start of {asked.id} has vanished", (asked.id,))
    for ident in seen.ids.values():
        for run in ident.runs.values():
            command, begins = seen.commands.get(run.number), run.events[0].begins
            if command is None or (command.message.fields.get(START_DELAY, "0ms") == "0ms") != (begins is None):
                yield Problem("delayed starts", f"{ident.id}, run {run.number}, begins at {begins}, and its start says otherwise", (ident.id,))
            if begins is None or command is None:
                continue
            delay = int(command.message.fields[START_DELAY].removesuffix("ms"))
            if abs(begins - (EPOCH + command.time) * 1000 - delay) > 2:
                yield Problem("delayed starts", f"{ident.id}, run {run.number}, begins at {begins}, not {delay} ms after {command.time}", (ident.id,))
            timer, then = run.events[1], next((event for event in run.events[2:] if not isinstance(event, ev.Terminated)), None)
            if not isinstance(timer, ev.TimerStarted) or timer.due != begins:
                yield Problem("delayed starts", f"{ident.id}, run {run.number}: {timer} instead of the timer of its delay", (ident.id,))
            elif then is not None and not (isinstance(then, ev.TimerFired) and then.index == timer.index):
                yield Problem("delayed starts", f"{ident.id}, run {run.number}: {then} before its code begins", (ident.id,))


def early_signals_are_found(seen: Seen) -> Iterator[Problem]:
    """A wait does not time out while a signal for it lies there that came before the start of its run."""
    for ident in seen.ids.values():
        for run in ident.runs.values():
            waits = {event.index: event for event in run.events if isinstance(event, ev.WaitStarted)}
            for event in run.events:
                if not isinstance(event, ev.WaitTimedOut):
                    continue
                wait = waits[event.index]
                for command in seen.commands.values():
                    if command.kind != "signal" or command.id != ident.id or command.name != wait.signal or command.seq > run.number:
                        continue
                    if any(command.seq in other.consumed for other in ident.runs.values()) or command.gone is None:
                        continue
                    if any(command.order < expired < run.keys[0].order for expired in ident.expired):
                        continue  # it was for the run before, whose record was kept
                    if any(
                        command.order < other.closed[0]
                        for other in ident.runs.values()
                        if other is not run and other.closed and other.number < run.number
                    ):
                        continue
                    expire = int(command.message.fields.get(EXPIRE, "600000ms").removesuffix("ms")) / 1000
                    if command.time + expire > event.at / 1000 - 1_800_000_000 + 1 and run.number != 0:
                        yield Problem(
                            "early signals",
                            f"{ident.id}, run {run.number}: wait {event.index} for {wait.signal!r} timed out, though signal {command.seq} was there",
                            (ident.id,),
                        )


def every_workflow_ends(seen: Seen) -> Iterator[Problem]:
    """After the quiet period every run has ended: each was sent what it waits for, or was terminated."""
    for ident in seen.ids.values():
        for run in ident.runs.values():
            if run.closing is None:
                waits = ", ".join(f"{type(event).__name__} {event.index}" for event in run.pending.values())
                yield Problem("every workflow ends", f"{ident.id}, run {run.number}, has not ended; it waits for: {waits or 'nothing'}", (ident.id,))


def every_result_is_delivered(seen: Seen) -> Iterator[Problem]:
    """Every client has an answer to each call, and the result is that of the run."""
    for asked in seen.simulation.asked:
        call = asked.call
        if asked.ended is None:
            yield Problem("every result", f"{call.what} of {asked.id}, asked at {asked.begun:.6f}, has no answer", (asked.id,))
            continue
        if call.what == "update" and isinstance(asked.outcome, int):
            if not any(f"u{call.facts['value']}" in run.updates for run in seen.ident(asked.id).runs.values()):
                yield Problem("every result", f"update {call.facts} of {asked.id} was answered, and no run has it", (asked.id,))
        elif isinstance(asked.outcome, JetflowError) and not isinstance(
            asked.outcome,
            (
                WorkflowAlreadyStartedError,
                WorkflowNotFoundError,
                WorkflowAlreadyClosedError,
                ResultTimeoutError,
                BrokerError,
                UpdateError,
                QueryError,
            ),
        ):
            yield Problem("every result", f"{call.what} of {asked.id}: {asked.outcome!r}", (asked.id,))
        if call.what != "start" or asked.outcome != "started":
            continue
        if asked.result is None:
            yield Problem("every result", f"result of {asked.id}, run {asked.run}, never came", (asked.id,))
            continue
        run = seen.ident(asked.id).runs.get(asked.run or 0)
        followed = run is not None and run is not seen.ident(asked.id).latest
        if isinstance(asked.result, WorkflowNotFoundError) and followed:
            continue  # a later run has the id
        if run is not None and not _is_result(run.closing, asked.result, run.closed[1] if run.closed else 0.0, asked.result_at or 0.0):
            yield Problem("every result", f"{asked.id}, run {asked.run}: {asked.result!r}, and its timeline says {run.closing}", (asked.id,))


def _is_result(closing: object, result: object, closed_at: float, told_at: float) -> bool:
    if isinstance(result, WorkflowNotFoundError):  # it asked when the record had expired
        return told_at - closed_at > 0.9
    match closing:
        case ev.Completed():
            return bool(msgspec.json.decode(closing.result) == result)
        case ev.Failed():
            return isinstance(result, (WorkflowFailedError, CancelledFailure)) and not isinstance(result, WorkflowTerminatedError)
        case ev.Terminated():
            return isinstance(result, WorkflowTerminatedError) and closing.reason in str(result)
    return False


def results_are_right(seen: Seen) -> Iterator[Problem]:
    """A run that has completed has a result that its program can have; one that has failed was cancelled."""
    for ident in seen.ids.values():
        for run in ident.runs.values():
            first = run.events[0]
            program = msgspec.json.decode(first.input)[0]
            if isinstance(run.closing, ev.Completed):
                result = msgspec.json.decode(run.closing.result)
                if not fits_program(program, result) or (result[0] == "cancelled" and not run.cancelled):
                    yield Problem("right results", f"{ident.id}, run {run.number}: {result} of {program}", (ident.id,))
                elif len(result[2]) != len(set(result[2])) or len(result[2]) > len(run.updates):
                    yield Problem("right results", f"{ident.id}, run {run.number}: updates {result[2]} of {run.updates}", (ident.id,))
            elif isinstance(run.closing, ev.Failed) and not run.cancelled:
                yield Problem("right results", f"{ident.id}, run {run.number}, failed: {run.closing.failure}", (ident.id,))


def nothing_is_left(seen: Seen) -> Iterator[Problem]:
    """Once every record has expired only revocations, guards, the registry and the janitor's place remain."""
    simulation = seen.simulation
    if not simulation.settled:
        left = [subject for subject in simulation.left() if ".probe" not in subject]
        ids = tuple({subject.split(".")[3] for subject in left if subject.count(".") > 3})
        if left:
            yield Problem("nothing is left", f"{left[:6]}", ids)
        if simulation.unowned():
            yield Problem("no wedge", f"nobody owns partitions {simulation.unowned()}")
        for task in simulation.probed:
            if not task.done():
                yield Problem("no wedge", "a workflow that was started at the end does not run", tuple(f"probe{number}" for number in range(8)))
    for command in seen.commands.values():
        if command.gone is None and not command.id.startswith("probe") and not simulation.settled:
            yield Problem(
                "nothing lost", f"command {command.seq}, {command.kind} {command.name} of {command.id}, is still in the inbox", (command.id,)
            )


def nothing_fails(seen: Seen) -> Iterator[Problem]:
    """No exception that nobody handled, no line of an error, no loop that ended."""
    simulation = seen.simulation
    for process in simulation.world.processes:
        for error in process.errors:
            yield Problem("no failure", f"{process.name}: {error.get('message')}: {error.get('exception')!r}")
    for line in simulation.logged.errors:
        if not any(part in line for part in EXPECTED):
            yield Problem("no failure", line)
    for process, worker in simulation.all_workers:
        failures = dict(worker._engine.context.background.failures) | dict(worker._supervisor.failures if worker._supervisor else {})
        if failures:
            yield Problem("no failure", f"{process.name}: {failures}")
    for text in simulation.crashes:
        yield Problem("no failure", text)
    for task in [*simulation.client_tasks, *simulation.probed]:
        if task.done() and task.exception() is not None:
            yield Problem("no failure", f"a client: {task.exception()!r}")


def every_loop_lives(seen: Seen) -> Iterator[Problem]:
    """The loops of every worker that is up still run, and one worker at a time owns a partition."""
    simulation = seen.simulation
    owners: dict[int, str] = {}
    for process, worker in simulation.all_workers:
        if process.dead or worker._supervisor is None or simulation.stops[process].is_set():
            continue
        for name, task in worker._supervisor._tasks.items():
            if task.done():
                yield Problem("no wedge", f"{process.name}: {name} has ended")
        if simulation.settled and worker.task_queue == "q":
            for partition in worker._ownership.partitions:
                if partition in owners:
                    yield Problem("no wedge", f"{owners[partition]} and {process.name} own partition {partition}")
                owners[partition] = process.name


def workers_stop(seen: Seen) -> Iterator[Problem]:
    """Whoever was asked to stop has stopped."""
    for process, stop in seen.simulation.stops.items():
        if stop.is_set() and not process.dead:
            yield Problem("no wedge", f"{process.name} was asked to stop, and has not")


def signals_by_id_reach_one(seen: Seen) -> Iterator[Problem]:
    """A signal by id is taken by one wait at most."""
    taken: dict[int, str] = {}
    for ident in seen.ids.values():
        for run in ident.runs.values():
            for event in run.events:
                if isinstance(event, ev.Signaled) and not event.seq:
                    where = f"{ident.id}, run {run.number}, wait {event.index}"
                    if event.number in taken:
                        yield Problem("no step twice", f"signal by id {event.number} was taken by {taken[event.number]} and by {where}", (ident.id,))
                    taken[event.number] = where


NOTICED = 6.0
"""Seconds in which an expired signal is noticed at the latest, once all faults are over: a worker may have to take over first."""


def expired_signals_leave_a_trace(seen: Seen) -> Iterator[Problem]:
    """A signal is taken by a wait, or becomes one dead letter, or goes with the run that has ended; never two of these."""
    simulation = seen.simulation
    forgets = any(line[2] == "FAULT" and "loses ('ids',)" in str(line) for line in simulation.trace)  # then a repeat is stored again
    for command in seen.commands.values():
        if command.kind != "signal":
            continue
        ident, letters = seen.ident(command.id), seen.letter_of(command)
        text = f"signal {command.seq}, {command.name} of {command.id}"
        taken = any(command.seq in run.consumed for run in ident.runs.values())
        if letters and taken:
            yield Problem("expired signals", f"{text}, was taken, and is a dead letter too", (ident.id,))
        if len(letters) > 1 and not forgets:
            yield Problem("expired signals", f"{text}, is {len(letters)} dead letters", (ident.id,))
        if letters and simulation.trace[letters[0]][0] < seen.expires(command) - simulation.plan.skew:
            yield Problem("expired signals", f"{text}, is a dead letter before it has expired", (ident.id,))
        if taken or letters or not simulation.settled or seen.is_repeat(ident, command):
            continue
        noticed = max(seen.expires(command), simulation.calm_at or 0.0) + NOTICED + simulation.plan.skew
        if any(run.closed and run.closed[0] > command.order and run.closed[1] < noticed for run in ident.runs.values()):
            continue  # it went with the run
        if any(run.closed and run.closed[0] < command.order for run in ident.runs.values()):
            continue  # it came when the run had ended, perhaps while its record was kept
        yield Problem("expired signals", f"{text}, was not taken, and left no trace", (ident.id,))


def expired_signals_by_id_leave_a_trace(seen: Seen) -> Iterator[Problem]:
    """The same of signals by id."""
    simulation = seen.simulation
    forgets = any(line[2] == "FAULT" and "loses ('ids',)" in str(line) for line in simulation.trace)
    taken = {
        event.number
        for ident in seen.ids.values()
        for run in ident.runs.values()
        for event in run.events
        if isinstance(event, ev.Signaled) and not event.seq
    }
    for number, message in seen.kept[NAMES.by_id_stream].items():
        if not message.subject.startswith(NAMES.by_id_prefix):
            continue
        letters = seen.letters.get(f"{NAMES.namespace}-by-id-{number}", [])
        text = f"signal by id {number}, {message.subject}"
        if letters and number in taken:
            yield Problem("expired signals", f"{text}, was taken, and is a dead letter too")
        if len(letters) > 1 and not forgets:
            yield Problem("expired signals", f"{text}, is {len(letters)} dead letters")
        if simulation.settled and not letters and number not in taken:
            yield Problem("expired signals", f"{text}, was not taken, and left no trace")


CHECKS: list[Callable[[Seen], Iterator[Problem]]] = [
    nothing_acknowledged_is_lost,
    delayed_starts_are_honoured,
    early_signals_are_found,
    every_workflow_ends,
    every_result_is_delivered,
    results_are_right,
    nothing_is_left,
    nothing_fails,
    every_loop_lives,
    workers_stop,
    signals_by_id_reach_one,
    expired_signals_leave_a_trace,
    expired_signals_by_id_leave_a_trace,
]


def check(simulation: Simulation) -> list[Problem]:
    """Every promise that a run has broken."""
    seen = Seen(simulation)
    return [*seen.problems, *(problem for each in CHECKS for problem in each(seen))]


__all__ = ["INBOX", "NAMES", "check"]
