"""The state bucket: what a person wants to know of a workflow. Derived from the timeline, never read to decide a step."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from msgspec import Raw, Struct

from jetflow.broker.fence import FencedLane
from jetflow.broker.group_commit import Choice, GroupCommit
from jetflow.broker.lane import Lane, StoredMessage
from jetflow.broker.wire import ttl_of
from jetflow.core.failures import Failure
from jetflow.core.ids import Names, to_token

RUNNING = "running"
COMPLETED = "completed"
FAILED = "failed"
TERMINATED = "terminated"


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
    """Why a workflow cannot go on with the worker that owns it."""

    reason: str
    message: str
    since: int


class StateRecord(Struct, omit_defaults=True):
    """A workflow's state. Times are ms since the epoch; ``code`` is 0 complete, above 0 pending operations, below 0 failed."""

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
        return self.status != RUNNING


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(StateRecord)


def decode_state(body: bytes) -> StateRecord | None:
    """A state record, or None for a deleted or expired one, and for what is none."""
    if not body:
        return None
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError:
        return None


@lru_cache(maxsize=256)
def _expiring(expire: int) -> bytes:
    return f"Nats-TTL:{ttl_of(expire)}\r\n".encode()


class StateStore:
    """Reads state records of one namespace."""

    def __init__(self, lane: Lane | FencedLane, names: Names) -> None:
        self._lane = lane
        self._names = names

    def subject(self, queue_token: str, id_token: str) -> str:
        """Subject of a workflow's state key."""
        return f"{self._names.state_prefix}{queue_token}.{id_token}"

    async def newest(self, queue_token: str, id_token: str) -> StoredMessage | None:
        """The key as the leader has it: a record, or without data the marker that is left of an expired one."""
        return await self._lane.last_message(self._names.state_stream, self.subject(queue_token, id_token))

    async def get(self, queue_token: str, id_token: str, *, fresh: bool = False) -> StateRecord | None:
        """The record; ``fresh`` asks the leader, for reads that something is decided on."""
        subject = self.subject(queue_token, id_token)
        if fresh:
            message = await self._lane.last_message(self._names.state_stream, subject)
            return None if message is None else decode_state(message.data)
        data = await self._lane.read_data(self._names.state_stream, subject, may_lag="whoever decides something asks with fresh=True")
        return None if data is None else decode_state(data)


class OwnedStates(StateStore):
    """State records as the owner of their partitions has them, who alone writes.

    Args:
        lane: the tenure's.
        names: the namespace.
        choice: whether records go alone or together, as measured so far.
    """

    def __init__(self, lane: FencedLane, names: Names, choice: Choice) -> None:
        super().__init__(lane, names)
        self._owned = lane
        self._records = GroupCommit(lane, "state", choice)

    async def put(self, record: StateRecord) -> None:
        """Writes the record; a closed one with ``expire`` (ms) goes when that time is over.

        Raises:
            TenureOverError: another worker has taken over.
        """
        subject = self.subject(to_token(record.task_queue), to_token(record.workflow_id))
        fields = b"" if record.expire is None or not record.closed else _expiring(record.expire)
        await self._records.publish(subject, _encoder.encode(record), fields)

    async def remove_marker(self, queue_token: str, id_token: str, position: int) -> None:
        """Removes the marker at a position; a record that has taken its place stays."""
        await self._owned.purge(self._names.state_stream, self.subject(queue_token, id_token), position + 1)


def summary(record: StateRecord) -> dict[str, Any]:
    """The record as plain JSON types."""
    return msgspec.json.decode(_encoder.encode(record))  # type: ignore[no-any-return]
