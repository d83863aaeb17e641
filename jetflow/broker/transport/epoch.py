"""Checks that the inbox is the one whose positions the timelines name.

Run ids and high-water marks are positions of the inbox. They are comparable as long as it is the same stream, which never gives a position twice.
If people remove the stream and create it again, or restore an older copy, new commands get positions that were used before, and would pass for
repeats. So the timeline's stream has one message that identifies the inbox by the time of its creation. No other stream and no restored copy has the
same time. Each claim of partitions compares it. See docs/design.md.
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
    """The identity of the inbox.

    Attributes:
        created: when the server created the inbox.
        position: a position that the inbox had reached.
        since: commits whose cause lies before this position were made with another inbox; 0 if there never was another.
    """

    created: str
    position: int
    since: int = 0


class _Positions(msgspec.Struct):
    """The inbox positions in a timeline key or an early signal."""

    run: int = 0
    cause: int = 0
    seq: int = 0


MOST = 1 << 53
"""No inbox reaches this position. jetflow did not write a greater number."""
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Known).decode
_positions = msgspec.json.Decoder(_Positions).decode


class Epoch:
    """Identifies the inbox of a namespace.

    Args:
        lane: the connection.
        names: the namespace.
    """

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names
        self._subject = names.epoch

    async def check(self, inbox: dict[str, Any]) -> int:
        """Check that the inbox gives no position that it or an earlier inbox has given already.

        Args:
            inbox: the server's description of the stream.

        Returns:
            The first position of this inbox. What waited in an earlier inbox is gone: timers, commands, notices.

        Raises:
            TopologyError: it gives such positions, or has done so. The message says how to mend it.
        """
        known, revision = await self._read()
        used, since = await self._compare(known, inbox)
        if since <= used:  # other workers go on meanwhile, so compare once more
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
            "stream %s was created again or restored at %s: what waited in the earlier stream may be gone. Workflows resume from their timelines",
            self._names.inbox_stream, created,
        )  # fmt: skip
        return since

    async def _compare(self, known: _Known | None, inbox: dict[str, Any], *, at_most: int | None = None) -> tuple[int, int]:
        """Return the highest position in use, and the lowest position that this inbox has given since its creation, or gives next.

        ``at_most`` is the highest position if it is known, so that nothing is read for it.
        """
        created, last = inbox["created"], inbox["state"]["last_seq"]
        if known is None:
            return 0, last + 1
        if known.created == created:
            return known.position, last + 1
        highest = await self._highest() if at_most is None else at_most
        return max(highest, known.position), await self._first_of(created, last)

    async def complaint(self, inbox: dict[str, Any]) -> str | None:
        """Return a complaint if the inbox is behind a position in use, as far as one read shows, otherwise None."""
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
            log.error("%s was not written by a worker, and is replaced: %s", self._subject, error)
            return None, message.seq

    async def _write(self, known: _Known, revision: int) -> None:
        with contextlib.suppress(ConflictError):  # another worker has just written it
            await self._lane.publish(self._subject, _encode(known), header_block(Nats_Expected_Last_Subject_Sequence=str(revision)))

    def _behind(self, inbox: dict[str, Any], used: int) -> str:
        name = self._names.inbox_stream
        return (
            f"stream {name}, created at {inbox['created']}, is not the one that the workflows' timelines name, or has lost its end: they have its "
            f"positions up to {used}, which it would give again, so that new commands would pass for old ones. No worker takes commands from it. "
            f"Run `jetflow mend`: the stream then continues behind those positions, with its waiting messages"
        )

    async def note(self) -> None:
        """Store the position that the inbox has reached, for later comparisons."""
        known, revision = await self._read()
        inbox = await self._lane.api(f"STREAM.INFO.{self._names.inbox_stream}")
        last = inbox["state"]["last_seq"]
        if known is not None and known.created == inbox["created"] and last > known.position:
            await self._write(_Known(known.created, last, known.since), revision)

    async def _highest(self) -> int:
        """Return the highest position in any timeline key or early signal. It reads all of them, so call it only if the inbox has changed."""
        highest = 0
        async for rows in Walk(self._lane, self._names.timeline_stream, f"{self._names.timeline_prefix}>").upwards(1):
            highest = max(highest, *(_highest_in(row.data) for row in rows))
        async for rows in Walk(self._lane, self._names.signal_stream, f"{self._names.signal_prefix}>").upwards(1):
            highest = max(highest, *(_highest_in(row.data) for row in rows))
        return highest

    async def _first_of(self, created: str, last: int) -> int:
        """Return the first position that a stream has given since its creation. Restored messages are older."""
        rows = await self._lane.read_many(
            self._names.inbox_stream, {"start_time": created, "batch": 1}, may_lag="the stream is new, and no worker takes commands from it"
        )
        return rows[0].seq if rows else last + 1


def _highest_in(data: bytes) -> int:
    """Return the highest position in a value, 0 if no worker wrote it."""
    try:
        found = _positions(data)
    except (msgspec.DecodeError, RecursionError):
        return 0
    highest = max(found.run, found.cause, found.seq)
    return highest if highest <= MOST else 0
