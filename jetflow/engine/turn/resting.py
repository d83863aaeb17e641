"""Steps 6 and 7 of a running workflow: write the state record, ack the commands."""

from __future__ import annotations

import asyncio

from jetflow.core.machine import Machine
from jetflow.engine import faults
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.closing import rest_closed
from jetflow.engine.turn.records import running_record
from jetflow.protocol.clock import now_ms

LINGER_MS = 1000
"""The owner waits for a timer that is due within this time in memory, with a command un-acked. It schedules later timers at the broker."""
MAX_UNSTORED = 100
"""Signals without a wait that a busy workflow holds in memory. With more, they move to their bucket."""


async def rest(actor: Actor) -> None:
    """Write the state record where people would see a difference, and ack the commands that are done."""
    run = actor.run
    if run.continued is not None:
        return
    if run.closing is not None:
        await rest_closed(actor)
    elif actor.machine is None:
        _rest_without_run(actor)
    else:
        assert run.loaded, "a workflow rests before its timeline was read"
        actor.alarms.arm()
        if actor.draining or actor.steps.under_way or actor.steps.outcomes or _lingers(actor):
            await _rest_busy(actor, actor.machine)
        elif not actor.mailbox.waiting:
            await _rest_durably(actor, actor.machine)


def _lingers(actor: Actor) -> bool:
    """Return whether the next timer is so near that the owner waits for it in memory, with a command un-acked."""
    due = actor.alarms.next_due()
    return bool(actor.mailbox.held) and due is not None and due - now_ms() < LINGER_MS


def _rest_without_run(actor: Actor) -> None:
    """Ack the commands for a workflow that does not exist."""
    assert actor.run.loaded, "a workflow counts as unknown before its timeline was read"
    assert not actor.gone, "a workflow counts as unknown after its actor has left memory"
    actor.mailbox.release()
    if not actor.mailbox.waiting:
        actor.drop()


async def _rest_busy(actor: Actor, machine: Machine) -> None:
    """Work is under way in this process: leave one command un-acked to wake the next owner, and ack the others."""
    unstored = actor.signals.unstored
    if unstored > MAX_UNSTORED:
        await actor.signals.store()
    elif unstored:
        actor.signals.watch()
    if actor.state_wanted:
        await _put_record(actor, machine)
    actor.mailbox.release_others()


async def _rest_durably(actor: Actor, machine: Machine) -> None:
    """Rest: the workflow waits only for durable things, such as timers, signals and children. Only the broker wakes it."""
    await _schedule(actor)
    await actor.signals.store()
    if actor.updates and machine.delay is None:
        actor.mailbox.hold_all(actor.updates.refuse_early(machine))
    if actor.dirty_since is not None or actor.state_wanted or actor.doubtful:
        await _put_record(actor, machine)
    actor.doubt(False)
    actor.run.history.rest()
    if actor.run.told:
        await actor.services.lifecycle.settled(actor.run.told)
    actor.mailbox.release()
    if machine.delay is not None and actor.mailbox.unacked:  # updates that wait for a delayed start, perhaps for days
        actor.tenure.free_credit(actor.mailbox.unacked)
    actor.rested()


async def _schedule(actor: Actor) -> None:
    """Schedule every due time at the broker that it may not have."""
    unscheduled = set(actor.alarms.unscheduled)
    if not unscheduled:
        return
    queue, id_token, run, timers = actor.context.queue_token, actor.id_token, actor.run.number, actor.tenure.timers
    dues = [(index, actor.alarms.due_at(index) or 0) for index in unscheduled]
    placed = await asyncio.gather(*(timers.schedule(queue, id_token, run, index, due) for index, due in dues))
    actor.tenure.saw(max(placed))
    actor.alarms.scheduled(unscheduled)
    faults.reach("after_schedule")


async def _put_record(actor: Actor, machine: Machine) -> None:
    """Write the state record, and register the waits for signals by id."""
    tenure, waits = actor.tenure, actor.by_id.unregistered(machine)
    answers = tenure.waits.register(waits) if waits else []
    try:
        await tenure.states.put(running_record(machine, actor.run.seq, actor.context.worker_id))
    finally:
        if answers:
            await tenure.waits.registered(answers)
    actor.by_id.registered(waits)
    actor.record_written()
    faults.reach("after_state")
