"""From a run's timeline to its history: a fold over recorded events, all generations, in the order in which they were recorded.

The time of a history event is the workflow's own clock, which never goes back: so the order of recording is the order of
time, and an event's number stays what it is while the run goes on, whatever the clocks of its owners say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jetflow.core import events as ev
from jetflow.core.failures import termination
from jetflow.errors import Failure
from jetflow.history.build_steps import STEPS
from jetflow.history.event_maker import EventMaker
from jetflow.history.execution import HistoryEvent, Status


class History(EventMaker):
    """One run's history, as far as it has been read."""

    def add(self, recorded: Iterable[Any]) -> list[HistoryEvent]:
        """The history events of further recorded events."""
        found = []
        for event in recorded:
            self.seen: int = self.seen + 1
            self.now: int = max(self.now, event.at)
            made = STEPS[type(event)](self, event)
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
            case ev.Terminated(reason=reason, code=code, stack=stack, kind=kind):
                return termination(self.workflow_id, reason, code, stack, kind)
            case _:
                return None
