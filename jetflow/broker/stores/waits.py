"""Signals by id: kept in a stream of their own, and the waits of resting workflows that they are matched with.

A wait is a key of the waits bucket, ``<signal>.<queue>.<id>.<run>.<index>``: written once, when its workflow comes to rest, and
removed when the wait is over. A *claim* is a key of the same bucket that says which wait a signal is for. It is only ever changed by
compare-and-set, so that no two routers choose two waits; and whoever made one looks afterwards whether the signal is still there.
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
"""Reserved first token, which no signal's name escapes to."""
EXPIRED = "=expired"
"""Value of a claim that no wait has: the signal is for nobody any more, and becomes a dead letter."""


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
            ValueError, InvalidInputError: it is none.
        """
        signal, queue, workflow, run, index = key.split(".")
        for token in (signal, queue, workflow):
            from_token(token)
        if not _NUMBER.fullmatch(run) or not _NUMBER.fullmatch(index):
            raise InvalidInputError(f"{key!r} names no run and operation")
        return cls(signal, queue, workflow, int(run), int(index))


class Registered(NamedTuple):
    """A wait as it is in the bucket: where its stream has it, and when the wait began (ms since the epoch)."""

    wait: Wait
    position: int
    since: int


class Claim(NamedTuple):
    """Which wait a signal is for, None for none, ``EXPIRED`` for none ever; ``revision`` is what a change of it must name."""

    revision: int
    wait: str | None


class Since(Struct):
    """Value of a wait's key: when the wait began, ms since the epoch."""

    since: int


_encode = msgspec.json.Encoder().encode
_since = msgspec.json.Decoder(Since)


class Waits:
    """The waits bucket and the stream of signals by id, as an owner and the router have them."""

    def __init__(self, lane: FencedLane, names: Names, partitions: int) -> None:
        self._lane = lane
        self._names = names
        self._partitions = partitions

    # ---- for the owner of a workflow that waits

    def register(self, waits: Iterable[tuple[Wait, int]]) -> list[asyncio.Future[Any]]:
        """Writes waits, each with its beginning (ms since the epoch); writing one again changes nothing. The answers are for ``registered``.

        Raises:
            TenureOverError, BrokerUnavailableError: not all of them were sent.
        """
        return [self._lane.begin_store("waits", self._subject(wait.key), _encode(Since(since))) for wait, since in waits]

    async def registered(self, answers: list[asyncio.Future[Any]]) -> None:
        """Returns once the broker has the waits; errors as of ``FencedLane.store``."""
        problem: BrokerError | None = None
        for answer in answers:  # each is heard, since what is under way is counted
            try:
                await self._lane.stored(answer, self._names.wait_prefix)
            except BrokerError as error:
                problem = problem or error
        if problem is not None:
            raise problem

    def remove(self, wait: Wait) -> None:
        """Forgets a wait, without waiting for the answer. What is put in its place goes by itself, and is told to the router. Should the wait
        come back with a server that was killed, whoever is sent a signal for it says that it is over.

        Raises:
            TenureOverError, BrokerUnavailableError: nothing was sent.
        """
        self._lane.send("waits", self._subject(wait.key), b"", _GONE)

    async def taken(self, number: int) -> None:
        """A wait has got the signal, in a commit, or a dead letter has: it goes, and only then its claim, which tells nobody anything any more."""
        await self.discard(number)
        await self.withdraw(number)

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
        found = await newest_of_each(self._lane, self._names.wait_stream, subject, replicated=self._lane.replicated)
        at = len(self._names.wait_prefix)
        waits: list[Registered] = []
        for one in found:
            if one.data:
                with contextlib.suppress(ValueError, InvalidInputError, msgspec.DecodeError):  # somebody else's key
                    waits.append(Registered(Wait.of(one.subject[at:]), one.seq, _since.decode(one.data).since))
        return sorted(waits, key=lambda one: (one.since, one.position))

    async def claim(self, number: int, wait: Wait, revision: int = 0) -> None:
        """Says which wait a signal is for.

        Raises:
            ConflictError: somebody has said so before.
        """
        await self._write_claim(number, wait.key.encode(), revision)

    async def claim_expired(self, number: int, revision: int = 0) -> None:
        """Says that a signal is for nobody any more.

        Raises:
            ConflictError: somebody has said otherwise before.
        """
        await self._write_claim(number, EXPIRED.encode(), revision)

    async def claim_of(self, number: int) -> Claim:
        """Which wait a signal is for, asked of the leader."""
        message = await self._lane.last_message(self._names.wait_stream, self._subject(f"{CLAIM}.{number}"))
        if message is None:
            return Claim(0, None)
        try:
            key = message.data.decode()
            if key:
                Wait.of(key)
        except (ValueError, InvalidInputError):
            log.warning("%s is not what a worker wrote, and is removed: %r", message.subject, message.data[:80])
            await self._lane.purge(self._names.wait_stream, message.subject, message.seq + 1)
            return Claim(0, None)
        return Claim(message.seq, key or None)

    async def _write_claim(self, number: int, value: bytes, revision: int) -> None:
        headers = header_block(Nats_Expected_Last_Subject_Sequence=str(revision))
        await self._lane.publish(self._subject(f"{CLAIM}.{number}"), value, headers)

    async def withdraw(self, number: int) -> None:
        """Removes the claim of a signal that is not there any more, whose number never comes again."""
        await self._lane.purge(self._names.wait_stream, self._subject(f"{CLAIM}.{number}"), EVERYTHING)

    async def claims(self) -> list[int]:
        """Numbers of the signals that have a claim."""
        prefix = self._subject(f"{CLAIM}.")
        found = await newest_of_each(self._lane, self._names.wait_stream, f"{prefix}*", replicated=self._lane.replicated)
        numbers: list[int] = []
        for one in found:
            text = one.subject[len(prefix) :]
            if _NUMBER.fullmatch(text):
                numbers.append(int(text))
            else:
                log.warning("%s is not what a worker wrote, and is removed", one.subject)
                await self._lane.purge(self._names.wait_stream, one.subject, one.seq + 1)
        return numbers

    async def signal(self, number: int) -> StoredMessage | None:
        """A signal by its number, asked of the leader; None once a wait has got it, or it has expired."""
        return await self._lane.message(self._names.by_id_stream, number)

    async def discard(self, number: int) -> None:
        """Removes a signal; one that is gone already is fine."""
        try:
            await self._lane.delete_message(self._names.by_id_stream, number)
        except BrokerUnavailableError:
            raise
        except BrokerError:
            if await self.signal(number) is not None:
                raise

    async def forward(self, wait: Wait, routed: RoutedSignal) -> None:
        """Sends a signal to its wait as a command, unless one is under way there."""
        command = f"routed.{wait.operation}"
        partition = partition_of(wait.queue, wait.workflow, self._partitions)
        stored = f"{self._names.namespace}.{partition}.{wait.queue}.{wait.workflow}.{command}"
        headers = header_block(Nats_Expected_Last_Subject_Sequence="0", Nats_Expected_Last_Subject_Sequence_Subject=stored)
        with contextlib.suppress(ConflictError):
            await self._lane.publish(self._names.command(wait.queue, wait.workflow, command), _encode(routed), headers)

    def _subject(self, key: str) -> str:
        return f"{self._names.wait_prefix}{key}"
