"""The reading side of the NATS protocol: control lines and payloads out of whatever pieces the socket gives.

It stands in for nats-py's parser, which matches seven regular expressions and awaits a coroutine for each message.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from nats.errors import ProtocolError

if TYPE_CHECKING:
    from jetflow.broker.wire import Wire

MAX_CONTROL_LINE = 64 * 1024
"""Bytes without a line end before the server counts as speaking something else."""


class Parser:
    """Feeds ``wire`` with what the server says. nats-py calls ``parse`` with each read, and ``reset`` on a new connection.

    Args:
        wire: whose ``_process_…`` methods get everything but messages.
        on_message: called with subscription number, subject, reply, payload and raw headers; False hands the message to nats-py.
    """

    def __init__(self, wire: Wire, on_message: Callable[[int, bytes, bytes, bytes, bytes | None], bool]) -> None:
        self._wire = wire
        self._on_message = on_message
        self._rest = b""

    def reset(self) -> None:
        """Forgets a message that was cut off."""
        self._rest = b""

    async def parse(self, data: bytes = b"") -> None:
        """Takes in bytes as they came.

        Raises:
            ProtocolError: they are not NATS.
        """
        data = self._rest + data if self._rest else bytes(data)
        self._rest = b""
        at, end_of_data = 0, len(data)
        while at < end_of_data:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                if end_of_data - at > MAX_CONTROL_LINE:
                    raise ProtocolError("nats: no end of a control line")
                break
            has_headers = data.startswith(b"HMSG ", at)
            if has_headers or data.startswith(b"MSG ", at):
                # MSG subject sid [reply] size, HMSG subject sid [reply] header-size size
                words = data[at:line_end].split()
                size = int(words[-1])
                start = line_end + 2
                stop = start + size
                if stop + 2 > end_of_data:
                    break
                at = stop + 2
                sid = int(words[2])
                if has_headers:
                    body = start + int(words[-2])
                    reply, headers, payload = words[3] if len(words) == 6 else b"", data[start:body], data[body:stop]
                else:
                    reply, headers, payload = words[3] if len(words) == 5 else b"", None, data[start:stop]
                if not self._on_message(sid, words[1], reply, payload, headers):
                    await self._wire._process_msg(sid, words[1], reply, payload, headers)  # type: ignore[arg-type]
            else:
                await self._control(data[at:line_end])
                at = line_end + 2
        self._rest = data[at:] if at else data

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
