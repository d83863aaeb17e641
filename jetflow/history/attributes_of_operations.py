"""Attributes of the events of durable operations: activities, children, timers, waits and signals."""

from __future__ import annotations

from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from jetflow.errors import Failure
from jetflow.history.attributes import Category, OfOperation

# ---- activities


class OfActivity(OfOperation, kw_only=True):
    """An event of an activity. ``input``, the list of arguments, is there with ``enrich_inputs``."""

    category: ClassVar[Category] = "activity"
    activity_type: str
    input: Any | UnsetType = UNSET


class ActivityTaskScheduled(OfActivity, tag="activity_task_scheduled", kw_only=True):
    """The code called an activity; ``task_queue`` is there when it runs on other workers."""

    task_queue: str | UnsetType = UNSET


class ActivityTaskCompleted(OfActivity, tag="activity_task_completed", kw_only=True):
    """An activity returned, on its attempt number ``attempt``."""

    scheduled_event_id: int
    attempt: int
    result: Any | UnsetType = UNSET


class ActivityTaskFailed(OfActivity, tag="activity_task_failed", kw_only=True):
    """An activity failed for good, on its attempt number ``attempt``.

    ``failure_kind`` says why no attempt follows: ``timed_out``, ``exhausted`` or ``fatal``.
    """

    scheduled_event_id: int
    attempt: int
    failure: Failure
    failure_kind: str | UnsetType = UNSET


class ActivityTaskQueued(OfActivity, tag="activity_task_queued", kw_only=True):
    """The workflow's owner lacks the activity: from here on other workers of its queue run it."""

    extended: ClassVar[bool] = True
    scheduled_event_id: int


class ActivityTaskRetrying(OfActivity, tag="activity_task_retrying", kw_only=True):
    """An attempt failed, and the next one is due later; backoffs under a second are not recorded."""

    extended: ClassVar[bool] = True
    scheduled_event_id: int
    attempt: int
    next_attempt_time: str
    failure: Failure


class ActivityTaskCancelled(OfActivity, tag="activity_task_cancelled", kw_only=True):
    """The code gave up waiting for an activity."""

    extended: ClassVar[bool] = True
    scheduled_event_id: int


# ---- children


class OfChild(OfOperation):
    """An event of a child workflow; ``awaited`` says whether the parent waits for its result."""

    category: ClassVar[Category] = "child_workflow"
    child_workflow_id: str
    awaited: bool


class ChildWorkflowExecutionStarted(OfChild, tag="child_workflow_execution_started"):
    """The code started a child. ``input`` is there with ``enrich_inputs``."""

    workflow_type: str
    task_queue: str
    parent_close_policy: str
    input: Any | UnsetType = UNSET


class ChildWorkflowExecutionCompleted(OfChild, tag="child_workflow_execution_completed"):
    """A child that was waited for returned."""

    initiated_event_id: int
    result: Any | UnsetType = UNSET


class ChildWorkflowExecutionFailed(OfChild, tag="child_workflow_execution_failed"):
    """A child that was waited for failed, or could not be started."""

    initiated_event_id: int
    failure: Failure


class ChildWorkflowExecutionAccepted(OfChild, tag="child_workflow_execution_accepted"):
    """A child that is not waited for was taken up by a worker; ``run_id`` is its run."""

    extended: ClassVar[bool] = True
    initiated_event_id: int
    run_id: str


class ChildWorkflowExecutionAbandoned(OfChild, tag="child_workflow_execution_abandoned"):
    """The code gave up waiting for a child; what became of it is in the child's own history."""

    extended: ClassVar[bool] = True
    initiated_event_id: int


# ---- timers


class OfTimer(OfOperation):
    """An event of a timer."""

    category: ClassVar[Category] = "timer"


class TimerStarted(OfTimer, tag="timer_started"):
    """The code sleeps; ``duration_ms`` is what it asked for."""

    duration_ms: int


class TimerFired(OfTimer, tag="timer_fired"):
    """The time was up."""

    started_event_id: int


class TimerCancelled(OfTimer, tag="timer_cancelled"):
    """The code gave up waiting for a timer, such as a timeout that was not needed."""

    extended: ClassVar[bool] = True
    started_event_id: int


# ---- signals


class OfSignal(OfOperation):
    """An event of a signal, or of the wait for one."""

    category: ClassVar[Category] = "signal"
    signal_name: str


class SignalWaitStarted(OfSignal, tag="signal_wait_started"):
    """The code waits for a signal; ``timeout_ms`` is there if not for ever."""

    timeout_ms: int | UnsetType = UNSET


class WorkflowExecutionSignaled(OfSignal, tag="workflow_execution_signaled"):
    """A signal met its wait; ``input`` is what it carried."""

    started_event_id: int
    input: Any | UnsetType = UNSET


class SignalWaitTimedOut(OfSignal, tag="signal_wait_timed_out"):
    """No signal came in time."""

    extended: ClassVar[bool] = True
    started_event_id: int


class SignalWaitCancelled(OfSignal, tag="signal_wait_cancelled"):
    """The code gave up waiting for a signal."""

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
    """A value was taken from outside, or the failure instead of it."""

    extended: ClassVar[bool] = True
    value: Any | UnsetType = UNSET
    failure: Failure | UnsetType = UNSET
