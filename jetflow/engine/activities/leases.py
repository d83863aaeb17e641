"""Tasks that this worker has the lease of. It extends their leases, and stores the details of their heartbeats.

Both run on the loop that runs the activities. A loop that stands still loses its leases.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import msgspec

from jetflow.activity import Attempt
from jetflow.broker.stores.tasks import Task, TaskDelivery, Tasks, operation_tokens
from jetflow.broker.transport.wire import Wire
from jetflow.core.ids import to_token
from jetflow.core.values import decode
from jetflow.errors import BrokerError
from jetflow.protocol import clock

ACK = b""
NAK = b"-NAK"
NAK_LATER = b'-NAK {"delay": 5000000000}'
TERM = b"+TERM"
WORKING = b"+WPI"

Spawn = Callable[[Coroutine[Any, Any, Any]], "asyncio.Task[Any]"]


class Leased:
    """A task that this worker has the lease of.

    Attributes:
        reply: the task's ack subject.
        pauses: how often the worker had stood still before the task came.
        work: the asyncio task that serves it.
        began: whether its attempt has begun.
        cancelled: whether ``cancel`` was called.
        kept: the heartbeat details that the broker has; empty for none.
    """

    def __init__(self, delivery: TaskDelivery, task: Task, attempt: Attempt, pauses: int) -> None:
        self.delivery = delivery
        self.reply: str = delivery.reply
        self.task = task
        self.attempt = attempt
        self.pauses = pauses
        self.work: asyncio.Task[Any] | None = None
        self.began: bool = False
        self.cancelled: bool = False
        self.kept: bytes = b""
        self._kept_at = float("-inf")

    def came_again(self, reply: str) -> None:
        """Note that the task was delivered again, with another ack subject."""
        self.reply = reply

    def serve(self, work: asyncio.Task[Any]) -> None:
        """Note the asyncio task that serves it."""
        self.work = work

    def begin(self, on_beat: Callable[[], None]) -> None:
        """Begin the attempt. Each heartbeat calls ``on_beat``, perhaps in the activity's thread."""
        self.began = True
        self.attempt.on_beat = on_beat

    def resume(self, details: bytes) -> None:
        """Continue from the heartbeat details of an attempt whose worker is gone."""
        self.kept, self.attempt.details = details, msgspec.Raw(details)
        self.attempt.info = msgspec.structs.replace(self.attempt.info, heartbeat_details=decode(details, "details"))

    def may_keep(self, every: float) -> bool:
        """Return whether ``every`` seconds have passed since heartbeat details were last stored. If so, restart the interval."""
        if clock.monotonic() - self._kept_at < every:
            return False
        self._kept_at = clock.monotonic()
        return True

    def details_to_keep(self) -> bytes | None:
        """Return heartbeat details that the broker does not have, once. None if there are none."""
        details = bytes(self.attempt.details)
        if not self.began or details in (self.kept, bytes(self.task.details)):
            return None
        self.kept, self._kept_at = details, clock.monotonic()
        return details

    def give_up(self, why: str) -> bool:
        """Note why the attempt is over. Return False if it was over before."""
        if self.attempt.over is not None:
            return False
        self.attempt.over = why
        return True

    def cancel(self, why: str) -> None:
        """Cancel the attempt, and note why."""
        self.attempt.over, self.cancelled = why, True
        if self.work is not None:
            self.work.cancel()


class Leases:
    """See the module.

    Args:
        spawn: runs work in the background.
        lease: returns how many seconds a lease lasts at this moment.
    """

    def __init__(self, wire: Wire, tasks: Tasks, spawn: Spawn, lease: Callable[[], float]) -> None:
        self._wire = wire
        self._tasks = tasks
        self._spawn = spawn
        self._lease = lease
        self._all: dict[int, Leased] = {}
        self._ticker: asyncio.TimerHandle | None = None
        self._stopping = False

    def get(self, seq: int) -> Leased | None:
        """Return a task by its position in the stream, if this worker has its lease."""
        return self._all.get(seq)

    def add(self, leased: Leased) -> None:
        """Extend the lease of a task from now on."""
        self._all[leased.delivery.seq] = leased
        self._tick_later()

    def end(self, leased: Leased, answer: bytes) -> None:
        """Answer a task, which ends its lease. Remove its heartbeat details if the answer is an ack."""
        self._all.pop(leased.delivery.seq, None)
        self.answer(leased.reply, answer)
        if leased.kept and answer == ACK:
            self._spawn(_quietly(self._tasks.forget_details(leased.task)))

    def answer(self, reply: str, body: bytes) -> None:
        """Send the broker the answer for a task."""
        with contextlib.suppress(BrokerError):  # not connected: the task comes again, and its worker looks it up
            self._wire.send(reply, body)

    def watch_heartbeats(self, leased: Leased, every: float) -> Callable[[], None]:
        """Return the callback of a heartbeat. It stores the details, at most once in ``every`` seconds."""
        loop = asyncio.get_running_loop()

        def on_beat() -> None:  # perhaps in the activity's thread
            if leased.may_keep(every):
                loop.call_soon_threadsafe(self._keep_details, leased)

        return on_beat

    def cancel_operation(self, operation: str) -> None:
        """Cancel the attempts of an operation that has ended."""
        for leased in self._all.values():
            task = leased.task
            if operation == operation_tokens(to_token(task.task_queue), to_token(task.workflow_id), task.run, task.index):
                leased.cancel("its workflow no longer waits for it")

    async def stop(self, grace: float) -> None:
        """Return the tasks that have not begun, and wait ``grace`` seconds for the others. No heartbeat is stored from now on."""
        self._stopping = True
        for leased in list(self._all.values()):
            if leased.work is not None and not leased.began:
                leased.work.cancel()
        begun = [leased.work for leased in self._all.values() if leased.work is not None and leased.began]
        if begun:
            await asyncio.wait(begun, timeout=grace)
        if self._ticker is not None:
            self._ticker.cancel()

    def _tick_later(self) -> None:
        if self._ticker is None:
            self._ticker = asyncio.get_running_loop().call_later(self._lease() / 3, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        for leased in self._all.values():
            self.answer(leased.reply, WORKING)
            self._keep_details(leased)
        if self._all:
            self._tick_later()

    def _keep_details(self, leased: Leased) -> None:
        details = None if self._stopping else leased.details_to_keep()
        if details is not None:
            self._spawn(_quietly(self._tasks.keep_details(leased.task, details)))


async def _quietly(work: Awaitable[None]) -> None:
    with contextlib.suppress(BrokerError):
        await work
