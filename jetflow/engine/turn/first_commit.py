"""Keeping earlier owners from writing a run's first commit, whose condition is not the fence but that there is no run."""

from __future__ import annotations

from jetflow.engine.commands import Command
from jetflow.engine.turn.actor import Actor


async def guard(actor: Actor, start: Command) -> None:
    """Sees to it that no earlier tenure can write a first commit for a start. That it has written one just before shows in the timeline, if it
    is read afterwards.
    """
    await actor.tenure.timeline.guard(actor.context.queue_token, actor.id_token)
    actor.run.guard(start.seq)
