"""A run as a history: typed events, the execution that holds them, and its summary.

These Structs are what ``handle.export_execution()`` and ``handle.watch()`` give, and their JSON is what
``docs/execution.schema.json`` describes. Fields are only ever added.
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
    """Something that happened in a run.

    Attributes:
        event_id: 1, 2, 3, … in the order of time; stays what it is while the run goes on.
        event_type: what happened; also ``attributes.kind``.
        category: ``workflow``, ``activity``, ``child_workflow``, ``timer`` or ``signal``.
        event_time: the workflow's clock when it was recorded, ISO 8601 in UTC.
        duration_ms: for an event that ends something, how long that took; null for others.
        is_system: True for activities whose name begins with ``lt``.
        attributes: what is special to the type of event.
    """

    event_id: int
    event_type: str
    category: Category
    event_time: str
    duration_ms: int | None
    is_system: bool
    attributes: EventAttributes


class ActivityCounts(Struct):
    """Activities by the events there are of them: ``total`` counts those scheduled, which are ``system`` or ``user``."""

    total: int = 0
    completed: int = 0
    failed: int = 0
    system: int = 0
    user: int = 0


class ChildCounts(Struct):
    """Children by the events there are of them: ``total`` counts those started."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class ExecutionSummary(Struct):
    """Counts of an execution's events: ``timers`` those started, ``signals`` those that came."""

    total_events: int
    activities: ActivityCounts
    child_workflows: ChildCounts
    timers: int = 0
    signals: int = 0


class StreamMessage(Struct):
    """A command of the workflow that is still stored in the inbox: not consumed, or not acked yet.

    Attributes:
        seq: its place in the inbox.
        subject: what it was published to, as it is stored.
        time: when, ISO 8601 in UTC.
        headers: by name.
        data: its body if that is JSON, else its text.
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
        workflow_type: name of its function; of the latest generation.
        task_queue: whose workers run it.
        run_id: which run of the id; null while no worker has taken up its start.
        status: ``running``, ``completed`` or ``failed``; a terminated run has failed.
        start_time: when its first generation began.
        close_time: when it ended; null while it runs.
        duration_ms: from one to the other.
        result: what it returned; null before that, and with ``omit_results``.
        failure: why it failed; null if it did not.
        events: in the order of time.
        summary: counts of ``events``.
        next_event: with ``limit``, the first event that is not among these; left out when there are no more.
        children: with ``mode="verbose"``, the executions of the children it started, in that order.
        parent_workflow_id: with ``include_lineage``, who started it; null for a root.
        origin_id: with ``include_lineage``, the root of its tree; null for a root.
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
    next_event: int | UnsetType = UNSET
    children: list[WorkflowExecution] | UnsetType = UNSET
    parent_workflow_id: str | UnsetType | None = UNSET
    origin_id: str | UnsetType | None = UNSET
    stream_history: list[StreamMessage] | UnsetType = UNSET


def summarize(events: list[HistoryEvent]) -> ExecutionSummary:
    """The counts of these events."""
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
