"""Parses what the server sends: control lines and payloads, in whatever pieces the socket gives.

It replaces nats-py's parser, which matches seven regular expressions and awaits a coroutine for each message. Messages for jetflow's own handlers
need no await: ``take`` passes them on in the call that brings the bytes, and leaves everything else to ``parse``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from nats.errors import ProtocolError

from jetflow.broker.transport.wire import Handler

log: logging.Logger = logging.getLogger("jetflow.broker")

MAX_CONTROL_LINE = 64 * 1024
"""The most bytes of a line. With more, the server does not speak NATS."""


class Receiver(Protocol):
    """Receives everything but messages from the parser: nats-py's client, with a note whether the server has sent anything."""

    heard: bool

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any, /) -> None: ...
    async def _process_ping(self) -> None: ...
    async def _process_pong(self) -> None: ...
    async def _process_err(self, message: str, /) -> None: ...
    async def _process_info(self, info: Any, /) -> None: ...


class Parser:
    """Passes what the server sends to ``wire``. nats-py calls ``parse`` with each read, and ``reset`` on a new connection.

    Args:
        wire: whose ``_process_…`` methods get everything else.
        handlers: by subscription number; each is called with subject, reply, payload and raw headers. What it raises is logged.
        ours: whether a subscription number without a handler is ours all the same; its messages are dropped.

    Attributes:
        busy: whether ``parse`` is under way.
    """

    def __init__(self, wire: Receiver, handlers: Mapping[int, Handler], ours: Callable[[int], bool]) -> None:
        self.busy = False
        self._wire = wire
        self._handlers = handlers
        self._ours = ours
        self._rest = b""

    def reset(self) -> None:
        """Forget an incomplete message."""
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """Parse bytes as far as nothing must be awaited. Return the rest, for ``parse``."""
        data = self._rest + data if self._rest else data
        at, cut = self._messages(data, 0)
        self._rest = data[at:] if cut else b""
        return b"" if cut else data[at:]

    async def parse(self, data: bytes = b"") -> None:
        """Parse bytes.

        Raises:
            ProtocolError: the bytes are not NATS.
        """
        data = self._rest + data if self._rest else bytes(data)
        self._rest = b""
        self.busy = True
        try:
            at, cut = self._messages(data, 0)
            while not cut and at < len(data):
                at, cut = self._messages(data, await self._other(data, at))
            self._rest = data[at:]
        finally:
            self.busy: bool = False

    def _messages(self, data: bytes, at: int) -> tuple[int, bool]:
        """Pass on whole messages from an offset on. Return where it stopped, and whether it stopped at an incomplete message or line."""
        end_of_data, handlers = len(data), self._handlers
        while at < end_of_data:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                return at, end_of_data - at <= MAX_CONTROL_LINE
            # MSG subject sid [reply] size, HMSG subject sid [reply] header-size size
            words = data[at:line_end].split()
            start = line_end + 2
            if data.startswith(b"MSG ", at):
                body, stop = start, start + int(words[-1])
                reply, headers = words[3] if len(words) == 5 else b"", None
            elif data.startswith(b"HMSG ", at):
                body, stop = start + int(words[-2]), start + int(words[-1])
                reply, headers = words[3] if len(words) == 6 else b"", data[start:body]
            else:
                return at, False
            if stop >= end_of_data - 1:
                return at, True
            sid = int(words[2])
            handler = handlers.get(sid)
            if handler is not None:
                try:
                    handler(words[1], reply, data[body:stop], headers)
                except Exception:  # raised into the reading it would end it
                    log.exception("handler of %r failed", words[1])
            elif not self._ours(sid):
                return at, False
            at = stop + 2
        return at, True

    async def _other(self, data: bytes, at: int) -> int:
        """Process a control line, or a whole message of nats-py's own. Return where it ends."""
        line_end = data.find(b"\r\n", at)
        if line_end < 0:
            raise ProtocolError("nats: no end of a control line")
        has_headers = data.startswith(b"HMSG ", at)
        if not has_headers and not data.startswith(b"MSG ", at):
            await self._control(data[at:line_end])
            return line_end + 2
        words = data[at:line_end].split()
        start = line_end + 2
        body, stop = start + (int(words[-2]) if has_headers else 0), start + int(words[-1])
        reply = words[3] if len(words) == 5 + has_headers else b""
        await self._wire._process_msg(int(words[2]), words[1], reply, data[body:stop], data[start:body] if has_headers else None)  # type: ignore[arg-type]
        return stop + 2

    async def _control(self, line: bytes) -> None:
        word = line[:5].upper()
        if word.startswith(b"PING"):
            await self._wire._process_ping()
        elif word.startswith(b"PONG"):
            await self._wire._process_pong()
        elif word.startswith(b"-ERR"):
            await self._wire._process_err(line[4:].decode(errors="replace").strip().strip("'").lower())
        elif word.startswith(b"INFO"):
            await self._wire._process_info(json.loads(line[4:]))
        elif word and not word.startswith(b"+OK"):
            raise ProtocolError(f"nats: unknown protocol: {line[:80]!r}")
