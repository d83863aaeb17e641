"""From a run's timeline to its history: a fold over the recorded events of all generations, in the order of recording.

The time of a history event is that of the workflow's own clock, which never goes back. So the order of recording is the
order of time, and an event's number does not change while the run continues, whatever the clocks of its owners say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from jetflow.core import events as ev
from jetflow.core.failures import termination
from jetflow.errors import Failure, Kind
from jetflow.history.build_steps import STEPS
from jetflow.history.event_maker import EventMaker
from jetflow.history.execution import ClosingReason, HistoryEvent, Status


class History(EventMaker):
    """The history of one run, up to the last event read."""

    def add(self, recorded: Iterable[Any]) -> list[HistoryEvent]:
        """Add recorded events, and return their history events."""
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
        """The run's status. A cancelled or terminated run has failed."""
        if self.closing is None:
            return "running"
        return "completed" if isinstance(self.closing, ev.Completed) else "failed"

    @property
    def closing_reason(self) -> ClosingReason | None:
        """How the run ended; None before its end."""
        match self.closing:
            case None:
                return None
            case ev.Completed():
                return "completed"
            case ev.Terminated():
                return "terminated"
            case _:
                return "cancelled" if self.closing.failure.mark == Kind.CANCELLED else "failed"

    @property
    def failure(self) -> Failure | None:
        """The run's failure; None if it has not failed."""
        match self.closing:
            case ev.Failed():
                return self.closing.failure
            case ev.Terminated(reason=reason, code=code, stack=stack, kind=kind):
                return termination(self.workflow_id, reason, code, stack, kind)
            case _:
                return None
