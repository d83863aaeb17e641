"""Steps 6 and 7 of a run that goes on: its state record, and the ack."""

from __future__ import annotations

import asyncio

from jetflow.core.machine import Machine
from jetflow.engine import faults
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.closing import rest_closed
from jetflow.engine.turn.records import running_record
from jetflow.protocol.clock import now_ms

LINGER_MS = 1000
"""A timer due sooner than this is waited for in memory, its command un-acked, rather than scheduled at the broker."""
MAX_UNSTORED = 100
"""Signals nobody waits for that a busy workflow keeps in memory before they go to their bucket."""


async def rest(actor: Actor) -> None:
    """Tell people where the workflow stands, and the broker which commands are done with."""
    run = actor.run
    if run.continued is not None:
        return
    if run.closing is not None:
        await rest_closed(actor)
    elif actor.machine is None:
        _rest_without_run(actor)
    else:
        assert run.loaded, "a workflow rests that was not looked at"
        actor.alarms.arm()
        if actor.draining or actor.steps.under_way or actor.steps.outcomes or _lingers(actor):
            await _rest_busy(actor, actor.machine)
        elif not actor.mailbox.waiting:
            await _rest_durably(actor, actor.machine)


def _lingers(actor: Actor) -> bool:
    """Return whether the next timer is so near that it is better waited for here, with a command un-acked."""
    due = actor.alarms.next_due()
    return bool(actor.mailbox.held) and due is not None and due - now_ms() < LINGER_MS


def _rest_without_run(actor: Actor) -> None:
    """Be done with commands for a workflow that there is not."""
    assert actor.run.loaded, "a workflow that was not looked at is taken for none"
    assert not actor.gone, "a workflow that was taken away is taken for none"
    actor.mailbox.release()
    if not actor.mailbox.waiting:
        actor.drop()


async def _rest_busy(actor: Actor, machine: Machine) -> None:
    """Work is under way here: leave one command un-acked to wake the next owner, and be done with the others."""
    unstored = actor.signals.unstored
    if unstored > MAX_UNSTORED:
        await actor.signals.store()
    elif unstored:
        actor.signals.watch()
    if actor.state_wanted:
        await _put_record(actor, machine)
    actor.mailbox.release_others()


async def _rest_durably(actor: Actor, machine: Machine) -> None:
    """Only timers, signals and children are waited for: leave it to the broker alone to wake this workflow."""
    await _schedule(actor)
    await actor.signals.store()
    if actor.updates:
        actor.mailbox.hold_all(actor.updates.refuse_early(machine))
    if actor.dirty_since is not None or actor.state_wanted or actor.doubtful:
        await _put_record(actor, machine)
    actor.doubt(False)
    actor.run.history.rest()
    if actor.run.told:
        await actor.services.lifecycle.settled(actor.run.told)
    actor.mailbox.release()
    actor.rested()


async def _schedule(actor: Actor) -> None:
    """Have the broker know of every time that is waited for."""
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
