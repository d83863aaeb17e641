"""Group commit: several messages of one stream in one batch, when that is quicker.

With ``sync_interval: always`` the server flushes the disk for each message before its ack, and the flushes of a stream wait for each other. The
server flushes an atomic batch once, but works on it for some milliseconds, however few messages are in it. With many messages under way a batch can
double the rate. Where nothing waits for the disk, it would halve the rate. A client cannot ask a server how it syncs. So this module measures both
ways while the process is mostly idle: a busy process does not wait for the disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from jetflow.broker.fencing.fence import FencedLane, TenureOverError
from jetflow.broker.transport.codes import BATCHES_OFF
from jetflow.errors import BrokerUnavailableError, ConflictError
from jetflow.protocol import clock

log: logging.Logger = logging.getLogger("jetflow.broker")

CROWD = 16
"""With this many messages under way or more, a measured rate counts, and a batch may be quicker."""
STRETCH = 128
"""Answers after which a stretch of work is measured, if it has not ended before."""
PERIOD = 0.25
"""Seconds of work in one measurement."""
SLOW = 80e-6
"""Seconds for each message. Below this, batches are not tried."""
BUSY = 0.5
"""The most CPU use of this thread, as a part of the time, at which batches are tried."""
GAIN = 0.8
"""The time for each message in a batch that a trial must reach, as a part of the time of a single message. Later, equal time is enough."""
AGAIN = 20.0
"""Seconds until the comparison is made again."""
SOON = 2.0
"""Seconds until the next comparison after batches were quicker and then slower. Also the seconds without a crowd after which batches end."""
MOST = 500
"""The most messages of a batch. The server accepts 1,000."""
MOST_BYTES = 4 * 1024 * 1024


class Pace:
    """Seconds for each message in the last period of work. ``each`` is 0 before the first period ends."""

    def __init__(self) -> None:
        self.each = 0.0
        self._messages, self._seconds = 0, 0.0

    def add(self, messages: int, seconds: float) -> bool:
        """Count messages that took ``seconds`` together. Return True when a period is complete."""
        self._messages += messages
        self._seconds += seconds
        if self._seconds < PERIOD:
            return False
        self.each: float = self._seconds / self._messages
        self._messages, self._seconds = 0, 0.0
        return True


class Choice:
    """Decides whether messages go alone or in batches, by measuring first the one, then the other.

    Args:
        cpu: returns the CPU seconds that this thread has needed so far.

    Attributes:
        together: whether messages go in batches, since that is quicker or on trial.
    """

    def __init__(self, cpu: Callable[[], float] = clock.cpu) -> None:
        self.together: bool = False
        self._proven = False
        self._until = 0.0
        self._alone, self._grouped, self._grouped_at = Pace(), Pace(), 0.0
        self._cpu = cpu
        self._looked_at, self._wanted = -inf, 0.0

    def went_alone(self, messages: int, seconds: float, now: float) -> None:
        """Note that a crowd of messages was stored one by one."""
        if self.together:  # they were under way when the trial began
            return
        if self._alone.add(messages, seconds) and self._alone.each > SLOW and now >= self._until and self._has_time(now):
            self.together, self._proven, self._until = True, False, now + AGAIN
            self._grouped, self._grouped_at = Pace(), now

    def _has_time(self, now: float) -> bool:
        """Return whether this thread was mostly idle since the last call. False if the last call is long ago."""
        passed, before = now - self._looked_at, self._wanted
        self._looked_at, self._wanted = now, self._cpu()
        return passed < AGAIN and self._wanted - before < BUSY * passed

    def went_together(self, messages: int, seconds: float, now: float) -> None:
        """Note that a batch was stored. After ``AGAIN`` seconds single messages are measured again, since the server's load may have changed."""
        self._grouped_at = now
        if not self.together or not self._grouped.add(messages, seconds):  # batches have ended meanwhile
            return
        alone, grouped = self._alone.each, self._grouped.each
        if grouped > (alone if self._proven else GAIN * alone):
            self.give_up(now, SOON if self._proven else AGAIN)
        elif now >= self._until:
            self.together, self._alone = False, Pace()
        self._proven = self.together
        log.debug(
            "a message takes %.0f us alone, %.0f us in a batch: %s from now on", alone * 1e6, grouped * 1e6, "together" if self.together else "alone"
        )

    def were_few(self, now: float) -> None:
        """Note that there were too few messages for a batch. A few messages are quicker when each goes alone."""
        if self.together and now - self._grouped_at > SOON:
            self.give_up(now, 0)

    def give_up(self, now: float, seconds: float = AGAIN) -> None:
        """Use no batches for ``seconds``."""
        self.together, self._until = False, now + seconds


class _Message(NamedTuple):
    """A message. ``headers`` are a whole block with a condition of its own. Without them the message has the fence and ``fields``."""

    subject: str
    body: bytes
    fields: bytes
    headers: bytes | None
    position: asyncio.Future[int]


class GroupCommit:
    """Publishes to one stream under one tenure. Messages may go in batches, but each is stored or refused on its own.

    Args:
        lane: the tenure's fenced lane.
        kind: the stream, as in ``Names.owned_streams``.
        choice: decides on batches; it outlives the tenure.
    """

    def __init__(self, lane: FencedLane, kind: str, choice: Choice) -> None:
        self.choice = choice
        self._lane = lane
        self._kind = kind
        self._under_way = self._most = self._answers = 0
        self._begun = 0.0
        self._waiting: deque[_Message] = deque()
        self._sender: asyncio.Task[None] | None = None

    async def publish(self, subject: str, body: bytes, fields: bytes = b"", *, headers: bytes | None = None) -> int:
        """Store a message, and return its position.

        Args:
            subject: the subject of the message.
            body: the body of the message.
            fields: header lines besides the fence.
            headers: a whole header block with another condition in place of the fence.

        Raises:
            ConflictError: the condition in ``headers`` does not hold.
            TenureOverError: the tenure is revoked.
            BrokerUnavailableError: whether it was stored is unknown, which ends the tenure.
            BrokerError: the server refused it.
        """
        if self.choice.together:
            return await self._with_others(subject, body, fields, headers)
        if not self._under_way:
            self._begin_stretch()
        self._under_way += 1
        if self._under_way > self._most:
            self._most = self._under_way
        try:
            if headers is not None:
                return (await self._lane.publish(subject, body, headers)).seq
            return (await self._lane.store(self._kind, subject, body, fields)).seq
        finally:
            self._under_way -= 1
            self._answers += 1
            if not self._under_way or self._answers == STRETCH:
                self._end_stretch()

    def _begin_stretch(self) -> None:
        self._begun, self._answers, self._most = clock.monotonic(), 0, self._under_way

    def _end_stretch(self) -> None:
        begun, answers, crowded = self._begun, self._answers, self._most >= CROWD
        self._begin_stretch()
        if crowded:
            self.choice.went_alone(answers, self._begun - begun, self._begun)

    # ---- together

    async def _with_others(self, subject: str, body: bytes, fields: bytes, headers: bytes | None) -> int:
        loop = asyncio.get_running_loop()
        position: asyncio.Future[int] = loop.create_future()
        self._waiting.append(_Message(subject, body, fields, headers, position))
        if self._sender is None:
            self._sender = loop.create_task(self._send())
        return await position

    async def _send(self) -> None:
        """Send one group after the other. Each has the messages that came while the one before was under way."""
        try:
            await asyncio.sleep(0)  # wait for other messages of this turn of the event loop
            while group := self._next_group():
                begun = clock.monotonic()
                if len(group) >= CROWD and self.choice.together and self._lane.wire.is_connected:
                    await self._together(group)
                    now = clock.monotonic()
                    self.choice.went_together(len(group), now - begun, now)
                else:
                    self.choice.were_few(begun)
                    await asyncio.gather(*map(self._alone, group))
        finally:
            self._sender = None

    def _next_group(self) -> list[_Message]:
        group: list[_Message] = []
        size = 0
        while self._waiting and len(group) < MOST and size < MOST_BYTES:
            message = self._waiting.popleft()
            if not message.position.done():  # otherwise its caller was cancelled
                group.append(message)
                size += len(message.body)
        return group

    async def _alone(self, message: _Message) -> None:
        try:
            if message.headers is not None:
                ack = await self._lane.publish(message.subject, message.body, message.headers)
            else:
                ack = await self._lane.store(self._kind, message.subject, message.body, message.fields)
            _settle(message, ack.seq)
        except Exception as error:
            _settle(message, error)

    async def _together(self, group: list[_Message]) -> None:
        """Send one batch. The server stores all of it or nothing, in this order and without a gap."""
        spelling = await self._lane.take_spelling(self._kind)
        try:
            await self._send_batch(group, self._lane.block(self._kind, spelling))
        except BrokerUnavailableError as error:
            for message in group:
                _settle(message, error)
        except TenureOverError as error:
            for message in group:
                _settle(message, error)
        except Exception as error:  # one message or the whole batch is refused: nothing is stored
            if not isinstance(error, ConflictError):
                log.debug("no batches: %s", error)
                self.choice.give_up(clock.monotonic(), inf if getattr(error, "err_code", 0) == BATCHES_OFF else AGAIN)
            await asyncio.gather(*(self._alone(message) for message in group if message.headers is None))
            # these last: if the tenure is revoked, the fenced messages have shown it, and these are not sent
            await asyncio.gather(*(self._alone(message) for message in group if message.headers is not None))
        finally:
            self._lane.give_back(self._kind, spelling)

    async def _send_batch(self, group: list[_Message], fence: bytes) -> None:
        self._lane.check()
        wire = self._lane.wire
        batch, last, size = self._lane.message_id().encode(), group[-1], len(group)
        for number, message in enumerate(group[:-1], 1):
            if not wire.takes_writes:
                await self._lane.room(len(message.body))
            wire.send(message.subject, message.body, "", _in_batch(message, fence, batch, number))
        ack = await self._lane.publish(last.subject, last.body, _in_batch(last, fence, batch, size, b"Nats-Batch-Commit:1\r\n"))
        for number, message in enumerate(group, 1):
            _settle(message, ack.seq - size + number)


def _in_batch(message: _Message, fence: bytes, batch: bytes, number: int, commit: bytes = b"") -> bytes:
    block = fence + message.fields if message.headers is None else message.headers[:-2]
    return b"%bNats-Batch-Id:%b\r\nNats-Batch-Sequence:%d\r\n%b\r\n" % (block, batch, number, commit)


def _settle(message: _Message, outcome: int | Exception) -> None:
    if message.position.done():
        return
    if isinstance(outcome, Exception):
        message.position.set_exception(outcome)
    else:
        message.position.set_result(outcome)
