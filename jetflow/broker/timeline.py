"""The timeline bucket: one key is one commit, read back whole.

A run that has ended is compacted: its last key then holds every event of it, and the keys before go. The last key stays
until the run expires, since it is what keeps a late owner from writing.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from jetflow.broker.group_commit import GroupCommit
from jetflow.broker.lane import Lane, StoredMessage
from jetflow.broker.wire import header_block
from jetflow.core.events import Commit, decode_commit
from jetflow.core.ids import Names
from jetflow.errors import BrokerError, BrokerUnavailableError

EXPECT_NEW = header_block(Nats_Expected_Last_Subject_Sequence="0")
EXPECT_NEWEST = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence:%d\r\nNats-Expected-Last-Subject-Sequence-Subject:%b\r\n\r\n"
MAX_COMPACTED = 256 * 1024
"""Bytes of a whole run that may become one key; a longer one keeps its keys until it expires."""
PAGE = 500
"""Keys asked for in one batch; the server gives at most 1,024."""


class Entry(NamedTuple):
    """A timeline key and its commit; ``position`` is where its stream has it, ``size`` its bytes."""

    seq: int
    commit: Commit
    position: int = 0
    size: int = 0


class Timeline:
    """Reads and writes timelines of one namespace."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names
        self._commits = GroupCommit(lane)

    def key(self, queue_token: str, id_token: str, seq: int | str) -> str:
        """Subject of a timeline key."""
        return f"{self._names.timeline_prefix}{queue_token}.{id_token}.{seq}"

    async def append(self, queue_token: str, id_token: str, seq: int, body: bytes, after: int = 0) -> int:
        """Writes a key and gives its position; this compare-and-set is the fence between owners.

        Keys 1 and 2 expect the workflow's newest key, whichever it is, to be the one at position ``after``, 0 for none at all: of a
        compacted run only the last key is left, and key 1 is written anew by a run that ends with its second commit. A later key
        expects not to be there.

        Raises:
            ConflictError: somebody else owns the workflow, or this very write was repeated.
            BrokerUnavailableError: whether it was written is unknown.
        """
        fence = EXPECT_NEW if seq > 2 else EXPECT_NEWEST % (after, self.key(queue_token, id_token, "*").encode())
        return await self._commits.publish(self.key(queue_token, id_token, seq), body, fence)

    async def replace(self, queue_token: str, id_token: str, seq: int, body: bytes, position: int) -> int:
        """Writes a key anew, and gives its new position, provided that it is still the one at ``position``.

        Raises:
            ConflictError: it is not.
        """
        fence = header_block(Nats_Expected_Last_Subject_Sequence=str(position))
        return (await self._lane.publish(self.key(queue_token, id_token, seq), body, fence)).seq

    async def remove(self, queue_token: str, id_token: str, before: int, *, only: int | str = "*") -> None:
        """Removes a workflow's keys, or ``only`` one, that are before a position of the stream: what comes later is never touched."""
        request = {"filter": self.key(queue_token, id_token, only), "seq": before}
        await self._lane.api(f"STREAM.PURGE.{self._names.timeline_stream}", request)

    def wipe(self, queue_token: str, id_token: str, seq: int, position: int) -> None:
        """Removes the key that is at a position, without waiting for the answer. Much cheaper than ``remove``: what is put in its
        place goes by itself after a second.

        Raises:
            BrokerUnavailableError: not connected now.
        """
        headers = b"NATS/1.0\r\nKV-Operation:PURGE\r\nNats-TTL:1s\r\nNats-Expected-Last-Subject-Sequence:%d\r\n\r\n" % position
        self._lane.wire.send(self.key(queue_token, id_token, seq), b"", headers=headers)

    async def last(self, queue_token: str, id_token: str) -> Entry | None:
        """The newest entry, asked of the leader; None for a workflow without a timeline."""
        while True:
            message = await self._lane.last_message(self._names.timeline_stream, self.key(queue_token, id_token, "*"))
            if message is None or message.data:
                return None if message is None else to_entry(message)
            await self.remove(queue_token, id_token, message.seq + 1, only=message.subject.rpartition(".")[2])  # wiped a moment ago

    async def run(self, queue_token: str, id_token: str, last: Entry) -> list[Entry]:
        """Every entry of the run that ``last`` belongs to, in order; a compacted run has one.

        Raises:
            BrokerUnavailableError: the answering server lags behind ``last``; ask again.
            BrokerError: keys are missing.
        """
        try:
            return await self._run(queue_token, id_token, last)
        except BrokerError:
            newer = await self.last(queue_token, id_token)  # compacted while it was read?
            if newer is None or newer.commit.run != last.commit.run or not newer.commit.compacted:
                raise
            return [newer]

    async def _run(self, queue_token: str, id_token: str, last: Entry) -> list[Entry]:
        found: list[Entry] = [last]
        low = last.seq
        while low > 1 and not begins_run(found[0]):
            high, low = low - 1, max(1, low - PAGE)
            page = await self._page(queue_token, id_token, low, high)
            page = [entry for entry in page if entry.commit.run == last.commit.run]
            if not page:
                break
            found[:0] = page
        self._check(found, queue_token, id_token)
        return found

    async def between(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        """The keys that there are from ``low`` to ``high``, of whatever run, in order; a server that lags may leave some out."""
        keys = [self.key(queue_token, id_token, seq) for seq in range(low, high + 1)]
        messages = await self._lane.read_many(self._names.timeline_stream, {"multi_last": keys})
        return sorted((to_entry(message) for message in messages if message.data), key=lambda entry: entry.seq)

    async def has(self, queue_token: str, id_token: str, seq: int) -> bool:
        """Whether there is such a key, asked of the leader."""
        return await self._lane.last_message(self._names.timeline_stream, self.key(queue_token, id_token, seq)) is not None

    async def _page(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        entries = await self.between(queue_token, id_token, low, high)
        if not entries or entries[-1].seq != high:
            if not await self.has(queue_token, id_token, high):
                raise BrokerError(f"timeline of {id_token} on {queue_token} is incomplete: entry {high} is missing")
            raise BrokerUnavailableError(f"timeline of {id_token}: entry {high} is not on the server that answered yet")
        return entries

    def _check(self, entries: list[Entry], queue_token: str, id_token: str) -> None:
        missing = entries[-1].seq - entries[0].seq + 1 - len(entries)
        if missing or not begins_run(entries[0]):
            raise BrokerError(f"timeline of {id_token} on {queue_token} is incomplete: entries before or after {entries[0].seq} are missing")


def begins_run(entry: Entry) -> bool:
    """Whether a run's history begins with this key."""
    first = entry.commit.events[0] if entry.commit.events else None
    return getattr(first, "generation", 0) == 1


def to_entry(message: StoredMessage) -> Entry:
    """A timeline key as it was read.

    Raises:
        BrokerError: it is none.
    """
    try:
        return Entry(int(message.subject.rpartition(".")[2]), decode_commit(message.data), message.seq, len(message.data))
    except (msgspec.DecodeError, ValueError) as error:
        raise BrokerError(f"timeline key {message.subject} cannot be read: {error}") from error
