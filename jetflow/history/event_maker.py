"""Making history events: their numbers, their times, and the references between those that belong together."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, Struct

from jetflow.core import events as ev
from jetflow.core.times import to_iso
from jetflow.core.values import shown
from jetflow.history.attributes import Attributes, OfOperation
from jetflow.history.execution import HistoryEvent

SYSTEM = "lt"
"""Prefix of the names of system activities."""


class View(Struct, frozen=True):
    """Options of a history: which events it has, and with which payloads.

    Attributes:
        exclude_system: leave out system activities.
        omit_results: leave out results, and inputs of the workflow and of signals.
        enrich_inputs: add inputs of activities and children.
        extended: add events beyond the basic set.
    """

    exclude_system: bool = False
    omit_results: bool = False
    enrich_inputs: bool = False
    extended: bool = False


class Begun:
    """A begun operation: its first event, the time of that, and the attributes that its later events repeat."""

    __slots__ = ("at", "event_id", "recorded", "same")

    def __init__(self, recorded: Any, at: int, event_id: int, same: dict[str, Any]) -> None:
        self.recorded: Any = recorded
        self.at: int = at
        self.event_id: int = event_id
        self.same: dict[str, Any] = same


class EventMaker:
    """Makes the history events of one run.

    Attributes:
        count: number of history events so far, which is the latest one's number.
        seen: number of recorded events so far.
        first: the run's first event; None before it is read.
        workflow_type, generation: those of the latest generation.
        started_at: when the first generation began, ms since the epoch.
        closing: the recorded event that ended the run.
        children: every child started, in order.
        now: the workflow's clock, ms since the epoch.
        begun: operations that have not ended, by index.
        updates: event number and time of the updates without an outcome, by id.
    """

    def __init__(self, workflow_id: str, task_queue: str, view: View) -> None:
        self.workflow_id = workflow_id
        self.task_queue = task_queue
        self.view = view
        self.count: int = 0
        self.seen: int = 0
        self.started_at: int = 0
        self.first: ev.Started | None = None
        self.workflow_type = ""
        self.generation = 1
        self.closing: ev.Completed | ev.Failed | ev.Terminated | None = None
        self.children: list[ev.ChildStarted] = []
        self.now = 0
        self.begun: dict[int, Begun] = {}
        self.updates: dict[str, tuple[int, int]] = {}

    def make(self, attributes: Any, began: int | None = None, *, is_system: bool = False) -> HistoryEvent:
        """Return the next event. ``began``: for an event that ends something, when that began, in ms since the epoch."""
        self.count += 1
        duration = None if began is None else self.now - began
        return HistoryEvent(self.count, attributes.kind, attributes.category, to_iso(self.now), duration, is_system, attributes)

    def payload(self, body: Raw, *, wanted: bool = True) -> Any:
        """Return a payload, unless the view leaves it out."""
        return shown(body) if wanted and not self.view.omit_results else UNSET

    def enriched(self, body: Raw) -> Any:
        """Return an operation's input, if the view adds inputs."""
        return shown(body) if self.view.enrich_inputs else UNSET

    def begin(self, recorded: Any, kind: str, attributes: type[OfOperation], same: dict[str, Any], **more: Any) -> HistoryEvent | None:
        """Return the first event of an operation, or None if the view leaves it out. ``same``: the attributes that its later events repeat."""
        same = {"timeline_key": f"{kind}-{recorded.index}", "execution_index": recorded.index, **same}
        is_system = isinstance(recorded, ev.ActivityScheduled) and recorded.name.startswith(SYSTEM)
        if is_system and self.view.exclude_system:
            return None
        self.begun[recorded.index] = Begun(recorded, self.now, self.count + 1, same)
        return self.make(attributes(**same, **more), is_system=is_system)

    def follow(self, index: int, attributes: type[OfOperation], reference: str, *, ends: bool = True, **more: Any) -> HistoryEvent | None:
        """Return a later event of an operation, or None if the view leaves the operation out."""
        begun = self.begun.pop(index, None) if ends else self.begun.get(index)
        if begun is None or (attributes.extended and not self.view.extended):
            return None
        is_system = isinstance(begun.recorded, ev.ActivityScheduled) and begun.recorded.name.startswith(SYSTEM)
        more[reference] = begun.event_id
        return self.make(attributes(**begun.same, **more), begun.at, is_system=is_system)

    def more(self, attributes: type[Attributes], began: int | None = None, **fields: Any) -> HistoryEvent | None:
        """Return an event of the extended set, or None if the view leaves those out."""
        return self.make(attributes(**fields), began) if self.view.extended else None
