"""Durable timers: the broker's scheduled messages, which become commands when they are due."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from jetflow.broker.fencing.fence import FencedLane
from jetflow.broker.transport.lane import Lane
from jetflow.core.times import from_iso, to_iso
from jetflow.protocol.subjects import Names

LATEST = int(datetime(2200, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""The latest time that can be scheduled, ms since the epoch. The server counts nanoseconds in 64 bits."""


class ScheduledStart(NamedTuple):
    """A scheduled start: its workflow type (as a token), when it was scheduled, and when it is due (ms since the epoch)."""

    type_token: str
    since: int
    due: int


class ScheduledStarts:
    """The scheduled starts of one namespace, which other programs or earlier versions have published."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def start_is_scheduled(self, queue_token: str, id_token: str) -> bool:
        """Return whether a workflow has a scheduled start, from the leader."""
        return await self.scheduled_start(queue_token, id_token) is not None

    async def scheduled_start(self, queue_token: str, id_token: str) -> ScheduledStart | None:
        """Return the scheduled start of a workflow from the leader, or None."""
        message = await self._lane.last_message(self._names.inbox_stream, self._start(queue_token, id_token))
        if message is None:
            return None
        kind = message.headers.get("Nats-Schedule-Target", "").rpartition(".")[2]
        due = message.headers.get("Nats-Schedule", "").removeprefix("@at ")
        return ScheduledStart(kind, from_iso(message.time), from_iso(due))

    def _start(self, queue_token: str, id_token: str) -> str:
        return _start_subject(self._names, queue_token, id_token)


class Timers:
    """Schedules and cancels timers, for the owner of the workflows' partitions.

    Every removal goes up to a position of the inbox that this tenure knows. Everything that a later owner schedules lies behind it.
    """

    def __init__(self, lane: FencedLane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def schedule(self, queue_token: str, id_token: str, run: int, index: int, due: int) -> int:
        """Schedule a ``timer.<index>`` command at ``due`` (ms since the epoch) and return its position. A later call replaces it.

        Raises:
            TenureOverError: another worker has taken over.
        """
        assert run > 0, f"a timer of operation {index} of no run of {id_token}"
        target = self._names.command(queue_token, id_token, f"timer.{index}")
        fields = f"Nats-Schedule:{_at(due)}\r\nNats-Schedule-Target:{target}\r\n".encode()
        body = msgspec.json.encode({"run": run, "due": due})
        return (await self._lane.store("inbox", self._subject(queue_token, id_token, index), body, fields)).seq

    async def take_start_back(self, queue_token: str, id_token: str, before: int) -> bool:
        """Remove a scheduled start before a position of the inbox. Return False if there is none."""
        subject = _start_subject(self._names, queue_token, id_token)
        return bool(await self._lane.purge(self._names.inbox_stream, subject, before))

    async def cancel(self, queue_token: str, id_token: str, index: int, before: int) -> None:
        """Remove a schedule before a position of the inbox. It may have fired already."""
        await self._lane.purge(self._names.inbox_stream, self._subject(queue_token, id_token, index), before)

    async def cancel_all(self, queue_token: str, id_token: str, before: int) -> None:
        """Remove every schedule of a workflow before a position of the inbox."""
        await self._lane.purge(self._names.inbox_stream, self._subject(queue_token, id_token, "*"), before)

    async def newest(self, queue_token: str, id_token: str) -> int:
        """Return the inbox position of a workflow's newest schedule from the leader, 0 without any."""
        message = await self._lane.last_message(self._names.inbox_stream, self._subject(queue_token, id_token, "*"))
        return 0 if message is None else message.seq

    def _subject(self, queue_token: str, id_token: str, index: int | str) -> str:
        return f"{self._names.timer_prefix}{queue_token}.{id_token}.{index}"


def _start_subject(names: Names, queue_token: str, id_token: str) -> str:
    """Return the subject of a scheduled start, which no timer of a run has."""
    return f"{names.timer_prefix}{queue_token}.{id_token}.start.at"


def _at(due: int) -> str:
    return f"@at {to_iso(min(due, LATEST))}"
