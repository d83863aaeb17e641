"""Step 2: rebuild an actor that is not in memory from its timeline."""

from __future__ import annotations

from typing import Any

from jetflow.broker.stores.timeline import Entry
from jetflow.core import events as ev
from jetflow.core.machine import Machine, last_generation
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import replaces
from jetflow.engine.turn.children import children_in, children_of
from jetflow.engine.turn.following import follow
from jetflow.engine.turn.publishing import publish
from jetflow.protocol.commands import StartCommand


async def open_actor(actor: Actor) -> None:
    """Read the timeline. A start that no earlier tenure can have received needs no read: the write of its first key shows whether the id is
    free.
    """
    tenure, waiting = actor.tenure, actor.mailbox.waiting
    first = waiting[0] if waiting else None
    if first is not None and isinstance(first.payload, StartCommand) and not actor.doubtful and not tenure.is_in_doubt(first):
        actor.run.opened(unheard=True)
        return
    last = await tenure.timeline.last(actor.context.queue_token, actor.id_token)
    if last is not None:
        await _rebuild(actor, await tenure.timeline.run(actor.context.queue_token, actor.id_token, last))
        actor.steps.cancel_strays()  # without a timeline, the start may still adopt activities of a head start
    actor.run.opened()


async def _rebuild(actor: Actor, entries: list[Entry]) -> None:
    actor.run.restore(entries)
    history = last_generation([entry.commit for entry in entries])
    if isinstance(history[-1][-1], ev.CLOSING):
        await _rebuild_closed(actor, entries, history)
    else:
        await _rebuild_live(actor, entries, history)


async def _rebuild_closed(actor: Actor, entries: list[Entry], history: list[list[Any]]) -> None:
    run = actor.run
    closing, unsure = history[-1][-1], _last_decision(entries)
    run.begin_generation(actor.info_of(history[0][0]))
    descends = isinstance(closing, ev.Terminated) and closing.descend
    children = children_of(entries) if descends else [event for events in history for event in children_in(events)]
    run.close(closing, children, told=not _is_replaced(actor))
    if _is_doubtful(actor, entries[-1]):
        actor.by_id.restore_doubtful(run.number, None, [event for events in history for event in events], unsure)
        await publish(actor, unsure, again=True)


async def _rebuild_live(actor: Actor, entries: list[Entry], history: list[list[Any]]) -> None:
    last, events = entries[-1], [event for entry in entries for event in entry.commit.events]
    actor.run.history.add(events, len(entries), sum(entry.size for entry in entries))
    machine = actor.replay(history, unfinished=last.commit.more)
    actor.doubt(_is_doubtful(actor, last))
    begun = {id(operation) for operation in machine.begun}
    for operation in machine.pending.values():
        if id(operation) not in begun:
            follow(actor, operation, maybe_scheduled=True)
    if actor.doubtful:
        unsure = _last_decision(entries)
        if last.commit.cause < actor.tenure.since:  # starts of children, outcomes of tasks and notices were lost with the inbox
            unsure += [operation.event for operation in machine.pending.values() if not any(operation.event is event for event in unsure)]
        await _repeat_effects(actor, machine, history, unsure)
    else:
        actor.alarms.all_scheduled()
        actor.by_id.restore(machine)


async def _repeat_effects(actor: Actor, machine: Machine, history: list[list[Any]], unsure: list[Any]) -> None:
    """Publish the effects of a running workflow that may be missing after a crash."""
    run = actor.run
    actor.by_id.restore_doubtful(run.number, machine, [event for events in history for event in events], unsure)
    for event in unsure:
        operation = machine.pending.get(event.index) if isinstance(event, (ev.ActivityScheduled, ev.ActivityQueued)) else None
        if operation is not None and operation.remote and operation.due is None:
            run.queue_task(operation.index, again=True)
    await publish(actor, [event for event in unsure if not isinstance(event, ev.ChildStarted) or event.index in machine.pending], again=True)


def _is_replaced(actor: Actor) -> bool:
    """Return whether a start waits that replaces this run: effects of the run's end may be missing."""
    return any(replaces(actor.run, command) for command in actor.mailbox.unacked.values())


def _is_doubtful(actor: Actor, last: Entry) -> bool:
    """Return whether the effects of the last commit may be missing: never published, or lost with an earlier inbox."""
    if last.commit.cause < actor.tenure.since:
        return True
    if any(seq <= last.commit.cause for seq in actor.mailbox.unacked) or _is_replaced(actor):
        return True
    if last.commit.compacted:  # its effects are out, or the run never rested and its start is un-acked (checked above)
        return False
    if actor.doubtful:
        return True
    own = (ev.TimerFired, ev.WaitTimedOut, ev.ActivityRetrying, ev.ActivityQueued, ev.ActivityCompleted, ev.ActivityFailed)
    return any(isinstance(event, own) for event in last.commit.decision)


def _last_decision(entries: list[Entry]) -> list[Any]:
    """Return the events of the last commit, whose effects may be missing after a crash. The commit may have several keys."""
    first = len(entries) - 1
    while first > 0 and entries[first - 1].commit.more:
        first -= 1
    return [event for entry in entries[first:] for event in entry.commit.decision]
