"""Attributes of the events of durable operations: activities, children, timers, waits and signals."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from jetflow.errors import Failure
from jetflow.history.attributes import Category, OfOperation

# ---- activities


class OfActivity(OfOperation, kw_only=True):
    """An event of an activity. ``input``, the list of arguments, is included with ``enrich_inputs``."""

    category: ClassVar[Category] = "activity"
    activity_type: str
    input: Any | UnsetType = UNSET


class ActivityTaskScheduled(OfActivity, tag="activity_task_scheduled", kw_only=True):
    """The code called an activity. ``task_queue`` is set if other workers run it."""

    task_queue: str | UnsetType = UNSET


class ActivityTaskCompleted(OfActivity, tag="activity_task_completed", kw_only=True):
    """An activity returned in its attempt number ``attempt``."""

    scheduled_event_id: int
    attempt: int
    result: Any | UnsetType = UNSET


class ActivityTaskFailed(OfActivity, tag="activity_task_failed", kw_only=True):
    """An activity failed in its attempt number ``attempt``, and no attempt follows.

    ``failure_kind`` says why no attempt follows: ``timed_out``, ``exhausted`` or ``fatal``.
    """

    scheduled_event_id: int
    attempt: int
    failure: Failure
    failure_kind: str | UnsetType = UNSET


class ActivityTaskQueued(OfActivity, tag="activity_task_queued", kw_only=True):
    """The workflow's owner does not have the activity. From now on other workers of its task queue run it."""

    extended: ClassVar[bool] = True
    scheduled_event_id: int


class ActivityTaskRetrying(OfActivity, tag="activity_task_retrying", kw_only=True):
    """An attempt failed, and the next one is due later. Backoffs under a second are not recorded."""

    extended: ClassVar[bool] = True
    scheduled_event_id: int
    attempt: int
    next_attempt_time: str
    failure: Failure


class ActivityTaskCancelled(OfActivity, tag="activity_task_cancelled", kw_only=True):
    """The code stopped waiting for an activity."""

    extended: ClassVar[bool] = True
    scheduled_event_id: int


# ---- children


class OfChild(OfOperation):
    """An event of a child workflow. ``awaited``: whether the parent waits for its result."""

    category: ClassVar[Category] = "child_workflow"
    child_workflow_id: str
    awaited: bool


class ChildWorkflowExecutionStarted(OfChild, tag="child_workflow_execution_started"):
    """The code started a child. ``input`` is included with ``enrich_inputs``."""

    workflow_type: str
    task_queue: str
    parent_close_policy: str
    input: Any | UnsetType = UNSET


class ChildWorkflowExecutionCompleted(OfChild, tag="child_workflow_execution_completed"):
    """An awaited child returned."""

    initiated_event_id: int
    result: Any | UnsetType = UNSET


class ChildWorkflowExecutionFailed(OfChild, tag="child_workflow_execution_failed"):
    """An awaited child failed, or could not be started."""

    initiated_event_id: int
    failure: Failure


class ChildWorkflowExecutionAccepted(OfChild, tag="child_workflow_execution_accepted"):
    """A worker accepted a child that is not awaited. ``run_id`` is the child's run."""

    extended: ClassVar[bool] = True
    initiated_event_id: int
    run_id: str


class ChildWorkflowExecutionAbandoned(OfChild, tag="child_workflow_execution_abandoned"):
    """The code stopped waiting for a child. The child's own history has its outcome."""

    extended: ClassVar[bool] = True
    initiated_event_id: int


# ---- timers


class OfTimer(OfOperation):
    """An event of a timer."""

    category: ClassVar[Category] = "timer"


class TimerStarted(OfTimer, tag="timer_started"):
    """The code began to sleep for ``duration_ms``."""

    duration_ms: int


class TimerFired(OfTimer, tag="timer_fired"):
    """The timer's time came."""

    started_event_id: int


class TimerCancelled(OfTimer, tag="timer_cancelled"):
    """The code stopped waiting for a timer, such as a timeout that was not needed."""

    extended: ClassVar[bool] = True
    started_event_id: int


# ---- signals


class OfSignal(OfOperation):
    """An event of a signal, or of the wait for one."""

    category: ClassVar[Category] = "signal"
    signal_name: str


class SignalWaitStarted(OfSignal, tag="signal_wait_started"):
    """The code began to wait for a signal. ``timeout_ms`` is included if the wait has a timeout."""

    timeout_ms: int | UnsetType = UNSET


class WorkflowExecutionSignaled(OfSignal, tag="workflow_execution_signaled"):
    """A signal ended its wait. ``input`` is the signal's data."""

    started_event_id: int
    input: Any | UnsetType = UNSET


class SignalWaitTimedOut(OfSignal, tag="signal_wait_timed_out"):
    """No signal came within the timeout."""

    extended: ClassVar[bool] = True
    started_event_id: int


class SignalWaitCancelled(OfSignal, tag="signal_wait_cancelled"):
    """The code stopped waiting for a signal."""

    extended: ClassVar[bool] = True
    started_event_id: int


class SignalSent(OfSignal, tag="signal_sent"):
    """The code sent a signal to another workflow."""

    extended: ClassVar[bool] = True
    receiver_workflow_id: str
    receiver_task_queue: str
    input: Any | UnsetType = UNSET


# ---- values


class SideEffectRecorded(OfOperation, tag="side_effect_recorded"):
    """The code called ``side_effect``, and its value or its failure was recorded."""

    extended: ClassVar[bool] = True
    value: Any | UnsetType = UNSET
    failure: Failure | UnsetType = UNSET
