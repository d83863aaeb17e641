"""Follows a pending operation in this process: runs its activity, watches its due time, or queues its task."""

from __future__ import annotations

from jetflow.activity import ActivityInfo
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.operation import Operation
from jetflow.engine.activities.attempt_log import log_failed
from jetflow.engine.activities.dispatch import closes_at
from jetflow.engine.turn.actor import Actor
from jetflow.protocol.clock import now_ms


def follow(actor: Actor, operation: Operation, *, maybe_scheduled: bool = False) -> None:
    """Run the activity, or watch the due time. ``maybe_scheduled`` says that an earlier owner may have scheduled it."""
    if operation.due is not None and not _continues(actor, operation):
        actor.alarms.watch(operation.index, operation.due, maybe_scheduled=maybe_scheduled)
    elif operation.remote:
        if not maybe_scheduled:
            queue(actor, operation, again=False)
        elif (closes := closes_at(operation)) is not None:
            actor.alarms.watch(operation.index, closes, maybe_scheduled=True)
    elif isinstance(operation.event, ev.ActivityScheduled):
        launch(actor, operation)


def _continues(actor: Actor, operation: Operation) -> bool:
    """Return whether the activity goes on in this process, in or after a short backoff that the timeline shows."""
    return bool(operation.attempt) and not operation.remote and actor.steps.adopt(operation, actor.run.number)


def queue(actor: Actor, operation: Operation, *, again: bool) -> None:
    """Queue the next attempt as a task for other workers, and watch its deadline."""
    actor.run.queue_task(operation.index, again=again)
    closes = closes_at(operation)
    if closes is not None:
        actor.alarms.watch(operation.index, closes)


def launch(actor: Actor, operation: Operation) -> None:
    """Run an activity in this process, or queue it as a task if this worker does not have it."""
    index, scheduled, run = operation.index, operation.event, actor.run.number
    if index in actor.steps.under_way or actor.steps.adopt(operation, run) or actor.draining:
        return
    if not actor.services.runner.knows(scheduled.name):
        actor.feed(ev.ActivityQueued(index=index, at=now_ms()))
        queue(actor, operation, again=False)
        return
    actor.steps.begin(scheduled, _options(operation), _info(actor, operation), operation, run)


def log_attempt(actor: Actor, operation: Operation, outcome: ev.ActivityRetrying | ev.ActivityFailed) -> None:
    """Log a failed attempt of an activity that other workers run."""
    log_failed(_info(actor, operation), outcome, _options(operation))


def _options(operation: Operation) -> ActivityOptions:
    return operation.options if operation.options is not None else ActivityOptions()


def _info(actor: Actor, operation: Operation) -> ActivityInfo:
    assert actor.run.info is not None, "an activity of no run"
    kind, run = actor.run.info.workflow_type, str(actor.run.number)
    return ActivityInfo(operation.event.name, actor.workflow_id, actor.context.task_queue, run, operation.index, workflow_type=kind)


def forget_alarm(actor: Actor, index: int) -> None:
    """Remove an operation's timer, in memory and at the broker."""
    if actor.alarms.forget(index):
        tenure, context = actor.tenure, actor.context
        context.background.tidy(tenure.timers.cancel(context.queue_token, actor.id_token, index, tenure.position + 1))
