"""Removes the rest of a run once its state record has expired.

The run's timeline, signals and timers go first. The marker of its record goes last, ``MARKER_STAYS`` after it came at the earliest: until then it
shows a client that an owner may have refused its start. Every removal names the position in its stream up to which it goes. So it cannot touch what
a newer run of the same id has written, however late it comes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import NamedTuple

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timeline import Entry, UnreadableTimelineError, to_entry
from jetflow.broker.transport.lane import StoredMessage
from jetflow.core import events as ev
from jetflow.core.ids import partition_of
from jetflow.core.log_fields import of_tokens
from jetflow.core.times import from_iso
from jetflow.engine import faults
from jetflow.engine.ownership.tenure import Tenure
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol.record import MARKER_STAYS

log: logging.Logger = logging.getLogger("jetflow.worker")


class Left(NamedTuple):
    """What stays: ids whose timeline cannot be read, with the reason, and ids to come back to."""

    unreadable: dict[str, str]
    later: list[str]


async def retire(tenure: Tenure, ids: Sequence[str]) -> Left:
    """Remove the rest of those ids whose last run has ended and whose record is gone.

    The order of the reads matters. The record of a run whose commands are all acked was written, so a missing record has expired. While a command
    waits, its owner must find the timeline, or it would run a repeated start as a new one.
    """
    context = tenure.context
    queue, names = context.queue_token, context.broker.names
    timelines = await _newest(tenure, names.timeline_stream, [tenure.timeline.key(queue, id_token, "*") for id_token in ids])
    partitions = context.broker.topology.partitions
    inboxes = [names.stored_commands(queue, id_token, partition=partition_of(queue, id_token, partitions)) for id_token in ids]
    waiting = await _newest(tenure, names.inbox_stream, inboxes)
    records = await _newest(tenure, names.state_stream, [tenure.states.subject(queue, id_token) for id_token in ids])
    unreadable: dict[str, str] = {}
    later: list[str] = []
    young = await _now(tenure) - int(MARKER_STAYS * 1000) if records else 0
    for id_token in ids:
        record = next(iter(records.get(id_token, ())), None)
        if record is not None and record.data:
            continue
        if id_token in waiting or (record is not None and from_iso(record.time) > young):
            later.append(id_token)
            continue
        keys = timelines.get(id_token, [])
        try:
            last = to_entry(max(keys, key=lambda message: message.seq)) if keys else None
        except UnreadableTimelineError as error:
            fields = of_tokens(tenure.context.queue_token, id_token)
            log.error("the timeline of expired workflow %s cannot be read, and stays: %s", fields["workflow_id"], error, extra=fields)
            unreadable[id_token] = str(error)
            continue
        if last is None or isinstance(last.commit.events[-1], ev.CLOSING):
            await _remove(tenure, id_token, last, record)
    return Left(unreadable, later)


async def _now(tenure: Tenure) -> int:
    """Return the time by the broker's clock, ms since the epoch."""
    info = await tenure.lane.stream_info(tenure.context.broker.names.state_stream)
    return from_iso(info["ts"])


async def _newest(tenure: Tenure, stream: str, filters: list[str]) -> dict[str, list[StoredMessage]]:
    """Return the last message of each key that a filter matches, by id token. On replicated streams return the leader's last of each filter."""
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
    """Remove a run, the marker last, so that a crash leaves the marker for the next janitor."""
    queue = tenure.context.queue_token
    tenure.compaction.disturb(id_token)
    if last is not None:
        if _has_timers(last):
            await _remove_timers(tenure, id_token, last)
        faults.reach("before_purge")
        await tenure.timeline.remove(queue, id_token, last.position + 1)
        if last.seq > 1 and not last.commit.compacted:
            left = await tenure.timeline.last(queue, id_token)
            if left is not None and left.commit.run == last.commit.run:  # compaction has just replaced the key
                await tenure.timeline.remove(queue, id_token, left.position + 1)
    if record is not None:
        if tenure.has_early(id_token) or not tenure.owns(_partition(tenure, id_token)):
            await tenure.signals.remove_before(queue, id_token, record.time)
        await tenure.states.remove_marker(queue, id_token, record.seq)


def _partition(tenure: Tenure, id_token: str) -> int:
    return partition_of(tenure.context.queue_token, id_token, tenure.context.broker.topology.partitions)


async def _remove_timers(tenure: Tenure, id_token: str, last: Entry) -> None:
    newest = await tenure.timers.newest(tenure.context.queue_token, id_token)
    if newest and await tenure.timeline.last(tenure.context.queue_token, id_token) == last:  # no newer run has begun, so the timers are this run's
        await tenure.timers.cancel_all(tenure.context.queue_token, id_token, newest + 1)


def _has_timers(last: Entry) -> bool:
    """Return whether timers of the run may be left at the broker."""
    whole = last.commit.compacted or getattr(last.commit.events[0], "generation", 0) == 1
    return not whole or any(getattr(event, "due", None) is not None for event in last.commit.events)
