"""Signals by id, in a stream of their own, and the waits of resting workflows that the router matches them with.

A wait is a key of the waits bucket, ``<signal>.<queue>.<id>.<run>.<index>``. The owner writes it once, when the workflow rests, and removes it when
the wait is over. A *claim* is a key of the same bucket that says which wait a signal is for. Routers change it only by compare-and-set, so two
routers cannot choose two waits. After a claim the router checks that the signal is still there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from jetflow.broker.fencing.fence import EVERYTHING, FencedLane
from jetflow.broker.fencing.fresh import newest_of_each
from jetflow.broker.transport.lane import StoredMessage
from jetflow.core.ids import from_token, partition_of
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError, InvalidInputError
from jetflow.protocol.commands import RoutedSignal
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names

log: logging.Logger = logging.getLogger("jetflow.worker")

_NUMBER = re.compile(r"[0-9]{1,18}")
_GONE = b"KV-Operation:PURGE\r\nNats-TTL:1s\r\n"
CLAIM = "=claim"
"""The first token of a claim's key. No signal id escapes to it."""
EXPIRED = "=expired"
"""The value of a claim for no wait: the signal has expired and becomes a dead letter."""


class Wait(NamedTuple):
    """One wait of one workflow for one signal, with all names escaped for subjects."""

    signal: str
    queue: str
    workflow: str
    run: int
    operation: int

    @property
    def key(self) -> str:
        """The wait's key in the bucket."""
        return ".".join(map(str, self))

    @classmethod
    def of(cls, key: str) -> Wait:
        """Return the wait that has a key.

        Raises:
            ValueError, InvalidInputError: it is not the key of a wait.
        """
        signal, queue, workflow, run, index = key.split(".")
        for token in (signal, queue, workflow):
            from_token(token)
        if not _NUMBER.fullmatch(run) or not _NUMBER.fullmatch(index):
            raise InvalidInputError(f"{key!r} names no run and operation")
        return cls(signal, queue, workflow, int(run), int(index))


class Registered(NamedTuple):
    """A registered wait, its position in the bucket's stream, and when it began (ms since the epoch)."""

    wait: Wait
    position: int
    since: int


class Claim(NamedTuple):
    """The wait that a signal is for, None without a claim, ``EXPIRED`` for no wait. A change must name the ``revision``."""

    revision: int
    wait: str | None


class Since(Struct):
    """The value of a wait's key: when the wait began, ms since the epoch."""

    since: int


_encode = msgspec.json.Encoder().encode
_since = msgspec.json.Decoder(Since)


class Waits:
    """The waits bucket and the stream of signals by id, for owners and the router."""

    def __init__(self, lane: FencedLane, names: Names, partitions: int) -> None:
        self._lane = lane
        self._names = names
        self._partitions = partitions

    # ---- for the owner of a waiting workflow

    def register(self, waits: Iterable[tuple[Wait, int]]) -> list[asyncio.Future[Any]]:
        """Send waits, each with the time at which it began (ms since the epoch). A repeat changes nothing. Pass the answers to ``registered``.

        Raises:
            TenureOverError, BrokerUnavailableError: not all of them were sent.
        """
        waits = list(waits)
        assert all(wait.run > 0 for wait, _ in waits), "a wait of no run"
        return [self._lane.begin_store("waits", self._subject(wait.key), _encode(Since(since))) for wait, since in waits]

    async def registered(self, answers: list[asyncio.Future[Any]]) -> None:
        """Return once the broker has stored the waits. Errors are those of ``FencedLane.store``."""
        problem: BrokerError | None = None
        for answer in answers:  # await each, since the lane counts the writes under way
            try:
                await self._lane.stored(answer, self._names.wait_prefix)
            except BrokerError as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def remove(self, wait: Wait) -> None:
        """Replace a wait with a marker that expires, without an answer. The router gets a notice of it. If ``kill -9`` of the server brings the
        wait back, its owner answers a signal for it with the word that it is over.

        Raises:
            TenureOverError, BrokerUnavailableError: nothing was sent.
        """
        self._lane.send("waits", self._subject(wait.key), b"", _GONE)

    async def taken(self, number: int) -> None:
        """Remove a signal that a commit has taken, or that has become a dead letter. Remove its claim only after the signal."""
        await self.discard(number)
        await self.withdraw(number)

    async def give_back(self, wait: Wait, number: int) -> None:
        """Free the claim of a signal whose wait was over, unless the claim has changed meanwhile. Remove the wait."""
        claim = await self.claim_of(number)
        if claim.wait == wait.key:
            with contextlib.suppress(ConflictError):
                await self._write_claim(number, b"", claim.revision)
        self.remove(wait)

    # ---- for the router

    async def waiting_for(self, signal: str) -> list[Registered]:
        """Return the waits for a signal, the oldest first."""
        subject = f"{self._names.wait_prefix}{signal}.>"
        found = await newest_of_each(self._lane, self._names.wait_stream, subject, replicated=self._lane.replicated)
        at = len(self._names.wait_prefix)
        waits: list[Registered] = []
        for one in found:
            if one.data:
                with contextlib.suppress(ValueError, InvalidInputError, msgspec.DecodeError):  # a key that jetflow did not write
                    waits.append(Registered(Wait.of(one.subject[at:]), one.seq, _since.decode(one.data).since))
        return sorted(waits, key=lambda one: (one.since, one.position))

    async def claim(self, number: int, wait: Wait, revision: int = 0) -> None:
        """Claim a signal for a wait.

        Raises:
            ConflictError: another claim came before.
        """
        await self._write_claim(number, wait.key.encode(), revision)

    async def claim_expired(self, number: int, revision: int = 0) -> None:
        """Claim an expired signal for no wait.

        Raises:
            ConflictError: another claim came before.
        """
        await self._write_claim(number, EXPIRED.encode(), revision)

    async def claim_of(self, number: int) -> Claim:
        """Return a signal's claim from the leader."""
        message = await self._lane.last_message(self._names.wait_stream, self._subject(f"{CLAIM}.{number}"))
        if message is None:
            return Claim(0, None)
        try:
            key = message.data.decode()
            if key:
                Wait.of(key)
        except (ValueError, InvalidInputError):
            log.warning("%s was not written by a worker, and is removed: %r", message.subject, message.data[:80])
            await self._lane.purge(self._names.wait_stream, message.subject, message.seq + 1)
            return Claim(0, None)
        return Claim(message.seq, key or None)

    async def _write_claim(self, number: int, value: bytes, revision: int) -> None:
        headers = header_block(Nats_Expected_Last_Subject_Sequence=str(revision))
        await self._lane.publish(self._subject(f"{CLAIM}.{number}"), value, headers)

    async def withdraw(self, number: int) -> None:
        """Remove the claim of a signal that is gone. The signal's number is never reused."""
        await self._lane.purge(self._names.wait_stream, self._subject(f"{CLAIM}.{number}"), EVERYTHING)

    async def claims(self) -> list[int]:
        """Return the numbers of the signals that have a claim."""
        prefix = self._subject(f"{CLAIM}.")
        found = await newest_of_each(self._lane, self._names.wait_stream, f"{prefix}*", replicated=self._lane.replicated)
        numbers: list[int] = []
        for one in found:
            text = one.subject[len(prefix) :]
            if _NUMBER.fullmatch(text):
                numbers.append(int(text))
            else:
                log.warning("%s was not written by a worker, and is removed", one.subject)
                await self._lane.purge(self._names.wait_stream, one.subject, one.seq + 1)
        return numbers

    async def signal(self, number: int) -> StoredMessage | None:
        """Return a signal by its number from the leader, or None if it was taken or has expired."""
        return await self._lane.message(self._names.by_id_stream, number)

    async def discard(self, number: int) -> None:
        """Remove a signal. It may be gone already."""
        try:
            await self._lane.delete_message(self._names.by_id_stream, number)
        except BrokerUnavailableError:
            raise
        except BrokerError:
            if await self.signal(number) is not None:
                raise

    async def forward(self, wait: Wait, routed: RoutedSignal) -> None:
        """Send a signal to its wait as a command, unless the inbox has one for that wait already."""
        command = f"routed.{wait.operation}"
        partition = partition_of(wait.queue, wait.workflow, self._partitions)
        stored = f"{self._names.namespace}.{partition}.{wait.queue}.{wait.workflow}.{command}"
        headers = header_block(Nats_Expected_Last_Subject_Sequence="0", Nats_Expected_Last_Subject_Sequence_Subject=stored)
        with contextlib.suppress(ConflictError):
            await self._lane.publish(self._names.command(wait.queue, wait.workflow, command), _encode(routed), headers)

    def _subject(self, key: str) -> str:
        return f"{self._names.wait_prefix}{key}"
