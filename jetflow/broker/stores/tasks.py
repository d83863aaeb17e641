"""The task stream: activities that run on other workers, or in other languages.

A task is one attempt of one activity. Its subject says whose attempt it is, which makes publishing it again harmless while
it is there, and lets it be taken back:

    <namespace>_task.<activity queue>.<activity>.<workflow's queue>.<workflow id>.<run>.<index>.<attempt>

Everybody who serves an activity of a queue pulls from the same durable consumer. A task is leased: it comes again when
nobody has said for ``ack_wait`` that it is being worked on.
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
    """The body of a task: plain JSON, all that a worker in any language needs.

    Attributes:
        workflow_id, task_queue, run, index: whose operation it is.
        attempt: from 1; goes back with the outcome.
        activity: what to run, with ``args``.
        reply: the subject to publish the outcome to.
        start_to_close: the longest it may take, ms.
        heartbeat: the longest it may be silent, ms.
        details: what the attempt before said last with a heartbeat.
        again: it may have been published before: whoever can should look whether it is still wanted.
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


class TaskDelivery:
    """A task as it came, which is leased to this worker.

    Attributes:
        seq: its sequence in the stream, the same when it comes again.
        delivered: how many times it has been given to a worker.
        stored_ms: when it was published.
        reply: where to ack it, and to say that it is being worked on.
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
    """Tasks as the owner of their workflows has them: it publishes them, and takes them back."""

    def __init__(self, lane: FencedLane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def publish(self, queue: str, task: Task) -> None:
        """Stores a task for the workers of a queue; one that may have been published before (``again``) is looked for first.

        Raises:
            TenureOverError: another worker has taken over.
        """
        subject = f"{self._names.task_prefix}{to_token(queue)}.{to_token(task.activity)}.{_operation(task)}.{task.attempt}"
        if task.again and await self._lane.last_message(self._names.task_stream, subject) is not None:
            log.debug("task %s is there already", subject)
            return
        await self._lane.store("tasks", subject, _encode(task))

    async def withdraw(self, operation: str) -> None:
        """Takes back the tasks of an operation, ``<queue>.<id>.<run>.<index>`` in tokens, or of all with ``*`` as the index. They name run
        and operation, so no later one is meant.
        """
        await self._lane.purge(self._names.task_stream, f"{self._names.task_prefix}*.*.{operation}.*", EVERYTHING)

    def tell_ended(self, queue: str, operation: str) -> None:
        """Tells the workers of a queue that nobody waits for an operation any more; it may be lost."""
        self._lane.check()
        self._lane.wire.send(f"{self._names.ended_prefix}{to_token(queue)}.{operation}", b"")


class Tasks:
    """Tasks as those have them who run them: outcomes, and what running ones said last."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def outcome(self, task: Task, body: bytes) -> None:
        """Tells the workflow what became of a task."""
        await self._lane.publish(task.reply, body)

    async def waiting(self, queue_token: str) -> bool:
        """Whether there are tasks for a queue."""
        return await self._lane.last_message(self._names.task_stream, f"{self._names.task_prefix}{queue_token}.>") is not None

    # ---- what running ones said last

    async def keep_details(self, task: Task, details: bytes) -> None:
        """Keeps a heartbeat's details for whoever gets the task if this worker dies."""
        await self._lane.publish(self._details_key(task), details)

    async def kept_details(self, task: Task) -> bytes | None:
        """What was kept, None for nothing."""
        message = await self._lane.last_message(self._names.heartbeat_stream, self._details_key(task))
        return message.data if message is not None and message.data else None

    async def forget_details(self, task: Task) -> None:
        """Removes what was kept."""
        await self._lane.api(f"STREAM.PURGE.{self._names.heartbeat_stream}", {"filter": self._details_key(task)})

    def _details_key(self, task: Task) -> str:
        return f"{self._names.heartbeat_prefix}{_operation(task)}"


def _operation(task: Task) -> str:
    return operation_tokens(to_token(task.task_queue), to_token(task.workflow_id), task.run, task.index)


def operation_tokens(queue_token: str, id_token: str, run: int, index: int | str) -> str:
    """An operation of a workflow as a part of a subject."""
    return f"{queue_token}.{id_token}.{run}.{index}"


def consumer_name(queue_token: str, activity_token: str) -> str:
    """The durable consumer that all workers of an activity share; a ``-`` in the queue is written ``=2D``, so that no two are the same."""
    name = f"task-{queue_token.replace('-', '=2D')}-{activity_token}"
    return name if len(name) <= MAX_NAME else f"task-{blake2b(name.encode(), digest_size=16).hexdigest()}"


class TaskConsumer:
    """One worker's pulls from the consumer of one activity.

    Args:
        lane: where to ask.
        names: the namespace.
        queue_token, activity_token: what is served.
        lease: the consumer's ``ack_wait`` in seconds, if it is to be created.
        room: how many more tasks may come now.
        on_task: gets each.

    Attributes:
        lease: the consumer's real ``ack_wait`` in seconds.
        is_open: the consumer exists, and tasks can come.
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
        """Creates the consumer if need be, pulls, and goes on doing so whatever happens to the connection."""
        if self._keeper is None and not self._closing:
            self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Stops pulling. Tasks that were on their way are handed to ``on_task`` before this returns."""
        self._closing = True
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._sid is None:
            return
        try:
            self._lane.wire.stop_listening(self._sid)
            await self._info()  # once it is answered, all that was sent before the server knew has arrived
        except BrokerError as error:
            log.debug("tasks on their way to this worker come again when their lease ends: %s", error)
        self._close()

    def refill(self) -> None:
        """Asks for as many more tasks as there is room for, once half of what was asked for has come."""
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
                    log.warning("tasks of %s cannot be had yet: %s", self.name, error)
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
            log.info("no word from %s; pulling anew", self.name)
            self._lost.set()
        else:
            self.refill()

    async def _open(self) -> None:
        found = (await self._create())["config"]
        lease = found.get("ack_wait", 0) / SECOND
        if lease and lease != self.lease:
            log.info("the lease of %s is %g s, not %g s: `nats consumer edit` changes it", self.name, lease, self.lease)
            self.lease = lease
        # a new inbox each time: the server drops the pulls of the one before
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
            return await self._info()  # with other settings, such as another lease

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
                level = logging.DEBUG if "shutdown" in fields[""].lower() else logging.WARNING  # the connection says more of a server that stops
                log.log(level, "consumer %s got no tasks: %s", self.name, fields[""])
                asyncio.get_running_loop().call_later(RETRY_OPEN, self.refill)
