"""Workflows as the page gets them: small rows for lists, and whole records for a workflow's own page.

Payloads travel as indented JSON text in a string. A browser that parsed them would round large numbers.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw

from jetflow.errors import Failure
from jetflow.protocol.record import StateRecord, Waiting

SHOWN_WAITS = 3
SHOWN_FIELDS = 4
SHOWN_TEXT = 240
SHOWN_VALUE = 48
SHOWN_PAYLOAD = 32 * 1024
"""The most characters of a payload in a record. The page asks for the rest when a person opens it."""


def status_of(record: StateRecord) -> str:
    """Return the status that people see. Parked is a status of its own."""
    return "parked" if record.parked is not None and not record.closed else record.status


def row(record: StateRecord) -> dict[str, Any]:
    """Return what a list shows of a workflow, a few hundred bytes."""
    shown: dict[str, Any] = {
        "queue": record.task_queue,
        "id": record.workflow_id,
        "type": record.workflow_type,
        "run": record.run_id,
        "status": status_of(record),
        "started": record.started_at,
        "updated": record.updated_at,
        "closed": record.closed_at,
    }
    if not record.closed:
        shown["waits"] = [_wait(waiting) for waiting in record.waiting[:SHOWN_WAITS]]
        shown["pending"] = record.code
        shown["cancelling"] = record.cancel_requested
        retry = next((waiting for waiting in record.waiting if waiting.failure is not None), None)
        if retry is not None:
            shown["retrying"] = _wait(retry)
        if record.parked is not None:
            shown["parked"] = record.parked.reason
    if record.failure is not None:
        shown["failure"] = _root(record.failure)
    if record.data:
        shown["data"] = [[name, _short(value)] for name, value in list(record.data.items())[:SHOWN_FIELDS]]
    return shown


def whole(record: StateRecord) -> dict[str, Any]:
    """Return everything in the record."""
    shown = row(record) | {
        "generation": record.generation,
        "worker": record.worker,
        "parent": record.parent_workflow_id,
        "origin": record.origin_id,
        "expire": record.expire,
        "keys": record.timeline_seq,
        "waits": [] if record.closed else [_wait(waiting) for waiting in record.waiting],
        "failure": failure(record.failure),
        "result": None if record.result is msgspec.UNSET else payload(record.result),
        "data": {name: payload(value) for name, value in record.data.items()},
        "entity": None if record.entity is None else payload(record.entity),
    }
    if record.parked is not None and not record.closed:
        shown["parked"] = {"reason": record.parked.reason, "message": record.parked.message, "since": record.parked.since}
    return shown


def failure(found: Failure | None) -> dict[str, Any] | None:
    """Return a failure with its causes."""
    if found is None:
        return None
    shown = {"type": found.type, "message": found.message, "code": found.code, "kind": found.mark, "stack": found.stack}
    return shown | {"cause": failure(found.cause)}


def payload(value: Any, *, cut_at: int | None = SHOWN_PAYLOAD) -> dict[str, Any]:
    """Return a payload as text. ``size`` is its bytes as compact JSON. ``cut`` says that the text is only its beginning."""
    body = bytes(value) if isinstance(value, Raw) else msgspec.json.encode(value)
    text = _indented(body)
    if cut_at is None or len(text) <= cut_at:
        return {"text": text, "size": len(body)}
    return {"text": text[:cut_at], "size": len(body), "cut": True}


def _indented(body: bytes) -> str:
    try:
        return msgspec.json.format(body, indent=2).decode(errors="replace")
    except msgspec.DecodeError:
        return body.decode(errors="replace")


def _wait(waiting: Waiting) -> dict[str, Any]:
    shown: dict[str, Any] = {"index": waiting.index, "kind": waiting.kind, "name": waiting.name, "since": waiting.since}
    if waiting.due is not None:
        shown["due"] = waiting.due
    if waiting.attempt is not None:
        shown["attempt"] = waiting.attempt
    if waiting.failure is not None:
        shown["failure"] = {"type": waiting.failure.type, "message": waiting.failure.message[:SHOWN_TEXT]}
    return shown


def _root(found: Failure) -> dict[str, Any]:
    """Return the root cause of a failure: an activity's own error says more than that the activity failed."""
    while found.cause is not None:
        found = found.cause
    return {"type": found.type, "message": found.message[:SHOWN_TEXT]}


def _short(value: Raw) -> str:
    text = bytes(value).decode(errors="replace")
    return text if len(text) <= SHOWN_VALUE else f"{text[: SHOWN_VALUE - 1]}…"
