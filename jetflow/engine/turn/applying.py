"""Step 3: pass commands, outcomes of activities and timers to the workflow's code, which runs until it waits."""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.engine.commands import Command
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.addressing import is_for_another, is_meant
from jetflow.engine.turn.children import all_children
from jetflow.engine.turn.ending import terminated
from jetflow.engine.turn.firing import fire_due
from jetflow.engine.turn.matching import match
from jetflow.engine.turn.replies import on_child, on_task_outcome, on_timer
from jetflow.engine.turn.signalling import on_routed, on_signal
from jetflow.engine.turn.starting import (
    begin_cancelled,
    cancel,
    end_generation,
    is_taken,
    kept_after_end,
    makes_way,
    next_generation,
    on_start,
)
from jetflow.engine.turn.strangers import on_stranger, refuse
from jetflow.engine.turn.updating import on_update
from jetflow.protocol.commands import (
    CancelCommand,
    ChildNotice,
    RoutedSignal,
    SignalCommand,
    StartCommand,
    TaskOutcome,
    TerminateCommand,
    TimerCommand,
    UpdateCommand,
)

BATCH = 100
"""The most commands that one commit applies."""


async def apply(actor: Actor) -> None:
    """Pass everything that has arrived since the last turn to the code, in the order of the inbox."""
    assert actor.run.loaded, "a command is applied before the timeline was read"
    assert not actor.gone, "a command is applied to an actor that has left memory"
    run, mailbox, steps = actor.run, actor.mailbox, actor.steps
    if run.continued is not None:
        await _go_on_as_new(actor, run.continued)
    applied = 0
    while mailbox.waiting and applied < BATCH and run.continued is None:
        if makes_way(actor, mailbox.waiting[0]):
            break
        command = mailbox.next()
        applied += 1
        if await _apply_command(actor, command):
            mailbox.hold(command)
        if actor.machine is not None and (actor.machine.waits or actor.updates):  # before later commands of the inbox
            await match(actor)
    while steps.outcomes and run.continued is None and actor.machine is not None:
        actor.feed(steps.take_outcome())
    fire_due(actor)
    await match(actor)


async def _go_on_as_new(actor: Actor, closing: ev.ContinuedAsNew) -> None:
    """Begin the next generation: the last commit ended the one before."""
    await end_generation(actor)
    machine = next_generation(actor, closing)
    await actor.signals.load(machine.consumed)
    begin_cancelled(actor)


async def _apply_command(actor: Actor, command: Command) -> bool:
    """Apply one command. Return True if it must be acked with its consequences, False if nothing more follows from the return.

    A command that is older than the run is acked at once, so that the start is always the first held command.
    """
    payload, run = command.payload, actor.run
    if command.seq <= run.cause or isinstance(payload, TimerCommand):
        run.tell_end_again()  # perhaps a repeat: report the end again
    if isinstance(payload, StartCommand):
        return await on_start(actor, command, payload)
    if isinstance(payload, SignalCommand):
        return await on_signal(actor, command, payload)
    if isinstance(payload, UpdateCommand):
        return await on_update(actor, command, payload)
    if isinstance(payload, RoutedSignal):
        return await on_routed(actor, command, payload)
    by_hand = isinstance(payload, (CancelCommand, TerminateCommand))
    if by_hand and payload.parent is None and is_for_another(run, command, payload):
        await refuse(actor, command, payload)
        return False
    if actor.machine is None and (run.closing is None or (by_hand and not await is_taken(actor))):
        await on_stranger(actor, command)
        actor.mailbox.ack(command)
        return False
    if command.seq < run.number:
        actor.mailbox.ack(command)  # a repeat of a command that was done before this run
        return False
    if isinstance(payload, TimerCommand):
        on_timer(actor, command, payload)
    elif isinstance(payload, ChildNotice):
        on_child(actor, command, payload)
    elif isinstance(payload, TaskOutcome):
        on_task_outcome(actor, command.index, payload)
    elif is_meant(run, payload):
        await _on_end(actor, payload)
    return True


async def _on_end(actor: Actor, payload: CancelCommand | TerminateCommand) -> None:
    """Cancel or terminate the run. If the run has ended, a terminate with ``descend`` reaches its children."""
    if isinstance(payload, CancelCommand):
        cancel(actor, payload.reason)
    elif actor.run.closing is None:
        actor.feed(terminated(payload, kept_after_end(actor)))
    elif payload.descend and actor.run.info is not None:  # the run has ended, but its children may be running
        await actor.tenure.outbox.end_children(actor.run.info, await all_children(actor), descend=True)
