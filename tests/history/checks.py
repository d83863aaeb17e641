"""What holds for every history, and a way to write one down in a test."""

from collections import Counter
from datetime import datetime

import msgspec

from jetflow.history.execution import ExecutionSummary, HistoryEvent, WorkflowExecution

REFERENCES = {
    "scheduled_event_id": "activity_task_scheduled",
    "initiated_event_id": "child_workflow_execution_started",
    "started_event_id": {"timer": "timer_started", "signal": "signal_wait_started"},
    "accepted_event_id": "workflow_execution_update_accepted",
}


def reference(event: HistoryEvent) -> tuple[str, int] | None:
    """The field that refers to an earlier event, and which."""
    for field in REFERENCES:
        value = getattr(event.attributes, field, None)
        if value is not None:
            return field, value
    return None


def check_events(events: list[HistoryEvent], before: list[HistoryEvent] = []) -> None:  # noqa: B006 - never changed
    """Numbers, order, references and durations; ``before`` are the events of earlier pages."""
    known = {event.event_id: event for event in [*before, *events]}
    first = len(before) + 1
    assert [event.event_id for event in events] == list(range(first, first + len(events)))
    times = [event.event_time for event in events]
    assert times == sorted(times)
    assert all(len(time) == len("2026-01-01T00:00:00.000Z") and time.endswith("Z") for time in times)
    for event in events:
        assert event.event_type == event.attributes.kind
        assert event.category == event.attributes.category
        assert not event.is_system or event.category == "activity"
        refers = reference(event)
        if refers is None:
            continue
        field, to = refers
        wanted = REFERENCES[field]
        assert to < event.event_id
        assert known[to].event_type == (wanted if isinstance(wanted, str) else wanted[event.category]), event
        if event.category != "workflow":
            assert known[to].attributes.timeline_key == event.attributes.timeline_key
            assert known[to].attributes.execution_index == event.attributes.execution_index
        assert event.duration_ms == _ms(event) - _ms(known[to])


def _ms(event: HistoryEvent) -> int:
    return round(datetime.fromisoformat(event.event_time).timestamp() * 1000)


def check_summary(summary: ExecutionSummary, events: list[HistoryEvent]) -> None:
    """Every number is a count of the events."""
    plain = msgspec.json.decode(msgspec.json.encode(events))
    count = Counter(event["event_type"] for event in plain)
    system = sum(event["event_type"] == "activity_task_scheduled" and event["attributes"]["activity_type"].startswith("lt") for event in plain)
    assert msgspec.to_builtins(summary) == {
        "total_events": len(plain),
        "activities": {
            "total": count["activity_task_scheduled"],
            "completed": count["activity_task_completed"],
            "failed": count["activity_task_failed"],
            "system": system,
            "user": count["activity_task_scheduled"] - system,
        },
        "child_workflows": {
            "total": count["child_workflow_execution_started"],
            "completed": count["child_workflow_execution_completed"],
            "failed": count["child_workflow_execution_failed"],
        },
        "timers": count["timer_started"],
        "signals": count["workflow_execution_signaled"],
    }


def check_execution(execution: WorkflowExecution) -> None:
    """An execution and its children agree with themselves, and survive being written and read."""
    check_events(execution.events)
    check_summary(execution.summary, execution.events)
    if execution.events:
        assert execution.start_time == execution.events[0].event_time
    if execution.close_time is not None:
        assert execution.events[-1].event_time == execution.close_time
        assert execution.events[-1].duration_ms == execution.duration_ms
    assert (execution.close_time is None) == (execution.status == "running") == (execution.duration_ms is None)
    assert (execution.failure is not None) == (execution.status == "failed")
    assert msgspec.json.decode(msgspec.json.encode(execution), type=WorkflowExecution) == execution
    if execution.children is not msgspec.UNSET:
        for child in execution.children:
            check_execution(child)


_NAMES = ("workflow_type", "activity_type", "child_workflow_id", "signal_name", "update_name", "patch_id")
_PAYLOADS = ("input", "result")


def told(event: HistoryEvent) -> str:
    """An event as a line: its number and type, what it is about, ``<3`` for the event it refers to, and what it carries."""
    attributes = event.attributes
    parts = [str(event.event_id), event.event_type]
    parts += [str(getattr(attributes, name)) for name in _NAMES if getattr(attributes, name, None)][:1]
    refers = reference(event)
    if refers is not None:
        parts.append(f"<{refers[1]}")
    if getattr(attributes, "attempt", 1) != 1:
        parts.append(f"attempt {attributes.attempt}")
    for name in _PAYLOADS:
        value = getattr(attributes, name, msgspec.UNSET)
        if value is not msgspec.UNSET:
            parts.append(f"{name} {msgspec.json.encode(value).decode()}")
    failure = getattr(attributes, "failure", None)
    if failure:
        parts.append(f"failure {failure.type}: {failure.message}")
    return " ".join(parts)


def story(execution: WorkflowExecution) -> list[str]:
    """The whole history, a line for each event."""
    return [told(event) for event in execution.events]
