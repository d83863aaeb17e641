"""Tenures for tests of what an owner writes, and the question that each store is asked: does the fence hold?"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jetflow.broker.fencing.fence import FencedLane, TenureOverError, revoke
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import Lane, PubAck
from jetflow.errors import ConflictError
from jetflow.protocol import clock


class Held:
    """A tenure as the fence knows it; ``why`` says since when it is over."""

    def __init__(self) -> None:
        self.over = False
        self.why: str | None = None

    def check(self) -> None:
        if self.over:
            raise TenureOverError(self.why)

    def lose(self, why: str) -> None:
        self.over, self.why = True, self.why or why


class _Watched:
    """A lane that remembers what was published and submitted, byte for byte."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self.sent: list[tuple[str, bytes, bytes | None]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)

    def submit(self, subject: str, body: bytes, headers: bytes | None = None, *, many: bool = False, retry: bool = True) -> asyncio.Future[Any]:
        if not many:
            self.sent.append((subject, body, headers))
        return self._lane.submit(subject, body, headers, many=many, retry=retry)

    async def publish(self, subject: str, body: bytes, headers: bytes | None = None) -> PubAck:
        self.sent.append((subject, body, headers))
        return await self._lane.publish(subject, body, headers)


class OwnedLane(FencedLane):
    """A lane of one tenure.

    Attributes:
        hold: whether that lasts.
        sent: what was published under it.
    """

    def __init__(self, broker: Broker, queue: str, tenure: str, *, replicated: bool) -> None:
        watched, self.hold = _Watched(broker.lane), Held()
        super().__init__(watched, broker.names, queue, tenure, replicated=replicated, hold=self.hold)  # type: ignore[arg-type]
        self.tenure, self.sent = tenure, watched.sent
        self._broker, self._queue = broker, queue

    async def revoke(self) -> None:
        """As another worker does that takes over: nobody tells this one."""
        await revoke(self._broker.lane, self._broker.names, self._queue, self.tenure, replicated=self.replicated)


def owned_lane(broker: Broker, queue: str = "q", tenure: str | None = None, *, replicated: bool = False) -> OwnedLane:
    """A lane of a tenure that lasts until it is revoked."""
    return OwnedLane(broker, queue, tenure or f"test-{clock.token(6)}", replicated=replicated)


async def stored(broker: Broker, stream: str, subject_filter: str) -> list[tuple[str, int, bytes]]:
    """What a filter takes of a stream: subject, position and body of each message."""
    found: list[tuple[str, int, bytes]] = []
    while True:
        asked = {"seq": found[-1][1] + 1 if found else 1, "next_by_subj": subject_filter, "batch": 1000}
        page = await broker.lane.read_many(stream, asked, may_lag="a test looks")
        found += [(message.subject, message.seq, message.data) for message in page]
        if len(page) < 1000:
            return found


async def writes_until_revoked(broker: Broker, lane: OwnedLane, stream: str, subject_filter: str, write: Callable[[], Awaitable[object]]) -> None:
    """Asserts that a write is stored; and that once the tenure is revoked it is refused, and one that was sent before and comes late too."""
    assert await stored(broker, stream, subject_filter) == []
    await write()
    on_their_way, there = list(lane.sent), await stored(broker, stream, subject_filter)
    assert len(there) == len(on_their_way) > 0
    await lane.revoke()
    assert lane.hold.why is None, "nobody has told it"
    with pytest.raises(TenureOverError):
        await write()
    assert lane.hold.why == "another worker has taken over"
    for message in on_their_way:
        with pytest.raises(ConflictError):
            await broker.lane.publish(*message)
    sent = len(lane.sent)
    with pytest.raises(TenureOverError):
        await write()
    assert len(lane.sent) == sent, "nothing more is sent under it"
    assert await stored(broker, stream, subject_filter) == there
