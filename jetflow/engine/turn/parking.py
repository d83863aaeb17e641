"""A workflow that cannot go on here: it waits, visibly, for a worker that can carry it on, or for somebody to end it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timeline import UnreadableTimelineError
from jetflow.core.operation import RunInfo
from jetflow.engine.turn.ending import end_unseen
from jetflow.engine.turn.records import parked_record
from jetflow.engine.turn.run import BROKER_TROUBLE
from jetflow.errors import BrokerError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import StartCommand

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor

log: logging.Logger = logging.getLogger("jetflow.worker")


async def give_up(actor: Actor, reason: str, message: str, info: RunInfo | None) -> None:
    """Its code cannot go on here: it is parked, unless it is to be ended anyway."""
    try:
        if not await end_unseen(actor):
            await _park(actor, reason, message, info)
            return
    except TenureOverError:
        raise
    except UnreadableTimelineError:
        await _park(actor, reason, message, info)
        return
    except BrokerError as error:
        log.warning("workflow %s could not be terminated yet: %s", actor.workflow_id, error)
        await asyncio.sleep(BROKER_TROUBLE)
    actor.start_over()


def unpark(actor: Actor) -> None:
    """A parked workflow is looked at again."""
    actor.parked = False
    actor.tenure.actors.take_credit(actor)
    actor.start_over()


async def _park(actor: Actor, reason: str, message: str, info: RunInfo | None) -> None:
    """It cannot go on here. Its commands stay un-acked for a worker that can; the state says why."""
    actor.parked = True
    if actor.questions is not None:
        actor.questions.refuse(f"the workflow is parked: {reason}: {message}")
    log.error("workflow %s is parked: %s: %s", actor.workflow_id, reason, message)
    for step in list(actor.steps.values()):
        actor.engine.inflight.cancel(step)
    actor.alarms.clear()
    if actor.machine is not None:
        actor.machine.dispose()
        actor.machine = None
    actor.tenure.actors.free_credit(actor)
    await _show(actor, info or _info_of_pending_start(actor), reason, message)


async def _show(actor: Actor, info: RunInfo | None, reason: str, message: str) -> None:
    """Its state says what is wrong."""
    engine, states = actor.engine, actor.tenure.states
    try:
        before = await states.get(engine.queue_token, actor.id_token, fresh=True)
        if info is not None or before is not None:
            await states.put(parked_record(info, before, actor.run.seq, engine.worker_id, reason, message))
    except TenureOverError:
        raise
    except BrokerError as error:
        log.warning("workflow %s is parked, and its state could not be written: %s", actor.workflow_id, error)


def _info_of_pending_start(actor: Actor) -> RunInfo | None:
    """For a run that failed before it began."""
    for seq, command in sorted(actor.unacked.items()):
        if isinstance(command.payload, StartCommand):
            return RunInfo(actor.workflow_id, actor.engine.task_queue, command.payload.workflow_type, seq, started_at=now_ms())
    return None
