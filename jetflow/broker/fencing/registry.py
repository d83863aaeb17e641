"""Which tenures there are of a task queue, so that whoever takes partitions knows whose to revoke.

One key for each task queue, in the timeline's stream beside the bucket's keys: partitions by tenure. It is changed by compare-and-set
alone. An entry stays until somebody has revoked its tenure in every stream, or its owner has let go with nothing under way.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import NamedTuple

import msgspec

from jetflow.broker.fencing.fence import revoke
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError, ConflictError
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.broker")

TRIES = 50
"""Times that an entry is tried again when another worker was faster."""


class _Known(msgspec.Struct, omit_defaults=True):
    """The registry of one queue.

    Attributes:
        tenures: partitions by tenure, as the bits of a number in hex.
        doubt: position of the inbox up to which a tenure that had to be revoked may have been given commands.
    """

    tenures: dict[str, str] = {}
    doubt: int = 0


class Taken(NamedTuple):
    """What a tenure that has been entered must know.

    Attributes:
        position: a position of the inbox behind which nothing of those before can lie, 0 if there were none.
        doubt: of a command behind this position no tenure that had to be revoked can have made anything.
    """

    position: int
    doubt: int


_NAME, _BITS = re.compile(r"[A-Za-z0-9_=-]+"), re.compile(r"[0-9a-f]+")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Known).decode


class Registry:
    """The tenures of one task queue."""

    def __init__(self, lane: Lane, names: Names, queue_token: str, *, replicated: bool) -> None:
        self._replicated = replicated
        self._lane = lane
        self._names = names
        self._queue_token = queue_token
        self._subject = names.registry(queue_token)

    async def take(self, tenure: str, partitions: frozenset[int], born_at: int) -> Taken:
        """Enters a tenure, for which the caller holds the consumer of the partitions, once every tenure is revoked that had any of
        them before. Whoever dies half-way leaves something that the next one repeats.

        Args:
            tenure: its name.
            partitions: which.
            born_at: the inbox's last position when the consumer had been created.

        Raises:
            BrokerError: it is not entered: nothing may be read or written under it.
        """
        for _ in range(TRIES):
            known, position = await self._read(born_at)
            known.tenures.pop(tenure, None)
            before = [name for name, bits in known.tenures.items() if _has_any(bits, partitions)]
            ends = await asyncio.gather(*(revoke(self._lane, self._names, self._queue_token, name, replicated=self._replicated) for name in before))
            kept = {name: bits for name, bits in known.tenures.items() if name not in before}
            doubt = max(known.doubt, born_at) if before else known.doubt
            if await self._write(_Known(kept | {tenure: _bits(partitions)}, doubt), position):
                return Taken(max(ends, default=0), doubt)
        raise BrokerError(f"the tenures of {self._queue_token} change all the time; trying again")

    async def leave(self, tenure: str) -> None:
        """Takes a tenure out that is over with nothing under way: it need not be revoked. With the last one the key goes, unless a command
        waits of which there is doubt.

        Raises:
            BrokerError: it stays, and will be revoked.
        """
        for _ in range(TRIES):
            known, position = await self._read(0)
            if known.tenures.pop(tenure, None) is None:
                return
            if known.tenures or await self._waits(known.doubt):
                if await self._write(known, position):
                    return
            else:
                purge = {"filter": self._subject, "seq": position + 1}
                if (await self._lane.api(f"STREAM.PURGE.{self._names.timeline_stream}", purge)).get("purged"):
                    return  # else another one was faster

    async def _waits(self, doubt: int) -> bool:
        """Whether a command of the queue waits that is not behind a position."""
        if not doubt:
            return False
        first = await self._lane.next_message(self._names.inbox_stream, f"{self._names.namespace}.*.{self._queue_token}.>")
        return first is not None and first.seq <= doubt

    async def _read(self, born_at: int) -> tuple[_Known, int]:
        """What is known, and the position of it; where that cannot be read, everything up to ``born_at`` is in doubt."""
        message = await self._lane.last_message(self._names.timeline_stream, self._subject)
        if message is None:
            return _Known(), 0
        try:
            found = _decode(message.data) if message.data else _Known()
        except msgspec.DecodeError as error:
            log.error("%s is not what a worker wrote, and is written anew; earlier owners are not revoked: %s", self._subject, error)
            return _Known(doubt=born_at), message.seq
        known = {name: bits for name, bits in found.tenures.items() if _NAME.fullmatch(name)}
        if strange := found.tenures.keys() - known.keys():
            log.error("%s has what no worker wrote, and that is left out: %s", self._subject, sorted(strange))
        return _Known(known, found.doubt), message.seq

    async def _write(self, known: _Known, position: int) -> bool:
        headers = header_block(Nats_Expected_Last_Subject_Sequence=str(position))
        try:
            await self._lane.publish(self._subject, _encode(known), headers)
        except ConflictError:
            await asyncio.sleep(0.001)
            return False
        return True


def _bits(partitions: frozenset[int]) -> str:
    return f"{sum(1 << partition for partition in partitions):x}"


def _has_any(bits: str, partitions: frozenset[int]) -> bool:
    """Whether an entry has one of the partitions; one that cannot be read may have any."""
    if not _BITS.fullmatch(bits):
        return True
    number = int(bits, 16)
    return any(number >> partition & 1 for partition in partitions)
