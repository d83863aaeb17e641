"""The interface of one connection to nats-server.

Handlers get messages as bytes in the call that reads them. Publishes are joined and written once in each turn of the event loop. ``direct`` does
both with nats-py's internals. ``plain`` does the same with only nats-py's public calls, and is slower.

Writers wait while the server does not take what was written: see ``Wire.takes_writes`` and ``Wire.room``.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import ParseResult

from jetflow.broker.transport.outage import Outage
from jetflow.errors import BrokerUnavailableError

log: logging.Logger = logging.getLogger("jetflow.broker")

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called with subject, reply, payload and raw header block (None without headers). Must not block."""

MAX_UNWRITTEN = 4 * 1024 * 1024
"""The most unwritten bytes before writers wait: half of them in one turn of the event loop, half in the transport's buffer."""
TURN = MAX_UNWRITTEN // 2
"""The most bytes in one turn of the event loop, and in the transport's buffer, before writers wait."""
AROUND = 256
"""Bytes that a message counts besides its payload when waiting writers go on: its subject, reply and header names."""


class Wire(ABC):
    """A connection that reconnects forever. This class has what both kinds share: callbacks, and waiting for room.

    Attributes:
        last_violation: the server's words when it last refused a subject.
        optional: subjects that this user may lack the right for, so that a refusal is no warning.
        refused: those of them that the server has refused.
        outage: logs the outages of the server.
        dropped: the number of answers that were not sent, since too much was unwritten.
        on_disconnect: called when the connection has broken.
        on_reconnect: called when the connection is back.
        on_violation: called with the server's words when it refuses a subject.
    """

    if TYPE_CHECKING:
        max_payload: int
        last_error: Exception | None
        is_connected: bool
        is_closed: bool
        connected_server_version: Any
        server_info: dict[str, Any]

        @property
        def connected_url(self) -> ParseResult | None:
            """The address of the server, while connected."""
            ...

        @property
        def takes_writes(self) -> bool:
            """Whether a writer may write now: connected, with less than ``TURN`` bytes in this turn, and a transport that takes bytes.

            If it is False, a writer waits for ``room``. Writes that cannot wait are still allowed.
            """
            ...

        @property
        def unwritten(self) -> int:
            """The number of bytes that wait for the socket."""
            ...

    def __init__(self) -> None:
        super().__init__()
        self.last_violation: str | None = None
        self.optional: set[str] = set()
        self.refused: set[str] = set()
        self.outage: Outage = Outage()
        self.dropped: int = 0
        self.on_disconnect: list[Callable[[], None]] = []
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_violation: list[Callable[[str], None]] = []
        self._allowed = TURN  # the most bytes of one turn; 0 while the transport takes nothing, or other writers wait
        self._writers: deque[tuple[asyncio.Future[None], int]] = deque()
        self._letting_in = False
        self.on_disconnect.append(self._let_all_in)

    # ---- in

    @abstractmethod
    def listen(self, subject: str, handler: Handler) -> int:
        """Subscribe, and return the number for ``unlisten``. The subscription survives reconnects."""

    @abstractmethod
    def unlisten(self, sid: int) -> None:
        """End a subscription."""

    @abstractmethod
    def stop_listening(self, sid: int) -> None:
        """Ask the server to send no more. The handler still gets messages that are on their way, until ``unlisten``."""

    # ---- out

    @abstractmethod
    def send(self, subject: str, body: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """Publish a message, in the order of calls. It is written at the end of this turn of the event loop.

        Raises:
            BrokerUnavailableError: not connected now; nothing was sent.
            PayloadTooLargeError: body and headers exceed the server's ``max_payload``.
        """

    @abstractmethod
    def ack(self, reply: str) -> None:
        """Ack a delivery.

        Raises:
            BrokerUnavailableError: not connected now; the delivery comes again.
        """

    @abstractmethod
    async def close(self) -> None:
        """Close the connection for good."""

    @abstractmethod
    def abort(self) -> None:
        """Drop what the socket does not take, so that nothing waits for it."""

    async def connected(self, timeout: float) -> None:
        """Wait until a broken connection is back.

        Raises:
            BrokerUnavailableError: it was not back within ``timeout`` seconds.
        """
        back = asyncio.Event()
        self.on_reconnect.append(back.set)
        try:
            async with asyncio.timeout(timeout):
                if not self.is_connected:
                    await back.wait()
        except TimeoutError as error:
            raise BrokerUnavailableError(f"no connection to nats-server for {timeout:g} s; nothing was sent") from error
        finally:
            self.on_reconnect.remove(back.set)

    async def room(self, size: int, timeout: float) -> None:
        """Wait until a message of ``size`` bytes may be written. The caller must write it before it awaits anything else.

        The wait has no limit while the server takes something. A server that takes nothing answers no ping either, so the connection breaks.

        Raises:
            BrokerUnavailableError: the connection broke meanwhile, or there was none for ``timeout`` seconds. Nothing was sent.
        """
        if not self.is_connected:
            await self.connected(timeout)
        if self.takes_writes:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writers.append((turn, size + AROUND))
        self._allowed = 0  # later writers queue behind this one
        if self._flows() and not self._letting_in:
            self._let_in_next_turn()
        await turn
        if not self.is_connected:
            raise BrokerUnavailableError("the connection broke before there was room for the message; nothing was sent")

    def _flows(self) -> bool:
        """Return whether the transport takes more bytes."""
        return True

    def _space(self) -> int:
        """Return how many more bytes this turn may have."""
        return TURN

    def _let_in_next_turn(self) -> None:
        self._letting_in = True
        asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        """Wake as many waiting writers as there is space for, in order. They have written before the next call."""
        self._letting_in: bool = False
        if not self._flows():
            return  # it is called again when the transport takes bytes
        space, writers, woken = self._space(), self._writers, False
        while writers and space > 0:
            turn, size = writers.popleft()
            if not turn.done():
                turn.set_result(None)
                space -= size
                woken = True
        if woken or writers:
            self._let_in_next_turn()
        else:
            self._allowed: int = TURN

    def _let_all_in(self) -> None:
        """Wake all waiting writers: the connection has broken."""
        self._allowed = TURN
        while self._writers:
            turn, _ = self._writers.popleft()
            if not turn.done():
                turn.set_result(None)

    # ---- staying alive

    def violated(self, text: str) -> None:
        """Log that the server refused a subject, and call ``on_violation``. ``text`` is in lower case."""
        if any(f'"{subject}"'.lower() in text for subject in self.optional):
            log.debug("nats-server says: %s", text)
        else:
            self.last_violation = text
            log.warning("nats-server says: %s", text)
        self.tell(self.on_violation, text)

    def tell(self, callbacks: Iterable[Callable[..., None]], *facts: str) -> None:
        """Call all callbacks. An error in one must not end nats-py's reconnecting or reading."""
        for callback in tuple(callbacks):
            try:
                callback(*facts)
            except Exception:
                log.exception("%r failed", callback)
