"""Going through the keys of a bucket in the order they were written: headers only, a batch at a time, never ahead of the reader."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from jetflow.broker.codes import CONSUMER_NOT_FOUND
from jetflow.broker.lane import Lane
from jetflow.broker.wire import status_of
from jetflow.core import clock
from jetflow.errors import BrokerError, BrokerUnavailableError

SECOND = 1_000_000_000
WAIT = 5
"""Seconds the server holds a request while there is nothing."""
REMEMBER_EVERY = 50_000
"""Keys told until a scan remembers how far it is; so many at most are told again to the next reader, which takes it a second. Each time the
server counts what a new consumer has before it: 35 ms for a million keys, in which nothing is written to the stream."""


class Seen(NamedTuple):
    """One key as it is now, or was when it was read: its subject, its place in the stream, its headers."""

    subject: str
    position: int
    headers: bytes


class Scan:
    """One consumer over a filter of a stream. Only the last value of each key comes, and nothing that was overwritten before.

    Args:
        lane: where to ask.
        stream: the bucket's stream.
        subject_filter: which keys.
        purpose: names a scan that goes on where ``done`` was called last, by whomever; None for one that begins at the first key.
            There is one reader for a purpose: whoever opens takes over from the others, whose ``batch`` fails from then on.
        kept: seconds without a reader after which the server forgets the consumer.
        wanted: tells by its headers whether a key is to be given out; all are when not given.

    Attributes:
        read: keys that the last batch went through, wanted or not.
    """

    def __init__(
        self,
        lane: Lane,
        stream: str,
        subject_filter: str,
        purpose: str | None = None,
        kept: int = 60,
        wanted: Callable[[bytes], bool] | None = None,
    ) -> None:
        self._lane = lane
        self._stream = stream
        self._filter = subject_filter
        self._purpose = purpose
        self._name = ""
        self._kept = kept
        self._wanted = wanted
        self._inbox = f"_INBOX.jetflow.scan.{clock.token(8)}."
        self._sid: int | None = None
        self._pulls = 0
        self._found: list[Seen] = []
        self._reply = b""
        self._told = 0
        self.read = 0
        self._size = 0
        self._full: asyncio.Future[None] | None = None

    async def known(self) -> bool:
        """Whether there is a place to go on from."""
        return bool(await self._earlier())

    async def open(self) -> None:
        """Makes the consumer."""
        if self._sid is None:
            self._sid = self._lane.wire.listen(f"{self._inbox}*", self._on_message)
        earlier = await self._earlier() if self._purpose is not None else {}
        await self._begin(min(earlier.values(), default=1), earlier)

    async def done(self) -> None:
        """What the batches so far told has been seen to. Every so often that is remembered; what came since is told again to the next."""
        if self._purpose is not None and self._told >= REMEMBER_EVERY:
            await self._begin(_position(self._reply) + 1, [self._name])

    async def _begin(self, start: int, instead_of: Iterable[str]) -> None:
        """A consumer from a position on. Where it began is all that is remembered: acks of all before would go wrong when a key expires."""
        self._name, self._told = f"{self._purpose or 'scan'}-{clock.token(6)}", 0
        config: dict[str, object] = {
            "name": self._name,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "filter_subject": self._filter,
            "headers_only": True,
            "inactive_threshold": self._kept * SECOND,
        }
        config |= {"durable_name": self._name} if self._purpose is not None else {"mem_storage": True, "num_replicas": 1}
        await self._lane.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", {"stream_name": self._stream, "config": config, "action": "create"})
        for name in instead_of:
            await self._delete(name)

    async def _earlier(self) -> dict[str, int]:
        """Consumers of this purpose, and where they began."""
        consumers = await self._lane.consumers(self._stream)
        mine = [consumer for consumer in consumers if consumer["name"].rpartition("-")[0] == self._purpose]
        return {consumer["name"]: consumer["config"].get("opt_start_seq") or 1 for consumer in mine}

    async def _delete(self, name: str) -> None:
        try:
            await self._lane.api(f"CONSUMER.DELETE.{self._stream}.{name}")
        except BrokerError as error:
            if error.err_code != CONSUMER_NOT_FOUND:
                raise

    async def batch(self, size: int) -> list[Seen]:
        """The wanted ones of the next keys, as soon as there are any keys, at most ``size``; [] also after some seconds without.

        Raises:
            BrokerError: the consumer is gone, or keys may have got lost on the way: go on with ``open``.
        """
        self._found, self._size, self._pulls, self.read = [], size, self._pulls + 1, 0
        self._full = asyncio.get_running_loop().create_future()
        request = {"batch": size, "expires": WAIT * SECOND, "no_wait": True}
        self._lane.wire.send(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._name}", msgspec.json.encode(request), f"{self._inbox}{self._pulls}")
        try:
            async with asyncio.timeout(self._lane.timeout + WAIT):
                await self._full
        except TimeoutError as error:
            raise BrokerUnavailableError(f"no answer while reading {self._stream}") from error
        finally:
            self._full = None
        return self._found

    def close(self) -> None:
        """Stops listening."""
        if self._sid is not None:
            with contextlib.suppress(BrokerError):
                self._lane.wire.unlisten(self._sid)
            self._sid = None

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        full = self._full
        if full is None or full.done():
            return
        status = status_of(headers)
        if not status:
            self._reply = reply
            self.read += 1
            if self._wanted is None or self._wanted(headers or b""):
                self._found.append(Seen(subject.decode(), _position(reply), headers or b""))
            if self.read == self._size:
                self._told += self.read
                full.set_result(None)
        elif status != 100 and subject.decode() == f"{self._inbox}{self._pulls}":
            if status in (404, 408):
                self._told += self.read
                full.set_result(None)
            else:
                full.set_exception(BrokerError(f"reading {self._stream}: status {status}"))


def _position(reply: bytes) -> int:
    """Where the stream has a delivery: $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending, or with domain and account after ACK."""
    tokens = reply.split(b".")
    return int(tokens[5 if len(tokens) == 9 else 7])
