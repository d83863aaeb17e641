"""Handles expired signals in a turn, after the waits have taken theirs."""

from __future__ import annotations

from jetflow.broker.stores.signals import CANCEL
from jetflow.core.machine import Machine
from jetflow.engine.signals.burying import bury
from jetflow.engine.signals.lapses import MARGIN_MS
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.starting import is_taken
from jetflow.protocol.clock import now_ms


async def look_at_expired(actor: Actor) -> None:
    """Find the signals that no wait took in time. Those of a live run become dead letters after the turn's commit."""
    machine = actor.machine
    if actor.run.continued is not None or actor.steps.outcomes:
        return  # leave it to the next turn: a wait may have begun before the signals expired
    if machine is not None and machine.closing is None:
        await actor.signals.load(machine.consumed)
        actor.signals.lapse(now_ms() - MARGIN_MS)
    elif machine is None:
        await _without_code(actor)
    actor.signals.looked()


async def bury_expired(actor: Actor, machine: Machine) -> None:
    """Make dead letters of the signals that had expired when the run ended. The others end with the run."""
    await actor.signals.load(machine.consumed)
    actor.signals.lapse(now_ms() - MARGIN_MS)
    if actor.signals.lapsed:
        await actor.signals.bury()


async def _without_code(actor: Actor) -> None:
    """Make dead letters of the expired signals of a workflow that was never started. Remove those of a run that has ended."""
    tenure, queue_token, id_token = actor.tenure, actor.context.queue_token, actor.id_token
    ended = actor.run.closing is not None
    if ended and not await is_taken(actor):  # the janitor is about to remove the rest of the run
        tenure.lapses.again(id_token, now_ms())
        return
    later: list[int] = []
    for name_token, signal, position in await tenure.signals.load(queue_token, id_token):
        if name_token == CANCEL:
            continue
        if signal.expires > now_ms() - MARGIN_MS:
            later.append(signal.expires)
            continue
        if not ended:
            await bury(tenure, id_token, signal)
        await tenure.signals.remove(queue_token, id_token, name_token, signal.seq, position)
    if later:
        tenure.lapses.note(id_token, min(later))
