"""Making a run's history events: numbers, times, and the references between those that belong together."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, Struct

from jetflow.core import events as ev
from jetflow.core.times import to_iso
from jetflow.core.values import shown
from jetflow.history.attributes import Attributes, OfOperation
from jetflow.history.execution import HistoryEvent

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
        self.recorded: Any = recorded
        self.at: int = at
        self.event_id: int = event_id
        self.same: dict[str, Any] = same


class EventMaker:
    """What is known of a run while its history is made, and the events made of it.

    Attributes:
        count: events so far, which is the number of the latest.
        seen: recorded events so far.
        first: the run's first event; None before it was read.
        workflow_type, generation: of the latest generation.
        started_at: when the first generation began, ms since the epoch.
        closing: the recorded event that ended the run.
        children: every child started, in order.
        now: the workflow's clock, ms since the epoch.
        begun: operations that are not over, by index.
        updates: event number and time of the updates that are not answered, by id.
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
        """The next event; ``began`` is when what it ends began."""
        self.count += 1
        duration = None if began is None else self.now - began
        return HistoryEvent(self.count, attributes.kind, attributes.category, to_iso(self.now), duration, is_system, attributes)

    def payload(self, body: Raw, *, wanted: bool = True) -> Any:
        """What was returned or sent, unless it is to be left out."""
        return shown(body) if wanted and not self.view.omit_results else UNSET

    def enriched(self, body: Raw) -> Any:
        """An operation's input, if it is to be added."""
        return shown(body) if self.view.enrich_inputs else UNSET

    def begin(self, recorded: Any, kind: str, attributes: type[OfOperation], same: dict[str, Any], **more: Any) -> HistoryEvent | None:
        """The first event of an operation; ``same`` is what the others repeat. None for one that is left out."""
        same = {"timeline_key": f"{kind}-{recorded.index}", "execution_index": recorded.index, **same}
        is_system = isinstance(recorded, ev.ActivityScheduled) and recorded.name.startswith(SYSTEM)
        if is_system and self.view.exclude_system:
            return None
        self.begun[recorded.index] = Begun(recorded, self.now, self.count + 1, same)
        return self.make(attributes(**same, **more), is_system=is_system)

    def follow(self, index: int, attributes: type[OfOperation], reference: str, *, ends: bool = True, **more: Any) -> HistoryEvent | None:
        """A further event of an operation; None for one whose beginning is left out."""
        begun = self.begun.pop(index, None) if ends else self.begun.get(index)
        if begun is None or (attributes.extended and not self.view.extended):
            return None
        is_system = isinstance(begun.recorded, ev.ActivityScheduled) and begun.recorded.name.startswith(SYSTEM)
        more[reference] = begun.event_id
        return self.make(attributes(**begun.same, **more), begun.at, is_system=is_system)

    def more(self, attributes: type[Attributes], began: int | None = None, **fields: Any) -> HistoryEvent | None:
        """An event of the extended set."""
        return self.make(attributes(**fields), began) if self.view.extended else None
