"""History events as text."""

from __future__ import annotations

from typing import Any

import msgspec
from rich.text import Text

from jetflow.cli.output import clean, short_duration
from jetflow.cli.styles import STYLES
from jetflow.cli.times import shown_time
from jetflow.history.execution import HistoryEvent, WorkflowExecution

LONG = 120
"""Most characters of a payload that a terminal shows."""

_STYLES = (
    ("_failed", "red"),
    ("_terminated", "magenta"),
    ("_timed_out", "yellow"),
    ("_retrying", "yellow"),
    ("_cancel_requested", "yellow"),
    ("_cancelled", "dim"),
    ("_abandoned", "dim"),
    ("_completed", "green"),
    ("_fired", "green"),
    ("_signaled", "green"),
)
_NAMES = ("activity_type", "child_workflow_id", "signal_name", "update_name", "patch_id", "workflow_type", "update_id")


def heading(execution: WorkflowExecution, *, utc: bool) -> Text:
    """Return a run as one line."""
    status = execution.closing_reason or execution.status
    text = Text.assemble((clean(execution.workflow_id), "bold"), "  ", (status, STYLES.get(status, "")))
    text.append(f"  {clean(execution.workflow_type)}" if execution.workflow_type else "")
    if execution.start_time is not None:
        text.append(f"  {shown_time(execution.start_time, utc=utc)}", "dim")
    if execution.duration_ms is not None:
        text.append(f"  took {short_duration(execution.duration_ms)}", "dim")
    return text


def columns(event: HistoryEvent, *, utc: bool, whole: bool) -> tuple[Text, Text, Text, Text]:
    """Return an event's number, time, type and details. With ``whole`` nothing is shortened."""
    time, kind = Text(shown_time(event.event_time, utc=utc), "dim"), Text(event.event_type, _style(event))
    return Text(str(event.event_id)), time, kind, about(event, whole=whole)


def line(event: HistoryEvent, *, utc: bool, whole: bool) -> Text:
    """Return an event as a line, in columns wide enough for most events."""
    number, time, kind, what = columns(event, utc=utc, whole=whole)
    padding = " " * max(0, 37 - len(kind))
    text = Text.assemble(" " * max(0, 5 - len(number)), number, "  ", time, "  ", kind, padding, "  ", what)
    text.rstrip()
    return text


def about(event: HistoryEvent, *, whole: bool) -> Text:
    """Return an event's details: name, payload or failure, reference, duration."""
    attributes = event.attributes
    text = Text()
    name = next((str(getattr(attributes, field)) for field in _NAMES if getattr(attributes, field, None)), "")
    index = getattr(attributes, "execution_index", None)
    text.append(clean(name), "bold")
    if index is not None:
        text.append(f"{' ' if name else ''}#{index}", "dim")
    for part in _parts(event, attributes, whole=whole):
        if len(text):
            text.append("  ")
        text.append_text(part)
    return text


def _parts(event: HistoryEvent, attributes: Any, *, whole: bool) -> list[Text]:
    parts = []
    for field, before in (("input", ""), ("result", "= "), ("value", "= ")):
        value = getattr(attributes, field, msgspec.UNSET)
        repeated = field == "input" and hasattr(attributes, "scheduled_event_id")
        if value is not msgspec.UNSET and not repeated:
            parts.append(Text(before + _payload(value, whole=whole)))
    failure = getattr(attributes, "failure", None)
    if failure:
        parts.append(Text(clean(f"{failure.type}: {failure.message}"), "red"))
    if event.event_type == "timer_started":
        parts.append(Text(f"for {short_duration(attributes.duration_ms)}"))
    if isinstance(getattr(attributes, "timeout_ms", None), int):
        parts.append(Text(f"for {short_duration(attributes.timeout_ms)} at most"))
    if event.event_type == "workflow_execution_cancel_requested" and attributes.reason:
        parts.append(Text(clean(attributes.reason)))
    attempt = getattr(attributes, "attempt", 1)
    if attempt > 1 or event.event_type == "activity_task_retrying":
        parts.append(Text(f"attempt {attempt}"))
    if event.duration_ms is not None:
        parts.append(Text(f"after {short_duration(event.duration_ms)}", "dim"))
    return parts


def _payload(value: Any, *, whole: bool) -> str:
    text = clean(msgspec.json.encode(value).decode())
    return text if whole or len(text) <= LONG else f"{text[: LONG - 1]}…"


def _style(event: HistoryEvent) -> str:
    return next((style for ending, style in _STYLES if event.event_type.endswith(ending)), "")
