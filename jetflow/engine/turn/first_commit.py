"""Keeping earlier owners from writing a run's first commit, whose condition is not the fence but that there is no run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jetflow.engine.commands import Command

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor


async def guard(actor: Actor, start: Command) -> None:
    """Sees to it that no earlier tenure can write a first commit for a start. That it has written one just before shows in the timeline, if it
    is read afterwards.
    """
    await actor.tenure.timeline.guard(actor.engine.queue_token, actor.id_token)
    actor.run.guarded.add(start.seq)
