"""Handles operations that are due: timers fire, waits end, attempts begin, activities fail for good."""

from __future__ import annotations

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import Operation
from jetflow.engine.activities.dispatch import closes_at, out_of_time
from jetflow.engine.turn.actor import Actor
from jetflow.engine.turn.following import launch, log_attempt, queue
from jetflow.protocol.clock import now_ms


def fire_due(actor: Actor) -> None:
    """Handle every operation that is due."""
    machine = actor.machine
    if machine is None or actor.run.continued is not None or actor.alarms.next_due() is None:
        return
    now = now_ms()
    uncommitted = {outcome.index for outcome in actor.steps.uncommitted}
    for index in actor.alarms.pop_due(now):
        operation = machine.pending.get(index)
        if operation is None:
            continue
        if index in uncommitted:  # the next attempt is due, but begins only after the commit of the last outcome
            actor.alarms.watch(index, operation.due or now)
            continue
        _fire(actor, machine, operation, now)


def _fire(actor: Actor, machine: Machine, operation: Operation, now: int) -> None:
    index, at = operation.index, operation.fires(now)
    if isinstance(operation.event, ev.TimerStarted):
        actor.feed(ev.TimerFired(index=index, at=at))
    elif isinstance(operation.event, ev.WaitStarted):
        actor.feed(ev.WaitTimedOut(index=index, at=at))
    elif not operation.remote:
        launch(actor, operation)
    elif (closes := closes_at(operation)) is not None and closes <= now:
        failed = out_of_time(operation, at)
        log_attempt(actor, operation, failed)
        actor.feed(failed)
        actor.services.dispatch.end(actor.tenure, machine.info, [operation], closed=False)
    else:
        queue(actor, operation, again=True)
