"""Signals are applied: kept until somebody waits for them, then given to the code, oldest first."""

from __future__ import annotations

from jetflow.broker.stores.signals import EarlySignal
from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.engine import faults
from jetflow.engine.commands import Command
from jetflow.engine.signals.buffer import early_signal, store_early
from jetflow.engine.signals.burying import bury
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.starting import is_taken
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import RoutedSignal, SignalCommand


async def on_signal(actor: Actor, command: Command, signal: SignalCommand) -> bool:
    """Keep a signal. Return True if its command is to be acked with what it leads to."""
    machine = actor.machine
    if actor.run.closing is not None and (command.seq <= actor.run.cause or await is_taken(actor)):
        return True  # the workflow has ended: nobody will ever wait for it
    if machine is None:
        await _keep_for_next_start(actor, early_signal(command, signal))
        actor.mailbox.ack(command)
        return False
    if command.seq < actor.run.number:
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
    """Give a signal by id to the wait that it was routed to, or back. Return True if its command is to be acked with what it leads to."""
    if command.seq < actor.run.number:
        await actor.by_id.give_back(command, routed)
        actor.mailbox.ack(command)
        return False
    event = await actor.by_id.on_command(command, routed, actor.machine, actor.run.number)
    if event is not None:
        actor.feed(event)
    return True


async def match_signals(actor: Actor) -> None:
    """Give the signals that are kept to the waits they are for, until no wait gets another one."""
    machine = actor.machine
    if machine is None or not machine.waits:
        return
    await actor.signals.load(machine.consumed)
    progress = True
    while progress and actor.run.continued is None:
        progress = False
        for name in actor.signals.waited_for(machine.waits):
            progress = _give(actor, machine, name) or progress


def _give(actor: Actor, machine: Machine, name: str) -> bool:
    """Give the oldest signal of a name to the wait that is first. Return False if there is no such signal, or no such wait any more."""
    operation = machine.waiter(name)
    if operation is None:
        return False
    item = actor.signals.take(name, operation.event.at)
    if item is None:
        return False
    if item.command is not None:
        actor.mailbox.hold(item.command)
    got = item.signal
    if not machine.is_repeat(got.signal, got.sender, got.number):
        actor.feed(ev.Signaled(operation.index, now_ms(), got.signal, got.seq, got.data, got.sender, got.number))
    return True
