"""Tasks: attempts of activities that this worker runs for workflows of other owners.

The worker takes a task with a lease, runs it like any activity, publishes the outcome, and then acks the task. A worker that dies in between loses
the lease, and another worker gets the task. So a worker looks up a task that was delivered before, and does not run it if its outcome is known or
its workflow no longer waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Iterable
from typing import Any

import msgspec

from jetflow.activity import ActivityInfo, Attempt
from jetflow.broker.stores.tasks import Task, TaskConsumer, TaskDelivery, Tasks, decode_task
from jetflow.broker.transport.connection import Broker
from jetflow.core import events as ev
from jetflow.core.definitions import ActivityOptions
from jetflow.core.ids import to_token
from jetflow.core.interrupts import is_interrupt
from jetflow.core.log_fields import of_subject
from jetflow.core.values import decode
from jetflow.engine import faults
from jetflow.engine.activities import outcomes
from jetflow.engine.activities.attempt_log import fields_of, log_failed_task
from jetflow.engine.activities.leases import ACK, NAK, NAK_LATER, TERM, Leased, Leases
from jetflow.engine.activities.serving import Served
from jetflow.engine.activities.steps import StepRunner, is_cancelled, take_stray_cancel
from jetflow.engine.activities.wanted import Wanted, until_answered
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.clock import now_ms
from jetflow.protocol.headers import REASON, SUBJECT, header_block

log: logging.Logger = logging.getLogger("jetflow.worker")

OUTCOME_MARGIN = 16 * 1024
"""Bytes of a message that a commit may need besides a failure."""


class TaskRunner:
    """Serves the tasks of one queue with this worker's activities.

    Args:
        broker: the worker's connection.
        task_queue: the task queue of the tasks.
        activities: names of the activities to serve.
        runner: runs the attempts, with one limit for local and remote ones.
        limit: the most attempts under way at once.
        lease: seconds after which another worker gets the task of a silent worker.
    """

    def __init__(self, broker: Broker, task_queue: str, activities: Iterable[str], runner: StepRunner, *, limit: int, lease: float) -> None:
        self._broker = broker
        self._task_queue = task_queue
        self._queue_token = to_token(task_queue)
        self._runner = runner
        self._limit = limit
        self._lease = lease
        self.max_outcome: int = broker.max_payload - OUTCOME_MARGIN
        self._tasks = Tasks(broker.lane, broker.names)
        self._wanted = Wanted(broker, self._tasks)
        self._served = Served(broker, self._queue_token, self._tasks, {name: self._consumer(name) for name in activities}, self._spawn)
        self._leases = Leases(broker.wire, self._tasks, self._spawn, self._shortest_lease)
        self._waiting = 0
        self._pauses = 0
        self._catching_up = 0
        self._last_tick = clock.monotonic()
        self._work: dict[asyncio.Task[Any], None] = {}
        self._ended_sid: int | None = None
        self._stopping = False
        self._owned: str | None = None

    @property
    def ready(self) -> bool:
        """Whether the worker receives tasks of every activity."""
        return self._served.all_open

    def start(self, *, at_once: bool) -> None:
        """Begin to serve.

        Args:
            at_once: whether to serve every activity now, or each from its first task on.
        """
        self._owned: str | None = None if at_once else self._task_queue  # its owners log what fails
        self._ended_sid = self._broker.wire.listen(self._broker.names.ended_tasks(self._queue_token), self._on_ended)
        if at_once:
            self._served.start_all()
        else:
            self._served.start_when_needed()

    async def stop(self, grace: float) -> None:
        """Take no more tasks, let running ones finish for ``grace`` seconds, and return the others."""
        self._stopping = True
        if self._ended_sid is not None:
            with contextlib.suppress(BrokerError):
                self._broker.wire.unlisten(self._ended_sid)
        await self._served.stop()
        await self._leases.stop(grace)
        while self._work:
            for work in list(self._work):
                work.cancel()
            await asyncio.gather(*self._work, return_exceptions=True)

    def refill(self) -> None:
        """Ask for more tasks if there is room. Called many times a second."""
        self._notice_pause()
        self._served.refill()

    def _notice_pause(self) -> None:
        """Look up the tasks in the socket after this process stood still: other workers may have leased and run them."""
        now = clock.monotonic()
        stood, self._last_tick = now - self._last_tick, now
        if stood > self._lease / 3 and not self._stopping:
            log.info("this worker stood still for %.1f s: it looks up the tasks that came meanwhile", stood)
            self._pauses += 1
            self._catching_up += 1
            self._spawn(self._catch_up())

    async def _catch_up(self) -> None:
        await until_answered(lambda: self._tasks.waiting(self._queue_token))  # the answer comes after all tasks that came meanwhile
        self._catching_up -= 1

    def _consumer(self, name: str) -> TaskConsumer:
        broker = self._broker
        return TaskConsumer(broker.lane, broker.names, self._queue_token, to_token(name), lease=self._lease, room=self._room, on_task=self._on_task)

    def _room(self) -> int:
        """Return how many tasks one consumer may ask for. Tasks that wait for a slot come first, and the consumers share the rest."""
        free = min(self._runner.free, self._limit) - self._waiting
        return 0 if free <= 0 else max(1, free // max(1, len(self._served.open)))

    def _shortest_lease(self) -> float:
        return min([self._lease, *(consumer.lease for consumer in self._served.open)])

    # ---- one task

    def _on_task(self, delivery: TaskDelivery) -> None:
        self._notice_pause()
        known = self._leases.get(delivery.seq)
        if known is not None:  # its lease ended without this worker noticing
            known.came_again(delivery.reply)
            return
        if self._stopping:
            self._leases.answer(delivery.reply, NAK)
            return
        try:
            task = self._read(delivery)
            options = ActivityOptions(start_to_close=task.start_to_close, heartbeat=task.heartbeat)
            details = decode(task.details, "details")
            info = ActivityInfo(
                task.activity, task.workflow_id, task.task_queue, str(task.run), task.index, task.attempt, details, task.workflow_type
            )
        except Exception as error:
            self._spawn(self._refuse(delivery, f"{type(error).__name__}: {error}"))
            return
        leased = Leased(delivery, task, Attempt(info, task.details), self._pauses)
        self._waiting += 1
        leased.serve(self._spawn(self._serve(leased, options)))
        self._leases.add(leased)

    def _read(self, delivery: TaskDelivery) -> Task:
        task = decode_task(delivery.data)
        if task.activity not in self._served:
            raise msgspec.ValidationError(f"activity {task.activity!r} is not the one in the subject")
        if not self._broker.names.is_command(task.reply):
            raise msgspec.ValidationError(f"reply {task.reply!r} is not a command subject of this namespace")
        return task

    async def _serve(self, leased: Leased, options: ActivityOptions) -> None:
        answer = ACK
        try:
            if await self._is_wanted(leased):
                answer = await self._run(leased, options)
        except asyncio.CancelledError:
            if leased.give_up("its worker stops"):
                answer = NAK
                raise
        except Exception:
            log.exception("this worker cannot serve task %s", leased.delivery.subject, extra=fields_of(leased.attempt.info, leased.task.attempt))
            answer = NAK_LATER
        finally:
            if not leased.began:
                self._waiting -= 1
            self._leases.end(leased, answer)
            self.refill()

    async def _is_wanted(self, leased: Leased) -> bool:
        """Return whether to run a task. Look up one that may have run before, and resume it from its heartbeat details."""
        task, delivery = leased.task, leased.delivery
        if not (delivery.delivered > 1 or task.again or self._catching_up):
            return not await self._wanted.is_overtaken(task, delivery)
        if not await self._wanted.is_open(task):
            log.info(
                "task %s is not run again: its outcome is known, or its workflow no longer waits for it",
                delivery.subject, extra=fields_of(leased.attempt.info, task.attempt),
            )  # fmt: skip
            return False
        details = await self._wanted.kept_details(task)
        if details:
            leased.resume(details)
        return True

    async def _run(self, leased: Leased, options: ActivityOptions) -> bytes:
        """Run the attempt and publish its outcome. Return how to ack the task."""
        task = leased.task
        if not await self._take_slot():
            return NAK  # another worker may have room
        try:
            if leased.pauses != self._pauses and not await self._wanted.is_open(task):
                return ACK
            leased.begin(self._leases.watch_heartbeats(leased, (task.heartbeat or self._lease * 1000) / 3000))
            self._waiting -= 1
            body = await self._outcome(leased, options)
        finally:
            self._runner.slots.release()
        faults.reach("before_outcome")
        await until_answered(lambda: self._tasks.outcome(task, body))
        faults.reach("after_outcome")
        return ACK

    async def _take_slot(self) -> bool:
        """Wait for a slot. Return False if none was free for a third of the lease, so that another worker can take the task."""
        try:
            async with asyncio.timeout(self._lease / 3):
                await self._runner.slots.acquire()
        except TimeoutError:
            return False
        return True

    async def _outcome(self, leased: Leased, options: ActivityOptions) -> bytes:
        task, attempt = leased.task, leased.attempt
        scheduled = ev.ActivityScheduled(index=task.index, at=now_ms(), name=task.activity, input=task.args)
        try:
            result = await self._runner.execute(scheduled, options, attempt)
        except BaseException as error:
            if is_interrupt(error) or (is_cancelled() and (self._stopping or leased.cancelled)):
                raise
            if task.task_queue != self._owned:
                log_failed_task(attempt.info, error)
            body = outcomes.failure(task, error, attempt, self.max_outcome)
        else:
            body = outcomes.success(task, result)
        if take_stray_cancel():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)  # it comes at the next await
        return body

    async def _refuse(self, delivery: TaskDelivery, reason: str) -> None:
        """Make a dead letter of a malformed task."""
        log.warning("task %s cannot be read: %s", delivery.subject, reason, extra=of_subject(delivery.subject, 3))
        text = reason.encode("ascii", "backslashreplace").decode().replace("\r", " ").replace("\n", " ")
        headers = header_block(**{SUBJECT: delivery.subject, REASON: text[:900]})
        subject = self._broker.names.dead_letter(delivery.subject)
        body = delivery.data[: self._broker.max_payload - len(headers)]
        await until_answered(lambda: self._broker.lane.publish(subject, body, headers))
        self._leases.answer(delivery.reply, TERM)

    def _on_ended(self, subject: bytes, _reply: bytes, _data: bytes, _headers: bytes | None) -> None:
        """Cancel the attempt of an operation that has ended."""
        self._leases.cancel_operation(".".join(subject.decode(errors="replace").split(".")[2:]))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._work[task] = None
        task.add_done_callback(lambda task: self._work.pop(task, None))
        return task
