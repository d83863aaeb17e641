"""Reads the keys of a bucket in the order of their writes: headers only, one batch at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol import clock
from jetflow.protocol.headers import status_of
from jetflow.protocol.subjects import inbox

SECOND = 1_000_000_000
WAIT = 5
"""Seconds that the server holds a request while there are no keys."""
KEPT = 60
"""Seconds without a reader after which the server forgets the consumer."""


class Seen(NamedTuple):
    """One key when it was read: its subject, its position in the stream, its headers."""

    subject: str
    position: int
    headers: bytes


class Scan:
    """One consumer over a filter of a stream. It gives only the last value of each key.

    Args:
        lane: the connection.
        stream: the bucket's stream.
        subject_filter: the filter of the keys.
        start: the position to begin at.
        wanted: returns by a key's headers whether to return the key. The default is all keys.

    Attributes:
        read: the number of keys in the last batch, wanted or not.
        place: the position of the last key that was read; one before ``start`` at first.
    """

    def __init__(self, lane: Lane, stream: str, subject_filter: str, *, start: int = 1, wanted: Callable[[bytes], bool] | None = None) -> None:
        self._lane = lane
        self._stream = stream
        self._filter = subject_filter
        self._name = f"scan-{clock.token(6)}"
        self._wanted = wanted
        self._inbox = inbox(f"scan.{clock.token(8)}.")
        self._sid: int | None = None
        self._pulls = 0
        self._found: list[Seen] = []
        self.read: int = 0
        self.place = start - 1
        self._size = 0
        self._full: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Create the consumer. The server removes it a minute after the last request."""
        self._sid = self._lane.wire.listen(f"{self._inbox}*", self._on_message)
        config: dict[str, object] = {
            "name": self._name,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.place + 1,
            "filter_subject": self._filter,
            "headers_only": True,
            "inactive_threshold": KEPT * SECOND,
            "mem_storage": True,
            "num_replicas": 1,
        }
        await self._lane.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", {"stream_name": self._stream, "config": config, "action": "create"})

    async def batch(self, size: int) -> list[Seen]:
        """Return the wanted keys among the next ones, at most ``size``, as soon as there are any keys, or [] after some seconds without.

        Raises:
            BrokerError: the consumer is gone, or keys may have been lost on the way. Continue with ``open``.
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

    async def close(self) -> None:
        """Stop listening, and delete the consumer if possible."""
        if self._sid is None:
            return
        with contextlib.suppress(BrokerError):
            self._lane.wire.unlisten(self._sid)
        self._sid = None
        with contextlib.suppress(BrokerError):
            await self._lane.api(f"CONSUMER.DELETE.{self._stream}.{self._name}")

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        full = self._full
        if full is None or full.done():
            return
        status = status_of(headers)
        if not status:
            self.place: int = _position(reply)
            self.read += 1
            if self._wanted is None or self._wanted(headers or b""):
                self._found.append(Seen(subject.decode(errors="replace"), _position(reply), headers or b""))
            if self.read == self._size:
                full.set_result(None)
        elif status != 100 and subject.decode(errors="replace") == f"{self._inbox}{self._pulls}":
            if status in (404, 408):
                full.set_result(None)
            else:
                full.set_exception(BrokerError(f"reading {self._stream}: status {status}"))


def _position(reply: bytes) -> int:
    """Return a delivery's position: ``sseq`` of $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending, or with domain and account after ACK."""
    tokens = reply.split(b".")
    return int(tokens[5 if len(tokens) == 9 else 7])
