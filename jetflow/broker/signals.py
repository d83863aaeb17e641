"""Signals that nobody waits for yet: kept under per-message TTL until somebody does."""

from __future__ import annotations

import msgspec
from msgspec import Raw, Struct

from jetflow.broker.lane import Lane
from jetflow.broker.wire import header_block, ttl_of
from jetflow.core.ids import Names, partition_of, to_token
from jetflow.errors import BrokerError, BrokerUnavailableError

DEFAULT_EXPIRE_MS = 600_000
CANCEL = "=cancel"
"""Reserved name token, which no text escapes to: a cancel that came before the start."""


class EarlySignal(Struct, omit_defaults=True):
    """A buffered signal; ``seq`` is its place in the inbox, ``expires`` ms since the epoch; its sender may have numbered it."""

    signal: str
    seq: int
    expires: int
    data: Raw = Raw(b"null")
    sender: str | None = None
    number: int = 0


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(EarlySignal)


class EarlySignals:
    """The signals bucket of one namespace."""

    def __init__(self, lane: Lane, names: Names) -> None:
        self._lane = lane
        self._names = names

    async def put(self, queue_token: str, id_token: str, signal: EarlySignal, now: int, name_token: str | None = None) -> None:
        """Keeps a signal until it expires; putting the same one again changes nothing."""
        subject = self._subject(queue_token, id_token, name_token or to_token(signal.signal), signal.seq)
        await self._lane.publish(subject, _encoder.encode(signal), header_block(Nats_TTL=ttl_of(signal.expires - now)))

    async def load(self, queue_token: str, id_token: str) -> list[tuple[str, EarlySignal]]:
        """Everything kept for a workflow as (name token, signal), in inbox order."""
        prefix = f"{self._names.signal_prefix}{queue_token}.{id_token}."
        subjects = await self._list(f"{prefix}>")
        found: list[tuple[str, EarlySignal]] = []
        for start in range(0, len(subjects), 500):
            for message in await self._lane.read_many(self._names.signal_stream, {"multi_last": subjects[start : start + 500]}):
                if message.data:
                    found.append((message.subject[len(prefix) :].split(".")[0], _decoder.decode(message.data)))
        return sorted(found, key=lambda item: item[1].seq)

    async def remove(self, queue_token: str, id_token: str, name_token: str, seq: int) -> None:
        """Forgets one: its key is replaced by a marker that goes after a second."""
        headers = header_block(KV_Operation="PURGE", Nats_Rollup="sub", Nats_TTL="1s")
        await self._lane.publish(self._subject(queue_token, id_token, name_token, seq), b"", headers)

    async def remove_before(self, queue_token: str, id_token: str, time: str) -> None:
        """Forgets what was kept for a workflow up to a time, as the server writes it; what very many are, goes by its own TTL."""
        prefix = f"{self._names.signal_prefix}{queue_token}.{id_token}."
        try:
            found = await self._lane.read_many(self._names.signal_stream, {"multi_last": [f"{prefix}>"]})
        except BrokerUnavailableError:
            raise
        except BrokerError:
            return
        for message in found:
            if message.data and message.time.rstrip("Z") <= time.rstrip("Z"):
                name_token, _, seq = message.subject[len(prefix) :].rpartition(".")
                await self.remove(queue_token, id_token, name_token, int(seq))

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

    def _subject(self, queue_token: str, id_token: str, name_token: str, seq: int) -> str:
        return f"{self._names.signal_prefix}{queue_token}.{id_token}.{name_token}.{seq}"
