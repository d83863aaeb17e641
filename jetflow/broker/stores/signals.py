"""The bucket of early signals: it stores them until a workflow waits for them, or until they expire.

An expired signal stays for at most ``KEPT_AFTER`` seconds, in which an owner makes a dead letter of it.
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
from jetflow.core.log_fields import of_tokens
from jetflow.core.times import from_iso
from jetflow.protocol.headers import ttl_field, ttl_of
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.worker")

KEPT_AFTER = 30 * 86_400
"""Seconds that an expired signal waits for an owner."""
CANCEL = "=cancel"
"""The name token of a cancel that came before the start. No name escapes to it."""


class EarlySignal(Struct, omit_defaults=True):
    """A buffered signal. ``seq`` is its position in the inbox, ``expires`` is in ms since the epoch. ``sender`` and ``number`` are those of a
    numbered signal, and ``kept_for`` (ms) is the ``expire`` that the sender asked for.
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
    """A stored signal. ``position`` is its position in the bucket's stream."""

    name_token: str
    signal: EarlySignal
    position: int


class EarlySignals:
    """The signals bucket of one namespace, read only."""

    def __init__(self, lane: Lane | FencedLane, names: Names, *, replicated: bool) -> None:
        self._lane = lane
        self._names = names
        self._replicated = replicated

    async def load(self, queue_token: str, id_token: str) -> list[Stored]:
        """Return a workflow's stored signals in inbox order. The read must be fresh: nothing looks for a missed signal again."""
        prefix = f"{self._names.signal_prefix}{queue_token}.{id_token}."
        found = await newest_of_each(self._lane, self._names.signal_stream, f"{prefix}>", replicated=self._replicated)
        kept: list[Stored] = []
        for message in found:
            if message.data:
                name_token, _, seq = message.subject[len(prefix) :].partition(".")
                try:
                    signal = _decoder.decode(message.data)
                except msgspec.DecodeError as error:  # no worker wrote it
                    log.error("early signal %s cannot be read and is ignored: %s", message.subject, error, extra=of_tokens(queue_token, id_token))
                    continue
                if str(signal.seq) == seq:
                    kept.append(Stored(name_token, signal, message.seq))
                else:  # no worker wrote it
                    fields = of_tokens(queue_token, id_token)
                    log.error("early signal %s says that it is number %d and is ignored", message.subject, signal.seq, extra=fields)
        return sorted(kept, key=lambda stored: stored.signal.seq)

    def _subject(self, queue_token: str, id_token: str, name_token: str, seq: int) -> str:
        return f"{self._names.signal_prefix}{queue_token}.{id_token}.{name_token}.{seq}"


class OwnedSignals(EarlySignals):
    """The signals bucket of an owner. Only the owner of a workflow's partition writes."""

    def __init__(self, lane: FencedLane, names: Names) -> None:
        super().__init__(lane, names, replicated=lane.replicated)
        self._owned = lane

    async def put(self, queue_token: str, id_token: str, signal: EarlySignal, now: int, name_token: str | None = None) -> int:
        """Store a signal until its expiry and for ``KEPT_AFTER`` more, or a cancel until its expiry. Return its position. A repeat changes
        nothing.

        Raises:
            TenureOverError: another worker has taken over.
        """
        assert signal.seq > 0, f"a signal to {id_token} without a place in the inbox"
        subject = self._subject(queue_token, id_token, name_token or to_token(signal.signal), signal.seq)
        ttl = max(0, signal.expires - now) + (0 if name_token == CANCEL else KEPT_AFTER * 1000)
        ack = await self._owned.store("signals", subject, _encoder.encode(signal), ttl_field(ttl_of(ttl)))
        return ack.seq

    async def remove(self, queue_token: str, id_token: str, name_token: str, seq: int, position: int) -> None:
        """Remove the signal at a position. A purge lasts; a value that a marker replaces may come back after ``kill -9`` of the server."""
        await self._owned.purge(self._names.signal_stream, self._subject(queue_token, id_token, name_token, seq), position + 1)

    async def remove_before(self, queue_token: str, id_token: str, time: str) -> None:
        """Remove a workflow's signals that were stored up to a time, in the server's format (ISO 8601)."""
        subject_filter = f"{self._names.signal_prefix}{queue_token}.{id_token}.>"
        found = await newest_of_each(self._lane, self._names.signal_stream, subject_filter, replicated=self._replicated)
        old = [message.seq for message in found if from_iso(message.time) <= from_iso(time)]
        if old:
            await self._owned.purge(self._names.signal_stream, subject_filter, max(old) + 1)

    async def known(self, queue_token: str, partitions: frozenset[int], of: int) -> set[str]:
        """Return the id tokens in these partitions that have stored signals. ``of`` is the number of all partitions."""
        subjects = await self._list(f"{self._names.signal_prefix}{queue_token}.>")
        at = len(self._names.signal_prefix) + len(queue_token) + 1
        tokens = {subject[at:].split(".")[0] for subject in subjects}
        return {token for token in tokens if partition_of(queue_token, token, of) in partitions}

    async def _list(self, subject_filter: str) -> list[str]:
        """Return the subjects that exist, from the stream's leader."""
        subjects: list[str] = []
        while True:
            info = await self._lane.api(f"STREAM.INFO.{self._names.signal_stream}", {"subjects_filter": subject_filter, "offset": len(subjects)})
            page = list((info["state"].get("subjects") or {}).keys())
            subjects += page
            if not page or len(subjects) >= info.get("total", 0):
                return subjects
