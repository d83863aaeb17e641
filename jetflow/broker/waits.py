"""Signals by id: kept in a stream of their own, and the waits of resting workflows that they are matched with.

A wait is a key of the waits bucket, ``<signal>.<queue>.<id>.<run>.<index>``: written once, when its workflow comes to rest, and
removed when the wait is over. A *claim* is a key of the same bucket that says which wait a signal is for. It is only ever changed by
compare-and-set, so that no two routers choose two waits; and whoever made one looks afterwards whether the signal is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw, Struct

from jetflow.broker.lane import Lane, StoredMessage, check_ack
from jetflow.broker.wire import header_block
from jetflow.core.ids import Names, partition_of
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError

CLAIM = "=claim"
"""Reserved first token, which no signal's name escapes to."""
PAGE = 1000
_NEW = header_block(Nats_Expected_Last_Subject_Sequence="0")
_GONE = b"NATS/1.0\r\nKV-Operation:PURGE\r\nNats-TTL:1s\r\n\r\n"


class Wait(NamedTuple):
    """One wait of one workflow for one signal; all tokens as in subjects."""

    signal: str
    queue: str
    workflow: str
    run: int
    operation: int

    @property
    def key(self) -> str:
        """Its key in the bucket."""
        return ".".join(map(str, self))

    @classmethod
    def of(cls, key: str) -> Wait:
        """The wait that has a key.

        Raises:
            ValueError: it is none.
        """
        signal, queue, workflow, run, index = key.split(".")
        return cls(signal, queue, workflow, int(run), int(index))


class Registered(NamedTuple):
    """A wait as it is in the bucket: its place in the order of coming to rest, and when the wait began (ms since the epoch)."""

    wait: Wait
    position: int
    since: int


class Claim(NamedTuple):
    """Which wait a signal is for, None for none; ``revision`` is what a change of it must name."""

    revision: int
    wait: str | None


class Since(Struct):
    """Value of a wait's key: when the wait began, ms since the epoch."""

    since: int


class Routed(Struct):
    """Body of a ``routed.<index>`` command: the signal with number ``number`` in the stream of signals by id, for one wait of one run."""

    run: int
    signal: str
    number: int
    data: Raw


_encode = msgspec.json.Encoder().encode
_since = msgspec.json.Decoder(Since)


class Waits:
    """The waits bucket and the stream of signals by id, of one namespace."""

    def __init__(self, lane: Lane, names: Names, partitions: int) -> None:
        self._lane = lane
        self._names = names
        self._partitions = partitions

    # ---- for the owner of a workflow that waits

    def register(self, waits: Iterable[tuple[Wait, int]]) -> list[asyncio.Future[Any]]:
        """Writes waits, each with its beginning, without waiting for the answers; those that are there already stay as they are.

        Raises:
            BrokerUnavailableError: not connected now.
        """
        return [self._lane.submit(self._subject(wait.key), _encode(Since(since)), _NEW) for wait, since in waits]

    async def registered(self, answers: list[asyncio.Future[Any]]) -> None:
        """Waits for the answers of ``register``."""
        try:
            for answer in answers:
                data, _ = await answer
                with contextlib.suppress(ConflictError):
                    check_ack(data, self._names.wait_prefix)
        finally:
            for answer in answers:
                answer.cancel()

    def remove(self, wait: Wait) -> None:
        """Forgets a wait, without waiting for the answer: what is put in its place goes by itself after a second.

        Raises:
            BrokerUnavailableError: not connected now.
        """
        self._lane.wire.send(self._subject(wait.key), b"", headers=_GONE)

    async def taken(self, number: int) -> None:
        """A wait has got the signal, in a commit: it goes, and only then its claim, which tells nobody anything any more."""
        await self.discard(number)
        self._lane.wire.send(self._subject(f"{CLAIM}.{number}"), b"", headers=_GONE)

    async def give_back(self, wait: Wait, number: int) -> None:
        """The wait was over before the signal came: unless that has been noticed before, the signal is free for another one."""
        claim = await self.claim_of(number)
        if claim.wait == wait.key:
            with contextlib.suppress(ConflictError):
                await self._write_claim(number, b"", claim.revision)
        self.remove(wait)

    # ---- for the router

    async def waiting_for(self, signal: str) -> list[Registered]:
        """Who waits for a signal, longest first."""
        subject = f"{self._names.wait_prefix}{signal}.>"
        try:
            found = await self._lane.read_many(self._names.wait_stream, {"multi_last": [subject]})
        except BrokerUnavailableError:
            raise
        except BrokerError:  # more than fit into one answer
            found = await self._all(subject)
        at = len(self._names.wait_prefix)
        waits: list[Registered] = []
        for one in found:
            if one.data:
                with contextlib.suppress(ValueError):  # somebody else's key
                    waits.append(Registered(Wait.of(one.subject[at:]), one.seq, _since.decode(one.data).since))
        return sorted(waits, key=lambda one: one.position)

    async def _all(self, subject: str) -> list[StoredMessage]:
        found: list[StoredMessage] = []
        while True:
            start = found[-1].seq + 1 if found else 1
            page = await self._lane.read_many(self._names.wait_stream, {"seq": start, "next_by_subj": subject, "batch": PAGE})
            found += page
            if len(page) < PAGE:
                return found

    async def claim(self, number: int, wait: Wait, revision: int = 0) -> None:
        """Says which wait a signal is for.

        Raises:
            ConflictError: somebody has said so before.
        """
        await self._write_claim(number, wait.key.encode(), revision)

    async def claim_of(self, number: int) -> Claim:
        """Which wait a signal is for, asked of the leader."""
        message = await self._lane.last_message(self._names.wait_stream, self._subject(f"{CLAIM}.{number}"))
        return Claim(0, None) if message is None else Claim(message.seq, message.data.decode() or None)

    async def _write_claim(self, number: int, value: bytes, revision: int) -> None:
        headers = header_block(Nats_Expected_Last_Subject_Sequence=str(revision))
        await self._lane.publish(self._subject(f"{CLAIM}.{number}"), value, headers)

    def withdraw(self, number: int) -> None:
        """Removes the claim of a signal that is not there any more."""
        self._lane.wire.send(self._subject(f"{CLAIM}.{number}"), b"", headers=_GONE)

    async def signal(self, number: int) -> StoredMessage | None:
        """A signal by its number, asked of the leader; None once a wait has got it, or it has expired."""
        return await self._lane.message(self._names.by_id_stream, number)

    async def discard(self, number: int) -> None:
        """Removes a signal; one that is gone already is fine."""
        try:
            await self._lane.api(f"STREAM.MSG.DELETE.{self._names.by_id_stream}", {"seq": number, "no_erase": True})
        except BrokerUnavailableError:
            raise
        except BrokerError:
            if await self.signal(number) is not None:
                raise

    async def forward(self, wait: Wait, routed: Routed) -> None:
        """Sends a signal to its wait as a command, unless one is under way there."""
        command = f"routed.{wait.operation}"
        partition = partition_of(wait.queue, wait.workflow, self._partitions)
        stored = f"{self._names.namespace}.{partition}.{wait.queue}.{wait.workflow}.{command}"
        headers = header_block(Nats_Expected_Last_Subject_Sequence="0", Nats_Expected_Last_Subject_Sequence_Subject=stored)
        with contextlib.suppress(ConflictError):
            await self._lane.publish(self._names.command(wait.queue, wait.workflow, command), _encode(routed), headers)

    def _subject(self, key: str) -> str:
        return f"{self._names.wait_prefix}{key}"
