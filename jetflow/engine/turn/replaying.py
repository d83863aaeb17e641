"""Replays a run that has ended."""

from __future__ import annotations

from jetflow.core.machine import Machine, last_generation
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.code import load


async def replay_end(actor: Actor) -> Machine | None:
    """Return the machine of an ended run, replayed to its end, or None if its timeline is gone. The replay has no effects.

    Raises:
        NondeterminismError, CannotGoOnError: this worker does not have the code that the run ran with.
    """
    timeline, queue_token = actor.tenure.timeline, actor.context.queue_token
    last = await timeline.last(queue_token, actor.id_token)
    if last is None:
        return None
    history = last_generation([entry.commit for entry in await timeline.run(queue_token, actor.id_token, last)])
    machine = load(actor.services, actor.info_of(history[0][0]))
    machine.replay(history)
    return machine
