"""What is special to each type of history event. ``kind`` is the event's type.

The events of ``extended = True`` are given only when they are asked for, so that the others stay a small, stable set.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from msgspec import UNSET, Struct, UnsetType

from jetflow.core.failures import Failure

Category = Literal["workflow", "activity", "child_workflow", "timer", "signal"]


class Attributes(Struct, tag_field="kind"):
    """What is special to a type of event. ``extended`` ones are only given when they are asked for."""

    category: ClassVar[Category] = "workflow"
    extended: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """The event's type."""
        return str(self.__struct_config__.tag)


class OfOperation(Attributes):
    """An event of a durable operation.

    Attributes:
        timeline_key: names the operation in its run, such as ``activity-3``; the same in all its events.
        execution_index: its place among the run's operations, from 1.
    """

    timeline_key: str
    execution_index: int


# ---- the workflow itself


class WorkflowExecutionStarted(Attributes, tag="workflow_execution_started"):
    """The run began. ``input`` is the list of arguments."""

    workflow_type: str
    task_queue: str
    input: Any | UnsetType = UNSET


class WorkflowExecutionCompleted(Attributes, tag="workflow_execution_completed"):
    """The workflow's function returned."""

    result: Any | UnsetType = UNSET


class WorkflowExecutionFailed(Attributes, tag="workflow_execution_failed"):
    """The workflow's function raised, or the run was terminated."""

    failure: Failure


class WorkflowExecutionCancelRequested(Attributes, tag="workflow_execution_cancel_requested"):
    """Somebody asked the workflow to stop."""

    extended: ClassVar[bool] = True
    reason: str


class WorkflowExecutionTerminated(Attributes, tag="workflow_execution_terminated"):
    """The run was ended from outside; takes the place of ``workflow_execution_failed``."""

    extended: ClassVar[bool] = True
    reason: str
    code: int
    failure: Failure


class WorkflowExecutionContinuedAsNew(Attributes, tag="workflow_execution_continued_as_new"):
    """The workflow began again with other arguments; ``generation`` is the one that begins."""

    extended: ClassVar[bool] = True
    workflow_type: str
    generation: int
    input: Any | UnsetType = UNSET


class WorkflowExecutionPatched(Attributes, tag="workflow_execution_patched"):
    """The code from here on is the one behind ``patched(id)``."""

    extended: ClassVar[bool] = True
    patch_id: str


class WorkflowExecutionUpdateAccepted(Attributes, tag="workflow_execution_update_accepted"):
    """An update was taken; ``input`` is the list of arguments."""

    extended: ClassVar[bool] = True
    update_id: str
    update_name: str
    input: Any | UnsetType = UNSET


class WorkflowExecutionUpdateCompleted(Attributes, tag="workflow_execution_update_completed"):
    """An update's handler returned."""

    extended: ClassVar[bool] = True
    update_id: str
    accepted_event_id: int | None
    result: Any | UnsetType = UNSET


class WorkflowExecutionUpdateFailed(Attributes, tag="workflow_execution_update_failed"):
    """An update's handler raised."""

    extended: ClassVar[bool] = True
    update_id: str
    accepted_event_id: int | None
    failure: Failure


class SideEffectRecorded(OfOperation, tag="side_effect_recorded"):
    """A value was taken from outside, or the failure instead of it."""

    extended: ClassVar[bool] = True
    value: Any | UnsetType = UNSET
    failure: Failure | UnsetType = UNSET


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
    """An activity failed for good, on its attempt number ``attempt``."""

    scheduled_event_id: int
    attempt: int
    failure: Failure


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
