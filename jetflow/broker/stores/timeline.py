"""The timeline bucket: one key is one commit.

A run that has ended is compacted: its last key then holds all its events, and the earlier keys go. The last key stays until the run expires.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from jetflow.broker.fencing.fence import GUARDED_FOR, FencedLane
from jetflow.broker.fencing.group_commit import Choice, GroupCommit
from jetflow.broker.transport.lane import Lane, StoredMessage
from jetflow.core.events import Commit, decode_commit
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol.subjects import Names

EXPECT_NO_KEY = "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence:0\r\nNats-Expected-Last-Subject-Sequence-Subject:%s\r\n\r\n"
MAX_COMPACTED = 256 * 1024
"""The most bytes of a run in one key. A longer run keeps its keys until it expires."""
PAGE = 500
"""Keys read in one batch. The server returns at most 1,024."""


class UnreadableTimelineError(BrokerError):
    """Raised for a timeline key that this version did not write: a newer version did, or another program."""


class Entry(NamedTuple):
    """A timeline key and its commit. ``position`` is its position in the stream, ``size`` its bytes, ``stored`` the time at which the broker
    stored it (ISO 8601).
    """

    seq: int
    commit: Commit
    position: int = 0
    size: int = 0
    stored: str = ""


class Timeline:
    """Reads timelines of one namespace."""

    def __init__(self, lane: Lane | FencedLane, names: Names) -> None:
        self._lane = lane
        self._names = names

    def key(self, queue_token: str, id_token: str, seq: int | str) -> str:
        """Return the subject of a timeline key."""
        return f"{self._names.timeline_prefix}{queue_token}.{id_token}.{seq}"

    async def last(self, queue_token: str, id_token: str) -> Entry | None:
        """Return the newest entry from the leader, or None for a workflow without a timeline."""
        asked = self.key(queue_token, id_token, "*")
        message = await self._lane.last_message(self._names.timeline_stream, asked)
        assert message is None or message.subject.rpartition(".")[0] == asked[:-2], f"{message.subject} was read instead of {asked}"
        return None if message is None else to_entry(message)

    async def run(self, queue_token: str, id_token: str, last: Entry) -> list[Entry]:
        """Return every entry of the run that ``last`` belongs to, in order. A compacted run has one.

        Raises:
            BrokerUnavailableError: the answering server lags behind ``last``; ask again.
            BrokerError: keys are missing.
        """
        try:
            return await self._run(queue_token, id_token, last)
        except BrokerError:
            newer = await self.last(queue_token, id_token)  # perhaps compacted meanwhile
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
        """Return the existing keys from ``low`` to ``high``, of any run, in order. A server that lags may leave some out."""
        keys = [self.key(queue_token, id_token, seq) for seq in range(low, high + 1)]
        why = "readers look whether the last key of the row is there, and ask the leader for it if not"
        messages = await self._lane.read_many(self._names.timeline_stream, {"multi_last": keys}, may_lag=why)
        found = sorted((to_entry(message) for message in messages if message.data), key=lambda entry: entry.seq)
        prefix = self.key(queue_token, id_token, "")
        assert all(message.subject.startswith(prefix) for message in messages), f"keys of another workflow were read instead of those of {prefix}*"
        assert not found or low <= found[0].seq <= found[-1].seq <= high, f"keys {low} to {high} of {prefix}* were asked for"
        return found

    async def has(self, queue_token: str, id_token: str, seq: int) -> bool:
        """Return whether a key exists, from the leader."""
        return await self._lane.last_message(self._names.timeline_stream, self.key(queue_token, id_token, seq)) is not None

    async def _page(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        entries = await self.between(queue_token, id_token, low, high)
        if not entries or entries[-1].seq != high:
            if not await self.has(queue_token, id_token, high):
                raise BrokerError(f"timeline of {id_token} on {queue_token} is incomplete: entry {high} is missing")
            raise BrokerUnavailableError(f"timeline of {id_token}: the server that answered does not have entry {high} yet")
        return entries

    def _check(self, entries: list[Entry], queue_token: str, id_token: str) -> None:
        missing = entries[-1].seq - entries[0].seq + 1 - len(entries)
        if missing or not begins_run(entries[0]):
            raise BrokerError(f"timeline of {id_token} on {queue_token} is incomplete: entries before or after {entries[0].seq} are missing")
        assert all(entry.seq == seq for seq, entry in enumerate(entries, entries[0].seq)), f"keys of {id_token} are out of order, or come twice"
        assert len({entry.commit.run for entry in entries}) == 1, f"keys of several runs of {id_token} were read as one"


class OwnedTimeline(Timeline):
    """The timelines of an owner. Only the owner of a workflow's partition writes.

    Args:
        lane: the tenure's fenced lane.
        names: the namespace.
        choice: whether commits go in batches, as measured so far.
    """

    def __init__(self, lane: FencedLane, names: Names, choice: Choice) -> None:
        super().__init__(lane, names)
        self._owned = lane
        self._commits = GroupCommit(lane, "timeline", choice)

    async def begin(self, queue_token: str, id_token: str, body: bytes) -> int:
        """Write key 1 of a new workflow without a read, and return its position.

        Use it only for a start that no earlier tenure can have received. Its condition is not the tenure's revocation, but that the workflow has
        no key and no guard (see ``guard``).

        Raises:
            ConflictError: the id is taken.
            BrokerUnavailableError: whether it was written is unknown, which ends the tenure.
        """
        expect = EXPECT_NO_KEY % f"*.{self._names.timeline_bucket}.{queue_token}.{id_token}.*"
        return await self._commits.publish(self.key(queue_token, id_token, 1), body, headers=expect.encode())

    async def guard(self, queue_token: str, id_token: str) -> None:
        """Store a guard, so that the broker refuses an earlier tenure's ``begin``, however late it arrives. Read the timeline afterwards."""
        for _ in range(2 if self._owned.replicated else 1):  # see ``revoke``
            await self._owned.store("timeline", self._names.guard(queue_token, id_token), b"", b"Nats-TTL:%ds\r\n" % GUARDED_FOR)

    async def append(self, queue_token: str, id_token: str, seq: int, body: bytes) -> int:
        """Write or overwrite a key, and return its position.

        Raises:
            TenureOverError: another worker has taken over.
            BrokerUnavailableError: whether it was written is unknown, which ends the tenure.
        """
        assert seq > 0, f"key {seq} of {id_token}"
        assert body, f"an empty commit as key {seq} of {id_token}"
        return await self._commits.publish(self.key(queue_token, id_token, seq), body)

    async def remove(self, queue_token: str, id_token: str, before: int, *, only: int | str = "*") -> None:
        """Remove a workflow's keys, or ``only`` one, before a position of the stream. Later keys stay."""
        await self._owned.purge(self._names.timeline_stream, self.key(queue_token, id_token, only), before)


def begins_run(entry: Entry) -> bool:
    """Return whether a run's history begins with this key."""
    first = entry.commit.events[0] if entry.commit.events else None
    return getattr(first, "generation", 0) == 1


def to_entry(message: StoredMessage) -> Entry:
    """Return the entry in a message of the timeline's stream.

    Raises:
        UnreadableTimelineError: the message is not a commit.
    """
    try:
        commit = decode_commit(message.data)
        seq = int(message.subject.rpartition(".")[2])
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise UnreadableTimelineError(f"timeline key {message.subject} cannot be read: {error}") from error
    if not commit.events:
        raise UnreadableTimelineError(f"timeline key {message.subject} has no events")
    return Entry(seq, commit, message.seq, len(message.data), message.time)
