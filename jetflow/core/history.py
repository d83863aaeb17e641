"""From a run's timeline to its history: a fold over recorded events, all generations, in the order in which they were recorded.

The time of a history event is the workflow's own clock, which never goes back: so the order of recording is the order of
time, and an event's number stays what it is while the run goes on, whatever the clocks of its owners say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType

from jetflow.core import attributes as at
from jetflow.core import events as ev
from jetflow.core.execution import HistoryEvent, Status
from jetflow.core.failures import Failure, termination
from jetflow.core.times import to_iso
from jetflow.core.values import decode

SYSTEM = "lt"
"""What the names of system activities begin with."""


class View(Struct, frozen=True):
    """Which events a history has, and how much of them.

    Attributes:
        exclude_system: leaves out system activities.
        omit_results: leaves out what was returned and sent: results, inputs of the workflow and of signals.
        enrich_inputs: adds the inputs of activities and children.
        extended: adds the events that are not in the basic set.
    """

    exclude_system: bool = False
    omit_results: bool = False
    enrich_inputs: bool = False
    extended: bool = False


class Begun:
    """An operation that has begun: the event that says so, when that was, and what further events repeat of it."""

    __slots__ = ("at", "event_id", "recorded", "same")

    def __init__(self, recorded: Any, at: int, event_id: int, same: dict[str, Any]) -> None:
        self.recorded = recorded
        self.at = at
        self.event_id = event_id
        self.same = same


class History:
    """One run's history, as far as it has been read.

    Attributes:
        count: events so far, which is the number of the latest.
        seen: recorded events so far.
        first: the run's first event; None before it was read.
        workflow_type, generation: of the latest generation.
        started_at: when the first generation began, ms since the epoch.
        closing: the recorded event that ended the run.
        children: every child started, in order.
    """

    def __init__(self, workflow_id: str, task_queue: str, view: View) -> None:
        self.workflow_id = workflow_id
        self.task_queue = task_queue
        self.view = view
        self.count = self.seen = self.started_at = 0
        self.first: ev.Started | None = None
        self.workflow_type = ""
        self.generation = 1
        self.closing: ev.Completed | ev.Failed | ev.Terminated | None = None
        self.children: list[ev.ChildStarted] = []
        self.now = 0
        self._begun: dict[int, Begun] = {}
        self._updates: dict[str, Begun] = {}

    def add(self, recorded: Iterable[Any]) -> list[HistoryEvent]:
        """The history events of further recorded events."""
        found = []
        for event in recorded:
            self.seen += 1
            self.now = max(self.now, event.at)
            made = _MAKE[type(event)](self, event)
            if made is not None:
                found.append(made)
        return found

    @property
    def status(self) -> Status:
        """Where the run stands; a terminated one has failed."""
        if self.closing is None:
            return "running"
        return "completed" if isinstance(self.closing, ev.Completed) else "failed"

    @property
    def failure(self) -> Failure | None:
        """Why the run failed."""
        match self.closing:
            case ev.Failed():
                return self.closing.failure
            case ev.Terminated(reason=reason, code=code, stack=stack):
                return termination(self.workflow_id, reason, code, stack)
            case _:
                return None

    # ---- making events

    def _make(self, attributes: Any, began: int | None = None, *, is_system: bool = False) -> HistoryEvent:
        self.count += 1
        duration = None if began is None else self.now - began
        return HistoryEvent(self.count, attributes.kind, attributes.category, to_iso(self.now), duration, is_system, attributes)

    def _payload(self, body: Raw, *, wanted: bool = True) -> Any:
        return decode(body) if wanted and not self.view.omit_results else UNSET

    def _enriched(self, body: Raw) -> Any:
        return decode(body) if self.view.enrich_inputs else UNSET

    def _begin(self, recorded: Any, kind: str, attributes: type[at.OfOperation], same: dict[str, Any], **more: Any) -> HistoryEvent | None:
        same = {"timeline_key": f"{kind}-{recorded.index}", "execution_index": recorded.index, **same}
        is_system = isinstance(recorded, ev.ActivityScheduled) and recorded.name.startswith(SYSTEM)
        if is_system and self.view.exclude_system:
            return None
        self._begun[recorded.index] = Begun(recorded, self.now, self.count + 1, same)
        return self._make(attributes(**same, **more), is_system=is_system)

    def _follow(self, index: int, attributes: type[at.OfOperation], reference: str, *, ends: bool = True, **more: Any) -> HistoryEvent | None:
        """A further event of an operation; None for one whose beginning is left out."""
        begun = self._begun.pop(index, None) if ends else self._begun.get(index)
        if begun is None or (attributes.extended and not self.view.extended):
            return None
        is_system = isinstance(begun.recorded, ev.ActivityScheduled) and begun.recorded.name.startswith(SYSTEM)
        more[reference] = begun.event_id
        return self._make(attributes(**begun.same, **more), begun.at, is_system=is_system)

    def _more(self, attributes: type[at.Attributes], began: int | None = None, **fields: Any) -> HistoryEvent | None:
        """An event of the extended set."""
        return self._make(attributes(**fields), began) if self.view.extended else None

    # ---- the workflow

    def _on_started(self, event: ev.Started) -> HistoryEvent | None:
        self.workflow_type, self.generation = event.workflow_type, event.generation
        if self.first is not None:
            return None  # a later generation: told by the event that ended the one before
        self.first, self.started_at = event, self.now
        given = decode(event.input) if self.view.enrich_inputs or not self.view.omit_results else UNSET
        return self._make(at.WorkflowExecutionStarted(workflow_type=event.workflow_type, task_queue=self.task_queue, input=given))

    def _on_completed(self, event: ev.Completed) -> HistoryEvent:
        self.closing = event
        return self._make(at.WorkflowExecutionCompleted(result=self._payload(event.result)), self.started_at)

    def _on_failed(self, event: ev.Failed) -> HistoryEvent:
        self.closing = event
        return self._make(at.WorkflowExecutionFailed(failure=event.failure), self.started_at)

    def _on_terminated(self, event: ev.Terminated) -> HistoryEvent:
        self.closing = event
        failure = termination(self.workflow_id, event.reason, event.code, event.stack)
        if self.view.extended:
            attributes: at.Attributes = at.WorkflowExecutionTerminated(reason=event.reason, code=event.code, failure=failure)
        else:
            attributes = at.WorkflowExecutionFailed(failure=failure)
        return self._make(attributes, self.started_at)

    def _on_continued(self, event: ev.ContinuedAsNew) -> HistoryEvent | None:
        return self._more(
            at.WorkflowExecutionContinuedAsNew,
            workflow_type=event.workflow_type,
            generation=self.generation + 1,
            input=self._payload(event.input, wanted=self.view.extended),
        )

    def _on_cancel(self, event: ev.CancelRequested) -> HistoryEvent | None:
        return self._more(at.WorkflowExecutionCancelRequested, reason=event.reason)

    def _on_patched(self, event: ev.Patched) -> HistoryEvent | None:
        return self._more(at.WorkflowExecutionPatched, patch_id=event.id)

    def _on_updated(self, event: ev.Updated) -> HistoryEvent | None:
        if not self.view.extended:
            return None
        made = self._make(at.WorkflowExecutionUpdateAccepted(update_id=event.id, update_name=event.name, input=self._payload(event.input)))
        self._updates[event.id] = Begun(event, self.now, made.event_id, {})
        return made

    def _on_update_done(self, event: ev.UpdateCompleted | ev.UpdateFailed) -> HistoryEvent | None:
        if not self.view.extended:
            return None
        begun = self._updates.pop(event.id, None)
        same = {"update_id": event.id, "accepted_event_id": None if begun is None else begun.event_id}
        began = None if begun is None else begun.at
        if isinstance(event, ev.UpdateFailed):
            return self._more(at.WorkflowExecutionUpdateFailed, began, failure=event.failure, **same)
        return self._more(at.WorkflowExecutionUpdateCompleted, began, result=self._payload(event.result), **same)

    def _on_side_effect(self, event: ev.SideEffect) -> HistoryEvent | None:
        value: Any = UNSET if event.failure is not None else self._payload(event.value, wanted=self.view.extended)
        return self._more(
            at.SideEffectRecorded,
            timeline_key=f"side_effect-{event.index}",
            execution_index=event.index,
            value=value,
            failure=UNSET if event.failure is None else event.failure,
        )

    # ---- operations

    def _on_scheduled(self, event: ev.ActivityScheduled) -> HistoryEvent | None:
        same = {"activity_type": event.name, "input": self._enriched(event.input)}
        queue: str | UnsetType = UNSET if event.task_queue is None else event.task_queue
        return self._begin(event, "activity", at.ActivityTaskScheduled, same, task_queue=queue)

    def _on_activity_completed(self, event: ev.ActivityCompleted) -> HistoryEvent | None:
        result = self._payload(event.result)
        return self._follow(event.index, at.ActivityTaskCompleted, "scheduled_event_id", attempt=event.attempt, result=result)

    def _on_activity_failed(self, event: ev.ActivityFailed) -> HistoryEvent | None:
        return self._follow(event.index, at.ActivityTaskFailed, "scheduled_event_id", attempt=event.attempt, failure=event.failure)

    def _on_queued(self, event: ev.ActivityQueued) -> HistoryEvent | None:
        return self._follow(event.index, at.ActivityTaskQueued, "scheduled_event_id", ends=False)

    def _on_retrying(self, event: ev.ActivityRetrying) -> HistoryEvent | None:
        due = to_iso(event.due)
        more = {"attempt": event.attempt, "failure": event.failure, "next_attempt_time": due}
        return self._follow(event.index, at.ActivityTaskRetrying, "scheduled_event_id", ends=False, **more)

    def _on_child_started(self, event: ev.ChildStarted) -> HistoryEvent | None:
        self.children.append(event)
        same = {"child_workflow_id": event.workflow_id, "awaited": event.awaited}
        return self._begin(
            event, "child", at.ChildWorkflowExecutionStarted, same,
            workflow_type=event.workflow_type, task_queue=event.task_queue,
            parent_close_policy=event.parent_close_policy, input=self._enriched(event.input),
        )  # fmt: skip

    def _on_child_accepted(self, event: ev.ChildAccepted) -> HistoryEvent | None:
        begun = self._begun.get(event.index)
        ends = begun is not None and not begun.recorded.awaited
        return self._follow(event.index, at.ChildWorkflowExecutionAccepted, "initiated_event_id", ends=ends, run_id=str(event.run))

    def _on_child_completed(self, event: ev.ChildCompleted) -> HistoryEvent | None:
        return self._follow(event.index, at.ChildWorkflowExecutionCompleted, "initiated_event_id", result=self._payload(event.result))

    def _on_child_failed(self, event: ev.ChildFailed) -> HistoryEvent | None:
        return self._follow(event.index, at.ChildWorkflowExecutionFailed, "initiated_event_id", failure=event.failure)

    def _on_timer_started(self, event: ev.TimerStarted) -> HistoryEvent | None:
        return self._begin(event, "timer", at.TimerStarted, {}, duration_ms=event.due - event.at)

    def _on_timer_fired(self, event: ev.TimerFired) -> HistoryEvent | None:
        return self._follow(event.index, at.TimerFired, "started_event_id")

    def _on_wait_started(self, event: ev.WaitStarted) -> HistoryEvent | None:
        timeout: int | UnsetType = UNSET if event.due is None else event.due - event.at
        return self._begin(event, "wait", at.SignalWaitStarted, {"signal_name": event.signal}, timeout_ms=timeout)

    def _on_signaled(self, event: ev.Signaled) -> HistoryEvent | None:
        return self._follow(event.index, at.WorkflowExecutionSignaled, "started_event_id", input=self._payload(event.data))

    def _on_wait_timed_out(self, event: ev.WaitTimedOut) -> HistoryEvent | None:
        return self._follow(event.index, at.SignalWaitTimedOut, "started_event_id")

    def _on_signal_sent(self, event: ev.SignalSent) -> HistoryEvent | None:
        return self._more(
            at.SignalSent,
            timeline_key=f"signal-{event.index}",
            execution_index=event.index,
            signal_name=event.signal,
            receiver_workflow_id=event.workflow_id,
            receiver_task_queue=event.task_queue,
            input=self._payload(event.data, wanted=self.view.extended),
        )

    def _on_given_up(self, event: ev.OperationCancelled) -> HistoryEvent | None:
        begun = self._begun.get(event.index)
        if begun is None:
            return None
        attributes, reference = _GIVEN_UP[type(begun.recorded)]
        return self._follow(event.index, attributes, reference)


_GIVEN_UP: dict[type, tuple[type[at.OfOperation], str]] = {
    ev.ActivityScheduled: (at.ActivityTaskCancelled, "scheduled_event_id"),
    ev.ChildStarted: (at.ChildWorkflowExecutionAbandoned, "initiated_event_id"),
    ev.TimerStarted: (at.TimerCancelled, "started_event_id"),
    ev.WaitStarted: (at.SignalWaitCancelled, "started_event_id"),
}

_MAKE: dict[type, Callable[[History, Any], HistoryEvent | None]] = {
    ev.Started: History._on_started,
    ev.Completed: History._on_completed,
    ev.Failed: History._on_failed,
    ev.Terminated: History._on_terminated,
    ev.ContinuedAsNew: History._on_continued,
    ev.CancelRequested: History._on_cancel,
    ev.Patched: History._on_patched,
    ev.Updated: History._on_updated,
    ev.UpdateCompleted: History._on_update_done,
    ev.UpdateFailed: History._on_update_done,
    ev.SideEffect: History._on_side_effect,
    ev.ActivityScheduled: History._on_scheduled,
    ev.ActivityCompleted: History._on_activity_completed,
    ev.ActivityFailed: History._on_activity_failed,
    ev.ActivityQueued: History._on_queued,
    ev.ActivityRetrying: History._on_retrying,
    ev.ChildStarted: History._on_child_started,
    ev.ChildAccepted: History._on_child_accepted,
    ev.ChildCompleted: History._on_child_completed,
    ev.ChildFailed: History._on_child_failed,
    ev.TimerStarted: History._on_timer_started,
    ev.TimerFired: History._on_timer_fired,
    ev.WaitStarted: History._on_wait_started,
    ev.Signaled: History._on_signaled,
    ev.WaitTimedOut: History._on_wait_timed_out,
    ev.SignalSent: History._on_signal_sent,
    ev.OperationCancelled: History._on_given_up,
}
