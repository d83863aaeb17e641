"""Keeps earlier owners from writing a run's first commit, whose condition is not the fence but that there is no run."""

from __future__ import annotations

from jetflow.engine.commands import Command
from jetflow.engine.turn.actor import Actor


async def guard(actor: Actor, start: Command) -> None:
    """Prevent earlier tenures from writing a first commit for a start. Read the timeline afterwards: an earlier tenure may have written one just
    before.
    """
    await actor.tenure.timeline.guard(actor.context.queue_token, actor.id_token)
    actor.run.guard(start.seq)
