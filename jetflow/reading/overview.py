"""The workers of a namespace, and what waits for them. It is for people; the engine never decides by it."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import msgspec
from msgspec import Struct

from jetflow.broker.stores.membership import Member
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.walk import Row, Walk
from jetflow.core.ids import from_token
from jetflow.errors import InvalidInputError
from jetflow.protocol.subjects import read_partition_filter

_decode = msgspec.json.Decoder(Member).decode
SAMPLE = 500
"""Commands of each end of the inbox that are looked at for task queues without a worker."""
FRESH = 5.0
"""Seconds for which the streams' figures are reused. A page of the dashboard asks more often."""


class Consumer(Struct):
    """A worker's consumer, for some partitions of a task queue.

    Attributes:
        waiting: commands stored and not delivered yet.
        under_way: commands delivered and not acked. A workflow with a running activity has at least one.
    """

    task_queue: str
    worker_id: str
    partitions: list[int]
    waiting: int
    under_way: int


class StreamSize(Struct):
    """The size of a stream. ``messages`` does not count messages about tenures, ``bytes`` does."""

    name: str
    what: str
    messages: int
    bytes: int


class Unserved(Struct):
    """A task queue with stored commands and no worker. ``starts`` is the number of the starts among them."""

    task_queue: str
    commands: int
    starts: int


class Overview(Struct):
    """The workers of a namespace, their partitions, the sizes of its streams, and problems.

    Attributes:
        complaints: problems of the namespace, each a sentence that says how to fix it.
        unserved: task queues that have a backlog and no worker, as far as the oldest and the newest stored commands show.
    """

    partitions: int
    workers: list[Member]
    consumers: list[Consumer]
    streams: list[StreamSize]
    complaints: list[str] = []
    unserved: list[Unserved] = []


async def overview(broker: Broker) -> Overview:
    """Read the heartbeats, the consumers of the inbox, and the size of each stream.

    Raises:
        BrokerError: the server does not answer or refuses.
    """
    workers = await _workers(broker)
    complaints = dict.fromkeys(await broker.complaints(newer_than=FRESH))
    if broker.wire.refused:  # workers may have rights that this user lacks
        complaints |= dict.fromkeys(complaint for worker in workers for complaint in worker.complaints)
    complaints |= dict.fromkeys(f"worker {worker.worker_id} of {worker.task_queue}: {text}" for worker in workers for text in worker.shortages)
    unserved = await unserved_queues(broker, {worker.task_queue for worker in workers})
    return Overview(broker.topology.partitions, workers, await _consumers(broker), await _streams(broker), list(complaints), unserved)


async def unserved_queues(broker: Broker, served: set[str] | None = None) -> list[Unserved]:
    """Return the task queues with stored commands and no worker, among the oldest and the newest ``SAMPLE`` commands.

    Args:
        broker: the connection.
        served: the task queues that have a worker; None: read them.
    """
    names = broker.names
    if served is None:
        served = {worker.task_queue for worker in await _workers(broker)}
    walk = Walk(broker.lane, names.inbox_stream, names.every_command)
    rows: list[Row] = []
    async with aclosing(walk.upwards(1, SAMPLE)) as batches:
        async for batch in batches:
            rows = batch
            break
    if len(rows) == SAMPLE:
        shape = await walk.shape()
        async with aclosing(walk.downwards(shape, shape.last + 1, SAMPLE)) as windows:
            async for _, window in windows:
                rows += window
                break
    tokens = {row.subject.split(".")[2] for row in rows}
    found = [(queue, token) for token in sorted(tokens) if (queue := _queue(token)) is not None and queue not in served]
    return [
        Unserved(
            queue,
            await Walk(broker.lane, names.inbox_stream, names.stored_commands(token, "*")).taken(),
            await Walk(broker.lane, names.inbox_stream, names.pending_start(token, "*")).taken(),
        )
        for queue, token in found
    ]


def _queue(token: str) -> str | None:
    try:
        return from_token(token)
    except InvalidInputError:
        return None


async def _workers(broker: Broker) -> list[Member]:
    names = broker.names
    found = await broker.lane.read_many(names.worker_stream, {"multi_last": [names.every_worker]}, may_lag="a picture of a moment")
    members: list[Member] = []
    for message in found:
        try:
            member = _decode(message.data)
        except msgspec.DecodeError:
            continue  # a marker, or a heartbeat of another version
        if not member.leaving:
            members.append(member)
    return sorted(members, key=lambda member: (member.task_queue, member.started_at))


async def _consumers(broker: Broker) -> list[Consumer]:
    consumers = await broker.lane.consumers(broker.names.inbox_stream)
    found = [made for each in consumers if (made := _consumer(each)) is not None]
    return sorted(found, key=lambda each: (each.task_queue, each.worker_id))


def _consumer(info: dict[str, Any]) -> Consumer | None:
    config = info["config"]
    filters = config.get("filter_subjects") or [config.get("filter_subject", "")]
    parts = [part for subject in filters if (part := read_partition_filter(subject)) is not None]
    if not parts:
        return None
    try:
        queue = from_token(parts[0][0])
    except InvalidInputError:
        return None
    owner = info["name"].split("-")[1] if info["name"].count("-") >= 2 else ""
    return Consumer(queue, owner, sorted(partition for _, partition in parts), info.get("num_pending", 0), info.get("num_ack_pending", 0))


async def _streams(broker: Broker) -> list[StreamSize]:
    names = broker.names
    wanted = {
        names.inbox_stream: "commands not yet done",
        names.task_stream: "tasks for other workers",
        names.dead_stream: "dead letters",
        names.state_stream: "state records",
        names.timeline_stream: "timeline keys",
        names.signal_stream: "early signals",
    }
    sizes: list[StreamSize] = []
    for name, what in wanted.items():
        beside = [names.every_tenure] + ([names.every_guard] if name == names.timeline_stream else [])
        uncounted = sum([await Walk(broker.lane, name, subjects).taken() for subjects in beside])
        state = (await broker.lane.stream_info(name))["state"]
        sizes.append(StreamSize(name, what, max(0, state.get("messages", 0) - uncounted), state.get("bytes", 0)))
    return sizes
