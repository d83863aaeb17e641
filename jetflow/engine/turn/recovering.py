"""Handles a failed turn: the workflow is rebuilt from its timeline, or parked."""

from __future__ import annotations

import asyncio
import logging

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timeline import UnreadableTimelineError
from jetflow.core.recorder import UnfitResultError
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.committing import commit
from jetflow.engine.turn.logs import fields_of
from jetflow.engine.turn.parking import give_up
from jetflow.engine.turn.run import BROKER_TROUBLE, LOOK_AGAIN, CannotGoOnError
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError, NondeterminismError

log: logging.Logger = logging.getLogger("jetflow.worker")


async def recover(actor: Actor, error: Exception) -> None:
    """Rebuild or park a workflow after an error in its turn. Call it in the error's ``except`` block.

    Raises:
        TenureOverError: another worker owns the workflow by now.
    """
    match error:
        case UnreadableTimelineError():
            await give_up(actor, "UnreadableTimeline", str(error), actor.run.info)
        case ConflictError():
            log.debug("workflow %s is rebuilt: %s", actor.workflow_id, error, extra=fields_of(actor))
            actor.start_over()
        case BrokerUnavailableError():
            log.debug("workflow %s is rebuilt: %s", actor.workflow_id, error, extra=fields_of(actor))
            actor.start_over()
            await asyncio.sleep(LOOK_AGAIN)
        case NondeterminismError():
            await give_up(actor, "NondeterminismError", str(error), actor.run.info)
        case UnfitResultError():
            await _park_with_result(actor, error)
        case CannotGoOnError():
            await give_up(actor, error.reason, str(error), error.info)
        case BrokerError():
            log.warning("workflow %s tries again: %s", actor.workflow_id, error, extra=fields_of(actor))
            actor.start_over()
            await asyncio.sleep(BROKER_TROUBLE)
        case _:
            log.exception("workflow %s cannot go on", actor.workflow_id, extra=fields_of(actor))
            actor.context.background.failures[f"turn: {type(error).__name__}"] += 1
            await give_up(actor, type(error).__name__, str(error), actor.run.info)


async def _park_with_result(actor: Actor, error: UnfitResultError) -> None:
    """Commit a result that the code cannot take, so that it is not lost, and wait for code that can."""
    try:
        if actor.run.loaded:
            await commit(actor, unfinished=True)
    except TenureOverError:
        raise
    except Exception as problem:
        await recover(actor, problem)
        return
    message = f"{error}. The type changed under a running workflow: bring the old type back, or give the new one a default"
    await give_up(actor, "UnfitResult", message, actor.run.info)
