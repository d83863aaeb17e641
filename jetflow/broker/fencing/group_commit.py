"""Messages of one stream that go to the disk together, where that is quicker.

With ``sync_interval: always`` the server flushes the disk for each message before its ack, and the flushes of a stream wait for
each other. An atomic batch is flushed once, but is some milliseconds of work for the server however few are in it: with
many under way it can double the rate, and where nothing waits for the disk it would halve it. No client can ask a server how
it syncs, so both ways are measured, while this process has time to spare: where it has none, the disk is not what it waits for.
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
"""Messages under way from which on a rate means something, and a batch may pay."""
STRETCH = 128
"""Answers after which a stretch of work is looked at, if it does not end before."""
PERIOD = 0.25
"""Seconds of work that make a rate."""
SLOW = 80e-6
"""Seconds a message below which batches are not even tried."""
BUSY = 0.5
"""Part of the time that this thread may want a CPU for, for batches to be tried."""
GAIN = 0.8
"""What a batch must take for each message at first, as a part of what one alone takes; later, to be no slower is enough."""
AGAIN = 20.0
"""Seconds that a comparison holds."""
SOON = 2.0
"""Seconds until the next one where batches have paid and then did not, as when the crowd was small for a moment; and that a crowd may be away."""
MOST = 500
"""Messages of a batch at most; the server takes 1,000."""
MOST_BYTES = 4 * 1024 * 1024


class Pace:
    """Seconds a message took over the last period of work; ``each`` is 0 before there was one."""

    def __init__(self) -> None:
        self.each = 0.0
        self._messages, self._seconds = 0, 0.0

    def add(self, messages: int, seconds: float) -> bool:
        """Counts messages that took so long together; True when a period is full."""
        self._messages += messages
        self._seconds += seconds
        if self._seconds < PERIOD:
            return False
        self.each: float = self._seconds / self._messages
        self._messages, self._seconds = 0, 0.0
        return True


class Choice:
    """Whether messages go alone or together: by measuring first the one, then the other.

    Args:
        cpu: what tells how much of a CPU this thread has wanted so far, in seconds.

    Attributes:
        together: what is quicker now, or is being tried.
    """

    def __init__(self, cpu: Callable[[], float] = clock.cpu) -> None:
        self.together: bool = False
        self._proven = False
        self._until = 0.0
        self._alone, self._grouped, self._grouped_at = Pace(), Pace(), 0.0
        self._cpu = cpu
        self._looked_at, self._wanted = -inf, 0.0

    def went_alone(self, messages: int, seconds: float, now: float) -> None:
        """A crowd of messages was stored one by one."""
        if self.together:  # they were under way when the trial began
            return
        if self._alone.add(messages, seconds) and self._alone.each > SLOW and now >= self._until and self._has_time(now):
            self.together, self._proven, self._until = True, False, now + AGAIN
            self._grouped, self._grouped_at = Pace(), now

    def _has_time(self, now: float) -> bool:
        """Whether this thread was mostly idle since this was asked before; no if that is long ago."""
        passed, before = now - self._looked_at, self._wanted
        self._looked_at, self._wanted = now, self._cpu()
        return passed < AGAIN and self._wanted - before < BUSY * passed

    def went_together(self, messages: int, seconds: float, now: float) -> None:
        """A batch was stored. After a while messages alone are measured again: the server's day may have changed."""
        self._grouped_at = now
        if not self.together or not self._grouped.add(messages, seconds):  # given up meanwhile: not to be thought over
            return
        alone, grouped = self._alone.each, self._grouped.each
        if grouped > (alone if self._proven else GAIN * alone):
            self.give_up(now, SOON if self._proven else AGAIN)
        elif now >= self._until:
            self.together, self._alone = False, Pace()
        self._proven = self.together
        log.debug(
            "a message takes %.0f us alone, %.0f us in a batch: %s from here on", alone * 1e6, grouped * 1e6, "together" if self.together else "alone"
        )

    def were_few(self, now: float) -> None:
        """There was no crowd to make a batch of: few are quicker when they do not wait for each other."""
        if self.together and now - self._grouped_at > SOON:
            self.give_up(now, 0)

    def give_up(self, now: float, seconds: float = AGAIN) -> None:
        """No batches for so many seconds."""
        self.together, self._until = False, now + seconds


class _Message(NamedTuple):
    """``headers`` are a whole block with a condition of its own; without them the message is fenced, and has ``fields`` beside."""

    subject: str
    body: bytes
    fields: bytes
    headers: bytes | None
    position: asyncio.Future[int]


class GroupCommit:
    """Publishes to one stream under one tenure. Messages may travel together, but each is stored or refused by itself.

    Args:
        lane: the tenure's.
        kind: which stream, as in ``Names.owned_streams``.
        choice: how messages travel; it outlives the tenure.
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
        """Stores a message, and gives its position.

        Args:
            subject: where.
            body: what.
            fields: header lines beside the fence.
            headers: a whole header block with another condition instead of the fence.

        Raises:
            ConflictError: its own condition does not hold.
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
        """One group after the other, each of whatever has come while the one before was under way."""
        try:
            await asyncio.sleep(0)  # for whoever else comes in this turn of the loop
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
            if not message.position.done():  # else nobody waits for it any more
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
        """One batch: the server takes all of it or nothing. What it takes lies in the stream as it stands here, without a gap."""
        spelling = await self._lane.take_spelling(self._kind)
        try:
            await self._send_batch(group, self._lane.block(self._kind, spelling))
        except BrokerUnavailableError as error:
            for message in group:
                _settle(message, error)
        except TenureOverError as error:
            for message in group:
                _settle(message, error)
        except Exception as error:  # one of them is refused, or the batch is: nothing is stored
            if not isinstance(error, ConflictError):
                log.debug("no batches: %s", error)
                self.choice.give_up(clock.monotonic(), inf if getattr(error, "err_code", 0) == BATCHES_OFF else AGAIN)
            await asyncio.gather(*(self._alone(message) for message in group if message.headers is None))
            # these last: if the tenure is revoked that is known now, and they are not sent
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
