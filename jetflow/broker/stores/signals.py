"""Signals that nobody waits for yet: kept until somebody does, or until they expire.

An expired signal stays for ``KEPT_AFTER`` seconds at most, in which an owner makes a dead letter of it.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct

from jetflow.broker.fencing.fence import FencedLane
from jetflow.broker.fencing.fresh import newest_of_each
from jetflow.broker.transport.lane import Lane
from jetflow.core.ids import partition_of, to_token
from jetflow.core.times import from_iso
from jetflow.protocol.headers import ttl_field, ttl_of
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.worker")

KEPT_AFTER = 30 * 86_400
"""Seconds that an expired signal waits for an owner."""
CANCEL = "=cancel"
"""Reserved name token, which no text escapes to: a cancel that came before the start."""


class EarlySignal(Struct, omit_defaults=True):
    """A buffered signal; ``seq`` is its place in the inbox, ``expires`` ms since the epoch; its sender may have numbered it, and may have said
    for how many ms it is to be kept.
    """

    signal: str
    seq: int
    expires: int
    data: Raw = Raw(b"null")
    sender: str | None = None
    number: int = 0
    kept_for: int | None = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EarlySignal)


class Stored(NamedTuple):
    """A signal as the bucket has it; ``position`` is where its stream has it."""

    name_token: str
    signal: EarlySignal
    position: int


class EarlySignals:
    """The signals bucket of one namespace, for those who look."""

    def __init__(self, lane: Lane | FencedLane, names: Names, *, replicated: bool) -> None:
        self._lane = lane
        self._names = names
        self._replicated = replicated

    async def load(self, queue_token: str, id_token: str) -> list[Stored]:
        """Everything kept for a workflow, in inbox order. It must be fresh: what is missed here is never looked for again."""
        prefix = f"{self._names.signal_prefix}{queue_token}.{id_token}."
        found = await newest_of_each(self._lane, self._names.signal_stream, f"{prefix}>", replicated=self._replicated)
        kept: list[Stored] = []
        for message in found:
            if message.data:
                try:
                    kept.append(Stored(message.subject[len(prefix) :].split(".")[0], _decoder.decode(message.data), message.seq))
                except msgspec.DecodeError as error:  # whoever wrote it was no worker
                    log.error("early signal %s cannot be read and is left out: %s", message.subject, error)
        return sorted(kept, key=lambda stored: stored.signal.seq)

    def _subject(self, queue_token: str, id_token: str, name_token: str, seq: int) -> str:
        return f"{self._names.signal_prefix}{queue_token}.{id_token}.{name_token}.{seq}"


class OwnedSignals(EarlySignals):
    """The signals bucket as the owner of its workflows' partitions has it, who alone writes."""

    def __init__(self, lane: FencedLane, names: Names) -> None:
        super().__init__(lane, names, replicated=lane.replicated)
        self._owned = lane

    async def put(self, queue_token: str, id_token: str, signal: EarlySignal, now: int, name_token: str | None = None) -> int:
        """Keeps a signal until it expires, and then for its owner to see; a cancel only until it expires. Putting the same one again changes
        nothing. Gives its position.

        Raises:
            TenureOverError: another worker has taken over.
        """
        subject = self._subject(queue_token, id_token, name_token or to_token(signal.signal), signal.seq)
        ttl = max(0, signal.expires - now) + (0 if name_token == CANCEL else KEPT_AFTER * 1000)
        ack = await self._owned.store("signals", subject, _encoder.encode(signal), ttl_field(ttl_of(ttl)))
        return ack.seq

    async def remove(self, queue_token: str, id_token: str, name_token: str, seq: int, position: int) -> None:
        """Forgets the one that is at a position. A purge, since what a marker replaces may come back with a server that is killed."""
        await self._owned.purge(self._names.signal_stream, self._subject(queue_token, id_token, name_token, seq), position + 1)

    async def remove_before(self, queue_token: str, id_token: str, time: str) -> None:
        """Forgets what was kept for a workflow up to a time, as the server writes it."""
        subject_filter = f"{self._names.signal_prefix}{queue_token}.{id_token}.>"
        found = await newest_of_each(self._lane, self._names.signal_stream, subject_filter, replicated=self._replicated)
        old = [message.seq for message in found if from_iso(message.time) <= from_iso(time)]
        if old:
            await self._owned.purge(self._names.signal_stream, subject_filter, max(old) + 1)

    async def known(self, queue_token: str, partitions: frozenset[int], of: int) -> set[str]:
        """Id tokens in these partitions (of ``of``) that have something kept."""
        subjects = await self._list(f"{self._names.signal_prefix}{queue_token}.>")
        at = len(self._names.signal_prefix) + len(queue_token) + 1
        tokens = {subject[at:].split(".")[0] for subject in subjects}
        return {token for token in tokens if partition_of(queue_token, token, of) in partitions}

    async def _list(self, subject_filter: str) -> list[str]:
        """Subjects that exist, from the stream's leader."""
        subjects: list[str] = []
        while True:
            info = await self._lane.api(f"STREAM.INFO.{self._names.signal_stream}", {"subjects_filter": subject_filter, "offset": len(subjects)})
            page = list((info["state"].get("subjects") or {}).keys())
            subjects += page
            if not page or len(subjects) >= info.get("total", 0):
                return subjects
