"""Step 5: what follows from a commit, in this process and beyond it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jetflow.activity import ActivityInfo
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.machine import Machine
from jetflow.core.operation import Operation
from jetflow.engine import faults
from jetflow.engine.activities.dispatch import closes_at
from jetflow.engine.turn.children import children_in
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import ChildNotice

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor


_SENT = frozenset({ev.ChildStarted, ev.SignalSent})


async def effects(actor: Actor, machine: Machine, decided: list[Any], begun: list[Operation], ended: list[Operation]) -> None:
    """Publishes what the commit said, ends what nobody waits for any more, and begins what is waited for."""
    await publish(actor, decided)
    faults.reach("after_effects")
    actor.signals.flush_removals()
    for operation in ended:
        step = actor.steps.get(operation.index)
        if step is not None:
            actor.engine.inflight.cancel(step)
        forget_alarm(actor, operation.index)
    if remote := [operation for operation in ended if operation.remote]:
        actor.engine.dispatch.end(actor.tenure, machine.info, remote, closed=actor.run.closing is not None)
    if machine.closing is None:  # nothing of a run that is over begins
        for operation in begun:
            if operation.index in machine.pending:
                follow(actor, operation)


async def publish(actor: Actor, decided: list[Any], *, again: bool = False) -> None:
    """What a commit sends out: children, signals, lifecycle events. ``again`` for one whose effects a crash may have kept back."""
    run, engine = actor.run, actor.engine
    if run.accepted is not None:
        accepted, run.accepted = run.accepted, None
        await tell_accepted(actor, accepted)
    info = run.info
    if info is None:
        return
    if engine.lifecycle.on:
        run.told += engine.lifecycle.tell(info, decided)
    sent = [event for event in decided if type(event) in _SENT]
    if sent:
        children = children_in(sent)
        if run.closing is not None:  # a child that would only be terminated need not begin
            children = [child for child in children if child.parent_close_policy != "terminate"]
        outbox = actor.tenure.outbox
        starts = [outbox.start_child(info, child, check_first=again) for child in children]
        await asyncio.gather(*starts, outbox.send_signals(info, [event for event in sent if type(event) is ev.SignalSent]))


async def publish_tasks(actor: Actor) -> None:
    """Attempts for other workers, once all that led to them is committed."""
    due, actor.run.tasks_due = actor.run.tasks_due, {}
    machine = actor.machine
    if machine is not None and machine.closing is None:
        wanted = [(machine.pending[index], again) for index, again in due.items() if index in machine.pending]
        await actor.engine.dispatch.publish(actor.tenure, machine.info, wanted)


def forget_alarm(actor: Actor, index: int) -> None:
    """An operation's timer is not needed any more, neither here nor at the broker."""
    if actor.alarms.forget(index):
        tenure = actor.tenure
        actor.engine.background(tenure.timers.cancel(actor.engine.queue_token, actor.id_token, index, tenure.position + 1))


def follow(actor: Actor, operation: Operation, *, maybe_scheduled: bool = False) -> None:
    """Sees to a pending operation in this process: runs the activity, watches the clock."""
    if operation.due is not None:
        actor.alarms.watch(operation.index, operation.due, maybe_scheduled=maybe_scheduled)
    elif operation.remote:
        if not maybe_scheduled:
            queue(actor, operation, again=False)
        elif (closes := closes_at(operation)) is not None:
            actor.alarms.watch(operation.index, closes, maybe_scheduled=True)
    elif isinstance(operation.event, ev.ActivityScheduled):
        launch(actor, operation)


def queue(actor: Actor, operation: Operation, *, again: bool) -> None:
    """The next attempt is for whoever takes its task, for as long as it may take."""
    actor.run.tasks_due[operation.index] = again
    closes = closes_at(operation)
    if closes is not None:
        actor.alarms.watch(operation.index, closes)


def launch(actor: Actor, operation: Operation) -> None:
    """Runs an activity in this process, or sends it out if this worker does not have it."""
    index, scheduled = operation.index, operation.event
    if index in actor.steps:
        return
    step = actor.engine.inflight.adopt(actor, scheduled)
    if step is not None:
        if step.outcome is not None:
            actor.on_outcome(step)
        return
    if actor.draining:
        return
    if not actor.engine.runner.knows(scheduled.name):
        actor.feed(ev.ActivityQueued(index=index, at=now_ms()))
        queue(actor, operation, again=False)
        return
    info = ActivityInfo(scheduled.name, actor.workflow_id, actor.engine.task_queue, str(actor.run.number), index)
    options = operation.options if operation.options is not None else ActivityOptions()
    actor.engine.inflight.begin(actor, scheduled, options, info, operation)


async def tell_accepted(actor: Actor, parent: ev.Parent | None) -> None:
    """A parent that does not wait for the result waits for this."""
    if parent is not None and not parent.awaited:
        await actor.tenure.outbox.notify(parent, ChildNotice(run=parent.run, child=actor.workflow_id, outcome="accepted", child_run=actor.run.number))
