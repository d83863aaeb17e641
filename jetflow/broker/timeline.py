"""The timeline bucket: one key is one commit, written once, read back whole."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from jetflow.broker.lane import Lane
from jetflow.broker.wire import header_block
from jetflow.core.events import Commit, decode_commit
from jetflow.core.ids import Names
from jetflow.errors import BrokerError, BrokerUnavailableError

EXPECT_NEW = header_block(Nats_Expected_Last_Subject_Sequence="0")
PAGE = 500
"""Keys asked for in one batch; the server gives at most 1,024."""


class Entry(NamedTuple):
    """A timeline key and its commit."""

    seq: int
    commit: Commit


class Timeline:
    """Reads and writes timelines of one namespace."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    def key(self, queue_token: str, id_token: str, seq: int | str) -> str:
        """Subject of a timeline key."""
        return f"{self._names.timeline_prefix}{queue_token}.{id_token}.{seq}"

    async def append(self, queue_token: str, id_token: str, seq: int, body: bytes) -> None:
        """Writes a new key; this compare-and-set is the fence between owners.

        Raises:
            ConflictError: the key exists: somebody else owns the workflow, or this very write was repeated.
            BrokerUnavailableError: whether it was written is unknown.
        """
        await self._lane.publish(self.key(queue_token, id_token, seq), body, EXPECT_NEW)

    async def last(self, queue_token: str, id_token: str) -> Entry | None:
        """The newest entry, asked of the leader; None for a workflow without a timeline."""
        message = await self._lane.last_message(self._names.timeline_stream, self.key(queue_token, id_token, "*"))
        return None if message is None else _entry(message.subject, message.data)

    async def run(self, queue_token: str, id_token: str, last: Entry) -> list[Entry]:
        """Every entry of the run that ``last`` belongs to, in order.

        Raises:
            BrokerUnavailableError: the answering server lags behind ``last``; ask again.
            BrokerError: keys are missing.
        """
        found: list[Entry] = [last]
        low = last.seq
        while low > 1 and not _begins_run(found[0]):
            high, low = low - 1, max(1, low - PAGE)
            page = await self._page(queue_token, id_token, low, high)
            page = [entry for entry in page if entry.commit.run == last.commit.run]
            if not page:
                break
            found[:0] = page
        self._check(found, queue_token, id_token)
        return found

    async def _page(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        keys = [self.key(queue_token, id_token, seq) for seq in range(low, high + 1)]
        messages = await self._lane.read_many(self._names.timeline_stream, {"multi_last": keys})
        entries = sorted((_entry(message.subject, message.data) for message in messages if message.data), key=lambda entry: entry.seq)
        if not entries or entries[-1].seq != high:
            if await self._lane.last_message(self._names.timeline_stream, keys[-1]) is None:
                raise BrokerError(f"timeline of {id_token} on {queue_token} is incomplete: entry {high} is missing")
            raise BrokerUnavailableError(f"timeline of {id_token}: entry {high} is not on the server that answered yet")
        return entries

    def _check(self, entries: list[Entry], queue_token: str, id_token: str) -> None:
        missing = entries[-1].seq - entries[0].seq + 1 - len(entries)
        if missing or not _begins_run(entries[0]):
            raise BrokerError(f"timeline of {id_token} on {queue_token} is incomplete: entries before or after {entries[0].seq} are missing")


def _begins_run(entry: Entry) -> bool:
    first = entry.commit.events[0] if entry.commit.events else None
    return getattr(first, "generation", 0) == 1


def _entry(subject: str, data: bytes) -> Entry:
    try:
        return Entry(int(subject.rpartition(".")[2]), decode_commit(data))
    except (msgspec.DecodeError, ValueError) as error:
        raise BrokerError(f"timeline key {subject} cannot be read: {error}") from error
