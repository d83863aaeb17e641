"""Applies the engine's own commands: a timer of the broker, a child's notice, the outcome of a remote activity."""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.engine.activities.dispatch import event_of
from jetflow.engine.commands import Command
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.following import forget_alarm, log_attempt
from jetflow.errors import Failure, Kind
from jetflow.protocol.clock import now_ms
from jetflow.protocol.commands import ChildNotice, TaskOutcome, TimerCommand


def on_timer(actor: Actor, command: Command, timer: TimerCommand) -> None:
    """Fire a timer that is due by the broker's clock, whatever the local clock says."""
    due = actor.alarms.due_at(timer.index)
    if timer.run == actor.run.number and due is not None and due <= min(timer.due, command.delivery.stored_ms):
        actor.alarms.hasten(timer.index)


def on_child(actor: Actor, command: Command, notice: ChildNotice) -> None:
    """Pass the notice of a child that the code waits for to the code."""
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
        actor.feed(ev.ChildFailed(index=index, at=at, failure=notice.failure or Failure("UnknownFailure", kind=Kind.ERROR)))


def on_task_outcome(actor: Actor, index: int, outcome: TaskOutcome) -> None:
    """Pass the outcome of an attempt to the code, unless it is a repeat or comes too late."""
    machine = actor.machine
    operation = machine.pending.get(index) if machine is not None else None
    if machine is None or operation is None or not operation.remote:
        return
    if outcome.run != actor.run.number or outcome.attempt != operation.attempt + 1:
        return
    event = event_of(outcome, operation)
    if not isinstance(event, ev.ActivityCompleted):
        log_attempt(actor, operation, event)
    actor.feed(event)
    if index not in machine.pending:
        forget_alarm(actor, index)
