"""Step 4: write what was decided as one new timeline key, which only one owner can write."""

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
from jetflow.engine.turn.logs import log_end
from jetflow.protocol.clock import now_ms


class Decision(NamedTuple):
    """What a commit holds.

    Attributes:
        decided: its events.
        begun: operations that the events begin.
        ended: operations that the code no longer waits for.
    """

    machine: Machine
    decided: list[Any]
    begun: list[Operation]
    ended: list[Operation]


async def commit(actor: Actor, *, unfinished: bool = False) -> Decision | None:
    """Write what was decided since the last commit. Return it, or None if nothing was written. ``unfinished``: the code has not continued
    after the last input, and a replay decides anew from there.

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
        if not isinstance(closing, ev.Completed):
            log_end(machine.info, closing)
    return decision


def _queue_unknown(actor: Actor, machine: Machine) -> None:
    """Record that other workers run the activities which this worker does not have."""
    knows = actor.services.runner.knows
    for operation in machine.begun:
        if not operation.remote and type(operation.event) is ev.ActivityScheduled and not knows(operation.event.name):
            actor.feed(ev.ActivityQueued(index=operation.index, at=now_ms()))


async def _write_decision(actor: Actor, decision: Decision, *, unfinished: bool) -> None:
    """Write a decision in as few keys as possible. One that ends a run takes the whole history with it, if memory has all of it."""
    run, decided, machine = actor.run, decision.decided, decision.machine
    cause = run.cause
    for command in actor.mailbox.held:
        if command.seq > cause:
            cause = command.seq
    assert 0 < run.number == machine.info.run, f"a decision of run {machine.info.run} in a commit of run {run.number}"
    assert actor.partition in actor.tenure.partitions, f"a commit in partition {actor.partition}, which tenure {actor.tenure.name} does not have"
    closes = isinstance(machine.closing, ev.CLOSING)
    whole = run.history.whole(run.number, cause, decided) if closes else None
    bodies = _bodies(actor, decided, cause, more=unfinished) if whole is None else [whole]
    for body in bodies:
        await _write(actor, body, whole=whole is not None)
    is_whole = closes and (whole is not None or run.history.keys + len(bodies) == 1)
    run.committed(cause, decided, [len(body) for body in bodies], is_whole=is_whole)


def _settle(actor: Actor, decided: Sequence[Any]) -> None:
    """Settle the outcomes of activities and the updates that the commit holds."""
    if actor.steps.uncommitted:
        actor.steps.committed()
    if actor.updates:
        actor.updates.committed(decided)


async def _write(actor: Actor, body: bytes, *, whole: bool) -> None:
    """Write the next key. If the commit holds the whole run and the run has only key 1, replace key 1."""
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
    """Return the bytes of the commit's keys: several if the commit is too large for one message."""
    body = ev.encode_commit(ev.Commit(run=actor.run.number, cause=cause, events=events, more=more))
    if len(body) <= actor.context.max_commit or len(events) == 1:
        return [body]
    half = len(events) // 2
    return _bodies(actor, events[:half], cause, more=True) + _bodies(actor, events[half:], cause, more=more)
