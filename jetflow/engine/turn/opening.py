"""Step 2: an actor that is not in memory is rebuilt from its timeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jetflow.broker.stores.timeline import Entry
from jetflow.core import events as ev
from jetflow.core.machine import last_generation
from jetflow.engine.calls.updates import Updates
from jetflow.engine.turn.children import children_in, children_of
from jetflow.engine.turn.effects import follow, publish
from jetflow.protocol.commands import StartCommand

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor


async def open_actor(actor: Actor) -> None:
    """Reads what the timeline has, unless a start is the first that is heard of the id: one of which nothing can still come that an
    earlier tenure has written needs no read, since writing the first key tells whether the id is free.
    """
    run, tenure = actor.run, actor.tenure
    first = actor.mailbox[0] if actor.mailbox else None
    if first is not None and isinstance(first.payload, StartCommand) and not actor.doubtful and not tenure.is_in_doubt(first):
        run.unheard = True
    else:
        last = await tenure.timeline.last(actor.engine.queue_token, actor.id_token)
        if last is not None:
            await _rebuild(actor, last)
            actor.engine.inflight.drop_strays(actor)  # without a timeline the start may still come to what has run ahead
    run.loaded = True


async def _rebuild(actor: Actor, last: Entry) -> None:
    run = actor.run
    entries = await actor.tenure.timeline.run(actor.engine.queue_token, actor.id_token, last)
    run.seq, run.position, run.number, run.cause = last.seq, last.position, last.commit.run, last.commit.cause
    run.stored = last.stored
    run.may_follow_another = entries[0].seq > (2 if last.commit.compacted else 1)  # one key that is compacted was two at least
    history = last_generation([entry.commit for entry in entries])
    run.info = actor.info_of(history[0][0])
    if isinstance(history[-1][-1], ev.CLOSING):
        await _rebuild_closed(actor, entries, history)
    else:
        await _rebuild_live(actor, entries, history)


async def _rebuild_closed(actor: Actor, entries: list[Entry], history: list[list[Any]]) -> None:
    run = actor.run
    closing, unsure = history[-1][-1], _last_decision(entries)
    run.closing = closing
    descends = isinstance(closing, ev.Terminated) and closing.descend
    run.closed_children = children_of(entries) if descends else [event for events in history for event in children_in(events)]
    run.told_closing = not _is_replaced(actor)
    if _is_doubtful(actor, entries[-1]):
        actor.by_id.restore_doubtful(run.number, None, [event for events in history for event in events], unsure)
        await publish(actor, unsure, again=True)


async def _rebuild_live(actor: Actor, entries: list[Entry], history: list[list[Any]]) -> None:
    run = actor.run
    last, unsure = entries[-1], _last_decision(entries)
    events = [event for entry in entries for event in entry.commit.events]
    run.history.add(events, len(entries), sum(entry.size for entry in entries))
    machine = actor.machine = actor.machine_for(history[0][0])
    machine.replay(history, unfinished=last.commit.more)
    if isinstance(machine.closing, ev.ContinuedAsNew):
        run.continued = machine.closing
    if machine.handlers is not None:
        actor.updates = Updates(actor, actor.feed)
        actor.updates.restore(machine.handlers)
    doubtful = actor.doubtful = _is_doubtful(actor, last)
    begun = {id(operation) for operation in machine.begun}
    for operation in machine.pending.values():
        if id(operation) not in begun:
            follow(actor, operation, maybe_scheduled=True)
    if not doubtful:
        actor.alarms.scheduled(set(actor.alarms.unscheduled))
        actor.by_id.restore(machine)
    else:
        actor.by_id.restore_doubtful(run.number, machine, [event for events in history for event in events], unsure)
        for event in unsure:
            operation = machine.pending.get(event.index) if isinstance(event, (ev.ActivityScheduled, ev.ActivityQueued)) else None
            if operation is not None and operation.remote and operation.due is None:
                run.tasks_due[operation.index] = True
        await publish(actor, [event for event in unsure if not isinstance(event, ev.ChildStarted) or event.index in machine.pending], again=True)


def _is_replaced(actor: Actor) -> bool:
    """Whether a start waits that ends this run to begin its own: what followed from the end may not have been told."""
    return any(isinstance(one.payload, StartCommand) and one.payload.replace and seq > actor.run.number for seq, one in actor.unacked.items())


def _is_doubtful(actor: Actor, last: Entry) -> bool:
    """Whether the effects of the last commit may never have been published."""
    if any(seq <= last.commit.cause for seq in actor.unacked) or _is_replaced(actor):
        return True
    if last.commit.compacted:  # of a run that never rested, whose start is un-acked until the effects are out; or they were seen to before
        return False
    if actor.doubtful:
        return True
    own = (ev.TimerFired, ev.WaitTimedOut, ev.ActivityRetrying, ev.ActivityQueued, ev.ActivityCompleted, ev.ActivityFailed)
    return any(isinstance(event, own) for event in last.commit.decision)


def _last_decision(entries: list[Entry]) -> list[Any]:
    """Events of the last commit, which may be spread over several keys: those whose effects a crash may have kept back."""
    first = len(entries) - 1
    while first > 0 and entries[first - 1].commit.more:
        first -= 1
    return [event for entry in entries[first:] for event in entry.commit.decision]
