"""Descriptions of events, for error messages."""

from __future__ import annotations

from typing import Any

from jetflow.core import events as ev


def describe(event: Any) -> str:
    """Describe an event in words. Two outputs with the same description are the same decision."""
    match event:
        case ev.ActivityScheduled():
            where = f" on task queue {event.task_queue!r}" if event.task_queue else ""
            return f"activity {event.name!r}{where} (operation {event.index})"
        case ev.TimerStarted():
            return f"timer (operation {event.index})"
        case ev.WaitStarted():
            return f"wait for signal {event.signal!r} (operation {event.index})"
        case ev.ChildStarted():
            alone = "" if event.awaited else ", not awaited"
            return f"child workflow {event.workflow_type!r} {event.workflow_id!r}{alone} (operation {event.index})"
        case ev.SignalSent():
            return f"signal {event.signal!r} to {event.workflow_id!r} (operation {event.index})"
        case ev.SideEffect():
            return f"side effect (operation {event.index})"
        case ev.Patched():
            return f"patch {event.id!r}"
        case ev.UpdateCompleted():
            return f"completion of update {event.id!r}"
        case ev.UpdateFailed():
            return f"failure of update {event.id!r}"
        case ev.OperationCancelled():
            return f"giving up operation {event.index}"
        case ev.Completed():
            return "the workflow's completion"
        case ev.Failed():
            return "the workflow's failure"
        case ev.ContinuedAsNew():
            return f"continuing as new {event.workflow_type!r}"
        case _:
            return str(event.__struct_config__.tag)
