"""Steps 6 and 7 of a run that has ended: report the end to all that wait for it, write the record, ack the commands."""

from __future__ import annotations

import logging

from jetflow.core import events as ev
from jetflow.core.data import UserData
from jetflow.core.operation import RunInfo
from jetflow.core.times import from_iso
from jetflow.engine import faults
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.expiring import bury_expired
from jetflow.engine.turn.logs import fields_of
from jetflow.engine.turn.records import closed_record
from jetflow.engine.turn.replaying import replay_end
from jetflow.engine.turn.run import CannotGoOnError, Run
from jetflow.engine.upkeep.compaction import Closed
from jetflow.errors import NondeterminismError
from jetflow.protocol.record import decode_state

log: logging.Logger = logging.getLogger("jetflow.worker")

CLOCKS_APART = 100
"""Milliseconds by which the clocks of a cluster's servers may differ."""


async def rest_closed(actor: Actor) -> None:
    """See the module. Then compact the run, and drop the workflow from memory unless more commands wait."""
    run, tenure = actor.run, actor.tenure
    newly = not run.told_closing
    if newly and run.info is not None:
        if actor.signals.has_any:
            await bury_expired(actor)
        await _tell(actor, run.info)
    actor.mailbox.hold_all(actor.signals.discard())
    if actor.updates:
        actor.mailbox.hold_all(actor.updates.end(run.closing))
    if run.told:
        await actor.services.lifecycle.settled(run.told)
    actor.mailbox.release()
    if newly and run.seq > 1 and run.history.fits:
        tenure.compaction.add(Closed(actor.id_token, run.seq, run.position if run.is_whole else 0))
    if not actor.mailbox.waiting:
        actor.drop()


async def _tell(actor: Actor, info: RunInfo) -> None:
    """Notify parent and children, write the state record, and remove the timers that may be left."""
    run, tenure, context = actor.run, actor.tenure, actor.context
    await tenure.outbox.tell_closing(info, run.closing, run.closed_children)
    faults.reach("after_notice")
    if actor.machine is not None or await _record_is_behind(actor):
        await tenure.states.put(closed_record(info, run.closing, run.seq, context.worker_id, await _data_at_end(actor)))
    faults.reach("after_state")
    run.end_told()
    if actor.doubtful or actor.machine is None:
        timers = tenure.timers.cancel_all(context.queue_token, actor.id_token, tenure.position + 1)
        if actor.mailbox.waiting:  # perhaps the start of a run that will have timers of its own
            await timers
        else:
            context.background.tidy(timers)


def _kept(run: Run) -> int | None:
    """Return how long the record of an ended run stays, in ms; None for forever."""
    closing, info = run.closing, run.info
    return closing.kept_ms if isinstance(closing, ev.Terminated) else info.expire if info is not None else None


async def _data_at_end(actor: Actor) -> UserData | None:
    """Return the run's last user data. Replay the run for it if it is no longer in memory. Return None if no replay is possible."""
    if actor.machine is not None:
        return actor.machine.data
    try:
        machine = await replay_end(actor)
    except (NondeterminismError, CannotGoOnError) as error:
        log.warning(
            "the record of workflow %s is written without user data, since the run cannot be replayed: %s",
            actor.workflow_id, error, extra=fields_of(actor),
        )  # fmt: skip
        return None
    data = None if machine is None else machine.data
    if machine is not None:
        machine.release()
    return data


async def _record_is_behind(actor: Actor) -> bool:
    """Return whether to write the record of a run whose end is reported again. False if the record is there, or has expired.

    An expired record leaves a marker, which stays while a command of the id waits. A marker that came before this run's record can have expired
    belongs to an earlier run. If there may have been an earlier run, no marker is proof, and the record is written again.
    """
    run = actor.run
    newest = await actor.tenure.states.newest(actor.context.queue_token, actor.id_token)
    if newest is None:
        return True
    if not newest.data:
        expire = _kept(run)
        return expire is None or run.may_follow_another or from_iso(newest.time) < from_iso(run.stored) + expire - CLOCKS_APART
    record = decode_state(newest.data)
    return record is None or not record.closed or record.run_id != str(run.number)
