"""Step 3: commands, outcomes of activities and timers are given to the workflow's code, which runs until it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from jetflow.broker.stores.signals import CANCEL, EarlySignal
from jetflow.core import events as ev
from jetflow.core.failures import Failure
from jetflow.engine import faults
from jetflow.engine.activities.dispatch import closes_at, event_of, out_of_time
from jetflow.engine.calls.updates import Updates
from jetflow.engine.commands import Command
from jetflow.engine.signals.buffer import early_signal, store_early
from jetflow.engine.turn.children import all_children
from jetflow.engine.turn.effects import forget_alarm, launch, queue
from jetflow.engine.turn.ending import is_meant, terminated
from jetflow.engine.turn.starting import begin_cancelled, end_generation, is_taken, makes_way, next_generation, on_start
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import (
    DEFAULT_EXPIRE_MS,
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

if TYPE_CHECKING:
    from jetflow.engine.turn.actor import Actor

_GIVEN_AT_ONCE = (SignalCommand, StartCommand)

BATCH = 100
"""Commands applied in one commit at most."""


async def apply(actor: Actor) -> None:
    """Everything that has come in since the last turn, in the order of the inbox."""
    assert actor.run.loaded, "a workflow is applied to that was not looked at"
    assert not actor.gone, "a workflow is applied to that was taken away"
    if actor.run.continued is not None:
        await end_generation(actor)
        next_generation(actor, actor.run.continued)
        assert actor.machine is not None
        await actor.signals.load(actor.machine.consumed)
        begin_cancelled(actor)
    applied = 0
    while actor.mailbox and applied < BATCH and actor.run.continued is None:
        if makes_way(actor, actor.mailbox[0]):
            break
        command = actor.mailbox.popleft()
        applied += 1
        if await _apply_command(actor, command):
            actor.held.append(command)
        if type(command.payload) in _GIVEN_AT_ONCE:  # before what came after them in the inbox
            await _match_signals(actor)
    while actor.outcomes and actor.run.continued is None and actor.machine is not None:
        outcome = actor.outcomes.popleft()
        actor.uncommitted.append(outcome)
        actor.feed(outcome)
    _fire_due(actor)
    await _match_signals(actor)
    if actor.updates and actor.machine is not None:
        actor.held += actor.updates.match(actor.machine)


async def _apply_command(actor: Actor, command: Command) -> bool:
    """Applies one command; True if it is to be acked with what it leads to, False if it was seen to otherwise.

    What is older than the run is acked at once, so that the start is always the first of those held.
    """
    payload = command.payload
    if command.seq <= actor.run.cause or isinstance(payload, TimerCommand):
        actor.run.told_closing = False  # perhaps a repeat: whoever waits for the end is told again
    if isinstance(payload, StartCommand):
        return await on_start(actor, command, payload)
    if isinstance(payload, SignalCommand):
        return await _on_signal(actor, command, payload)
    if isinstance(payload, UpdateCommand):
        return await _on_update(actor, command, payload)
    if isinstance(payload, RoutedSignal):
        return await _on_routed(actor, command, payload)
    by_hand = isinstance(payload, (CancelCommand, TerminateCommand))
    if actor.machine is None and (actor.run.closing is None or (by_hand and not await is_taken(actor))):
        await _on_stranger(actor, command)
        actor.tenure.ack(command)
        return False
    if command.seq < actor.run.number:
        actor.tenure.ack(command)  # a repeat of what was seen to before this run
        return False
    if isinstance(payload, TimerCommand):
        _on_timer(actor, command, payload)
    elif isinstance(payload, ChildNotice):
        _on_child(actor, command, payload)
    elif isinstance(payload, TaskOutcome):
        _on_task_outcome(actor, command.index, payload)
    elif is_meant(actor, payload):
        if isinstance(payload, CancelCommand):
            actor.feed(ev.CancelRequested(at=now_ms(), reason=payload.reason))
        elif actor.run.closing is None:
            actor.feed(terminated(payload))
        elif payload.descend and actor.run.info is not None:  # it has ended, and what it started may go on
            await actor.tenure.outbox.end_children(actor.run.info, await all_children(actor), descend=True)
    return True


async def _on_signal(actor: Actor, command: Command, signal: SignalCommand) -> bool:
    if actor.run.closing is not None and await is_taken(actor):
        return True  # the workflow has ended: nobody will ever wait for it
    if actor.machine is None:
        await store_early(actor.tenure, actor.id_token, early_signal(command, signal), now_ms())
        faults.reach("after_buffer")
        actor.tenure.ack(command)
        return False
    if command.seq < actor.run.number:
        actor.tenure.ack(command)  # a repeat: it is in the bucket, or was there
        return False
    if command.seq <= actor.machine.consumed.get(signal.name, 0) or actor.machine.is_repeat(signal.name, signal.sender, signal.number):
        return True  # a repeat
    await actor.signals.load(actor.machine.consumed)
    return not actor.signals.add(command, signal)


async def _on_routed(actor: Actor, command: Command, routed: RoutedSignal) -> bool:
    if command.seq < actor.run.number:
        await actor.by_id.give_back(command, routed)
        actor.tenure.ack(command)
        return False
    event = await actor.by_id.on_command(command, routed, actor.machine, actor.run.number)
    if event is not None:
        actor.feed(event)
    return True


async def _on_update(actor: Actor, command: Command, update: UpdateCommand) -> bool:
    updates = actor.updates = actor.updates or Updates(actor, actor.feed)
    if actor.machine is None or command.seq < actor.run.number:
        await updates.on_ended(command, update, actor.run.closing if actor.machine is None else ev.Terminated(at=0, reason=""))
        actor.tenure.ack(command)
        return False
    actor.held += updates.match(actor.machine)
    return updates.on_command(command, update, actor.machine)


async def _on_stranger(actor: Actor, command: Command) -> None:
    """A command for a workflow that was never started, or whose record is long gone."""
    payload = command.payload
    if isinstance(payload, (CancelCommand, TerminateCommand)) and payload.parent is not None:
        return  # a parent's child that never began, or is long gone
    if isinstance(payload, (CancelCommand, TerminateCommand)) and await actor.tenure.timers.take_start_back(
        actor.engine.queue_token, actor.id_token, command.seq
    ):
        return
    if isinstance(payload, CancelCommand):
        reason = msgspec.Raw(msgspec.json.encode(payload.reason))
        expires = command.delivery.stored_ms + DEFAULT_EXPIRE_MS
        await store_early(actor.tenure, actor.id_token, EarlySignal("cancel", command.seq, expires, reason), now_ms(), CANCEL)
        faults.reach("after_buffer")
    elif isinstance(payload, TerminateCommand):
        await actor.tenure.dead_letter(command.delivery, f"there is no workflow {actor.workflow_id!r} to terminate")


def _on_timer(actor: Actor, command: Command, timer: TimerCommand) -> None:
    due = actor.alarms.due_at(timer.index)
    if timer.run == actor.run.number and due is not None and due <= min(timer.due, command.delivery.stored_ms):
        actor.alarms.hasten(timer.index)  # due by the broker's clock, whatever ours says


def _on_child(actor: Actor, command: Command, notice: ChildNotice) -> None:
    operation = actor.machine.pending.get(command.index) if actor.machine is not None else None
    if operation is None or notice.run != actor.run.number:
        return
    if not isinstance(operation.event, ev.ChildStarted) or operation.event.workflow_id != notice.child:
        return
    at, index = now_ms(), command.index
    if notice.outcome == "accepted":
        actor.feed(ev.ChildAccepted(index=index, at=at, run=notice.child_run))
    elif notice.outcome == "completed":
        actor.feed(ev.ChildCompleted(index=index, at=at, result=notice.result))
    else:
        actor.feed(ev.ChildFailed(index=index, at=at, failure=notice.failure or Failure("UnknownFailure")))


def _on_task_outcome(actor: Actor, index: int, outcome: TaskOutcome) -> None:
    operation = actor.machine.pending.get(index) if actor.machine is not None else None
    if operation is None or not operation.remote or outcome.run != actor.run.number or outcome.attempt != operation.attempt + 1:
        return  # a repeat, or too late
    actor.feed(event_of(outcome, operation))
    if index not in actor.machine.pending:  # type: ignore[union-attr]
        forget_alarm(actor, index)


def _fire_due(actor: Actor) -> None:
    machine = actor.machine
    if machine is None or actor.run.continued is not None or actor.alarms.next_due() is None:
        return
    now = now_ms()
    uncommitted = {outcome.index for outcome in actor.uncommitted}
    for index in actor.alarms.pop_due(now):
        operation = machine.pending.get(index)
        if operation is None:
            continue
        if index in uncommitted:  # the next attempt is due already, and begins once the outcome of the one before is committed
            actor.alarms.watch(index, operation.due or now)
            continue
        at = max(now, operation.due or 0)
        operation.due = None
        if isinstance(operation.event, ev.TimerStarted):
            actor.feed(ev.TimerFired(index=index, at=at))
        elif isinstance(operation.event, ev.WaitStarted):
            actor.feed(ev.WaitTimedOut(index=index, at=at))
        elif not operation.remote:
            launch(actor, operation)
        elif (closes := closes_at(operation)) is not None and closes <= now:
            actor.feed(out_of_time(operation, at))
            actor.engine.dispatch.end(actor.tenure, machine.info, [operation], closed=False)
        else:
            queue(actor, operation, again=True)


async def _match_signals(actor: Actor) -> None:
    """Gives buffered signals to the waits they are for, oldest first."""
    machine = actor.machine
    if machine is None or not machine.waits:
        return
    await actor.signals.load(machine.consumed)
    progress = True
    while progress and actor.run.continued is None:
        progress = False
        for name in actor.signals.waited_for(machine.waits):
            operation = machine.waiter(name)
            if operation is None:
                continue
            item, expired = actor.signals.take(name, operation.event.at)
            actor.held += expired
            if item is None:
                continue
            progress = True
            if item.command is not None:
                actor.held.append(item.command)
            got = item.signal
            if machine.is_repeat(got.signal, got.sender, got.number):
                continue
            actor.feed(ev.Signaled(operation.index, now_ms(), got.signal, got.seq, got.data, got.sender, got.number))
