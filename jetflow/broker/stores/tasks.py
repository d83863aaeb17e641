"""The task stream: attempts of activities for other workers, or other languages.

A task is one attempt of one activity. Its subject names the attempt, so the owner can recognise a stored copy before it publishes the task again,
and can withdraw it:

    <namespace>_task.<activity queue>.<activity>.<workflow's queue>.<workflow id>.<run>.<index>.<attempt>

All workers that serve an activity of a queue pull from the same durable consumer. A worker has a task with a lease: if the worker does not extend
the lease within ``ack_wait``, the broker delivers the task again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec import Raw, Struct

from jetflow.broker.fencing.fence import EVERYTHING, FencedLane
from jetflow.broker.transport.codes import CONSUMER_EXISTS
from jetflow.broker.transport.lane import Lane
from jetflow.core.events import NULL
from jetflow.core.ids import to_token
from jetflow.core.log_fields import about
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.headers import parse_headers, status_of
from jetflow.protocol.subjects import Names, inbox

log: logging.Logger = logging.getLogger("jetflow.broker")

SECOND = 1_000_000_000
HEARTBEAT = 5
EXPIRES = 30
RETRY_OPEN = 1.0
PAUSE = 0.1
MAX_NAME = 200


class Task(Struct, omit_defaults=True):
    """The body of a task: plain JSON, with all that a worker in any language needs.

    Attributes:
        workflow_id, task_queue, run, index: the operation that it belongs to.
        attempt: the number of the attempt, from 1; the outcome repeats it.
        activity: the activity to run with ``args``.
        reply: the subject of the outcome.
        start_to_close: the most ms that the attempt may take.
        heartbeat: the most ms between two heartbeats.
        details: the last heartbeat details of the attempt before.
        workflow_type: the type of the workflow; "" in tasks of older owners.
        again: whether it may have been published before. A worker that can should look up whether it is still needed.
    """

    workflow_id: str
    task_queue: str
    run: int
    index: int
    attempt: int
    activity: str
    args: Raw
    reply: str
    start_to_close: int | None = None
    heartbeat: int | None = None
    details: Raw = NULL
    again: bool = False
    workflow_type: str = ""


class TaskDelivery:
    """A delivered task, which this worker has the lease of.

    Attributes:
        seq: its position in the stream, the same in each delivery.
        delivered: how many times the broker has delivered it.
        stored_ms: when the broker stored it, ms since the epoch.
        reply: the subject for its ack and for lease extensions.
    """

    __slots__ = ("data", "delivered", "reply", "seq", "stored_ms", "subject")

    def __init__(self, subject: str, reply: str, data: bytes) -> None:
        tokens = reply.split(".")
        at = 4 if len(tokens) == 9 else 6
        self.subject: str = subject
        self.reply: str = reply
        self.data: bytes = data
        self.delivered: int = int(tokens[at])
        self.seq: int = int(tokens[at + 1])
        self.stored_ms: int = int(tokens[at + 3]) // 1_000_000


_encode = msgspec.json.Encoder().encode
decode_task: Callable[[bytes | str], Task] = msgspec.json.Decoder(Task).decode


class OwnedTasks:
    """Tasks on the owner's side: it publishes and withdraws them."""

    def __init__(self, lane: FencedLane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def publish(self, queue: str, task: Task) -> None:
        """Store a task for the workers of a queue. If it is ``again``, store it only if it is not there.

        Raises:
            TenureOverError: another worker has taken over.
        """
        subject = f"{self._names.task_prefix}{to_token(queue)}.{to_token(task.activity)}.{_operation(task)}.{task.attempt}"
        if task.again and await self._lane.last_message(self._names.task_stream, subject) is not None:
            log.debug("task %s is there already", subject, extra=about(task.workflow_id, task.task_queue, task.workflow_type, task.run))
            return
        await self._lane.store("tasks", subject, _encode(task))

    async def withdraw(self, operation: str) -> None:
        """Remove the tasks of an operation, ``<queue>.<id>.<run>.<index>`` in tokens, or of all operations with ``*`` as the index. The tasks name
        run and operation, so the removal reaches no later ones.
        """
        await self._lane.purge(self._names.task_stream, f"{self._names.task_prefix}*.*.{operation}.*", EVERYTHING)

    def tell_ended(self, queue: str, operation: str) -> None:
        """Notify the workers of a queue that an operation has ended. The notice may get lost."""
        self._lane.check()
        self._lane.wire.send(f"{self._names.ended_prefix}{to_token(queue)}.{operation}", b"")


class Tasks:
    """Tasks on the side of the workers that run them: outcomes and heartbeat details."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def outcome(self, task: Task, body: bytes) -> None:
        """Publish the outcome of a task to its workflow."""
        await self._lane.publish(task.reply, body)

    async def waiting(self, queue_token: str) -> bool:
        """Return whether there are tasks for a queue."""
        return await self._lane.last_message(self._names.task_stream, f"{self._names.task_prefix}{queue_token}.>") is not None

    # ---- heartbeat details

    async def keep_details(self, task: Task, details: bytes) -> None:
        """Store a heartbeat's details for the next worker of the task, if this one dies."""
        await self._lane.publish(self._details_key(task), details)

    async def kept_details(self, task: Task) -> bytes | None:
        """Return the stored heartbeat details, or None."""
        message = await self._lane.last_message(self._names.heartbeat_stream, self._details_key(task))
        return message.data if message is not None and message.data else None

    async def forget_details(self, task: Task) -> None:
        """Remove the stored heartbeat details."""
        await self._lane.api(f"STREAM.PURGE.{self._names.heartbeat_stream}", {"filter": self._details_key(task)})

    def _details_key(self, task: Task) -> str:
        return f"{self._names.heartbeat_prefix}{_operation(task)}"


def _operation(task: Task) -> str:
    return operation_tokens(to_token(task.task_queue), to_token(task.workflow_id), task.run, task.index)


def operation_tokens(queue_token: str, id_token: str, run: int, index: int | str) -> str:
    """Return the part of a subject that names an operation."""
    return f"{queue_token}.{id_token}.{run}.{index}"


def consumer_name(queue_token: str, activity_token: str) -> str:
    """Return the name of the durable consumer that all workers of an activity share. A ``-`` in the queue becomes ``=2D``, to keep names apart."""
    name = f"task-{queue_token.replace('-', '=2D')}-{activity_token}"
    return name if len(name) <= MAX_NAME else f"task-{blake2b(name.encode(), digest_size=16).hexdigest()}"


class TaskConsumer:
    """One worker's pulls from the consumer of one activity.

    Args:
        lane: the connection.
        names: the namespace.
        queue_token, activity_token: the task queue and the activity.
        lease: the consumer's ``ack_wait`` in seconds, if this worker creates it.
        room: returns how many more tasks may come now.
        on_task: called with each task.

    Attributes:
        lease: the consumer's actual ``ack_wait`` in seconds.
        is_open: whether the consumer exists and tasks can come.
    """

    def __init__(
        self,
        lane: Lane,
        names: Names,
        queue_token: str,
        activity_token: str,
        *,
        lease: float,
        room: Callable[[], int],
        on_task: Callable[[TaskDelivery], None],
    ) -> None:
        self.name: str = consumer_name(queue_token, activity_token)
        self.subject: str = f"{names.task_prefix}{queue_token}.{activity_token}.>"
        self.lease: float = lease
        self.is_open = False
        self._lane = lane
        self._stream = names.task_stream
        self._room = room
        self._on_task = on_task
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{names.task_stream}.{self.name}"
        self._inbox = ""
        self._sid: int | None = None
        self._asked = 0
        self._heard = 0.0
        self._closing = False
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()

    def start(self) -> None:
        """Create the consumer if it is missing, and pull from it until ``stop``, also after reconnects."""
        if self._keeper is None and not self._closing:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Stop pulling. Call ``on_task`` with the tasks that are on their way before this returns."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._sid is None:
            return
        try:
            self._lane.wire.stop_listening(self._sid)
            await self._info()  # its answer comes after all tasks that the server sent before it knew
        except BrokerError as error:
            log.debug("tasks on their way to this worker come again when their lease ends: %s", error)
        self._close()

    def refill(self) -> None:
        """Ask for as many more tasks as there is room for, once half of the tasks asked for have come."""
        if not self.is_open or self._closing:
            return
        wanted = self._room()
        if wanted <= 0 or self._asked * 2 > wanted:
            return
        request = {"batch": wanted - self._asked, "expires": EXPIRES * SECOND, "idle_heartbeat": HEARTBEAT * SECOND}
        try:
            self._lane.wire.send(self._next, _encode(request), self._inbox)
        except BrokerError:
            self._lost.set()
            return
        if not self._asked:
            self._heard = clock.monotonic()
        self._asked = wanted

    # ---- staying open

    async def _keep(self) -> None:
        wire = self._lane.wire
        wire.on_disconnect.append(self._lost.set)
        try:
            while True:
                self._lost.clear()
                try:
                    await self._open()
                except BrokerError as error:
                    log.warning("this worker cannot pull tasks of %s yet: %s", self.name, error)
                    await asyncio.sleep(RETRY_OPEN)
                    continue
                while not self._lost.is_set():
                    try:
                        async with asyncio.timeout(HEARTBEAT):
                            await self._lost.wait()
                    except TimeoutError:
                        self._look()
                self._close()
                await asyncio.sleep(PAUSE)
        finally:
            wire.on_disconnect.remove(self._lost.set)

    def _look(self) -> None:
        if self._asked and clock.monotonic() - self._heard > 2.5 * HEARTBEAT:
            log.info("no message from %s; pulling again", self.name)
            self._lost.set()
        else:
            self.refill()

    async def _open(self) -> None:
        found = (await self._create())["config"]
        lease = found.get("ack_wait", 0) / SECOND
        if lease and lease != self.lease:
            log.info("the lease of %s is %g s, not %g s: `nats consumer edit` changes it", self.name, lease, self.lease)
            self.lease = lease
        # a new reply inbox each time: the server drops the pulls of the earlier one
        self._inbox = inbox(f"task.{clock.token(8)}")
        self._sid = self._lane.wire.listen(self._inbox, self._on_message)
        self._asked, self.is_open = 0, True
        self.refill()

    async def _create(self) -> Any:
        config = {
            "name": self.name,
            "durable_name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": round(self.lease * SECOND),
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 2048,
            "filter_subject": self.subject,
        }
        operation = f"CONSUMER.CREATE.{self._stream}.{self.name}.{self.subject}"
        try:
            return await self._lane.api(operation, {"stream_name": self._stream, "config": config, "action": "create"})
        except BrokerError as error:
            if error.err_code != CONSUMER_EXISTS:
                raise
            return await self._info()  # it exists with other settings, such as another lease

    async def _info(self) -> Any:
        return await self._lane.consumer_info(self._stream, self.name)

    def _close(self) -> None:
        self.is_open: bool = False
        if self._sid is not None:
            try:
                self._lane.wire.unlisten(self._sid)
            except BrokerError:
                log.debug("not connected while closing %s", self.name)
            self._sid = None

    # ---- messages

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self._heard = clock.monotonic()
        status = status_of(headers)
        if status:
            self._on_status(status, headers)
            return
        self._asked = max(0, self._asked - 1)
        self._on_task(TaskDelivery(subject.decode(errors="replace"), reply.decode(), data))
        self.refill()

    def _on_status(self, status: int, headers: bytes | None) -> None:
        fields = parse_headers(headers)
        if status == 100:
            self.refill()
        elif status == 503 or (status == 409 and ("deleted" in fields[""].lower() or "leadership" in fields[""].lower())):
            self._lost.set()
        else:
            self._asked = max(0, self._asked - int(fields.get("Nats-Pending-Messages", self._asked)))
            if status in (404, 408):
                self.refill()
            elif not self._closing:
                level = logging.DEBUG if "shutdown" in fields[""].lower() else logging.WARNING  # the connection logs that the server stops
                log.log(level, "consumer %s got no tasks: %s", self.name, fields[""])
                asyncio.get_running_loop().call_later(RETRY_OPEN, self.refill)
