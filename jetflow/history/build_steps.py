"""The history event of each type of recorded event, if it has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import UNSET, UnsetType

from jetflow.core import events as ev
from jetflow.core.failures import termination
from jetflow.core.times import to_iso
from jetflow.core.values import shown
from jetflow.history import attributes_of_operations as op
from jetflow.history import attributes_of_workflow as wf
from jetflow.history.attributes import Attributes, OfOperation
from jetflow.history.event_maker import EventMaker
from jetflow.history.execution import HistoryEvent

# ---- the workflow


def _started(history: EventMaker, event: ev.Started) -> HistoryEvent | None:
    history.workflow_type, history.generation = event.workflow_type, event.generation
    if history.first is not None:
        return None  # the event that ended the generation before shows this one's start
    history.first, history.started_at = event, history.now
    given = shown(event.input) if history.view.enrich_inputs or not history.view.omit_results else UNSET
    return history.make(wf.WorkflowExecutionStarted(workflow_type=event.workflow_type, task_queue=history.task_queue, input=given))


def _completed(history: EventMaker, event: ev.Completed) -> HistoryEvent:
    history.closing = event
    return history.make(wf.WorkflowExecutionCompleted(result=history.payload(event.result)), history.started_at)


def _failed(history: EventMaker, event: ev.Failed) -> HistoryEvent:
    history.closing = event
    return history.make(wf.WorkflowExecutionFailed(failure=event.failure), history.started_at)


def _terminated(history: EventMaker, event: ev.Terminated) -> HistoryEvent:
    history.closing = event
    failure = termination(history.workflow_id, event.reason, event.code, event.stack, event.kind)
    if history.view.extended:
        attributes: Attributes = wf.WorkflowExecutionTerminated(reason=event.reason, code=event.code, failure=failure)
    else:
        attributes = wf.WorkflowExecutionFailed(failure=failure)
    return history.make(attributes, history.started_at)


def _continued(history: EventMaker, event: ev.ContinuedAsNew) -> HistoryEvent | None:
    return history.more(
        wf.WorkflowExecutionContinuedAsNew,
        workflow_type=event.workflow_type,
        generation=history.generation + 1,
        input=history.payload(event.input, wanted=history.view.extended),
    )


def _cancel(history: EventMaker, event: ev.CancelRequested) -> HistoryEvent | None:
    return history.more(wf.WorkflowExecutionCancelRequested, reason=event.reason)


def _patched(history: EventMaker, event: ev.Patched) -> HistoryEvent | None:
    return history.more(wf.WorkflowExecutionPatched, patch_id=event.id)


def _updated(history: EventMaker, event: ev.Updated) -> HistoryEvent | None:
    if not history.view.extended:
        return None
    made = history.make(wf.WorkflowExecutionUpdateAccepted(update_id=event.id, update_name=event.name, input=history.payload(event.input)))
    history.updates[event.id] = made.event_id, history.now
    return made


def _update_done(history: EventMaker, event: ev.UpdateCompleted | ev.UpdateFailed) -> HistoryEvent | None:
    if not history.view.extended:
        return None
    accepted, began = history.updates.pop(event.id, (None, None))
    same = {"update_id": event.id, "accepted_event_id": accepted}
    if isinstance(event, ev.UpdateFailed):
        return history.more(wf.WorkflowExecutionUpdateFailed, began, failure=event.failure, **same)
    return history.more(wf.WorkflowExecutionUpdateCompleted, began, result=history.payload(event.result), **same)


def _side_effect(history: EventMaker, event: ev.SideEffect) -> HistoryEvent | None:
    value: Any = UNSET if event.failure is not None else history.payload(event.value, wanted=history.view.extended)
    return history.more(
        op.SideEffectRecorded,
        timeline_key=f"side_effect-{event.index}",
        execution_index=event.index,
        value=value,
        failure=UNSET if event.failure is None else event.failure,
    )


# ---- operations


def _scheduled(history: EventMaker, event: ev.ActivityScheduled) -> HistoryEvent | None:
    same = {"activity_type": event.name, "input": history.enriched(event.input)}
    queue: str | UnsetType = UNSET if event.task_queue is None else event.task_queue
    return history.begin(event, "activity", op.ActivityTaskScheduled, same, task_queue=queue)


def _activity_completed(history: EventMaker, event: ev.ActivityCompleted) -> HistoryEvent | None:
    result = history.payload(event.result)
    return history.follow(event.index, op.ActivityTaskCompleted, "scheduled_event_id", attempt=event.attempt, result=result)


def _activity_failed(history: EventMaker, event: ev.ActivityFailed) -> HistoryEvent | None:
    kind: str | UnsetType = UNSET if event.kind is None else event.kind
    return history.follow(event.index, op.ActivityTaskFailed, "scheduled_event_id", attempt=event.attempt, failure=event.failure, failure_kind=kind)


def _queued(history: EventMaker, event: ev.ActivityQueued) -> HistoryEvent | None:
    return history.follow(event.index, op.ActivityTaskQueued, "scheduled_event_id", ends=False)


def _retrying(history: EventMaker, event: ev.ActivityRetrying) -> HistoryEvent | None:
    due = to_iso(event.due)
    more = {"attempt": event.attempt, "failure": event.failure, "next_attempt_time": due}
    return history.follow(event.index, op.ActivityTaskRetrying, "scheduled_event_id", ends=False, **more)


def _child_started(history: EventMaker, event: ev.ChildStarted) -> HistoryEvent | None:
    history.children.append(event)
    same = {"child_workflow_id": event.workflow_id, "awaited": event.awaited}
    return history.begin(
        event, "child", op.ChildWorkflowExecutionStarted, same,
        workflow_type=event.workflow_type, task_queue=event.task_queue,
        parent_close_policy=event.parent_close_policy, input=history.enriched(event.input),
    )  # fmt: skip


def _child_accepted(history: EventMaker, event: ev.ChildAccepted) -> HistoryEvent | None:
    begun = history.begun.get(event.index)
    ends = begun is not None and not begun.recorded.awaited
    return history.follow(event.index, op.ChildWorkflowExecutionAccepted, "initiated_event_id", ends=ends, run_id=str(event.run))


def _child_completed(history: EventMaker, event: ev.ChildCompleted) -> HistoryEvent | None:
    return history.follow(event.index, op.ChildWorkflowExecutionCompleted, "initiated_event_id", result=history.payload(event.result))


def _child_failed(history: EventMaker, event: ev.ChildFailed) -> HistoryEvent | None:
    return history.follow(event.index, op.ChildWorkflowExecutionFailed, "initiated_event_id", failure=event.failure)


def _timer_started(history: EventMaker, event: ev.TimerStarted) -> HistoryEvent | None:
    return history.begin(event, "timer", op.TimerStarted, {}, duration_ms=event.due - event.at)


def _timer_fired(history: EventMaker, event: ev.TimerFired) -> HistoryEvent | None:
    return history.follow(event.index, op.TimerFired, "started_event_id")


def _wait_started(history: EventMaker, event: ev.WaitStarted) -> HistoryEvent | None:
    timeout: int | UnsetType = UNSET if event.due is None else event.due - event.at
    return history.begin(event, "wait", op.SignalWaitStarted, {"signal_name": event.signal}, timeout_ms=timeout)


def _signaled(history: EventMaker, event: ev.Signaled) -> HistoryEvent | None:
    return history.follow(event.index, op.WorkflowExecutionSignaled, "started_event_id", input=history.payload(event.data))


def _wait_timed_out(history: EventMaker, event: ev.WaitTimedOut) -> HistoryEvent | None:
    return history.follow(event.index, op.SignalWaitTimedOut, "started_event_id")


def _signal_sent(history: EventMaker, event: ev.SignalSent) -> HistoryEvent | None:
    return history.more(
        op.SignalSent,
        timeline_key=f"signal-{event.index}",
        execution_index=event.index,
        signal_name=event.signal,
        receiver_workflow_id=event.workflow_id,
        receiver_task_queue=event.task_queue,
        input=history.payload(event.data, wanted=history.view.extended),
    )


def _given_up(history: EventMaker, event: ev.OperationCancelled) -> HistoryEvent | None:
    begun = history.begun.get(event.index)
    if begun is None:
        return None
    attributes, reference = _GIVEN_UP[type(begun.recorded)]
    return history.follow(event.index, attributes, reference)


_GIVEN_UP: dict[type, tuple[type[OfOperation], str]] = {
    ev.ActivityScheduled: (op.ActivityTaskCancelled, "scheduled_event_id"),
    ev.ChildStarted: (op.ChildWorkflowExecutionAbandoned, "initiated_event_id"),
    ev.TimerStarted: (op.TimerCancelled, "started_event_id"),
    ev.WaitStarted: (op.SignalWaitCancelled, "started_event_id"),
}

STEPS: dict[type, Callable[[EventMaker, Any], HistoryEvent | None]] = {
    ev.Started: _started,
    ev.Completed: _completed,
    ev.Failed: _failed,
    ev.Terminated: _terminated,
    ev.ContinuedAsNew: _continued,
    ev.CancelRequested: _cancel,
    ev.Patched: _patched,
    ev.Updated: _updated,
    ev.UpdateCompleted: _update_done,
    ev.UpdateFailed: _update_done,
    ev.SideEffect: _side_effect,
    ev.ActivityScheduled: _scheduled,
    ev.ActivityCompleted: _activity_completed,
    ev.ActivityFailed: _activity_failed,
    ev.ActivityQueued: _queued,
    ev.ActivityRetrying: _retrying,
    ev.ChildStarted: _child_started,
    ev.ChildAccepted: _child_accepted,
    ev.ChildCompleted: _child_completed,
    ev.ChildFailed: _child_failed,
    ev.TimerStarted: _timer_started,
    ev.TimerFired: _timer_fired,
    ev.WaitStarted: _wait_started,
    ev.Signaled: _signaled,
    ev.WaitTimedOut: _wait_timed_out,
    ev.SignalSent: _signal_sent,
    ev.OperationCancelled: _given_up,
}
