"""The five sections of ``handle.export()``: a workflow's record and timeline, without history events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from msgspec import UNSET, Raw, Struct, UnsetType, to_builtins

from jetflow.core import events as ev
from jetflow.core.times import to_iso
from jetflow.core.values import shown

Section = Literal["data", "state", "status", "timeline", "transitions"]
SECTIONS: tuple[Section, ...] = ("data", "state", "status", "timeline", "transitions")


class TimelineEntry(Struct):
    """One durable operation of a run, or another recorded fact such as a patch or an update.

    Attributes:
        key: its name in the run, such as ``activity-3``. History events have it as ``timeline_key``.
        index: the operation's index in the run, from 1; 0 for other facts.
        value: ``type``, ``name`` and ``created``. After its end also ``updated`` and the outcome: ``data``, ``error``, ``timed_out`` or
            ``cancelled``.
    """

    key: str
    index: int
    value: dict[str, Any]


class Transition(Struct):
    """A generation of a run, an operation, or an update.

    Attributes:
        activity: its type and name, such as ``activity charge``.
        dimensions: generation and index, such as ``1,3``.
        created: when it began, ISO 8601 in UTC.
        updated: when it ended; null before that.
    """

    activity: str
    dimensions: str
    created: str
    updated: str | None = None


class WorkflowExport(Struct, kw_only=True):
    """What is stored of a workflow. Sections that were not requested are left out.

    Attributes:
        data: user data by name.
        state: ``data`` is the value of ``handle.state()``, ``metadata`` the rest of the state record.
        status: 0: completed; above 0: the number of pending operations; below 0: failed or terminated.
        timeline: the run's recorded operations and facts, in order.
        transitions: generations, operations and updates, ordered by start time.
    """

    data: dict[str, Any] | UnsetType = UNSET
    state: dict[str, Any] | UnsetType = UNSET
    status: int | UnsetType = UNSET
    timeline: list[TimelineEntry] | UnsetType = UNSET
    transitions: list[Transition] | UnsetType = UNSET


class RawTimeline:
    """Collects recorded events into entries and transitions.

    Args:
        values: False replaces every payload with ``{}``.
    """

    def __init__(self, *, values: bool = True) -> None:
        self.entries: list[TimelineEntry] = []
        self.transitions: list[Transition] = []
        self._values = values
        self._open: dict[int, tuple[TimelineEntry, Transition]] = {}
        self._updates: dict[str, tuple[TimelineEntry, Transition]] = {}
        self._generation: Transition | None = None
        self._number = 1

    def add(self, recorded: Iterable[Any]) -> None:
        """Add recorded events."""
        for event in recorded:
            self._add(event)

    def _add(self, event: Any) -> None:
        match event:
            case ev.Started():
                self._number = event.generation
                self._generation = self._step(f"workflow {event.workflow_type}", 0, event.at)
            case ev.Completed() | ev.Failed() | ev.Terminated() | ev.ContinuedAsNew():
                if self._generation is not None:
                    self._generation.updated = to_iso(event.at)
            case ev.ActivityScheduled():
                self._begin("activity", event, name=event.name, input=self._payload(event.input))
            case ev.ChildStarted():
                name = event.workflow_id
                self._begin("child", event, name=name, workflow_type=event.workflow_type, awaited=event.awaited, input=self._payload(event.input))
            case ev.TimerStarted():
                self._begin("timer", event, duration_ms=event.due - event.at)
            case ev.WaitStarted():
                self._begin("wait", event, name=event.signal)
            case ev.SignalSent():
                self._begin("signal", event, name=event.signal, to=event.workflow_id, data=self._payload(event.data))
                self._end(event)
            case ev.SideEffect():
                self._begin("side_effect", event)
                self._end(event, **self._outcome(event, event.value))
            case ev.Patched():
                self._note(f"patch-{event.id}", event.at, type="patch", name=event.id)
            case ev.CancelRequested():
                self._note("cancelled", event.at, type="cancelled", reason=event.reason)
            case ev.Updated():
                entry = self._note(f"update-{event.id}", event.at, type="update", name=event.name, input=self._payload(event.input))
                self._updates[event.id] = entry, self._step(f"update {event.name}", 0, event.at)
            case ev.UpdateCompleted() | ev.UpdateFailed():
                _close(self._updates.pop(event.id, None), event.at, self._outcome(event, getattr(event, "result", ev.NULL)))
            case ev.ActivityRetrying():
                if event.index in self._open:
                    self._open[event.index][0].value["attempt"] = event.attempt
            case _:
                self._on_outcome(event)

    def _on_outcome(self, event: Any) -> None:
        match event:
            case ev.ActivityCompleted() | ev.ChildCompleted():
                self._end(event, data=self._payload(event.result))
            case ev.ActivityFailed() | ev.ChildFailed():
                self._end(event, **self._outcome(event, ev.NULL))
            case ev.Signaled():
                self._end(event, data=self._payload(event.data))
            case ev.WaitTimedOut():
                self._end(event, timed_out=True)
            case ev.OperationCancelled():
                self._end(event, cancelled=True)
            case ev.TimerFired():
                self._end(event)
            case ev.ChildAccepted():
                if event.index in self._open and not self._open[event.index][0].value["awaited"]:
                    self._end(event, data=self._payload_of(str(event.run)))
            case _:
                pass  # this form does not show the other events

    def _payload(self, body: Raw) -> Any:
        return shown(body) if self._values else {}

    def _payload_of(self, value: Any) -> Any:
        return value if self._values else {}

    def _outcome(self, event: Any, value: Raw) -> dict[str, Any]:
        failure = getattr(event, "failure", None)
        return {"data": self._payload(value)} if failure is None else {"error": self._payload_of(to_builtins(failure))}

    def _begin(self, kind: str, event: Any, **value: Any) -> None:
        entry = TimelineEntry(f"{kind}-{event.index}", event.index, {"type": kind, **value, "created": to_iso(event.at)})
        self.entries.append(entry)
        self._open[event.index] = entry, self._step(f"{kind} {value.get('name', '')}".rstrip(), event.index, event.at)

    def _end(self, event: Any, **value: Any) -> None:
        _close(self._open.pop(event.index, None), event.at, value)

    def _note(self, key: str, at: int, **value: Any) -> TimelineEntry:
        entry = TimelineEntry(key, 0, {**value, "created": to_iso(at)})
        self.entries.append(entry)
        return entry

    def _step(self, what: str, index: int, at: int) -> Transition:
        step = Transition(what, f"{self._number},{index}" if index else str(self._number), to_iso(at))
        self.transitions.append(step)
        return step


def _close(opened: tuple[TimelineEntry, Transition] | None, at: int, value: dict[str, Any]) -> None:
    if opened is not None:
        entry, step = opened
        entry.value |= {**value, "updated": to_iso(at)}
        step.updated = to_iso(at)
