"""A run's history for the page: typed events, with payloads as text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from jetflow.errors import Failure, InvalidInputError
from jetflow.handle import WorkflowHandle
from jetflow.history.execution import HistoryEvent
from jetflow.web.rows import failure, payload

PAGE = 1000
"""The most events in one answer."""
SHOWN_PAYLOAD = 4096
"""The most characters of a payload in a list of events. The page asks for the rest."""
PAYLOADS = ("input", "result", "value")


async def events(handle: WorkflowHandle, *, first: int = 1) -> dict[str, Any]:
    """Return events from number ``first`` on. ``next`` is the number of the next event if there are more.

    Raises:
        WorkflowNotFoundError: there is no such workflow, or its timeline is gone.
    """
    execution = await handle.export_execution(extended=True, enrich_inputs=True, first_event=first, limit=PAGE)
    shown = [_event(event) for event in execution.events]
    more = None if execution.next_event is msgspec.UNSET else execution.next_event
    return {"events": shown, "next": more, "run": execution.run_id}


async def attribute(handle: WorkflowHandle, number: int, name: str) -> Any:
    """Return one whole attribute of one event.

    Raises:
        InvalidInputError: there is no such attribute.
    """
    execution = await handle.export_execution(extended=True, enrich_inputs=True, first_event=number, limit=1)
    found = getattr(execution.events[0].attributes, name, msgspec.UNSET) if execution.events and name in PAYLOADS else msgspec.UNSET
    if found is msgspec.UNSET:
        raise InvalidInputError(f"event {number} has no {name}")
    return found


def _event(event: HistoryEvent) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "n": event.event_id,
        "type": event.event_type,
        "category": event.category,
        "at": _ms(event.event_time),
        "took": event.duration_ms,
    }
    attributes: dict[str, Any] = {}
    for name in event.attributes.__struct_fields__:
        value = getattr(event.attributes, name)
        if value is msgspec.UNSET:
            continue
        if isinstance(value, Failure):
            attributes[name] = failure(value)
        elif name in PAYLOADS:
            attributes[name] = payload(value, cut_at=SHOWN_PAYLOAD)
        elif name.endswith("_time"):
            attributes[name] = _ms(value)
        else:
            attributes[name] = value
    shown["attributes"] = attributes
    return shown


def _ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
