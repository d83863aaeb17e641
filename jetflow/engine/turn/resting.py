"""Steps 6 and 7: the state record, and the ack."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.machine import Machine
from jetflow.core.times import from_iso
from jetflow.engine import faults
from jetflow.engine.calls.queries import replay_end
from jetflow.engine.turn.records import closed_record, running_record
from jetflow.engine.turn.run import CannotGoOnError, Standing
from jetflow.engine.upkeep.compaction import Closed
from jetflow.engine.upkeep.janitor import revisit
from jetflow.errors import NondeterminismError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.record import decode_state

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor

log: logging.Logger = logging.getLogger("jetflow.worker")

LINGER_MS = 1000
"""A timer due sooner than this is waited for in memory, its command un-acked, rather than scheduled at the broker."""
EXPIRY_MARGIN_MS = 500
CLOCKS_APART = 100
"""Milliseconds by which the clocks of a cluster's servers may differ."""
MAX_UNSTORED = 100
"""Signals nobody waits for that a busy workflow keeps in memory before they go to their bucket."""


async def rest(actor: Actor) -> None:
    """Tells people where the workflow stands, and the broker which commands are done with."""
    run = actor.run
    if run.continued is not None:
        return
    if run.closing is not None:
        await _rest_closed(actor)
    elif actor.machine is None:
        assert actor.standing is Standing.NO_WORKFLOW, actor.standing
        held, actor.held = actor.held, []
        actor.ack(held)
        if not actor.mailbox:
            actor.drop()
    else:
        assert actor.machine is not None
        assert run.loaded, "a workflow rests that was not looked at"
        actor.alarms.arm()
        if actor.draining or actor.steps or actor.outcomes or _lingers(actor):
            await _rest_busy(actor, actor.machine)
        elif not actor.mailbox:
            await _rest_durably(actor, actor.machine)


def _lingers(actor: Actor) -> bool:
    """True when the next timer is so near that it is better waited for here, with a command un-acked."""
    due = actor.alarms.next_due()
    return bool(actor.held) and due is not None and due - now_ms() < LINGER_MS


async def _rest_busy(actor: Actor, machine: Machine) -> None:
    """Work is under way here: one un-acked command stays to wake the next owner, the others can go."""
    if actor.signals.unstored > MAX_UNSTORED:
        await actor.signals.store()
    if actor.state_wanted:
        await _put_state(actor, machine)
    others = actor.held[1:]
    del actor.held[1:]
    actor.ack(others)


async def _rest_durably(actor: Actor, machine: Machine) -> None:
    """Only timers, signals and children are waited for: the broker alone will wake this workflow."""
    engine, tenure = actor.engine, actor.tenure
    unscheduled = set(actor.alarms.unscheduled)
    if unscheduled:
        queue = engine.queue_token
        dues = [(index, actor.alarms.due_at(index) or 0) for index in unscheduled]
        placed = await asyncio.gather(*(tenure.timers.schedule(queue, actor.id_token, actor.run.number, index, due) for index, due in dues))
        tenure.saw(max(placed))
        actor.alarms.scheduled(unscheduled)
        faults.reach("after_schedule")
    await actor.signals.store()
    if actor.updates:
        actor.held += actor.updates.refuse_early(machine)
    if actor.dirty_since is not None or actor.state_wanted or actor.doubtful:
        await _put_state(actor, machine)
    actor.doubtful = False
    actor.run.history.rest()
    if actor.run.told:
        await engine.lifecycle.settled(actor.run.told)
    held, actor.held = actor.held, []
    actor.ack(held)
    tenure.actors.note_idle(actor)


async def _put_state(actor: Actor, machine: Machine) -> None:
    tenure, waits = actor.tenure, actor.by_id.unregistered(machine)
    answers = tenure.waits.register(waits) if waits else []
    try:
        await tenure.states.put(running_record(machine, actor.run.seq, actor.engine.worker_id))
    finally:
        if answers:
            await tenure.waits.registered(answers)
    actor.by_id.registered(waits)
    actor.dirty_since, actor.state_wanted = None, False
    faults.reach("after_state")


async def _rest_closed(actor: Actor) -> None:
    """The run has ended: whoever waits is told, then its commands are acked."""
    run, engine, tenure = actor.run, actor.engine, actor.tenure
    newly, before = not run.told_closing, actor.machine is None
    if not run.told_closing and run.info is not None:
        await tenure.outbox.tell_closing(run.info, run.closing, run.closed_children)
        faults.reach("after_notice")
        if actor.machine is not None or await _record_is_behind(actor):
            await tenure.states.put(closed_record(run.info, run.closing, run.seq, engine.worker_id, await _data_at_end(actor)))
        faults.reach("after_state")
        run.told_closing = True
        if actor.doubtful or actor.machine is None:
            timers = tenure.timers.cancel_all(engine.queue_token, actor.id_token, tenure.position + 1)
            if actor.mailbox:  # perhaps the start of a run that will have timers of its own
                await timers
            else:
                engine.background(timers)
    actor.held += actor.signals.discard()
    if actor.updates:
        actor.held += actor.updates.end(run.closing)
    if run.told:
        await engine.lifecycle.settled(run.told)
    held, actor.held = actor.held, []
    actor.ack(held)
    if newly and run.seq > 1 and run.history.fits:
        tenure.compaction.add(Closed(actor.id_token, run.seq, run.position if run.is_whole else 0))
    if not actor.mailbox:
        if before or _may_have_expired(actor):
            engine.background(revisit(tenure, actor.id_token, actor.newest))
        actor.drop()


def _may_have_expired(actor: Actor) -> bool:
    """Whether so much time has gone since the end that the janitor may have come while a command was un-acked, and passed it over."""
    expire = _kept(actor)
    return expire is not None and now_ms() - actor.run.closing.at > expire - EXPIRY_MARGIN_MS


def _kept(actor: Actor) -> int | None:
    """How long the record of a run that has ended is kept, ms; None for ever."""
    closing, info = actor.run.closing, actor.run.info
    return closing.expire if isinstance(closing, ev.Terminated) else info.expire if info is not None else None


async def _data_at_end(actor: Actor) -> UserData | None:
    """What the run told about itself last; a run that is not in memory any more is replayed for it, where that is possible."""
    if actor.machine is not None:
        return actor.machine.data
    try:
        machine = await replay_end(actor)
    except (NondeterminismError, CannotGoOnError) as error:
        log.warning("the user data of workflow %s cannot be told any more: %s", actor.workflow_id, error)
        return None
    data = None if machine is None else machine.data
    if machine is not None:
        machine.release()
    return data


async def _record_is_behind(actor: Actor) -> bool:
    """For a repeated end: False if this run's record was written, or was written and has expired since.

    An expired record leaves a marker, which stays while a command of the id waits. One that came before this run's record can have expired is
    an earlier run's, and where there may have been one that is not sure even later: then the record is written again.
    """
    run = actor.run
    newest = await actor.tenure.states.newest(actor.engine.queue_token, actor.id_token)
    if newest is None:
        return True
    if not newest.data:
        expire = _kept(actor)
        return expire is None or run.may_follow_another or from_iso(newest.time) < from_iso(run.stored) + expire - CLOCKS_APART
    record = decode_state(newest.data)
    return record is None or not record.closed or record.run_id != str(run.number)
