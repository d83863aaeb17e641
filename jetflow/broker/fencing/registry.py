"""The registry: the tenures of a task queue, by which a new owner finds the ones to revoke.

Each task queue has one key in the timeline's stream, beside the bucket's keys: the partitions of each tenure. Workers change it by compare-and-set
alone. An entry stays until a new owner has revoked its tenure in every stream, or its owner has removed it with no write under way.
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
"""Times that a change is tried while other workers are faster."""


class _Known(msgspec.Struct, omit_defaults=True):
    """The registry of one queue.

    Attributes:
        tenures: partitions by tenure, as the bits of a number in hex.
        doubt: position of the inbox up to which a revoked tenure may have received commands.
    """

    tenures: dict[str, str] = {}
    doubt: int = 0


class Taken(NamedTuple):
    """What a new tenure must know.

    Attributes:
        position: a position of the inbox; no write of a revoked tenure lies behind it. 0 if there were none.
        doubt: the position of the inbox up to which a revoked tenure may have received commands.
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
        """Revoke every earlier tenure of the partitions, then enter a tenure. The caller holds the consumer of the partitions.

        If the worker dies half-way, the next owner repeats what it left.

        Args:
            tenure: the tenure's name.
            partitions: the partitions of the tenure.
            born_at: the inbox's last position after the creation of the consumer.

        Raises:
            BrokerError: the tenure is not entered. Read and write nothing under it.
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
        raise BrokerError(f"the registry of {self._queue_token} changed {TRIES} times while this worker wrote it; trying again")

    async def leave(self, tenure: str) -> None:
        """Remove a tenure that has ended with no write under way, so that it need not be revoked. Remove the key with the last tenure, unless a
        command in doubt waits.

        Raises:
            BrokerError: the entry stays, and the next owner revokes the tenure.
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
                    return  # otherwise another worker was faster

    async def _waits(self, doubt: int) -> bool:
        """Return whether a command of the queue waits at or before position ``doubt``."""
        if not doubt:
            return False
        first = await self._lane.next_message(self._names.inbox_stream, f"{self._names.namespace}.*.{self._queue_token}.>")
        return first is not None and first.seq <= doubt

    async def _read(self, born_at: int) -> tuple[_Known, int]:
        """Return the registry and its position. If it cannot be read, everything up to ``born_at`` is in doubt."""
        message = await self._lane.last_message(self._names.timeline_stream, self._subject)
        if message is None:
            return _Known(), 0
        try:
            found = _decode(message.data) if message.data else _Known()
        except msgspec.DecodeError as error:
            log.error("%s was not written by a worker, and is replaced; earlier owners are not revoked: %s", self._subject, error)
            return _Known(doubt=born_at), message.seq
        known = {name: bits for name, bits in found.tenures.items() if _NAME.fullmatch(name)}
        if strange := found.tenures.keys() - known.keys():
            log.error("%s has entries that no worker wrote, and they are ignored: %s", self._subject, sorted(strange))
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
    """Return whether an entry has one of the partitions. An unreadable entry may have any."""
    if not _BITS.fullmatch(bits):
        return True
    number = int(bits, 16)
    return any(number >> partition & 1 for partition in partitions)
