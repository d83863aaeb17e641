"""Step 4: what was decided becomes one new timeline key, which only one owner can write."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetflow.core import events as ev
from jetflow.engine import faults
from jetflow.engine.turn.children import all_children
from jetflow.engine.turn.effects import effects
from jetflow.engine.turn.head_start import may_run_ahead, run_ahead
from jetflow.protocol import clock
from jetflow.protocol.clock import now_ms

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor


async def commit(actor: Actor) -> None:
    """Writes what was decided since the last commit, and sees to what follows from it.

    Raises:
        ConflictError: the id is taken.
        TenureOverError: another worker has taken over.
        BrokerUnavailableError: whether it was written is unknown.
    """
    run, engine = actor.run, actor.engine
    machine = actor.machine
    if machine is None or not machine.decided:
        _settle(actor)
        if actor.updates:
            actor.updates.committed(())
        return
    if may_run_ahead(actor, machine):
        run_ahead(actor, machine)
        _is_busy(actor)
        return
    for operation in machine.begun:
        if not operation.remote and type(operation.event) is ev.ActivityScheduled and not engine.runner.knows(operation.event.name):
            actor.feed(ev.ActivityQueued(index=operation.index, at=now_ms()))
    decided, begun, ended = machine.take()
    cause = max([run.cause, *[command.seq for command in actor.held]])
    closes = isinstance(machine.closing, ev.CLOSING)
    whole = run.history.whole(run.number, cause, decided) if closes else None
    bodies = _bodies(actor, decided, cause) if whole is None else [whole]
    for body in bodies:
        await _write(actor, body, whole=whole is not None)
    if closes and (whole is not None or run.history.keys + len(bodies) == 1):
        run.is_whole = True
    else:
        run.history.add(decided, len(bodies), sum(map(len, bodies)))
    run.cause = cause
    _settle(actor)
    if actor.updates:
        actor.updates.committed(decided)
    _is_busy(actor)
    if machine.closing is not None and not isinstance(machine.closing, ev.ContinuedAsNew):
        run.closing = machine.closing
        run.closed_children = machine.children
        if isinstance(machine.closing, ev.Terminated) and machine.closing.descend and machine.info.generation > 1:
            run.closed_children = await all_children(actor)
    await effects(actor, machine, decided, begun, ended)


def _settle(actor: Actor) -> None:
    """Outcomes of local activities are committed, or came too late to matter."""
    for outcome in actor.uncommitted:
        actor.engine.inflight.settled(actor, outcome.index)
    actor.uncommitted.clear()


def _is_busy(actor: Actor) -> None:
    """Its state record is to be written if that takes long."""
    if actor.dirty_since is None:
        actor.dirty_since = clock.monotonic()
        actor.tenure.actors.note_dirty(actor)


async def _write(actor: Actor, body: bytes, *, whole: bool) -> None:
    """The next key; or, of a run that has one and all of it in this commit, that key anew."""
    run, timeline, queue_token = actor.run, actor.tenure.timeline, actor.engine.queue_token
    seq = 1 if whole and run.seq == 1 else run.seq + 1
    faults.reach("before_commit")
    if run.unheard and seq == 1 and not run.seq:
        run.position = await timeline.begin(queue_token, actor.id_token, body)
    else:
        run.position = await timeline.append(queue_token, actor.id_token, seq, body)
    run.seq = seq
    faults.reach("after_commit")


def _bodies(actor: Actor, events: list[Any], cause: int, *, more: bool = False) -> list[bytes]:
    """The commit's bytes, over several keys where it is too large for one message."""
    body = ev.encode_commit(ev.Commit(run=actor.run.number, cause=cause, events=events, more=more))
    if len(body) <= actor.engine.max_commit or len(events) == 1:
        return [body]
    half = len(events) // 2
    return _bodies(actor, events[:half], cause, more=True) + _bodies(actor, events[half:], cause, more=more)
