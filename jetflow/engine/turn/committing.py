"""Step 4: what was decided becomes one new timeline key, which only one owner can write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import Operation
from jetflow.engine import faults
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.children import all_children
from jetflow.engine.turn.head_start import may_run_ahead, run_ahead
from jetflow.protocol.clock import now_ms


class Decision(NamedTuple):
    """What a commit holds.

    Attributes:
        decided: its events.
        begun, ended: operations that they begin, and that nobody waits for any more.
    """

    machine: Machine
    decided: list[Any]
    begun: list[Operation]
    ended: list[Operation]


async def commit(actor: Actor, *, unfinished: bool = False) -> Decision | None:
    """Write what was decided since the last commit. Return it, for what follows from it; None if nothing was written. ``unfinished`` if the
    code has not gone on from the last input: a replay lets it decide anew from there.

    Raises:
        ConflictError: the id is taken.
        TenureOverError: another worker has taken over.
        BrokerUnavailableError: whether it was written is unknown.
    """
    machine = actor.machine
    if machine is None or not machine.decided:
        _settle(actor, ())
        return None
    if not unfinished and may_run_ahead(actor, machine):
        run_ahead(actor, machine)
        actor.note_busy()
        return None
    if not unfinished:
        _queue_unknown(actor, machine)
    decision = Decision(machine, *machine.take())
    await _write_decision(actor, decision, unfinished=unfinished)
    _settle(actor, decision.decided)
    actor.note_busy()
    closing = machine.closing
    if closing is not None and not isinstance(closing, ev.ContinuedAsNew):
        descends = isinstance(closing, ev.Terminated) and closing.descend and machine.info.generation > 1
        actor.run.close(closing, await all_children(actor) if descends else machine.children)
    return decision


def _queue_unknown(actor: Actor, machine: Machine) -> None:
    """Leave activities that this worker does not have to others."""
    knows = actor.services.runner.knows
    for operation in machine.begun:
        if not operation.remote and type(operation.event) is ev.ActivityScheduled and not knows(operation.event.name):
            actor.feed(ev.ActivityQueued(index=operation.index, at=now_ms()))


async def _write_decision(actor: Actor, decision: Decision, *, unfinished: bool) -> None:
    """Write a decision in as few keys as it takes; one that ends a run with all that the run has in memory, if there is all of it."""
    run, decided = actor.run, decision.decided
    cause = max([run.cause, *[command.seq for command in actor.mailbox.held]])
    assert run.number > 0, "a commit of no run"
    assert decision.machine.info.run == run.number, f"a decision of run {decision.machine.info.run} in a commit of run {run.number}"
    assert actor.partition in actor.tenure.partitions, f"a commit in partition {actor.partition}, which tenure {actor.tenure.name} does not have"
    closes = isinstance(decision.machine.closing, ev.CLOSING)
    whole = run.history.whole(run.number, cause, decided) if closes else None
    bodies = _bodies(actor, decided, cause, more=unfinished) if whole is None else [whole]
    for body in bodies:
        await _write(actor, body, whole=whole is not None)
    is_whole = closes and (whole is not None or run.history.keys + len(bodies) == 1)
    run.committed(cause, decided, [len(body) for body in bodies], is_whole=is_whole)


def _settle(actor: Actor, decided: Sequence[Any]) -> None:
    """Be done with outcomes of activities, and with updates, that the code was given before the commit."""
    if actor.steps.uncommitted:
        actor.steps.committed()
    if actor.updates:
        actor.updates.committed(decided)


async def _write(actor: Actor, body: bytes, *, whole: bool) -> None:
    """Write the next key; or, of a run that has one and all of it in this commit, that key anew."""
    run, timeline, queue_token = actor.run, actor.tenure.timeline, actor.context.queue_token
    seq = 1 if whole and run.seq == 1 else run.seq + 1
    faults.reach("before_commit")
    if run.unheard and seq == 1 and not run.seq:
        position = await timeline.begin(queue_token, actor.id_token, body)
    else:
        position = await timeline.append(queue_token, actor.id_token, seq, body)
    run.wrote(seq, position)
    faults.reach("after_commit")


def _bodies(actor: Actor, events: list[Any], cause: int, *, more: bool = False) -> list[bytes]:
    """Return the commit's bytes, over several keys where it is too large for one message."""
    body = ev.encode_commit(ev.Commit(run=actor.run.number, cause=cause, events=events, more=more))
    if len(body) <= actor.context.max_commit or len(events) == 1:
        return [body]
    half = len(events) // 2
    return _bodies(actor, events[:half], cause, more=True) + _bodies(actor, events[half:], cause, more=more)
