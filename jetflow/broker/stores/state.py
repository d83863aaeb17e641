"""The state bucket: one record of each workflow for people to read. The engine derives it from the timeline and never decides a step by it."""

from __future__ import annotations

from functools import lru_cache

from jetflow.broker.fencing.fence import FencedLane
from jetflow.broker.fencing.group_commit import Choice, GroupCommit
from jetflow.broker.transport.lane import Lane, StoredMessage
from jetflow.core.ids import to_token
from jetflow.protocol.headers import ttl_field, ttl_of
from jetflow.protocol.record import StateRecord, decode_state, encode_state
from jetflow.protocol.subjects import Names


@lru_cache(maxsize=256)
def _expiring(expire: int) -> bytes:
    return ttl_field(ttl_of(expire))


class StateStore:
    """Reads state records of one namespace."""

    def __init__(self, lane: Lane | FencedLane, names: Names) -> None:
        self._lane = lane
        self._names = names

    def subject(self, queue_token: str, id_token: str) -> str:
        """Return the subject of a workflow's state key."""
        return f"{self._names.state_prefix}{queue_token}.{id_token}"

    async def newest(self, queue_token: str, id_token: str) -> StoredMessage | None:
        """Return the key's newest message from the leader: the record, or without data the marker of an expired record."""
        return await self._lane.last_message(self._names.state_stream, self.subject(queue_token, id_token))

    async def get(self, queue_token: str, id_token: str, *, fresh: bool = False) -> StateRecord | None:
        """Return the record. ``fresh`` asks the leader. Use it if a decision rests on the record."""
        subject = self.subject(queue_token, id_token)
        if fresh:
            message = await self._lane.last_message(self._names.state_stream, subject)
            return None if message is None else decode_state(message.data)
        data = await self._lane.read_data(self._names.state_stream, subject, may_lag="reads that a decision rests on use fresh=True")
        return None if data is None else decode_state(data)


class OwnedStates(StateStore):
    """The state records of an owner. Only the owner of a workflow's partition writes.

    Args:
        lane: the tenure's fenced lane.
        names: the namespace.
        choice: whether records go in batches, as measured so far.
    """

    def __init__(self, lane: FencedLane, names: Names, choice: Choice) -> None:
        super().__init__(lane, names)
        self._owned = lane
        self._records = GroupCommit(lane, "state", choice)

    async def put(self, record: StateRecord) -> None:
        """Write the record. A closed record with ``expire`` (ms) goes when that time is over.

        Raises:
            TenureOverError: another worker has taken over.
        """
        assert record.run_id != "0", f"a record of {record.workflow_id} before its run has begun"
        subject = self.subject(to_token(record.task_queue), to_token(record.workflow_id))
        fields = b"" if record.expire is None or not record.closed else _expiring(record.expire)
        await self._records.publish(subject, encode_state(record), fields)

    async def remove_marker(self, queue_token: str, id_token: str, position: int) -> None:
        """Remove the marker at a position. A record that has taken its place stays."""
        await self._owned.purge(self._names.state_stream, self.subject(queue_token, id_token), position + 1)
