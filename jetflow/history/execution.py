"""A run as a history: typed events, the execution that holds them, and its summary.

``handle.export_execution()`` and ``handle.watch()`` return these Structs. ``docs/execution.schema.json`` describes their
JSON. A new version may only add fields.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType

from jetflow.errors import Failure
from jetflow.history.attributes import Category
from jetflow.history.attributes_of_operations import (
    ActivityTaskCancelled,
    ActivityTaskCompleted,
    ActivityTaskFailed,
    ActivityTaskQueued,
    ActivityTaskRetrying,
    ActivityTaskScheduled,
    ChildWorkflowExecutionAbandoned,
    ChildWorkflowExecutionAccepted,
    ChildWorkflowExecutionCompleted,
    ChildWorkflowExecutionFailed,
    ChildWorkflowExecutionStarted,
    SideEffectRecorded,
    SignalSent,
    SignalWaitCancelled,
    SignalWaitStarted,
    SignalWaitTimedOut,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionSignaled,
)
from jetflow.history.attributes_of_workflow import (
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionContinuedAsNew,
    WorkflowExecutionFailed,
    WorkflowExecutionPatched,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionUpdateAccepted,
    WorkflowExecutionUpdateCompleted,
    WorkflowExecutionUpdateFailed,
)

Status = Literal["running", "completed", "failed"]
ClosingReason = Literal["completed", "failed", "cancelled", "terminated"]

EventAttributes = (
    WorkflowExecutionStarted
    | WorkflowExecutionCompleted
    | WorkflowExecutionFailed
    | WorkflowExecutionCancelRequested
    | WorkflowExecutionTerminated
    | WorkflowExecutionContinuedAsNew
    | WorkflowExecutionPatched
    | WorkflowExecutionUpdateAccepted
    | WorkflowExecutionUpdateCompleted
    | WorkflowExecutionUpdateFailed
    | SideEffectRecorded
    | ActivityTaskScheduled
    | ActivityTaskCompleted
    | ActivityTaskFailed
    | ActivityTaskQueued
    | ActivityTaskRetrying
    | ActivityTaskCancelled
    | ChildWorkflowExecutionStarted
    | ChildWorkflowExecutionCompleted
    | ChildWorkflowExecutionFailed
    | ChildWorkflowExecutionAccepted
    | ChildWorkflowExecutionAbandoned
    | TimerStarted
    | TimerFired
    | TimerCancelled
    | SignalWaitStarted
    | WorkflowExecutionSignaled
    | SignalWaitTimedOut
    | SignalWaitCancelled
    | SignalSent
)


class HistoryEvent(Struct):
    """One event of a run.

    Attributes:
        event_id: 1, 2, 3, … in the order of time. It does not change while the run continues.
        event_type: the type of event, as in ``attributes.kind``.
        category: ``workflow``, ``activity``, ``child_workflow``, ``timer`` or ``signal``.
        event_time: time of the workflow's clock at the recording, ISO 8601 in UTC.
        duration_ms: for an event that ends something, how long that took in ms; null for others.
        is_system: True for activities whose name begins with ``lt``.
        attributes: the attributes of this type of event.
    """

    event_id: int
    event_type: str
    category: Category
    event_time: str
    duration_ms: int | None
    is_system: bool
    attributes: EventAttributes


class ActivityCounts(Struct):
    """Counts of activity events. ``total`` counts the scheduled activities, which are ``system`` or ``user``."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    system: int = 0
    user: int = 0


class ChildCounts(Struct):
    """Counts of child events. ``total`` counts the started children."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class ExecutionSummary(Struct):
    """Counts of an execution's events. ``timers`` counts started timers, ``signals`` received signals."""

    total_events: int
    activities: ActivityCounts
    child_workflows: ChildCounts
    timers: int = 0
    signals: int = 0


class StreamMessage(Struct):
    """A command of the workflow that is still stored in the inbox: not delivered, or not acked yet.

    Attributes:
        seq: its sequence number in the inbox.
        subject: its subject in the inbox.
        time: when it was stored, ISO 8601 in UTC.
        headers: its headers by name.
        data: its body as JSON, or as text if it is not JSON.
    """

    seq: int
    subject: str
    time: str
    headers: dict[str, str]
    data: Any


class WorkflowExecution(Struct, kw_only=True):
    """A run and its events.

    Attributes:
        workflow_id: its id.
        workflow_type: name of the latest generation's function.
        task_queue: its task queue.
        run_id: its run id; null while no worker has applied its start.
        status: ``running``, ``completed`` or ``failed``. A cancelled or terminated run has failed.
        closing_reason: how it ended: ``completed``, ``failed``, ``cancelled`` or ``terminated``; null while it runs.
        start_time: when its first generation began, ISO 8601 in UTC.
        close_time: when it ended; null while it runs.
        duration_ms: ms from ``start_time`` to ``close_time``.
        result: its result; null before the end, and with ``omit_results``.
        failure: its failure; null if it has not failed.
        events: its events in the order of time.
        summary: counts of ``events``.
        next_event: with ``limit``, the number of the first event after ``events``; left out if there are no more.
        children: with ``mode="verbose"``, the executions of its children, in the order of their starts.
        parent_workflow_id: with ``include_lineage``, its parent's id; null without a parent.
        origin_id: with ``include_lineage``, the id of its topmost ancestor; null without a parent.
        stream_history: with ``include_stream_history``, its commands that are still in the inbox.
    """

    workflow_id: str
    workflow_type: str
    task_queue: str
    run_id: str | None
    status: Status
    start_time: str | None
    close_time: str | None
    duration_ms: int | None
    result: Any
    failure: Failure | None
    events: list[HistoryEvent]
    summary: ExecutionSummary
    closing_reason: ClosingReason | None = None
    next_event: int | UnsetType = UNSET
    children: list[WorkflowExecution] | UnsetType = UNSET
    parent_workflow_id: str | UnsetType | None = UNSET
    origin_id: str | UnsetType | None = UNSET
    stream_history: list[StreamMessage] | UnsetType = UNSET


def summarize(events: list[HistoryEvent]) -> ExecutionSummary:
    """Count events."""
    counts = dict.fromkeys((event.event_type for event in events), 0)
    system = 0
    for event in events:
        counts[event.event_type] += 1
        system += event.is_system and event.event_type == "activity_task_scheduled"
    count = counts.get
    scheduled = count("activity_task_scheduled", 0)
    return ExecutionSummary(
        total_events=len(events),
        activities=ActivityCounts(scheduled, count("activity_task_completed", 0), count("activity_task_failed", 0), system, scheduled - system),
        child_workflows=ChildCounts(
            count("child_workflow_execution_started", 0),
            count("child_workflow_execution_completed", 0),
            count("child_workflow_execution_failed", 0),
        ),
        timers=count("timer_started", 0),
        signals=count("workflow_execution_signaled", 0),
    )
