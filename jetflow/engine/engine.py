"""What all actors of a worker share: the broker's stores, user code, who is in memory, and what they do together."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine
from typing import Any

import msgspec

from jetflow.broker.connection import Broker
from jetflow.broker.dead_letters import DeadLetters
from jetflow.broker.pull import Delivery
from jetflow.broker.signals import EarlySignals
from jetflow.broker.state import StateStore
from jetflow.broker.tasks import Tasks
from jetflow.broker.timeline import Timeline
from jetflow.broker.timers import Timers
from jetflow.broker.waits import Waits
from jetflow.broker.wire import header_block
from jetflow.core import clock
from jetflow.core import events as ev
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.failures import Failure
from jetflow.core.ids import partition_of, to_token
from jetflow.core.operation import RunInfo
from jetflow.engine.actor import Actor
from jetflow.engine.commands import ARGS, BODY_MARGIN, EXPIRE, ORIGIN, PARENT, SENDER, ChildNotice, Command, StartCommand, check_body, understand
from jetflow.engine.compaction import Compaction
from jetflow.engine.dispatch import Dispatch
from jetflow.engine.lifecycle import Lifecycle
from jetflow.engine.ownership import Ownership
from jetflow.engine.records import parked_record, termination
from jetflow.engine.run import OwnershipLostError
from jetflow.engine.steps import StepRunner
from jetflow.errors import BrokerError, InvalidInputError

log = logging.getLogger("jetflow.worker")

PAYLOAD_MARGIN = 16 * 1024
"""Bytes left beside a payload for what a commit or a record says around it."""
SHOW_AFTER = 0.1
"""Seconds after which a workflow that is still busy gets a state record."""
MAX_BACKGROUND = 64

_encode = msgspec.json.encode


class Engine:
    """One worker's actors, on one task queue.

    Attributes:
        early: id tokens that have something in the signals bucket; exact for the partitions owned.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        task_queue: str,
        worker_id: str,
        workflows: dict[str, WorkflowDefinition[Any, Any]],
        runner: StepRunner,
        default_expire: int | None,
        max_cached: int,
    ) -> None:
        self.broker = broker
        self.loop = asyncio.get_running_loop()
        self.namespace = broker.names.namespace
        self.task_queue = task_queue
        self.queue_token = to_token(task_queue, "task queue")
        self.worker_id = worker_id
        self.workflows = workflows
        self.runner = runner
        self.default_expire = default_expire
        self.max_payload = broker.max_payload - PAYLOAD_MARGIN
        self.max_commit = broker.max_payload - PAYLOAD_MARGIN // 2
        lane, names = broker.lane, broker.names
        self.timeline = Timeline(lane, names)
        self.states = StateStore(lane, names)
        self.timers = Timers(lane, names)
        self.signals = EarlySignals(lane, names)
        self.waits = Waits(lane, names, broker.topology.partitions)
        self.dead_letters = DeadLetters(lane, names, broker.max_payload)
        self.tasks = Tasks(lane, names)
        self.dispatch = Dispatch(self)
        self.lifecycle = Lifecycle(self)
        self.early: set[str] = set()
        self.ownership: Ownership | None = None
        self.unacked = 0
        self._leaving: frozenset[int] = frozenset()
        self._max_cached = max_cached
        self._actors: dict[str, Actor] = {}
        self._idle: OrderedDict[str, None] = OrderedDict()
        self._dirty: dict[Actor, None] = {}
        self.compaction = Compaction(self)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._background_slots = asyncio.Semaphore(MAX_BACKGROUND)

    # ---- deliveries

    def deliver(self, delivery: Delivery) -> None:
        """Gives a command to its actor; what cannot be understood goes to the dead letters."""
        self.unacked += 1
        try:
            check_body("the command's body", delivery.data, self.broker.max_payload - max(0, len(delivery.headers or b"") - BODY_MARGIN // 4))
            command = understand(delivery)
        except InvalidInputError as error:
            self.spawn(self._refuse(delivery, str(error)))
            return
        except Exception as error:
            log.exception("command %s cannot be read", delivery.subject)
            self.spawn(self._refuse(delivery, f"{type(error).__name__}: {error}"))
            return
        actor = self._actors.get(command.id_token) or self._take_up(command.id_token, command.workflow_id, command.partition)
        if actor is None:
            self.unacked -= 1  # its next owner gets it again
            return
        if command.seq in actor.unacked or actor.parked:
            self.unacked -= 1
        self._idle.pop(command.id_token, None)
        actor.receive(command)

    def actor_of(self, id_token: str, workflow_id: str) -> Actor | None:
        """The workflow in memory, taken up if it is not there; None while its partition is being handed over."""
        partition = partition_of(self.queue_token, id_token, self.broker.topology.partitions)
        return self._actors.get(id_token) or self._take_up(id_token, workflow_id, partition)

    def _take_up(self, id_token: str, workflow_id: str, partition: int) -> Actor | None:
        if partition in self._leaving:
            return None
        actor = self._actors[id_token] = Actor(self, id_token, workflow_id, partition)
        return actor

    async def _refuse(self, delivery: Delivery, reason: str) -> None:
        while True:
            try:
                await self.dead_letter(delivery, reason)
                break
            except BrokerError as error:
                log.warning("a dead letter could not be written yet: %s", error)
                await asyncio.sleep(1)
        self.unacked -= 1
        self._send_ack(delivery)

    async def dead_letter(self, delivery: Delivery, reason: str) -> None:
        """Keeps a command that nothing can be done with, with the reason, for a person to look at."""
        tokens = delivery.subject.split(".")
        raw = ".".join([tokens[0], *tokens[2:]])
        log.warning("dead letter %s: %s", raw, reason)
        await self.dead_letters.write(raw, delivery.data, delivery.headers, reason, origin=delivery.seq)

    # ---- acks

    def ack(self, command: Command) -> None:
        """Step 7."""
        actor = command.actor
        if actor.unacked.pop(command.seq, None) is not None and not actor.parked:
            self.unacked -= 1
        self._send_ack(command.delivery)

    def _send_ack(self, delivery: Delivery) -> None:
        try:
            self.broker.wire.ack(delivery.reply)
        except BrokerError:
            log.debug("not connected: command %d will come again", delivery.seq)

    # ---- ownership

    def check_partition(self, partition: int) -> None:
        """Raises BrokerUnavailableError unless a partition surely is this worker's."""
        assert self.ownership is not None
        self.ownership.check(partition)

    def is_first_to_get(self, delivery: Delivery) -> bool:
        """Whether no worker ever got a command before, nor can get it until this one's lease is over."""
        assert self.ownership is not None
        return self.ownership.is_first_to_get(delivery)

    async def ready(self, actor: Actor) -> None:
        """Returns when this worker surely owns the actor's partition again.

        Raises:
            OwnershipLostError: another worker has it.
        """
        assert self.ownership is not None
        if not await self.ownership.settled(actor.partition):
            raise OwnershipLostError

    async def take_over(self, partitions: frozenset[int]) -> None:
        """Before the first command of newly claimed partitions."""
        self._leaving = frozenset()
        for actor in self.actors:
            if actor.partition not in partitions:
                actor.drop()
        self.early |= await self.signals.known(self.queue_token, partitions, self.broker.topology.partitions)

    async def release(self, partitions: frozenset[int], force: bool, grace: float) -> None:
        """Brings the actors of partitions to rest and forgets them; after ``grace`` seconds, or with ``force``, as they are."""
        self._leaving |= partitions
        leaving = [actor for actor in self.actors if actor.partition in partitions]
        for actor in leaving:
            actor.draining = True
        deadline = clock.monotonic() + (0 if force else grace)
        while any(not actor.idle for actor in leaving) and clock.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for actor in leaving:
            actor.drop()

    # ---- actors in memory

    @property
    def actors(self) -> list[Actor]:
        """Everybody in memory."""
        return list(self._actors.values())

    def forget(self, actor: Actor) -> None:
        """An actor is gone from memory."""
        if self._actors.get(actor.id_token) is actor:
            del self._actors[actor.id_token]
            self._idle.pop(actor.id_token, None)
        self._dirty.pop(actor, None)
        if not actor.parked:
            self.unacked -= len(actor.unacked)

    def note_idle(self, actor: Actor) -> None:
        """An actor rests; the ones that rest longest make room when there are too many."""
        self._idle[actor.id_token] = None
        self._idle.move_to_end(actor.id_token)
        while len(self._idle) > self._max_cached:
            id_token, _ = self._idle.popitem(last=False)
            oldest = self._actors.get(id_token)
            if oldest is not None and oldest.evictable:
                oldest.drop()

    def note_dirty(self, actor: Actor) -> None:
        """An actor's state record is behind its timeline."""
        self._dirty[actor] = None

    def sweep(self) -> None:
        """Called a few times a second: shows what has been busy for a while."""
        now = clock.monotonic()
        for actor in list(self._dirty):
            if actor.dirty_since is None:
                del self._dirty[actor]
            elif now - actor.dirty_since >= SHOW_AFTER:
                del self._dirty[actor]
                actor.show_state()

    async def on_parked(self, actor: Actor, info: RunInfo | None, seq: int, reason: str, message: str) -> None:
        """A parked actor's commands do not take credit from the others; its state says what is wrong."""
        self.unacked -= len(actor.unacked)
        try:
            before = await self.states.get(self.queue_token, actor.id_token, fresh=True)
            if info is None and before is None:
                return
            await self.states.put(parked_record(info, before, seq, self.worker_id, reason, message))
        except BrokerError as error:
            log.warning("workflow %s is parked, and its state could not be written: %s", actor.workflow_id, error)

    # ---- what workflows do to each other

    async def start_child(self, info: RunInfo, child: ev.ChildStarted, *, check_first: bool) -> None:
        """Publishes the start of a child of ``info``'s run. A repeat first looks whether the child's notice is in the parent's inbox."""
        if check_first and await self._notice_waits(info, child.index):
            return
        lineage = ev.Parent(info.workflow_id, info.task_queue, info.run, child.index, child.awaited)
        args = msgspec.json.decode(child.input, type=list[msgspec.Raw])
        single = len(args) == 1
        headers = {
            PARENT: _encode(lineage).decode(),
            ORIGIN: to_token(info.origin or info.workflow_id),
            EXPIRE: "forever" if child.expire is None else f"{child.expire}ms",
        }
        if single:
            headers[ARGS] = "1"
        body = bytes(args[0]) if single else bytes(child.input) if args else b""
        subject = self.broker.names.command(to_token(child.task_queue), to_token(child.workflow_id), f"start.{to_token(child.workflow_type)}")
        await self.broker.lane.publish(subject, body, header_block(**headers))

    async def _notice_waits(self, info: RunInfo, index: int) -> bool:
        subject = f"{self.namespace}.*.{self.queue_token}.{to_token(info.workflow_id)}.child.{index}"
        return await self.broker.lane.last_message(self.broker.names.inbox_stream, subject) is not None

    async def send_signals(self, info: RunInfo, signals: list[ev.SignalSent]) -> None:
        """Publishes signals from workflow code; those to one workflow one after the other, as their numbers promise."""
        by_receiver: dict[tuple[str, str], list[ev.SignalSent]] = {}
        for signal in signals:
            by_receiver.setdefault((signal.task_queue, signal.workflow_id), []).append(signal)
        await asyncio.gather(*(self._send_in_order(info, group) for group in by_receiver.values()))

    async def _send_in_order(self, info: RunInfo, signals: list[ev.SignalSent]) -> None:
        for signal in signals:
            await self._send_signal(info, signal)

    async def _send_signal(self, info: RunInfo, signal: ev.SignalSent) -> None:
        headers = {SENDER: f"{self.queue_token}.{to_token(info.workflow_id)}.{info.run}/{signal.index}"}
        if signal.expire is not None:
            headers[EXPIRE] = f"{signal.expire}ms"
        subject = self.broker.names.command(to_token(signal.task_queue), to_token(signal.workflow_id), f"signal.{to_token(signal.signal)}")
        await self.broker.lane.publish(subject, bytes(signal.data), header_block(**headers))

    async def notify(self, parent: ev.Parent, notice: ChildNotice) -> None:
        """Tells a parent what became of its child."""
        subject = self.broker.names.command(to_token(parent.task_queue), to_token(parent.workflow_id), f"child.{parent.index}")
        await self.broker.lane.publish(subject, _encode(notice))

    async def refuse_start(self, actor: Actor, start: StartCommand) -> None:
        """The id is taken; a parent that asked for it is told."""
        if start.parent is not None:
            message = f"workflow id {actor.workflow_id!r} is already taken on task queue {self.task_queue!r}"
            failure = Failure("WorkflowAlreadyStartedError", message, 409)
            await self.notify(start.parent, ChildNotice(start.parent.run, actor.workflow_id, "rejected", failure=failure))

    async def tell_closing(self, info: RunInfo, closing: Any, children: list[ev.ChildStarted]) -> None:
        """Tells the parent that waits, and the children whose policy says so."""
        work: list[Coroutine[Any, Any, Any]] = []
        if info.parent is not None and info.parent.awaited:
            notice = ChildNotice(info.parent.run, info.workflow_id, "completed", info.run)
            if isinstance(closing, ev.Completed):
                notice.result = closing.result
            else:
                notice.outcome = "failed"
                notice.failure = closing.failure if isinstance(closing, ev.Failed) else termination(info, closing)
            work.append(self.notify(info.parent, notice))
        descend = isinstance(closing, ev.Terminated) and closing.descend
        if children:
            work.append(self.end_children(info, children, descend=descend))
        if work:
            await asyncio.gather(*work)

    async def end_children(self, info: RunInfo, children: list[ev.ChildStarted], *, descend: bool) -> None:
        """Tells the children of a run that has ended, or went on as new, what their policy says; with ``descend`` all of them end."""
        policies = [(child, "terminate" if descend else child.parent_close_policy) for child in children]
        await asyncio.gather(*(self._end_child(info, child, policy, descend) for child, policy in policies if policy != "abandon"))

    async def _end_child(self, info: RunInfo, child: ev.ChildStarted, policy: str, descend: bool) -> None:
        lineage = ev.Parent(info.workflow_id, info.task_queue, info.run, child.index, child.awaited)
        body: dict[str, Any] = {"reason": f"parent {info.workflow_id} has ended", "parent": lineage}
        if policy == "terminate":
            body |= {"suppress": True, "descend": descend}
        subject = self.broker.names.command(to_token(child.task_queue), to_token(child.workflow_id), policy)
        await self.broker.lane.publish(subject, _encode(body))

    # ---- tasks

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Runs something on the worker's loop until it ends or the worker stops."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def background(self, work: Coroutine[Any, Any, Any]) -> None:
        """Tidying that may be late or lost."""
        task = self.spawn(self._quietly(work))
        task.add_done_callback(lambda _: work.close())  # the worker's stop may come before it has begun

    async def _quietly(self, work: Coroutine[Any, Any, Any]) -> None:
        async with self._background_slots:
            try:
                await work
            except BrokerError as error:
                log.debug("tidying left undone: %s", error)

    def room(self, limit: int) -> int:
        """How many more commands may come."""
        return limit - self.unacked

    async def stop(self) -> None:
        """Drops everybody; nothing more is committed or acked."""
        for actor in self.actors:
            actor.drop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
