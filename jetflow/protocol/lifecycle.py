"""Lifecycle events for other services, as CloudEvents 1.0 (structured mode)."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Raw, Struct, UnsetType

from jetflow.core import events as ev
from jetflow.core.ids import to_token
from jetflow.core.operation import RunInfo
from jetflow.core.times import to_iso
from jetflow.errors import Failure

TYPE_PREFIX = "jetflow.workflow."
CONTENT_TYPE = "application/cloudevents+json"


class LifecycleData(Struct, omit_defaults=True):
    """The data of an event. ``input`` comes with ``started``, ``result`` with ``completed``, ``failure`` with ``failed`` and
    ``terminated``, ``reason`` with ``cancel_requested`` and ``terminated``."""

    workflow_id: str
    task_queue: str
    workflow_type: str
    run_id: str
    generation: int = 1
    parent_workflow_id: str | None = None
    origin_id: str | None = None
    input: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    failure: Failure | None = None
    reason: str | None = None


class LifecycleEvent(Struct):
    """A CloudEvent. An event that is sent again has the same ``id``. ``time`` is ISO 8601 in UTC, with ms."""

    id: str
    source: str
    type: str
    subject: str
    time: str
    data: LifecycleData
    specversion: str = "1.0"
    datacontenttype: str = "application/json"

    @property
    def kind(self) -> str:
        """The kind: ``started``, ``completed``, ``failed``, ``terminated``, ``cancel_requested`` or ``continued_as_new``."""
        return self.type.removeprefix(TYPE_PREFIX)


def lifecycle_events(info: RunInfo, events: list[Any]) -> list[LifecycleEvent]:
    """Return the lifecycle events of a commit, in order."""
    return [event for event in (_lifecycle_event(info, known) for known in events) if event is not None]


def _lifecycle_event(info: RunInfo, event: Any) -> LifecycleEvent | None:
    data = LifecycleData(info.workflow_id, info.task_queue, info.workflow_type, str(info.run), info.generation)
    if info.parent is not None:
        data.parent_workflow_id, data.origin_id = info.parent.workflow_id, info.origin
    match event:
        case ev.Started(generation=1):
            kind, data.input = "started", event.input
        case ev.CancelRequested():
            kind, data.reason = "cancel_requested", event.reason or None
        case ev.ContinuedAsNew():
            kind, data.workflow_type = "continued_as_new", event.workflow_type
        case ev.Completed():
            kind, data.result = "completed", event.result
        case ev.Failed():
            kind, data.failure = "failed", event.failure
        case ev.Terminated():
            kind, data.reason = "terminated", event.reason
        case _:
            return None
    queue = to_token(info.task_queue)
    return LifecycleEvent(
        id=f"{queue}.{to_token(info.workflow_id)}.{info.run}.{info.generation}.{kind}",
        source=f"/jetflow/{info.namespace}/{queue}",
        type=TYPE_PREFIX + kind,
        subject=info.workflow_id,
        time=to_iso(event.at),
        data=data,
    )
