"""The live workers of a task queue: this worker's heartbeats, and those of the others.

The heartbeat thread has its own event loop and connection, so a worker does not lose its partitions when user code blocks its loop for a moment. It
loses them when the loop stays blocked for ``BLOCKED_LIMIT``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from msgspec import Struct

from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.wire import Wire
from jetflow.core.ids import to_token
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.headers import header_block, status_of
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.worker")

BEAT_EVERY = 0.5
LATE_AFTER = 1.25
"""Seconds without a heartbeat until a member is asked on its presence subject."""
DEAD_AFTER = 3.0
"""Seconds without a heartbeat until others count a member as dead, and until the member's own lease ends."""
PAUSE = 1.5
"""Seconds between two looks at the other workers that show that this process stood still."""
MAX_MEMBERS = 10_000
"""The most workers of one task queue. Heartbeats of further ones are ignored until others are gone."""
BLOCKED_WARNING = 5.0
BLOCKED_LIMIT = 60.0


class Member(Struct, omit_defaults=True):
    """What a worker's heartbeat says. ``version`` changes with its partitions.

    Attributes:
        failures: numbers of unexpected ends of its loops and tasks, by name.
        set_aside: the first workflows (as tokens) whose timeline its janitor cannot read, with the reason.
        complaints: problems of the namespace's streams, each a sentence.
        shortages: what it has too little of, such as threads, each a sentence.
    """

    worker_id: str
    task_queue: str
    host: str
    pid: int
    started_at: int
    workflows: list[str]
    activities: list[str]
    version: int = 0
    partitions: int = 0
    leaving: bool = False
    failures: dict[str, int] = {}
    set_aside: dict[str, str] = {}
    complaints: list[str] = []
    shortages: list[str] = []


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Member)


class Lease:
    """Whether this worker may act as an owner, by its own clock. Safe to read from any thread.

    Attributes:
        beat_at: when the last acked heartbeat was sent, by the monotonic clock.
        term: how often the lease has begun. A changed number shows that it was over in between.
    """

    def __init__(self) -> None:
        self.beat_at = float("-inf")
        self.term: int = 0

    def lasts(self, term: int) -> bool:
        """Return whether the lease is valid and has been since it had this term."""
        return self.term == term and clock.monotonic() - self.beat_at < DEAD_AFTER

    @property
    def valid(self) -> bool:
        """Whether the lease is valid. Once it is not, others may count this worker as dead."""
        return clock.monotonic() - self.beat_at < DEAD_AFTER

    def renew(self, at: float) -> bool:
        """Note that a heartbeat sent at ``at`` was acked. Return True if the lease begins with it, for the first time or again."""
        begins = not self.valid
        if begins:
            self.term += 1  # before the lease is valid again, since other threads may look now
        self.beat_at: float = at
        return begins


class Heart:
    """The heartbeat thread of one worker.

    Args:
        connect: opens the heartbeat's own connection; called in the thread.
        names: the namespace.
        member: what the heartbeats say; replace it with ``tell``.

    Attributes:
        on_lease: called on the worker's loop when its lease begins, for the first time or again.
    """

    def __init__(self, connect: Callable[[], Awaitable[tuple[Wire, Lane]]], names: Names, member: Member) -> None:
        self.lease: Lease = Lease()
        self._connect = connect
        self._names = names
        self._member = member
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self.on_lease: Callable[[], None] = lambda: None
        self._main_loop: asyncio.AbstractEventLoop | None = None
        self._main_thread = threading.get_ident()
        self._main_tick = clock.monotonic()
        self._warned = False

    def start(self) -> None:
        """Begin to send heartbeats."""
        self._main_loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="jetflow-heart", daemon=True)
        self._thread.start()

    def tick(self) -> None:
        """Note that the worker's event loop runs."""
        self._main_tick = clock.monotonic()
        self._warned = False

    def tell(self, member: Member) -> None:
        """Change what the heartbeats say, and send one at once."""
        self._member = member
        self._nudge()

    async def stop(self) -> None:
        """Send that this worker leaves, and end the thread."""
        self._member = msgspec.structs.replace(self._member, leaving=True)
        self._stop.set()
        self._nudge()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 5)

    def _nudge(self) -> None:
        if self._wake is not None:
            _call(self._loop, self._wake.set)

    # ---- in the thread

    def _run(self) -> None:
        told = ""
        while True:
            try:
                asyncio.run(self._beat())
                return
            except Exception as error:
                if self._stop.is_set():
                    return
                log.log(logging.DEBUG if told == str(error) else logging.WARNING, "heartbeats interrupted: %s", error)
                told = str(error)
                self._stop.wait(BEAT_EVERY)

    async def _beat(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        wire, lane = await self._connect()
        try:
            subject = f"{self._names.worker_prefix}{to_token(self._member.task_queue)}.{self._member.worker_id}"

            def answer(_subject: bytes, reply: bytes, _data: bytes, _headers: bytes | None) -> None:
                with contextlib.suppress(BrokerError):  # the connection has just broken: the asking worker asks again
                    wire.send(reply.decode(), b"here")

            wire.listen(presence_subject(self._names, self._member.worker_id), answer)
            while not self._stop.is_set():
                self._wake.clear()
                if self._loop_is_alive():
                    await self._beat_once(lane, subject)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(BEAT_EVERY):
                        await self._wake.wait()
            if wire.is_connected:
                await self._beat_once(lane, subject)  # the last one says that the worker leaves
        finally:
            await wire.close()

    async def _beat_once(self, lane: Lane, subject: str) -> None:
        at = clock.monotonic()
        try:
            headers = header_block(Nats_TTL="1s") if self._member.leaving else None
            await lane.publish(subject, _encoder.encode(self._member), headers)
        except BrokerError as error:
            log.debug("a heartbeat failed: %s", error)
        else:
            if self.lease.renew(at):
                _call(self._main_loop, self.on_lease)

    def _loop_is_alive(self) -> bool:
        blocked = clock.monotonic() - self._main_tick
        if blocked > BLOCKED_WARNING and not self._warned:
            self._warned = True
            frame = sys._current_frames().get(self._main_thread)
            where = "".join(traceback.format_stack(frame, 5)[-4:]) if frame else "unknown place\n"
            log.warning("the worker's event loop has been blocked for %.0f s; make the code async, or a plain def activity:\n%s", blocked, where)
        return blocked < BLOCKED_LIMIT


def _call(loop: asyncio.AbstractEventLoop | None, function: Callable[[], None]) -> None:
    """Call a function on another thread's loop, unless that loop is closed."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(function)


def presence_subject(names: Names, worker_id: str) -> str:
    """Return the subject on which a live worker answers."""
    return f"{names.namespace}_worker.{worker_id}"


class Members:
    """The live workers of one task queue, as one of them sees them.

    Args:
        lane: the connection of this worker.
        names: the namespace.
        task_queue: the task queue.
        me: the id of this worker.
        on_change: called when a worker comes, goes, or changes its partitions.
    """

    def __init__(self, lane: Lane, names: Names, task_queue: str, me: str, on_change: Callable[[], None]) -> None:
        self._lane = lane
        self._names = names
        self._queue_token = to_token(task_queue)
        self._me = me
        self._on_change = on_change
        self._heard: dict[str, tuple[Member, float]] = {}
        self._asking: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._sid: int | None = None
        self._last_look = clock.monotonic()

    async def open(self) -> None:
        """Begin to listen, and ask each worker with a stored heartbeat whether it is there."""
        self._sid = self._lane.wire.listen(f"{self._names.worker_prefix}{self._queue_token}.*", self._on_beat)
        asked = {"multi_last": [f"{self._names.worker_prefix}{self._queue_token}.*"]}
        known = await self._lane.read_many(self._names.worker_stream, asked, may_lag="a missed worker is heard within half a second")
        for message in known:
            self._on_beat(message.subject.encode(), b"", message.data, None)
        asking = [self._ask(worker_id) for worker_id in list(self._heard)]
        await asyncio.gather(*asking)

    def close(self) -> None:
        """Stop listening."""
        if self._sid is not None:
            with contextlib.suppress(BrokerError):
                self._lane.wire.unlisten(self._sid)
            self._sid = None

    def alive(self) -> dict[str, Member]:
        """Return all other live workers by worker id."""
        return {worker_id: member for worker_id, (member, _) in self._heard.items()}

    def forgive(self) -> None:
        """Count every worker as just heard: after a pause or a reconnect of this worker, their silence means nothing."""
        now = clock.monotonic()
        self._heard = {worker_id: (member, now) for worker_id, (member, _) in self._heard.items()}

    def look(self) -> None:
        """Ask late workers, and drop dead ones. Call it at least a few times a second."""
        now = clock.monotonic()
        paused = now - self._last_look > PAUSE
        self._last_look = now
        if paused:
            self.forgive()
            return
        for worker_id, (_, heard) in list(self._heard.items()):
            if now - heard > DEAD_AFTER:
                self._drop(worker_id)
            elif now - heard > LATE_AFTER and worker_id not in self._asking:
                task = asyncio.ensure_future(self._ask(worker_id))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _ask(self, worker_id: str) -> None:
        """Ask a worker whether it is there. Drop it at once if there are no responders: its connection is gone."""
        self._asking.add(worker_id)
        try:
            async with asyncio.timeout(1):
                _, headers = await self._lane.ask(presence_subject(self._names, worker_id), b"", retry=False)
            if status_of(headers) == 503:
                self._drop(worker_id)
        except (BrokerError, TimeoutError):
            log.debug("worker %s did not answer", worker_id)
        finally:
            self._asking.discard(worker_id)

    def _on_beat(self, subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        worker_id = subject.decode(errors="replace").rpartition(".")[2]
        if worker_id == self._me:
            return
        try:
            member = _decoder.decode(data) if data else None
        except msgspec.DecodeError:
            log.warning("a heartbeat of %s cannot be read", worker_id)
            return
        if member is None or member.leaving:
            self._drop(worker_id)
            return
        before = self._heard.get(worker_id)
        if before is None and len(self._heard) >= MAX_MEMBERS:
            return
        self._heard[worker_id] = (member, clock.monotonic())
        if before is None or before[0].version != member.version:
            self._on_change()

    def _drop(self, worker_id: str) -> None:
        if self._heard.pop(worker_id, None) is not None:
            self._on_change()
