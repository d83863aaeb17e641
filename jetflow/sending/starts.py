"""Sending a start, and finding out whether its owner accepted it when an older run has the id, or had it a moment ago.

A refused start never runs, and an accepted start is never reported as refused. A refused start has been acked and has no run in the
timeline. An accepted one has a run in the timeline. If the partition has no owner, the older run's record decides. While the record
exists, the client withdraws the start, which no owner has received. When the record is gone, the start is valid.
"""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from jetflow.broker.stores.state import StateStore
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import PubAck, StoredMessage
from jetflow.broker.transport.pull import claimed_partitions
from jetflow.core.ids import partition_of
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError
from jetflow.protocol import clock
from jetflow.protocol.headers import NEW_ID, REPLACE
from jetflow.protocol.record import MARKER_STAYS, StateRecord, decode_state
from jetflow.protocol.reference import WorkflowRef

PATIENCE = 5.0
"""Seconds after which the client expects no decision of an owner. This is longer than a lease, after which an owner may not write."""
SOON = 60_000
"""A record that expires within so many ms may be gone when an owner reads it."""
MARGIN = 0.25
"""Seconds subtracted from ``MARKER_STAYS``, because the clocks of a cluster's servers differ."""
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1


class Sent(NamedTuple):
    """The outcome of sending a start.

    Attributes:
        is_taken: whether the start is accepted, or will be; False if another run has the id.
        run: the run id, if it is certain.
        record: the run's record, if it was read and already exists.
    """

    is_taken: bool
    run: int | None = None
    record: StateRecord | None = None


NOT_TAKEN = Sent(False)


class Starts:
    """Sends the starts of one client, and finds out whether they were accepted."""

    def __init__(self, broker: Broker, states: StateStore, timeline: Timeline) -> None:
        self._broker = broker
        self._states = states
        self._timeline = timeline

    async def send(self, ref: WorkflowRef, type_token: str, body: bytes, headers: dict[str, str], *, id_is_new: bool) -> Sent:
        """Store a start and, if another run may have the id, find out whether it was refused. For the arguments see ``publish``."""
        since, record = clock.monotonic(), None
        ack = await self.publish(ref, type_token, body, headers, id_is_new=id_is_new)
        if ack is None:
            return NOT_TAKEN
        if not id_is_new and REPLACE not in headers:
            refused, record = await self.is_refused(ref.queue_token, ref.id_token, ack.seq, since)
            if refused:
                return NOT_TAKEN._replace(record=record)
        sure = not (ack.repeated and id_is_new)  # an earlier copy of this start may be the one that runs
        return Sent(True, ack.seq if sure else None, record)

    async def publish(self, ref: WorkflowRef, type_token: str, body: bytes, headers: dict[str, str], *, id_is_new: bool) -> PubAck | None:
        """Store a start and return its ack, whose sequence number is the run id; None if another start of this id is stored already.

        Args:
            ref: the workflow.
            type_token: its type as a token.
            body: its arguments.
            headers: jetflow's headers.
            id_is_new: the id was generated for this start, so that no other workflow has it.
        """
        names, lane = self._broker.names, self._broker.lane
        at_first, expect_none_of = "", ""
        if REPLACE in headers:
            pass  # the run that has the id will be replaced
        elif id_is_new:
            at_first = NEW_ID
        else:
            partition = partition_of(ref.queue_token, ref.id_token, self._broker.topology.partitions)
            expect_none_of = names.pending_start(ref.queue_token, ref.id_token, partition=partition)
        subject = names.command(ref.queue_token, ref.id_token, f"start.{type_token}")
        try:
            return await lane.publish_once(subject, body, lane.message_id(), at_first=at_first, expect_none_of=expect_none_of, **headers)
        except ConflictError:
            return None

    async def is_refused(self, queue_token: str, id_token: str, run: int, since: float) -> tuple[bool, StateRecord | None]:
        """Return whether the start that is stored as ``run`` is refused, and the run's record if there is one already.

        Args:
            queue_token, id_token: the workflow.
            run: the start's sequence in the inbox.
            since: when its publishing began, in seconds of the monotonic clock. If a record has expired since then, the broker still has its
                marker for a moment. After that, only the owner's decision counts.

        Raises:
            BrokerUnavailableError: the outcome is unknown. The process was suspended for longer than records and markers stay.
        """
        newest = await self._newest(queue_token, id_token)
        if newest is None and clock.monotonic() - since < MARKER_STAYS - MARGIN:
            return False, None  # no run had the id recently
        record = decode_state(newest.data) if newest is not None else None
        if record is not None and record.run_id == str(run):
            return False, record
        return await self._decided(queue_token, id_token, run)

    async def _newest(self, queue_token: str, id_token: str) -> StoredMessage | None:
        if self._broker.topology.replicas > 1:
            return await self._states.newest(queue_token, id_token)
        subject = self._states.subject(queue_token, id_token)
        return await self._broker.lane.read_last(self._broker.names.state_stream, subject, may_lag="there is one server alone")

    async def _decided(self, queue_token: str, id_token: str, run: int) -> tuple[bool, StateRecord | None]:
        deadline, pause = clock.monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            newest = await self._states.newest(queue_token, id_token)
            record = decode_state(newest.data) if newest is not None else None
            if record is not None and record.run_id == str(run):
                return False, record
            if await self._broker.lane.message(self._broker.names.inbox_stream, run) is None:
                if await self._has_run(queue_token, id_token, run):
                    return False, None
                if newest is None:
                    raise BrokerUnavailableError("the outcome of this start is unknown: it was refused, or its run has ended and expired")
                return True, None
            late = clock.monotonic() > deadline
            has_owner = not late and await self._has_owner(queue_token, id_token)
            if record is None and not has_owner:
                return False, None  # the next owner will accept the start
            stays = record is not None and not has_owner and not (late and _expires_soon(record))
            if stays and await self._take_back(run):
                return True, None
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    async def _has_owner(self, queue_token: str, id_token: str) -> bool:
        """Return whether a worker may have received the start. True if that is unknown."""
        broker = self._broker
        try:
            claimed = await claimed_partitions(broker.lane, broker.names, queue_token)
        except BrokerError:
            return True
        partition = partition_of(queue_token, id_token, broker.topology.partitions)
        return any(partition in partitions for partitions in claimed.values())

    async def _has_run(self, queue_token: str, id_token: str, run: int) -> bool:
        last = await self._timeline.last(queue_token, id_token)
        return last is not None and last.commit.run == run

    async def _take_back(self, run: int) -> bool:
        """Withdraw a start. Return False if an owner was faster, or the client lacks the right."""
        try:
            await self._broker.lane.delete_message(self._broker.names.inbox_stream, run)
        except BrokerError:
            return await self._broker.lane.message(self._broker.names.inbox_stream, run) is not None
        return True


def _expires_soon(record: StateRecord) -> bool:
    if not record.closed or record.closed_at is None:
        return False
    return record.expire is not None and record.closed_at + record.expire - clock.now_ms() < SOON
