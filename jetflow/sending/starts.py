"""What became of a start whose id an older run has, or had a moment ago: its owner decides, and the client learns what.

Refused means not run, and run means not refused. A start that is refused has been acked and has no run. One that is accepted has a
run in the timeline. Where the partition has no owner the older run's record decides: while it is there the client takes the start back,
which no owner has been given; once it is gone the start stands.
"""

from __future__ import annotations

import asyncio

from jetflow.broker.stores.state import StateStore
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import StoredMessage
from jetflow.broker.transport.pull import claimed_partitions
from jetflow.core.ids import partition_of
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.record import StateRecord, decode_state

PATIENCE = 5.0
"""Seconds after which no owner is expected to decide any more: longer than a lease, after which what an owner has in hand counts for nothing."""
SOON = 60_000
"""A record that expires within so many ms may be gone when an owner looks."""
FIRST_PAUSE, LAST_PAUSE = 0.002, 0.1


class Starts:
    """Looks at starts of one client."""

    def __init__(self, broker: Broker, states: StateStore) -> None:
        self._broker = broker
        self._states = states
        self._timeline = Timeline(broker.lane, broker.names)

    async def is_refused(self, queue_token: str, id_token: str, run: int) -> tuple[bool, StateRecord | None]:
        """Whether a start, which is stored as ``run``, is refused; and the run's record, if there is one already."""
        newest = await self._newest(queue_token, id_token)
        if newest is None:
            return False, None  # no run had the id lately
        record = decode_state(newest.data)
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
                return not await self._has_run(queue_token, id_token, run), None
            late = clock.monotonic() > deadline
            if record is None and late:
                return False, None  # whoever gets the start begins it
            stays = record is not None and ((late and not _expires_soon(record)) or not await self._has_owner(queue_token, id_token))
            if stays and await self._take_back(run):
                return True, None
            await asyncio.sleep(pause)
            pause = min(pause * 2, LAST_PAUSE)

    async def _has_owner(self, queue_token: str, id_token: str) -> bool:
        """Whether a worker may have been given the start, or it is not known."""
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
        """False if its owner was faster, or the client may not do that."""
        try:
            await self._broker.lane.api(f"STREAM.MSG.DELETE.{self._broker.names.inbox_stream}", {"seq": run, "no_erase": True})
        except BrokerError:
            return await self._broker.lane.message(self._broker.names.inbox_stream, run) is not None
        return True


def _expires_soon(record: StateRecord) -> bool:
    if not record.closed or record.closed_at is None:
        return False
    return record.expire is not None and record.closed_at + record.expire - clock.now_ms() < SOON
