"""A run that has ended, looked back at."""

from __future__ import annotations

from jetflow.core.machine import Machine, last_generation
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.code import load


async def replay_end(actor: Actor) -> Machine | None:
    """Return the code of a run that has ended, at its end; None if its timeline is gone. None of its decisions is carried out.

    Raises:
        NondeterminismError, CannotGoOnError: this worker's code is not that run's.
    """
    timeline, queue_token = actor.tenure.timeline, actor.context.queue_token
    last = await timeline.last(queue_token, actor.id_token)
    if last is None:
        return None
    history = last_generation([entry.commit for entry in await timeline.run(queue_token, actor.id_token, last)])
    machine = load(actor.services, actor.info_of(history[0][0]))
    machine.replay(history)
    return machine
