"""Applies signals: buffers them until a wait is there."""

from __future__ import annotations

from jetflow.broker.stores.signals import EarlySignal
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.signals.buffer import early_signal, store_early
from jetflow.engine.signals.burying import bury
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import is_for_another
from jetflow.engine.turn.starting import is_taken
from jetflow.engine.turn.strangers import refuse
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import RoutedSignal, SignalCommand


async def on_signal(actor: Actor, command: Command, signal: SignalCommand) -> bool:
    """Buffer a signal. Return True if its command must be acked with its consequences."""
    machine, run = actor.machine, actor.run
    if is_for_another(run, command, signal):
        await refuse(actor, command, signal)
        return False
    if run.closing is not None and (command.seq <= run.cause or await is_taken(actor)):
        early = early_signal(command, signal)
        if machine is None and run.has_missed(early.seq, early.expires):
            await bury(actor.tenure, actor.id_token, early)
        return True  # the workflow has ended: no wait will come
    if machine is None and signal.run is not None:  # its run has ended, and the record has expired
        await refuse(actor, command, signal)
        return False
    if machine is None:
        await _keep_for_next_start(actor, early_signal(command, signal))
        actor.mailbox.ack(command)
        return False
    if command.seq < run.number:
        actor.mailbox.ack(command)  # a repeat: it is in the bucket, or was there
        return False
    if command.seq <= machine.consumed.get(signal.name, 0) or machine.is_repeat(signal.name, signal.sender, signal.number):
        return True  # a repeat
    await actor.signals.load(machine.consumed)
    return not actor.signals.add(command, signal)


async def _keep_for_next_start(actor: Actor, signal: EarlySignal) -> None:
    now = now_ms()
    if signal.expires <= now:
        await bury(actor.tenure, actor.id_token, signal)
        return
    await store_early(actor.tenure, actor.id_token, signal, now)
    faults.reach("after_buffer")
    actor.tenure.lapses.note(actor.id_token, signal.expires)


async def on_routed(actor: Actor, command: Command, routed: RoutedSignal) -> bool:
    """Pass a signal by id to its wait, or free its claim. Return True if its command must be acked with its consequences."""
    if command.seq < actor.run.number:
        await actor.by_id.give_back(command, routed)
        actor.mailbox.ack(command)
        return False
    event = await actor.by_id.on_command(command, routed, actor.machine, actor.run.number)
    if event is not None:
        actor.feed(event)
    return True
