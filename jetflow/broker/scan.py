"""Going through the keys of a bucket in the order they were written: headers only, a batch at a time, never ahead of the reader."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import NamedTuple

import msgspec

from jetflow.broker.lane import Lane
from jetflow.broker.wire import status_of
from jetflow.errors import BrokerError, BrokerUnavailableError

SECOND = 1_000_000_000
TOLD_AGAIN = 10
"""Seconds after which a durable scan tells again what was told and is not done."""
WAIT = 5
"""Seconds the server holds a request while there is nothing."""
CONSUMER_NOT_FOUND = 10014


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
        name: of a durable consumer, which goes on where ``done`` was called last; None for one that begins at the first key.
        kept: seconds without a reader after which the server forgets the consumer.
    """

    def __init__(self, lane: Lane, stream: str, subject_filter: str, name: str | None = None, kept: int = 60) -> None:
        self._lane = lane
        self._stream = stream
        self._filter = subject_filter
        self._durable = name is not None
        self._name = name or f"scan-{secrets.token_hex(6)}"
        self._kept = kept
        self._inbox = f"_INBOX.jetflow.scan.{secrets.token_hex(8)}."
        self._sid: int | None = None
        self._pulls = 0
        self._found: list[Seen] = []
        self._last_reply = ""
        self._size = 0
        self._full: asyncio.Future[None] | None = None

    async def open(self) -> bool:
        """Finds or creates the consumer; True if it is a new one."""
        if self._sid is None:
            self._sid = await self._lane.wire.listen(f"{self._inbox}*", self._on_message)
        try:
            if self._durable:
                await self._lane.api(f"CONSUMER.INFO.{self._stream}.{self._name}")
                return False
        except BrokerError as error:
            if getattr(error, "err_code", 0) != CONSUMER_NOT_FOUND:
                raise
        config: dict[str, object] = {
            "name": self._name,
            "deliver_policy": "all",
            "filter_subject": self._filter,
            "headers_only": True,
            "inactive_threshold": self._kept * SECOND,
        }
        if self._durable:
            config |= {"durable_name": self._name, "ack_policy": "all", "ack_wait": TOLD_AGAIN * SECOND, "max_ack_pending": -1}
        else:
            config |= {"ack_policy": "none", "mem_storage": True, "num_replicas": 1}
        await self._lane.api(f"CONSUMER.CREATE.{self._stream}.{self._name}", {"stream_name": self._stream, "config": config, "action": "create"})
        return True

    async def batch(self, size: int) -> list[Seen]:
        """The next keys, as soon as there are any, at most ``size``; [] after some seconds without.

        Raises:
            BrokerError: the consumer is gone, or keys may have got lost on the way: go on with ``open`` after ``TOLD_AGAIN`` seconds.
        """
        self._found, self._size, self._pulls, self._last_reply = [], size, self._pulls + 1, ""
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

    def done(self) -> None:
        """What the last batch told has been seen to; a durable scan never tells it again."""
        if self._last_reply:
            self._lane.wire.send(self._last_reply, b"")

    def close(self) -> None:
        """Stops listening; what a durable scan told last, and is not done, another reader is told."""
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
            self._last_reply = reply.decode()
            tokens = self._last_reply.split(".")
            # $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending, or with domain and account after ACK
            self._found.append(Seen(subject.decode(), int(tokens[5 if len(tokens) == 9 else 7]), headers or b""))
            if len(self._found) == self._size:
                full.set_result(None)
        elif status != 100 and subject.decode() == f"{self._inbox}{self._pulls}":
            if status in (404, 408):
                full.set_result(None)
            else:
                full.set_exception(BrokerError(f"reading {self._stream}: status {status}"))
