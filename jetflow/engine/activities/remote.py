"""Tasks: attempts of activities that this worker runs for workflows that others own.

A task goes through four steps: it is taken with a lease, run like any activity, its outcome is published, and then it is
acked. Whoever dies in between loses the lease, and the task comes to another worker; so one that comes again is looked
up first, and is not run if its outcome is known or nobody waits for it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

import msgspec

from jetflow.activity import ActivityInfo, Attempt
from jetflow.broker.stores.state import StateStore
from jetflow.broker.stores.tasks import Task, TaskConsumer, TaskDelivery, Tasks, decode_task, operation_tokens
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.failures import to_failure
from jetflow.core.ids import to_token
from jetflow.core.values import decode
from jetflow.engine import faults
from jetflow.engine.activities.steps import StepRunner, is_final
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol import clock
from jetflow.protocol.clock import now_ms
from jetflow.protocol.headers import header_block

log: logging.Logger = logging.getLogger("jetflow.worker")

T = TypeVar("T")

STALE_MS = 10_000
"""A task that has waited longer is run only if its workflow has not ended meanwhile."""
TRY_AGAIN = 0.5
OUTCOME_MARGIN = 16 * 1024
"""Bytes of a message left beside a failure, for what a commit says around it."""

ACK = b""
NAK = b"-NAK"
NAK_LATER = b'-NAK {"delay": 5000000000}'
TERM = b"+TERM"
WORKING = b"+WPI"


class _Running:
    """A task that this worker has the lease of."""

    def __init__(self, delivery: TaskDelivery, task: Task, attempt: Attempt, pauses: int) -> None:
        self.delivery = delivery
        self.reply = delivery.reply
        self.task = task
        self.attempt = attempt
        self.pauses = pauses
        self.work: asyncio.Task[None] | None = None
        self.began = False
        self.kept: bytes = b""
        self.kept_at = float("-inf")


class TaskRunner:
    """Serves the tasks of one queue with this worker's activities.

    Args:
        broker: the worker's connection.
        task_queue: whose tasks.
        activities: names of what is served.
        runner: runs them, within the limit that local ones count in too.
        limit: attempts under way at once.
        lease: seconds after which a task whose worker is silent goes to another one.
    """

    def __init__(self, broker: Broker, task_queue: str, activities: Iterable[str], runner: StepRunner, *, limit: int, lease: float) -> None:
        self._broker = broker
        self._queue = task_queue
        self._queue_token = to_token(task_queue)
        self._runner = runner
        self._limit = limit
        self._lease = lease
        self._max_outcome = broker.max_payload - OUTCOME_MARGIN
        self._tasks = Tasks(broker.lane, broker.names)
        self._timeline = Timeline(broker.lane, broker.names)
        self._states = StateStore(broker.lane, broker.names)
        self._consumers = {name: self._consumer(name) for name in activities}
        self._listening: dict[str, int] = {}
        self._running: dict[int, _Running] = {}
        self._waiting = 0
        self._pauses = 0
        self._catching_up = 0
        self._last_tick = clock.monotonic()
        self._work: dict[asyncio.Task[Any], None] = {}
        self._ended_sid: int | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._stopping = False

    @property
    def ready(self) -> bool:
        """Whether tasks of every activity can come."""
        return all(consumer.is_open for consumer in self._consumers.values())

    def start(self, *, at_once: bool) -> None:
        """Begins to serve.

        Args:
            at_once: every activity; otherwise each from the first task that there is for it.
        """
        names, wire = self._broker.names, self._broker.wire
        self._ended_sid = wire.listen(f"{names.ended_prefix}{self._queue_token}.>", self._on_ended)
        if at_once:
            self._serve_all()
            return
        for name in self._consumers:
            subject = f"{names.task_prefix}{self._queue_token}.{to_token(name)}.>"
            self._listening[name] = wire.listen(subject, lambda *_, name=name: self._serve(name))
        wire.on_reconnect.append(self._look)
        self._look()

    async def stop(self, grace: float) -> None:
        """Takes no more tasks, lets running ones finish for ``grace`` seconds, and gives the others back."""
        self._stopping = True
        with contextlib.suppress(ValueError):
            self._broker.wire.on_reconnect.remove(self._look)
        for sid in [*self._listening.values(), *([self._ended_sid] if self._ended_sid is not None else [])]:
            with contextlib.suppress(BrokerError):
                self._broker.wire.unlisten(sid)
        await asyncio.gather(*(consumer.stop() for consumer in self._consumers.values()))
        for running in list(self._running.values()):
            if running.work is not None and not running.began:
                running.work.cancel()
        begun = [running.work for running in self._running.values() if running.work is not None and running.began]
        if begun:
            await asyncio.wait(begun, timeout=grace)
        if self._ticker is not None:
            self._ticker.cancel()
        while self._work:
            for work in list(self._work):
                work.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)

    def refill(self) -> None:
        """Called many times a second: there may be room for more tasks."""
        self._notice_pause()
        for consumer in self._consumers.values():
            consumer.refill()

    def _notice_pause(self) -> None:
        """After this process stood still, what lies in its socket may have been leased to others since, and done."""
        now = clock.monotonic()
        stood, self._last_tick = now - self._last_tick, now
        if stood > self._lease / 3 and not self._stopping:
            log.info("this worker stood still for %.1f s: tasks that came meanwhile are looked up", stood)
            self._pauses += 1
            self._catching_up += 1
            self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        await self._until_answered(lambda: self._tasks.waiting(self._queue_token))  # its answer comes after all that came meanwhile
        self._catching_up -= 1

    # ---- which activities are served

    def _consumer(self, name: str) -> TaskConsumer:
        broker = self._broker
        return TaskConsumer(broker.lane, broker.names, self._queue_token, to_token(name), lease=self._lease, room=self._room, on_task=self._on_task)

    def _room(self) -> int:
        """Tasks one consumer may ask for: those that have no slot yet take theirs first, and the consumers share the rest."""
        free = min(self._runner.free, self._limit) - self._waiting
        return 0 if free <= 0 else max(1, free // max(1, sum(consumer.is_open for consumer in self._consumers.values())))

    def _look(self) -> None:
        self._spawn(self._serve_if_waiting())

    async def _serve_if_waiting(self) -> None:
        if self._listening and await self._until_answered(lambda: self._tasks.waiting(self._queue_token)):
            self._serve_all()

    def _serve_all(self) -> None:
        for name in self._consumers:
            self._serve(name)

    def _serve(self, name: str) -> None:
        sid = self._listening.pop(name, None)
        if sid is not None:
            with contextlib.suppress(BrokerError):
                self._broker.wire.unlisten(sid)
        if not self._stopping:
            self._consumers[name].start()

    # ---- one task

    def _on_task(self, delivery: TaskDelivery) -> None:
        self._notice_pause()
        known = self._running.get(delivery.seq)
        if known is not None:  # its lease ended unnoticed: only where to ack it is new
            known.reply = delivery.reply
            return
        if self._stopping:
            self._answer(delivery.reply, NAK)
            return
        try:
            task = decode_task(delivery.data)
            if task.activity not in self._consumers:
                raise msgspec.ValidationError(f"activity {task.activity!r} is not the one that the subject names")
            if not task.reply.startswith(f"{self._broker.names.namespace}."):
                raise msgspec.ValidationError(f"reply {task.reply!r} is no command of this namespace")
            options = ActivityOptions(start_to_close=task.start_to_close, heartbeat=task.heartbeat)
            info = ActivityInfo(
                task.activity, task.workflow_id, task.task_queue, str(task.run), task.index, task.attempt, decode(task.details, "details")
            )
        except Exception as error:
            self._spawn(self._refuse(delivery, f"{type(error).__name__}: {error}"))
            return
        running = _Running(delivery, task, Attempt(info, task.details), self._pauses)
        self._running[delivery.seq] = running
        self._waiting += 1
        running.work = self._spawn(self._serve_task(running, options))
        self._tick_later()

    async def _serve_task(self, running: _Running, options: ActivityOptions) -> None:
        task = running.task
        answer = ACK
        try:
            if await self._is_wanted(running):
                answer = await self._run(running, options)
        except asyncio.CancelledError:
            if running.attempt.over is None:
                answer, running.attempt.over = NAK, "its worker stops"
                raise
        except Exception:
            log.exception("task %s cannot be served here", running.delivery.subject)
            answer = NAK_LATER
        finally:
            if not running.began:
                self._waiting -= 1
            self._running.pop(running.delivery.seq, None)
            self._answer(running.reply, answer)
            if running.kept and answer == ACK:
                self._spawn(self._quietly(self._tasks.forget_details(task)))
            self.refill()

    async def _run(self, running: _Running, options: ActivityOptions) -> bytes:
        """Runs the attempt and publishes its outcome; gives how to ack the task."""
        task = running.task
        if not await self._take_slot():
            return NAK  # somebody else may have room
        try:
            if running.pauses != self._pauses and not await self._until_answered(lambda: self._is_open(task)):
                return ACK
            running.began = True
            self._waiting -= 1
            self._watch_heartbeats(running)
            body = await self._outcome(task, options, running.attempt)
        finally:
            self._runner.slots.release()
        faults.reach("before_outcome")
        await self._until_answered(lambda: self._tasks.outcome(task, body))
        faults.reach("after_outcome")
        return ACK

    async def _take_slot(self) -> bool:
        """False if there was none for a third of the lease: then other workers shall have the task."""
        try:
            async with asyncio.timeout(self._lease / 3):
                await self._runner.slots.acquire()
        except TimeoutError:
            return False
        return True

    async def _outcome(self, task: Task, options: ActivityOptions, attempt: Attempt) -> bytes:
        head = {"run": task.run, "attempt": task.attempt}
        scheduled = ev.ActivityScheduled(index=task.index, at=now_ms(), name=task.activity, input=task.args)
        try:
            result = await self._runner.execute(scheduled, options, attempt)
        except BaseException as error:
            current = asyncio.current_task()
            if isinstance(error, KeyboardInterrupt) or (current is not None and current.cancelling() > 0):
                raise
            failure = msgspec.to_builtins(to_failure(error))
            failure["bases"] = [cls.__name__ for cls in type(error).__mro__[1:-2]]
            if is_final(error):
                failure["non_retryable"] = True
            body = msgspec.json.encode(head | {"failure": failure, "details": attempt.details})
            if len(body) > self._max_outcome:
                failure |= {"message": failure["message"][:1000], "stack": "", "cause": None}
                body = msgspec.json.encode(head | {"failure": failure, "details": attempt.details})
            return body
        return msgspec.json.encode(head | {"result": result})

    async def _refuse(self, delivery: TaskDelivery, reason: str) -> None:
        """A task that cannot be read goes to the dead letters."""
        log.warning("task %s cannot be read: %s", delivery.subject, reason)
        text = reason.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")
        headers = header_block(Jetflow_Subject=delivery.subject, Jetflow_Reason=text[:900])
        where = ".".join(delivery.subject.split(".")[1:3])
        body = delivery.data[: self._broker.max_payload - len(headers)]
        await self._until_answered(lambda: self._broker.lane.publish(f"{self._broker.names.dead_prefix}{where}", body, headers))
        self._answer(delivery.reply, TERM)

    # ---- whether it is still wanted

    async def _is_wanted(self, running: _Running) -> bool:
        task, delivery = running.task, running.delivery
        if delivery.delivered > 1 or task.again or self._catching_up:
            if not await self._until_answered(lambda: self._is_open(task)):
                log.info("task %s is not run again: its outcome is known, or nobody waits for it", delivery.subject)
                return False
            kept = await self._until_answered(lambda: self._tasks.kept_details(task))
            if kept:
                running.kept, running.attempt.details = kept, msgspec.Raw(kept)
                running.attempt.info = msgspec.structs.replace(running.attempt.info, heartbeat_details=decode(kept, "details"))
            return True
        if now_ms() - delivery.stored_ms > STALE_MS:
            record = await self._until_answered(lambda: self._states.get(to_token(task.task_queue), to_token(task.workflow_id)))
            return record is None or not (record.closed if record.run_id == str(task.run) else int(record.run_id) > task.run)
        return True

    async def _is_open(self, task: Task) -> bool:
        """Whether the workflow waits for this very attempt. An outcome is in the inbox until it is in the timeline, so in this order."""
        queue, workflow_id = to_token(task.task_queue), to_token(task.workflow_id)
        names = self._broker.names
        waiting = await self._broker.lane.last_message(names.inbox_stream, f"{names.namespace}.*.{queue}.{workflow_id}.activity.{task.index}")
        if waiting is not None and is_outcome_of(waiting.data, task.run, task.attempt):
            return False
        last = await self._timeline.last(queue, workflow_id)
        if last is None or last.commit.run != task.run or isinstance(last.commit.events[-1], ev.CLOSING):
            return False
        return not any(_settles(event, task) for entry in await self._timeline.run(queue, workflow_id, last) for event in entry.commit.events)

    # ---- leases and heartbeats

    def _tick_later(self) -> None:
        if self._ticker is None:
            lease = min([self._lease, *(consumer.lease for consumer in self._consumers.values() if consumer.is_open)])
            self._ticker = asyncio.get_running_loop().call_later(lease / 3, self._tick)

    def _tick(self) -> None:
        """Extends the leases. It runs on the loop that the activities run on: a loop that stands still loses them."""
        self._ticker = None
        for running in self._running.values():
            self._answer(running.reply, WORKING)
            self._keep_details(running)
        if self._running:
            self._tick_later()

    def _watch_heartbeats(self, running: _Running) -> None:
        """What a heartbeat says is stored, at most three times in the time that it may be silent."""
        loop, every = asyncio.get_running_loop(), (running.task.heartbeat or self._lease * 1000) / 3000

        def on_beat() -> None:  # maybe in the activity's thread
            if clock.monotonic() - running.kept_at >= every:
                running.kept_at = clock.monotonic()
                loop.call_soon_threadsafe(self._keep_details, running)

        running.attempt.on_beat = on_beat

    def _keep_details(self, running: _Running) -> None:
        details = bytes(running.attempt.details)
        if running.began and details != running.kept and details != bytes(running.task.details) and not self._stopping:
            running.kept, running.kept_at = details, clock.monotonic()
            self._spawn(self._quietly(self._tasks.keep_details(running.task, details)))

    def _on_ended(self, subject: bytes, _reply: bytes, _data: bytes, _headers: bytes | None) -> None:
        """Nobody waits for an operation any more: its attempt is cancelled."""
        operation = ".".join(subject.decode().split(".")[2:])
        for running in self._running.values():
            task = running.task
            if operation == operation_tokens(to_token(task.task_queue), to_token(task.workflow_id), task.run, task.index):
                running.attempt.over = "its workflow does not wait for it any more"
                if running.work is not None:
                    running.work.cancel()

    # ---- the rest

    def _answer(self, reply: str, body: bytes) -> None:
        with contextlib.suppress(BrokerError):  # not connected: it comes again, and is looked up
            self._broker.wire.send(reply, body)

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        while True:
            try:
                return await ask()
            except BrokerError as error:
                log.log(logging.DEBUG if isinstance(error, BrokerUnavailableError) else logging.WARNING, "a task's worker asks again: %s", error)
                await asyncio.sleep(TRY_AGAIN)

    async def _quietly(self, work: Awaitable[None]) -> None:
        with contextlib.suppress(BrokerError):
            await work

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._work[task] = None
        task.add_done_callback(lambda task: self._work.pop(task, None))
        return task


class _Seen(msgspec.Struct):
    run: int
    attempt: int


def is_outcome_of(body: bytes, run: int, attempt: int) -> bool:
    """Whether an outcome's body is of this attempt, or a later one, of the run."""
    try:
        seen = msgspec.json.decode(body, type=_Seen)
    except msgspec.DecodeError:
        return False
    return seen.run == run and seen.attempt >= attempt


def _settles(event: Any, task: Task) -> bool:
    """Whether an event of the timeline means that an attempt need not be made."""
    if isinstance(event, ev.Started):
        return event.first_index > task.index
    if getattr(event, "index", None) != task.index:
        return False
    if isinstance(event, ev.ActivityRetrying):
        return event.attempt >= task.attempt
    return isinstance(event, (ev.ActivityCompleted, ev.ActivityFailed, ev.OperationCancelled))
