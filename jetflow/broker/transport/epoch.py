"""Which inbox the positions in timelines are of.

Run ids and high-water marks are positions of the inbox. They are comparable as long as it is the same stream, which never gives a position
twice. Somebody may remove it and make it anew, or put an older copy of it in its place: then new commands get positions that were
used before, and would pass for repeats. So the timeline's stream has one message that says which inbox its positions are of, by the time
of that stream's creation, which no other stream and no restored copy has. Each claim of partitions compares it. See docs/design.md.
"""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import msgspec

from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.walk import Walk
from jetflow.errors import ConflictError, TopologyError
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.broker")


class _Known(msgspec.Struct):
    """Which inbox it is.

    Attributes:
        created: when the inbox was made, as the server says it.
        position: one that it had reached.
        since: commits of causes before this position were made with another inbox; 0 if there never was another.
    """

    created: str
    position: int
    since: int = 0


class _Positions(msgspec.Struct):
    """What a timeline key, or an early signal, says of the inbox."""

    run: int = 0
    cause: int = 0
    seq: int = 0


MOST = 1 << 53
"""No inbox comes as far: a greater number was written by somebody else."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Known).decode
_positions = msgspec.json.Decoder(_Positions).decode


class Epoch:
    """Which inbox a namespace has.

    Args:
        lane: where to ask.
        names: the namespace.
    """

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names
        self._subject = names.epoch

    async def check(self, inbox: dict[str, Any]) -> int:
        """Make sure that the inbox gives no position that it, or another one before it, has given.

        Args:
            inbox: what the server says of the stream.

        Returns:
            The position from which on it is this inbox. What waited in the one before is gone: timers, commands, notices.

        Raises:
            TopologyError: it does, or has done so already; says how to mend it.
        """
        known, revision = await self._read()
        used, since = await self._compare(known, inbox)
        if since <= used:  # other workers go on meanwhile: so look at everything once more
            inbox = await self._lane.api(f"STREAM.INFO.{self._names.inbox_stream}")
            known, revision = await self._read()
            used, since = await self._compare(known, inbox, at_most=used)
            if since <= used:
                raise TopologyError(self._behind(inbox, used))
        created, last = inbox["created"], inbox["state"]["last_seq"]
        if known is not None and known.created == created:
            if last > known.position:
                await self._write(_Known(created, last, known.since), revision)
            return known.since
        await self._write(_Known(created, last, 0 if known is None else since), revision)
        if known is None:
            return 0
        log.error(
            "stream %s was made anew, or restored, at %s: what waited in the one before may be gone. Workflows go on from their timelines",
            self._names.inbox_stream, created,
        )  # fmt: skip
        return since

    async def _compare(self, known: _Known | None, inbox: dict[str, Any], *, at_most: int | None = None) -> tuple[int, int]:
        """The highest position that is in use, and the lowest one that this inbox gives from now on, or has given since it was made.

        ``at_most``: the highest one is known, and not looked for.
        """
        created, last = inbox["created"], inbox["state"]["last_seq"]
        if known is None:
            return 0, last + 1
        if known.created == created:
            return known.position, last + 1
        highest = await self._highest() if at_most is None else at_most
        return max(highest, known.position), await self._first_of(created, last)

    async def complaint(self, inbox: dict[str, Any]) -> str | None:
        """What is wrong with the inbox as far as that is seen at once: it is behind a position that is in use."""
        known, _ = await self._read()
        used = 0 if known is None else known.position
        if used > inbox["state"]["last_seq"]:
            inbox = await self._lane.api(f"STREAM.INFO.{self._names.inbox_stream}")  # workers go on meanwhile
        return self._behind(inbox, used) if used > inbox["state"]["last_seq"] else None

    async def _read(self) -> tuple[_Known | None, int]:
        message = await self._lane.last_message(self._names.timeline_stream, self._subject)
        if message is None:
            return None, 0
        try:
            return _decode(message.data), message.seq
        except msgspec.DecodeError as error:
            log.error("%s is not what a worker wrote, and is written anew: %s", self._subject, error)
            return None, message.seq

    async def _write(self, known: _Known, revision: int) -> None:
        with contextlib.suppress(ConflictError):  # another worker has just looked too
            await self._lane.publish(self._subject, _encode(known), header_block(Nats_Expected_Last_Subject_Sequence=str(revision)))

    def _behind(self, inbox: dict[str, Any], used: int) -> str:
        name = self._names.inbox_stream
        return (
            f"stream {name}, made at {inbox['created']}, is not the one that the workflows' timelines are of, or has lost its end: they have its "
            f"positions up to {used}, which it would give again, so that new commands would pass for old ones. No worker takes commands from it. "
            f"Run `jetflow mend`: the stream then goes on behind those, with what waits in it"
        )

    async def note(self) -> None:
        """Write down how far the inbox is, for whoever compares it later."""
        known, revision = await self._read()
        inbox = await self._lane.api(f"STREAM.INFO.{self._names.inbox_stream}")
        last = inbox["state"]["last_seq"]
        if known is not None and known.created == inbox["created"] and last > known.position:
            await self._write(_Known(known.created, last, known.since), revision)

    async def _highest(self) -> int:
        """The highest position in any timeline key or early signal. It reads all of them, and is asked for when the inbox is another one."""
        highest = 0
        async for rows in Walk(self._lane, self._names.timeline_stream, f"{self._names.timeline_prefix}>").upwards(1):
            highest = max(highest, *(_highest_in(row.data) for row in rows))
        async for rows in Walk(self._lane, self._names.signal_stream, f"{self._names.signal_prefix}>").upwards(1):
            highest = max(highest, *(_highest_in(row.data) for row in rows))
        return highest

    async def _first_of(self, created: str, last: int) -> int:
        """The first position that a stream has given since it was made: what it was restored with is older."""
        rows = await self._lane.read_many(
            self._names.inbox_stream, {"start_time": created, "batch": 1}, may_lag="a stream that was just made, and nothing is taken from it"
        )
        return rows[0].seq if rows else last + 1


def _highest_in(data: bytes) -> int:
    """The highest position that a value names; 0 for what no worker wrote."""
    try:
        found = _positions(data)
    except (msgspec.DecodeError, RecursionError):
        return 0
    highest = max(found.run, found.cause, found.seq)
    return highest if highest <= MOST else 0
