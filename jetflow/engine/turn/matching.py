"""Passes signals and updates to the code that came before it waited for them, or had a handler, in the order of the inbox."""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.engine.turn.actor import Actor
from jetflow.protocol.clock import now_ms


async def match(actor: Actor) -> None:
    """Pass on what the code can take by now, the oldest first, until nothing is left."""
    machine, signals, updates = actor.machine, actor.signals, actor.updates
    while machine is not None and actor.run.continued is None and machine.closing is None:
        name = None
        if machine.waits:
            await signals.load(machine.consumed)
            name = signals.oldest_for(machine.waits)
        update = updates.oldest_for(machine) if updates else None
        if name is not None and (update is None or signals.oldest(name) < update):
            _give(actor, machine, name)
        elif updates is not None and update is not None:
            actor.mailbox.hold(updates.take(update, machine))
        else:
            return


def _give(actor: Actor, machine: Machine, name: str) -> None:
    """Pass the oldest signal of a name to the first wait for it."""
    operation = machine.waiter(name)
    assert operation is not None, f"no wait for signal {name!r}"
    item = actor.signals.take(name, operation.event.at)
    if item is None:
        return
    if item.command is not None:
        actor.mailbox.hold(item.command)
    got = item.signal
    if not machine.is_repeat(got.signal, got.sender, got.number):
        actor.feed(ev.Signaled(operation.index, now_ms(), got.signal, got.seq, got.data, got.sender, got.number))
