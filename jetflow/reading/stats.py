"""A namespace in numbers: workflows by status, stored messages, workers and throughput."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.walk import Walk
from jetflow.reading import listing
from jetflow.reading.filters import filters_of
from jetflow.reading.overview import Overview, overview


class Throughput(Struct):
    """What was done within ``seconds``.

    Attributes:
        started, ended: number of workflows.
        commands: number of commands stored in the inbox, including timers.
        commits: number of timeline keys written.
    """

    seconds: float
    started: int
    ended: int
    commands: int
    commits: int


class Stats(Struct):
    """A namespace at a moment.

    Attributes:
        workflows: number of workflows by status; None if not counted.
        commands: number of stored commands that are not acked.
        timers: number of timers scheduled at the broker.
        dead_letters: number of dead letters.
        expired_signals: number of dead letters that are expired signals.
        seen: workers, their partitions, and the streams.
        throughput: None if not measured.
    """

    workflows: dict[str, int] | None
    commands: int
    timers: int
    dead_letters: int
    seen: Overview
    throughput: Throughput | None
    expired_signals: int = 0


class _Times(Struct):
    started_at: int = 0
    closed_at: int | None = None


_decoder = msgspec.json.Decoder(_Times)


async def stats(broker: Broker, *, interval: float = 0, counted: bool = True) -> Stats:
    """Read the figures of a namespace.

    Args:
        broker: the connection to the namespace.
        interval: seconds for which throughput is measured; 0: not at all.
        counted: whether to count workflows by status, which reads every record.
    """
    names = broker.names
    throughput = await _throughput(broker, interval) if interval > 0 else None
    workflows = await listing.count_by(broker, filters_of(), "status") if counted else None
    commands = await Walk(broker.lane, names.inbox_stream, names.every_command).taken()
    timers = await Walk(broker.lane, names.inbox_stream, names.every_timer).taken()
    letters = await Walk(broker.lane, names.dead_stream, names.every_dead_letter).taken()
    expired = sum([await Walk(broker.lane, names.dead_stream, subjects).taken() for subjects in names.expired_letters])
    return Stats(workflows, commands, timers, letters, await overview(broker), throughput, expired)


async def _state(broker: Broker, stream: str) -> dict[str, Any]:
    answer = await broker.lane.stream_info(stream)
    return answer["state"] | {"asked_at": answer["ts"]}


async def _throughput(broker: Broker, interval: float) -> Throughput:
    names = broker.names
    streams = (names.state_stream, names.inbox_stream, names.timeline_stream)
    before = [await _state(broker, stream) for stream in streams]
    await asyncio.sleep(interval)
    after = [await _state(broker, stream) for stream in streams]
    began, ended = (datetime.fromisoformat(each[0]["asked_at"][:23]).replace(tzinfo=UTC).timestamp() for each in (before, after))
    commands, commits = (late["last_seq"] - early["last_seq"] for early, late in zip(before[1:], after[1:], strict=True))
    starts, ends = await _starts_and_ends(broker, before[0]["last_seq"] + 1, int(began * 1000))
    return Throughput(ended - began, starts, ends, commands, commits)


async def _starts_and_ends(broker: Broker, position: int, since: int) -> tuple[int, int]:
    starts = ends = 0
    async for rows in Walk(broker.lane, broker.names.state_stream).upwards(position):
        for row in rows:
            try:
                times = _decoder.decode(row.data) if row.data else _Times()
            except msgspec.DecodeError:
                continue
            starts += times.started_at >= since
            ends += times.closed_at is not None and times.closed_at >= since
    return starts, ends
