"""The state record: a workflow's status, waits, user data and outcome, for people and programs to read."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Raw, Struct

from jetflow.errors import Failure, Kind

PENDING = "pending"
"""The start is stored and no worker has begun it. No record has this status; lists make it up from the inbox."""
RUNNING = "running"
REPLACED = "replaced by a new start"
"""Reason of a run's termination by a start that takes its place."""
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"
TERMINATED = "terminated"
MARKER_STAYS = 1.0
"""Least seconds for which the broker stores the marker of an expired record. It shows a client that a run had the id a moment ago."""


class Waiting(Struct, omit_defaults=True):
    """A pending operation: what it is, since when, and when it is due (ms since the epoch)."""

    index: int
    kind: str
    name: str
    since: int
    due: int | None = None
    attempt: int | None = None
    failure: Failure | None = None


class Parked(Struct, omit_defaults=True):
    """Why the owner of a workflow cannot continue it."""

    reason: str
    message: str
    since: int


class StateRecord(Struct, omit_defaults=True):
    """A workflow's state. Times are ms since the epoch.

    ``code``: 0: completed; above 0: the number of pending operations; below 0: failed, cancelled or terminated.
    """

    workflow_id: str
    task_queue: str
    workflow_type: str
    run_id: str
    status: str
    code: int
    started_at: int
    updated_at: int
    closed_at: int | None = None
    result: Raw | msgspec.UnsetType = msgspec.UNSET
    failure: Failure | None = None
    waiting: list[Waiting] = []
    parked: Parked | None = None
    cancel_requested: bool = False
    generation: int = 1
    timeline_seq: int = 0
    parent_workflow_id: str | None = None
    origin_id: str | None = None
    expire: int | None = None
    worker: str | None = None
    data: dict[str, Raw] = {}
    entity: dict[str, Any] | None = None

    @property
    def closed(self) -> bool:
        """True once the workflow has ended."""
        return self.status not in (RUNNING, PENDING)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(StateRecord)


def encode_state(record: StateRecord) -> bytes:
    """Return the bytes of a state record."""
    return _encoder.encode(record)


def decode_state(body: bytes) -> StateRecord | None:
    """Return a state record; None for a deleted or expired one, and for bytes that are not a record."""
    if not body:
        return None
    try:
        record = _decoder.decode(body)
    except msgspec.DecodeError:
        return None
    if record.status == FAILED and record.failure is not None:
        record.status = status_of_failed(record.failure)
    return record


def status_of_failed(failure: Failure) -> str:
    """Return the status of a run that ended with a failure: cancelled or failed. Older versions wrote ``failed`` for both."""
    return CANCELLED if failure.mark == Kind.CANCELLED else FAILED


def summary(record: StateRecord) -> dict[str, Any]:
    """Return the record as plain JSON types."""
    return msgspec.json.decode(_encoder.encode(record))  # type: ignore[no-any-return]
