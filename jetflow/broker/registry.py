"""Which tenures there are of a task queue, so that whoever takes partitions knows whose to revoke.

One key for each task queue, in the timeline's stream beside the bucket's keys: partitions by tenure. It is changed by compare-and-set
alone. An entry stays until somebody has revoked its tenure in every stream, or its owner has let go with nothing under way.
"""

from __future__ import annotations

import asyncio
import logging
import re

import msgspec

from jetflow.broker.fence import revoke
from jetflow.broker.lane import Lane
from jetflow.broker.wire import header_block
from jetflow.core.ids import Names
from jetflow.errors import BrokerError, ConflictError

log: logging.Logger = logging.getLogger("jetflow.broker")

TRIES = 50
"""Times that an entry is tried again when another worker was faster."""


class _Known(msgspec.Struct):
    """The registry of one queue: partitions by tenure, as the bits of a number in hex."""

    tenures: dict[str, str] = {}


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

    async def take(self, tenure: str, partitions: frozenset[int]) -> int:
        """Enters a tenure, for which the caller holds the consumer of the partitions, once every tenure is revoked that had any of
        them before. Whoever dies half-way leaves something that the next one repeats. Gives a position of the inbox behind which nothing of
        those before can lie, 0 if there were none.

        Raises:
            BrokerError: it is not entered: nothing may be read or written under it.
        """
        for _ in range(TRIES):
            known, position = await self._read()
            known.pop(tenure, None)
            before = [name for name, bits in known.items() if _has_any(bits, partitions)]
            ends = await asyncio.gather(*(revoke(self._lane, self._names, self._queue_token, name, replicated=self._replicated) for name in before))
            kept = {name: bits for name, bits in known.items() if name not in before}
            if await self._write(kept | {tenure: _bits(partitions)}, position):
                return max(ends, default=0)
        raise BrokerError(f"the tenures of {self._queue_token} change all the time; trying again")

    async def leave(self, tenure: str) -> None:
        """Takes a tenure out that is over with nothing under way: it need not be revoked.

        Raises:
            BrokerError: it stays, and will be revoked.
        """
        for _ in range(TRIES):
            known, position = await self._read()
            if known.pop(tenure, None) is None:
                return
            if known and await self._write(known, position):
                return
            if not known:
                purge = {"filter": self._subject, "seq": position + 1}
                if (await self._lane.api(f"STREAM.PURGE.{self._names.timeline_stream}", purge)).get("purged"):
                    return  # else another one was faster

    async def _read(self) -> tuple[dict[str, str], int]:
        message = await self._lane.last_message(self._names.timeline_stream, self._subject)
        if message is None:
            return {}, 0
        try:
            tenures = _decode(message.data).tenures if message.data else {}
        except msgspec.DecodeError as error:
            log.error("%s is not what a worker wrote, and is written anew; earlier owners are not revoked: %s", self._subject, error)
            return {}, message.seq
        known = {name: bits for name, bits in tenures.items() if _NAME.fullmatch(name)}
        if strange := tenures.keys() - known.keys():
            log.error("%s has what no worker wrote, and that is left out: %s", self._subject, sorted(strange))
        return known, message.seq

    async def _write(self, tenures: dict[str, str], position: int) -> bool:
        headers = header_block(Nats_Expected_Last_Subject_Sequence=str(position))
        try:
            await self._lane.publish(self._subject, _encode(_Known(tenures)), headers)
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
