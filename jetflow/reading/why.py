"""Why a workflow does not continue: what it waits for, since when, which worker owns it, and what would wake it."""

from __future__ import annotations

import contextlib

from msgspec import Struct

from jetflow.broker.stores.membership import Member
from jetflow.broker.stores.signals import EarlySignals
from jetflow.broker.stores.tasks import consumer_name
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import StoredMessage
from jetflow.core import events as ev
from jetflow.core.durations import to_ms
from jetflow.core.ids import from_token, partition_of
from jetflow.core.times import from_iso
from jetflow.errors import BrokerError, Failure, InvalidInputError, WorkflowNotFoundError
from jetflow.protocol.clock import now_ms
from jetflow.protocol.headers import START_DELAY
from jetflow.protocol.record import StateRecord, Waiting
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.lookups import Lookups
from jetflow.reading.overview import Consumer, overview

DEEPEST = 6
"""Most levels of children to read."""


class Owner(Struct, omit_defaults=True):
    """The worker that owns a workflow's partition."""

    worker_id: str
    host: str = ""
    pid: int = 0


class Wait(Struct, omit_defaults=True):
    """One thing that a workflow waits for. Times are ms since the epoch.

    Attributes:
        kind: what it waits for. ``start``: a worker that applies its start. ``delay``: the time of its delayed start. ``worker``: a worker with
            fitting code. ``code``: its own code, which runs. ``condition``: a predicate of its own. ``remote``: an activity on other workers.
            Others: ``signal``, ``timer``, ``activity``, ``retry`` and ``child``.
        name: name of the signal or activity, or the child's id.
        wakes: what would resume it.
        due: when it resumes at the latest.
        attempt: number of an activity's attempt, from 1. ``failure`` is that of the attempt before.
        message: details for people.
        child: the ``Why`` of the child that it waits for.
    """

    kind: str
    name: str
    since: int
    wakes: str
    due: int | None = None
    attempt: int | None = None
    failure: Failure | None = None
    message: str = ""
    child: Why | None = None


class Why(Struct, omit_defaults=True):
    """Why a workflow does not continue.

    Attributes:
        status: ``early`` while its start waits for a worker, ``parked``, or the record's status.
        waits: what it waits for: at most 20 of ``pending``.
        owner: the worker that owns its partition; None without one.
        stored: number of its stored commands that are not acked.
        failure: its failure.
    """

    workflow_id: str
    task_queue: str
    workflow_type: str
    status: str
    waits: list[Wait] = []
    pending: int = 0
    owner: Owner | None = None
    stored: int = 0
    cancel_requested: bool = False
    closed_at: int | None = None
    expire: int | None = None
    failure: Failure | None = None


class Kept(Struct):
    """An early signal of a workflow. ``expires`` is ms since the epoch."""

    name: str
    expires: int


async def kept_signals(broker: Broker, ref: WorkflowRef) -> list[Kept]:
    """Return the early signals of a workflow, which need not exist."""
    signals = EarlySignals(broker.lane, broker.names, replicated=broker.topology.replicas > 1)
    found = await signals.load(ref.queue_token, ref.id_token)
    return [Kept(stored.signal.signal, stored.signal.expires) for stored in found]


async def why(lookups: Lookups, ref: WorkflowRef, *, depth: int = DEEPEST) -> Why:
    """Read a workflow's record, its commands, its partition's owner and the child that it waits for, if any.

    Raises:
        WorkflowNotFoundError: there is no such workflow.
    """
    return await _Look(lookups, ref).why(depth)


class _Look:
    """Reads what ``why`` needs of one workflow."""

    def __init__(self, lookups: Lookups, ref: WorkflowRef) -> None:
        self.lookups = lookups
        self.ref = ref
        self.broker, self.names = lookups.broker, lookups.broker.names
        self.workflow_id, self.task_queue = ref.workflow_id, ref.task_queue
        self.queue_token, self.id_token = ref.queue_token, ref.id_token

    async def why(self, depth: int) -> Why:
        record = await self.lookups.record(self.ref)
        if record is not None and record.closed:
            return Why(
                self.workflow_id, self.task_queue, record.workflow_type, record.status, closed_at=record.closed_at, expire=record.expire,
                failure=record.failure,
            )  # fmt: skip
        seen = await overview(self.broker)
        workers = [member for member in seen.workers if member.task_queue == self.task_queue]
        owner, stored = self._owner(seen.consumers, workers), await self._stored()
        if record is None:
            return await self._early(workers, owner, stored, depth)
        found = Why(
            self.workflow_id, self.task_queue, record.workflow_type, record.status, owner=owner, stored=stored, pending=record.code,
            cancel_requested=record.cancel_requested,
        )  # fmt: skip
        if record.parked is not None:
            found.status = "parked"
            found.waits = [_parked(record)]
        elif not record.waiting:
            found.waits = [_unlisted(record, stored)]
        else:
            found.waits = [await self._wait(record, each, depth) for each in record.waiting]
        return found

    async def _early(self, workers: list[Member], owner: Owner | None, stored: int, depth: int) -> Why:
        lane, names = self.broker.lane, self.names
        start = await lane.last_message(names.inbox_stream, names.pending_start(self.queue_token, self.id_token))
        if start is None:
            return await self._scheduled(owner, depth)
        kind = from_token(start.subject.rpartition(".")[2])
        due = _begins(start)
        if due > now_ms():
            return Why(self.workflow_id, self.task_queue, kind, "early", [_delay(kind, from_iso(start.time), due)], 1, owner, stored)
        if not workers:
            message = "no worker of this task queue is alive"
        elif any(kind in member.workflows for member in workers):
            message = f"{_number(len(workers), 'worker')} of this task queue alive"
        else:
            message = f"none of the {_number(len(workers), 'worker')} of this task queue has workflow type {kind!r}"
        wakes = f"a worker of task queue {self.task_queue!r} with workflow type {kind!r}"
        wait = Wait("start", kind, from_iso(start.time), wakes, message=message)
        return Why(self.workflow_id, self.task_queue, kind, "early", [wait], 1, owner, stored)

    async def _scheduled(self, owner: Owner | None, depth: int) -> Why:
        """Return the ``Why`` of a workflow with a scheduled start, or of the one that has started since."""
        start = await self.lookups.starts.scheduled_start(self.queue_token, self.id_token)
        if start is None:
            return await self.why(depth)
        kind = from_token(start.type_token)
        return Why(self.workflow_id, self.task_queue, kind, "early", [_delay(kind, start.since, start.due)], 1, owner)

    def _owner(self, consumers: list[Consumer], workers: list[Member]) -> Owner | None:
        partition = partition_of(self.queue_token, self.id_token, self.broker.topology.partitions)
        known = {member.worker_id: member for member in workers}
        for consumer in consumers:
            if consumer.task_queue == self.task_queue and partition in consumer.partitions:
                member = known.get(consumer.worker_id)
                return Owner(consumer.worker_id, member.host, member.pid) if member is not None else None
        return None

    async def _stored(self) -> int:
        """Return the number of its commands that are not acked, at most 256."""
        asked = {"seq": 1, "next_by_subj": self.names.stored_commands(self.queue_token, self.id_token), "batch": 256}
        return len(await self.broker.lane.read_many(self.names.inbox_stream, asked, may_lag="a number to look at"))

    async def _wait(self, record: StateRecord, waiting: Waiting, depth: int) -> Wait:
        wait = Wait(waiting.kind, waiting.name, waiting.since, "", waiting.due, waiting.attempt, waiting.failure)
        if waiting.kind == "signal":
            wait.wakes = f"signal {waiting.name!r}"
        elif waiting.kind == "timer":
            wait.wakes = "its timer"
        elif waiting.kind == "delay":
            return _delay(record.workflow_type, waiting.since, waiting.due or 0)
        elif waiting.kind == "child":
            wait.wakes = f"the end of child {waiting.name!r}"
            wait.child = await self._child(waiting, depth)
        elif waiting.due is not None and waiting.due > now_ms():
            wait.kind, wait.wakes = "retry", "the time of the next attempt"
        else:
            await self._activity(record, wait, waiting.index)
        return wait

    async def _activity(self, record: StateRecord, wait: Wait, index: int) -> None:
        """Describe a running attempt, on the owner or as a task for other workers."""
        wait.due, wait.wakes = None, "its outcome"
        tasks, attempts = self.names.task_stream, self.names.attempts(self.queue_token, self.id_token, record.run_id, index)
        task = await self.broker.lane.last_message(tasks, attempts)
        if task is None:
            return
        _, queue, activity, *_ = task.subject.split(".")
        wait.kind, wait.attempt = "remote", int(task.subject.rpartition(".")[2])
        wait.message = f"waits on task queue {from_token(queue)!r} for a worker that has it"
        with contextlib.suppress(BrokerError):  # no worker has served the activity yet
            consumer = await self.broker.lane.consumer_info(tasks, consumer_name(queue, activity))
            if consumer["delivered"]["stream_seq"] >= task.seq:
                wait.message = f"is with a worker of task queue {from_token(queue)!r}"

    async def _child(self, waiting: Waiting, depth: int) -> Why | None:
        if depth <= 1:
            return None
        started = await children(self.lookups.timeline, self.ref)
        queue = next((child.task_queue for child in started if child.index == waiting.index), None)
        try:
            return await _Look(self.lookups, WorkflowRef.of(waiting.name, queue or self.task_queue)).why(depth - 1)
        except WorkflowNotFoundError:
            return None


async def children(timeline: Timeline, ref: WorkflowRef) -> list[ev.ChildStarted]:
    """Return the children that the latest run has started, by its timeline; [] without a timeline."""
    last = await timeline.last(ref.queue_token, ref.id_token)
    if last is None:
        return []
    entries = await timeline.run(ref.queue_token, ref.id_token, last)
    return [event for entry in entries for event in entry.commit.events if isinstance(event, ev.ChildStarted)]


def _delay(workflow_type: str, since: int, due: int) -> Wait:
    return Wait("delay", workflow_type, since, "the time of its start", due)


def _begins(start: StoredMessage) -> int:
    """Return when the code of a stored start begins (ms since the epoch)."""
    try:
        delay = to_ms(start.headers.get(START_DELAY, "0s"))
    except InvalidInputError:
        delay = 0
    return from_iso(start.time) + delay


def _parked(record: StateRecord) -> Wait:
    assert record.parked is not None
    parked = record.parked
    wakes = {
        "UnknownWorkflowType": f"a worker of task queue {record.task_queue!r} with workflow type {record.workflow_type!r}",
        "NondeterminismError": "a worker with the code that it was started with, or with `patched` around what has changed",
    }.get(parked.reason, "a worker that can continue it")
    return Wait("worker", parked.reason, parked.since, wakes, message=parked.message)


def _unlisted(record: StateRecord, stored: int) -> Wait:
    """Return the wait of a workflow without pending operations: its code runs, or waits for a predicate."""
    if stored:
        return Wait("code", "", record.updated_at, "its own code, which runs")
    return Wait("condition", "", record.updated_at, "a signal or an update that makes it true")


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' if count != 1 else ''}"
