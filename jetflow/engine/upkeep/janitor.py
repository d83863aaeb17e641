"""Whatever is left of a run goes when its state record has expired.

The record's TTL is the clock. The broker leaves a marker in its place; the worker that owns partition 0 of the task queue
goes through the records and finds the markers, removes the run's timeline, signals and timers, and the marker last. Every removal says up
to which position of its stream, so that it can never touch what a newer run of the same id has written, however late it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timeline import Entry, UnreadableTimelineError, to_entry
from jetflow.broker.transport.lane import StoredMessage
from jetflow.broker.transport.scan import Scan
from jetflow.broker.transport.topology import MARKER_TTL
from jetflow.core import events as ev
from jetflow.core.ids import partition_of
from jetflow.core.times import from_iso
from jetflow.engine import faults
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol import clock

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine
    from jetflow.engine.ownership.tenure import Tenure

log: logging.Logger = logging.getLogger("jetflow.worker")

EVERY = 1.0
"""Seconds between two looks at the records."""
TROUBLE = 5.0
"""Seconds before the janitor begins anew after the broker refused something, or is gone."""
BATCH = 200
TOGETHER = 100
"""Runs looked at together; the server gives at most 1,024 keys at once."""
REMEMBER_EVERY = 30.0
"""Seconds between two times that the janitor writes down how far it is; what came since is looked at again by the next one."""
EMPTY = b"Nats-Msg-Size: 0\r\n"
"""In the headers of a key without a value: a marker. Records are never empty."""


class Janitor:
    """Removes expired runs of one task queue, while this worker owns its partition 0.

    Attributes:
        set_aside: workflows (as tokens) whose timeline cannot be read, with the reason: nothing of them is removed.
    """

    def __init__(self, engine: Engine) -> None:
        self.set_aside: dict[str, str] = {}
        self._engine = engine

    async def run(self) -> None:
        """Works until cancelled, under one tenure of partition 0 after the other."""
        while True:
            tenure = self._engine.tenure
            if tenure is None or not tenure.owns(0):
                await asyncio.sleep(EVERY)
                continue
            try:
                await self._work(tenure)
            except TenureOverError as over:
                log.debug("expired runs are left to the next owner: %s", over)
            except BrokerError as error:
                log.warning("expired runs are left for later: %s", error)
                await asyncio.sleep(TROUBLE)

    async def _work(self, tenure: Tenure) -> None:
        engine, names = self._engine, self._engine.broker.names
        place = await self._place(tenure)
        if place is None:
            if await self._may_have_missed(tenure):
                await self._sweep(tenure)
            place = 0
        lane = engine.broker.lane  # it must be able to remove its consumer when the tenure is over
        markers = Scan(lane, names.state_stream, f"{names.state_prefix}{engine.queue_token}.*", start=place + 1, wanted=_is_marker)
        remembered, since = -1, float("-inf")
        try:
            await markers.open()
            while tenure.owns(0):
                expired = [seen.subject.rpartition(".")[2] for seen in await markers.batch(BATCH)]
                await self._retire(tenure, list(dict.fromkeys(expired)))
                if markers.place != remembered and clock.monotonic() - since > REMEMBER_EVERY:
                    remembered, since = markers.place, clock.monotonic()
                    await self._remember(tenure, remembered)
                if markers.read < BATCH:
                    await asyncio.sleep(EVERY)
        finally:
            await markers.close()

    # ---- how far it is

    def _subject(self) -> str:
        return f"{self._engine.broker.names.tenure_prefix}state.janitor.{self._engine.queue_token}"

    async def _place(self, tenure: Tenure) -> int | None:
        """The position up to which an earlier janitor has looked; None if there was none since markers have been waiting."""
        message = await tenure.lane.last_message(self._engine.broker.names.state_stream, self._subject())
        return int(message.data) if message is not None and message.data.isdigit() else None

    async def _remember(self, tenure: Tenure, place: int) -> None:
        await tenure.lane.store("state", self._subject(), str(place).encode(), f"Nats-TTL:{MARKER_TTL}s\r\n".encode())

    async def _may_have_missed(self, tenure: Tenure) -> bool:
        """Whether markers may have gone unseen: nobody has looked for so long, and the records are as old."""
        info = await tenure.lane.api(f"STREAM.INFO.{self._engine.broker.names.state_stream}")
        return from_iso(info["ts"]) - from_iso(info["created"]) > MARKER_TTL * 1000

    async def _sweep(self, tenure: Tenure) -> None:
        """Looks for timelines without a record, among those that there are now."""
        engine, names = self._engine, self._engine.broker.names
        keys = Scan(engine.broker.lane, names.timeline_stream, f"{names.timeline_prefix}{engine.queue_token}.*.*")
        try:
            end = (await tenure.lane.api(f"STREAM.INFO.{names.timeline_stream}"))["state"]["last_seq"]
            await keys.open()
            position, before = 0, ""
            while position < end and (found := await keys.batch(BATCH)):
                position = found[-1].position
                ids = dict.fromkeys(seen.subject.split(".")[-2] for seen in found)
                await self._retire(tenure, [id_token for id_token in ids if id_token != before])
                before = next(reversed(ids))
        finally:
            await keys.close()

    async def _retire(self, tenure: Tenure, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), TOGETHER):
            self.set_aside |= await retire(tenure, ids[start : start + TOGETHER])


def _is_marker(headers: bytes) -> bool:
    return EMPTY in headers


async def revisit(tenure: Tenure, id_token: str, acked: int) -> None:
    """For an owner who found that a run has ended before: if its record is gone, so that the janitor may have come too early.

    Commands up to ``acked`` are done with, though the broker may not have taken their acks yet.
    """
    if await tenure.states.get(tenure.engine.queue_token, id_token, fresh=True) is None:
        await retire(tenure, [id_token], acked)


async def retire(tenure: Tenure, ids: Sequence[str], acked: int = 0) -> dict[str, str]:
    """Removes what is left of those ids whose last run has ended and whose record is gone; gives those that cannot be read, with the reason.

    The order of the questions matters: a run whose commands are all acked had its record written, so that a record which is
    not there has expired. While a command waits, its owner must still find the timeline, or it would take a repeated
    start for a new one; the owner comes here again after it.
    """
    engine = tenure.engine
    queue, names = engine.queue_token, engine.broker.names
    timelines = await _newest(tenure, names.timeline_stream, [tenure.timeline.key(queue, id_token, "*") for id_token in ids])
    partitions = engine.broker.topology.partitions
    inboxes = [f"{names.namespace}.{partition_of(queue, id_token, partitions)}.{queue}.{id_token}.>" for id_token in ids]
    waiting = await _newest(tenure, names.inbox_stream, inboxes)
    records = await _newest(tenure, names.state_stream, [tenure.states.subject(queue, id_token) for id_token in ids])
    unreadable: dict[str, str] = {}
    for id_token in ids:
        record = next(iter(records.get(id_token, ())), None)
        if any(message.seq > acked for message in waiting.get(id_token, ())) or (record is not None and record.data):
            continue
        keys = timelines.get(id_token, [])
        try:
            last = to_entry(max(keys, key=lambda message: message.seq)) if keys else None
        except UnreadableTimelineError as error:
            log.error("what is left of workflow %s cannot be read, and stays: %s", id_token, error)
            unreadable[id_token] = str(error)
            continue
        if last is None or isinstance(last.commit.events[-1], ev.CLOSING):
            await _remove(tenure, id_token, last, record)
    return unreadable


async def _newest(tenure: Tenure, stream: str, filters: list[str]) -> dict[str, list[StoredMessage]]:
    """The last message of each key that a filter matches, by id token; with several servers that of each filter, since only the leader is sure."""
    lane = tenure.lane
    found: list[StoredMessage | None] = []
    if not lane.replicated:
        try:
            found += await lane.read_many(stream, {"multi_last": filters}, may_lag="there is one server alone")
        except BrokerUnavailableError:
            raise
        except TenureOverError:
            raise
        except BrokerError:  # too much for one answer
            found += [message for one in filters if (message := await lane.last_message(stream, one)) is not None]
    else:
        found += await asyncio.gather(*(lane.last_message(stream, one) for one in filters))
    by_id: dict[str, list[StoredMessage]] = {}
    for message in found:
        if message is not None:
            by_id.setdefault(message.subject.split(".")[3], []).append(message)
    return by_id


async def _remove(tenure: Tenure, id_token: str, last: Entry | None, record: StoredMessage | None) -> None:
    """The marker last, so that after a crash it still tells of what is left."""
    queue = tenure.engine.queue_token
    tenure.compaction.disturb(id_token)
    if last is not None:
        if _has_timers(last):
            await _remove_timers(tenure, id_token, last)
        faults.reach("before_purge")
        await tenure.timeline.remove(queue, id_token, last.position + 1)
        if last.seq > 1 and not last.commit.compacted:
            left = await tenure.timeline.last(queue, id_token)
            if left is not None and left.commit.run == last.commit.run:  # compaction wrote it anew at this very moment
                await tenure.timeline.remove(queue, id_token, left.position + 1)
    if record is not None:
        if id_token in tenure.early or not tenure.owns(_partition(tenure, id_token)):
            await tenure.signals.remove_before(queue, id_token, record.time)
        await tenure.states.remove_marker(queue, id_token, record.seq)


def _partition(tenure: Tenure, id_token: str) -> int:
    return partition_of(tenure.engine.queue_token, id_token, tenure.engine.broker.topology.partitions)


async def _remove_timers(tenure: Tenure, id_token: str, last: Entry) -> None:
    newest = await tenure.timers.newest(tenure.engine.queue_token, id_token)
    if newest and await tenure.timeline.last(tenure.engine.queue_token, id_token) == last:  # so they are not those of a newer run
        await tenure.timers.cancel_all(tenure.engine.queue_token, id_token, newest + 1)


def _has_timers(last: Entry) -> bool:
    """Whether schedules of the run may be left."""
    whole = last.commit.compacted or getattr(last.commit.events[0], "generation", 0) == 1
    return not whole or any(getattr(event, "due", None) is not None for event in last.commit.events)
