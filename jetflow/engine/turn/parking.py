"""Parks a workflow that cannot continue on this worker: it waits for a worker that can continue it, or for a terminate."""

from __future__ import annotations

import asyncio
import logging

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timeline import UnreadableTimelineError
from jetflow.core.operation import RunInfo
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.ending import end_unseen
from jetflow.engine.turn.logs import fields_of
from jetflow.engine.turn.records import parked_record
from jetflow.engine.turn.run import BROKER_TROUBLE
from jetflow.errors import BrokerError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import StartCommand

log: logging.Logger = logging.getLogger("jetflow.worker")


async def give_up(actor: Actor, reason: str, message: str, info: RunInfo | None) -> None:
    """Park a workflow whose code cannot continue here, unless a waiting command ends it."""
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
        log.warning("workflow %s could not be terminated yet: %s", actor.workflow_id, error, extra=fields_of(actor))
        await asyncio.sleep(BROKER_TROUBLE)
    actor.start_over()


async def _park(actor: Actor, reason: str, message: str, info: RunInfo | None) -> None:
    """Park the workflow. Its commands stay un-acked for a worker that can continue it, and its state record says why."""
    info = info or _info_of_pending_start(actor)
    fields = fields_of(actor) if info is None else info.log_fields
    log.error("workflow %s is parked: %s: %s", actor.workflow_id, reason, message, extra=fields)
    actor.park(f"{reason}: {message}")
    await _show(actor, info, reason, message)


async def _show(actor: Actor, info: RunInfo | None, reason: str, message: str) -> None:
    """Write the reason into the workflow's state record."""
    context, states = actor.context, actor.tenure.states
    try:
        before = await states.get(context.queue_token, actor.id_token, fresh=True)
        if info is not None or before is not None:
            await states.put(parked_record(info, before, actor.run.seq, context.worker_id, reason, message))
    except TenureOverError:
        raise
    except BrokerError as error:
        log.warning("workflow %s is parked, and its state record could not be written: %s", actor.workflow_id, error, extra=fields_of(actor))


def _info_of_pending_start(actor: Actor) -> RunInfo | None:
    """Return what is known of a run that failed before it began."""
    for command in actor.mailbox.in_order():
        if isinstance(command.payload, StartCommand):
            return RunInfo(actor.workflow_id, actor.context.task_queue, command.payload.workflow_type, command.seq, started_at=now_ms())
    return None
