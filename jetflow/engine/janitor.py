"""Whatever is left of a run goes when its state record has expired.

The record's TTL is the clock. The broker leaves a marker in its place; the worker that owns partition 0 of the task queue
goes through the records and finds the markers, removes the run's timeline, signals and timers, and the marker last. It needs no
part in ownership: every removal says up to which position of its stream, so that it can never touch what a newer run of the
same id has written, however late it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jetflow.broker.lane import StoredMessage
from jetflow.broker.scan import Scan
from jetflow.broker.timeline import Entry, to_entry
from jetflow.broker.topology import MARKER_TTL
from jetflow.core import events as ev
from jetflow.core.ids import partition_of
from jetflow.core.times import from_iso
from jetflow.engine import faults
from jetflow.errors import BrokerError, BrokerUnavailableError

if TYPE_CHECKING:
    from jetflow.engine.engine import Engine

log = logging.getLogger("jetflow.worker")

EVERY = 1.0
"""Seconds between two looks at the records."""
TROUBLE = 5.0
"""Seconds before the janitor begins anew after the broker refused something, or is gone."""
BATCH = 200
TOGETHER = 100
"""Runs looked at together; the server gives at most 1,024 keys at once."""
EMPTY = b"Nats-Msg-Size: 0\r\n"
"""In the headers of a key without a value: a marker. Records are never empty."""
OWN = b"Jetflow-Removed:"
"""In the headers of what the janitor puts in a marker's place, which goes by itself."""


class Janitor:
    """Removes expired runs of one task queue, while this worker owns its partition 0."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def run(self) -> None:
        """Works until cancelled."""
        while True:
            await self._turn_comes()
            try:
                await self._work()
            except BrokerError as error:
                log.debug("expired runs are left for later: %s", error)
                await asyncio.sleep(TROUBLE)

    async def _turn_comes(self) -> None:
        while not self._elected:
            await asyncio.sleep(EVERY)

    @property
    def _elected(self) -> bool:
        ownership = self._engine.ownership
        return ownership is not None and 0 in ownership.partitions

    async def _work(self) -> None:
        engine, names = self._engine, self._engine.broker.names
        markers = Scan(engine.broker.lane, names.state_stream, f"{names.state_prefix}{engine.queue_token}.*", self._name, MARKER_TTL, _is_marker)
        try:
            if not await markers.known() and await self._may_have_missed():
                await self._sweep()
            await markers.open()
            while self._elected:
                expired = [seen.subject.rpartition(".")[2] for seen in await markers.batch(BATCH)]
                await self._retire(list(dict.fromkeys(expired)))
                await markers.done()
                if markers.read < BATCH:
                    await asyncio.sleep(EVERY)
        finally:
            markers.close()

    async def _may_have_missed(self) -> bool:
        """Whether markers may have gone unseen: nobody has looked for so long, and the records are as old."""
        broker = self._engine.broker
        info = await broker.lane.api(f"STREAM.INFO.{broker.names.state_stream}")
        return from_iso(info["ts"]) - from_iso(info["created"]) > MARKER_TTL * 1000  # type: ignore[no-any-return]

    @property
    def _name(self) -> str:
        return f"janitor-{self._engine.queue_token.replace('-', '=2D')}"

    async def _sweep(self) -> None:
        """Looks for timelines without a record, among those that there are now."""
        engine, names = self._engine, self._engine.broker.names
        keys = Scan(engine.broker.lane, names.timeline_stream, f"{names.timeline_prefix}{engine.queue_token}.*.*")
        try:
            end = (await engine.broker.lane.api(f"STREAM.INFO.{names.timeline_stream}"))["state"]["last_seq"]
            await keys.open()
            position, before = 0, ""
            while position < end and (found := await keys.batch(BATCH)):
                position = found[-1].position
                ids = dict.fromkeys(seen.subject.split(".")[-2] for seen in found)
                await self._retire([id_token for id_token in ids if id_token != before])
                before = next(reversed(ids))
        finally:
            keys.close()

    async def _retire(self, ids: Sequence[str]) -> None:
        for start in range(0, len(ids), TOGETHER):
            await retire(self._engine, ids[start : start + TOGETHER])


def _is_marker(headers: bytes) -> bool:
    return EMPTY in headers and OWN not in headers


async def revisit(engine: Engine, id_token: str) -> None:
    """For an owner who found that a run has ended before: if its record is gone, so that the janitor may have come too early."""
    if await engine.states.get(engine.queue_token, id_token, fresh=True) is None:
        await retire(engine, [id_token])


async def retire(engine: Engine, ids: Sequence[str]) -> set[str]:
    """Removes what is left of those ids whose last run has ended and whose record is gone; gives which they were.

    The order of the questions matters: a run whose commands are all acked had its record written, so that a record which is
    not there has expired. While a command waits, its owner must still find the timeline, or it would take a repeated
    start for a new one; the owner comes here again after it.
    """
    queue, names = engine.queue_token, engine.broker.names
    timelines = await _newest(engine, names.timeline_stream, [engine.timeline.key(queue, id_token, "*") for id_token in ids])
    partitions = engine.broker.topology.partitions
    inboxes = [f"{names.namespace}.{partition_of(queue, id_token, partitions)}.{queue}.{id_token}.>" for id_token in ids]
    waiting = await _newest(engine, names.inbox_stream, inboxes)
    records = await _newest(engine, names.state_stream, [engine.states.subject(queue, id_token) for id_token in ids])
    removed: set[str] = set()
    for id_token in ids:
        keys = [message for message in timelines.get(id_token, ()) if message.data]
        record = next(iter(records.get(id_token, ())), None)
        if id_token in waiting or (record is not None and record.data) or (keys and not _has_ended(keys)):
            continue
        await _remove(engine, id_token, keys, record)
        removed.add(id_token)
    return removed


def _owns(engine: Engine, id_token: str) -> bool:
    """Whether it is known here which of an id's signals wait."""
    partition = partition_of(engine.queue_token, id_token, engine.broker.topology.partitions)
    return engine.ownership is not None and partition in engine.ownership.partitions


async def _newest(engine: Engine, stream: str, filters: list[str]) -> dict[str, list[StoredMessage]]:
    """The last message of each key that a filter matches, by id token; with several servers that of each filter, since only the leader is sure."""
    lane = engine.broker.lane
    found: list[StoredMessage | None] = []
    if engine.broker.topology.replicas == 1:
        try:
            found += await lane.read_many(stream, {"multi_last": filters})
        except BrokerUnavailableError:
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


def _has_ended(keys: list[StoredMessage]) -> bool:
    return isinstance(_last(keys).commit.events[-1], ev.CLOSING)


def _last(keys: list[StoredMessage]) -> Entry:
    return to_entry(max(keys, key=lambda message: message.seq))


async def _remove(engine: Engine, id_token: str, keys: list[StoredMessage], record: StoredMessage | None) -> None:
    """The marker last, so that after a crash it still tells of what is left."""
    queue = engine.queue_token
    if keys:
        last = _last(keys)
        if _has_timers(last):
            await _remove_timers(engine, id_token, last)
        faults.reach("before_purge")
        if len(keys) == 1 and engine.broker.topology.replicas == 1:
            engine.timeline.wipe(queue, id_token, last.seq, last.position)
        else:
            await engine.timeline.remove(queue, id_token, last.position + 1)
            left = await engine.timeline.last(queue, id_token)
            if left is not None and left.commit.run == last.commit.run:  # compaction wrote it anew at this very moment
                await engine.timeline.remove(queue, id_token, left.position + 1)
    if record is not None:
        if id_token in engine.early or not _owns(engine, id_token):
            await engine.signals.remove_before(queue, id_token, record.time)
        await engine.states.remove_marker(queue, id_token, record.seq)


async def _remove_timers(engine: Engine, id_token: str, last: Entry) -> None:
    newest = await engine.timers.newest(engine.queue_token, id_token)
    if newest and await engine.timeline.last(engine.queue_token, id_token) == last:  # so they are not those of a newer run
        await engine.timers.cancel_all(engine.queue_token, id_token, newest + 1)


def _has_timers(last: Entry) -> bool:
    """Whether schedules of the run may be left."""
    whole = last.commit.compacted or getattr(last.commit.events[0], "generation", 0) == 1
    return not whole or any(getattr(event, "due", None) is not None for event in last.commit.events)
