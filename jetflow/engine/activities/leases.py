"""The tasks that a worker has the lease of: their leases are extended, and what their heartbeats say is stored.

Both are done on the loop that the activities run on: a loop that stands still loses its leases.
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
        reply: where to ack it.
        pauses: how often the worker had stood still when the task came.
        work: what serves it.
        began: whether its attempt has begun.
        cancelled: whether nobody waits for it any more.
        kept: the details of a heartbeat that the broker has; empty for none.
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
        """Note that it was delivered again: only where to ack it is new."""
        self.reply = reply

    def serve(self, work: asyncio.Task[Any]) -> None:
        """Note what serves it."""
        self.work = work

    def begin(self, on_beat: Callable[[], None]) -> None:
        """Begin the attempt. ``on_beat`` is called after each heartbeat, perhaps in the activity's thread."""
        self.began = True
        self.attempt.on_beat = on_beat

    def resume(self, details: bytes) -> None:
        """Go on from what the last heartbeat of an attempt said whose worker is gone."""
        self.kept, self.attempt.details = details, msgspec.Raw(details)
        self.attempt.info = msgspec.structs.replace(self.attempt.info, heartbeat_details=decode(details, "details"))

    def may_keep(self, every: float) -> bool:
        """Return whether so many seconds have gone since the last heartbeat was kept. If so, that begins anew."""
        if clock.monotonic() - self._kept_at < every:
            return False
        self._kept_at = clock.monotonic()
        return True

    def details_to_keep(self) -> bytes | None:
        """Return what a heartbeat has said that the broker does not have, once; None for nothing."""
        details = bytes(self.attempt.details)
        if not self.began or details in (self.kept, bytes(self.task.details)):
            return None
        self.kept, self._kept_at = details, clock.monotonic()
        return details

    def give_up(self, why: str) -> bool:
        """Note why nobody waits for the attempt. Return False if that was known before."""
        if self.attempt.over is not None:
            return False
        self.attempt.over = why
        return True

    def cancel(self, why: str) -> None:
        """Cancel the attempt: nobody waits for it any more."""
        self.attempt.over, self.cancelled = why, True
        if self.work is not None:
            self.work.cancel()


class Leases:
    """See the module.

    Args:
        spawn: runs work beside the attempts.
        lease: how many seconds a lease lasts, at this moment.
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
        """Answer a task, whose lease ends with that. What its heartbeats said is needed no more once it is acked."""
        self._all.pop(leased.delivery.seq, None)
        self.answer(leased.reply, answer)
        if leased.kept and answer == ACK:
            self._spawn(_quietly(self._tasks.forget_details(leased.task)))

    def answer(self, reply: str, body: bytes) -> None:
        """Tell the broker what is to become of a task."""
        with contextlib.suppress(BrokerError):  # not connected: it comes again, and is looked up
            self._wire.send(reply, body)

    def watch_heartbeats(self, leased: Leased, every: float) -> Callable[[], None]:
        """Return what a heartbeat calls: what it says is stored, but not more often than once in so many seconds."""
        loop = asyncio.get_running_loop()

        def on_beat() -> None:  # maybe in the activity's thread
            if leased.may_keep(every):
                loop.call_soon_threadsafe(self._keep_details, leased)

        return on_beat

    def cancel_operation(self, operation: str) -> None:
        """Cancel the attempts of an operation that nobody waits for any more."""
        for leased in self._all.values():
            task = leased.task
            if operation == operation_tokens(to_token(task.task_queue), to_token(task.workflow_id), task.run, task.index):
                leased.cancel("its workflow does not wait for it any more")

    async def stop(self, grace: float) -> None:
        """Give back what has not begun, and wait so many seconds for the rest. Heartbeats are stored no more."""
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
