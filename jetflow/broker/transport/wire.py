"""One connection to nats-server, as the rest of jetflow sees it.

Messages for a subscription are handed over as bytes in the call that brings them. Publishes are joined and written once per
turn of the event loop. ``direct`` does both by way of nats-py's internals; ``plain`` does the same with nats-py's public calls
alone, and is slower.

Writers wait when the server does not take what was written: see ``Wire.takes_writes`` and ``Wire.room``.
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
"""Bytes that wait for the socket before writers wait too: half of them in one turn of the event loop, half in the transport's buffer."""
TURN = MAX_UNWRITTEN // 2
"""Bytes of one turn of the event loop, and of the transport's buffer, from which on writers wait."""
AROUND = 256
"""Bytes that a message counts beside its payload when writers are woken: its subject, reply and header names."""


class Wire(ABC):
    """A connection that reconnects for ever. This class has what both kinds share: callbacks, and waiting for room.

    Attributes:
        last_violation: the server's words when it last refused a subject.
        optional: subjects that this user need not be allowed to use: the server's refusal is not worth a warning.
        refused: those of them that it may not use.
        outage: what is told of the server while it cannot be reached.
        dropped: answers that were not sent, since too much was unwritten.
        on_disconnect: called when the connection has broken.
        on_reconnect: called when it is there again.
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
            """Address of the server, while connected."""
            ...

        @property
        def takes_writes(self) -> bool:
            """Whether a writer may write now: connected, with less than ``TURN`` bytes in this turn, and a transport that flows.

            A writer that finds False waits for ``room``, and what cannot wait may be written all the same.
            """
            ...

        @property
        def unwritten(self) -> int:
            """Bytes that wait for the socket."""
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
        self._allowed = TURN  # bytes that one turn may have; 0 while the transport does not flow, or others wait already
        self._writers: deque[tuple[asyncio.Future[None], int]] = deque()
        self._letting_in = False
        self.on_disconnect.append(self._let_all_in)

    # ---- in

    @abstractmethod
    def listen(self, subject: str, handler: Handler) -> int:
        """Subscribes; returns the number to ``unlisten`` with. Survives reconnects."""

    @abstractmethod
    def unlisten(self, sid: int) -> None:
        """Ends a subscription."""

    @abstractmethod
    def stop_listening(self, sid: int) -> None:
        """Tells the server to send no more. What is on its way is still handed over, until ``unlisten``."""

    # ---- out

    @abstractmethod
    def send(self, subject: str, body: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """Publishes in the order of calls; written at the end of this turn of the event loop.

        Raises:
            BrokerUnavailableError: not connected now; nothing was sent.
            PayloadTooLargeError: body and headers exceed the server's ``max_payload``.
        """

    @abstractmethod
    def ack(self, reply: str) -> None:
        """Tells a consumer that a delivery is done with.

        Raises:
            BrokerUnavailableError: not connected now; it will come again.
        """

    @abstractmethod
    async def close(self) -> None:
        """Closes the connection for good."""

    @abstractmethod
    def abort(self) -> None:
        """Drops what the socket does not take, so that nothing has to wait for it."""

    async def connected(self, timeout: float) -> None:
        """Waits for a connection that broke to be there again.

        Raises:
            BrokerUnavailableError: it did not come back within ``timeout`` seconds.
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
        """Waits until a message of so many bytes may be written. Whoever waits must write it before waiting for anything else.

        It lasts as long as the server takes something. A server that takes nothing answers no ping either, so that the connection breaks.

        Raises:
            BrokerUnavailableError: it broke meanwhile, or there was none for ``timeout`` seconds; nothing was sent.
        """
        if not self.is_connected:
            await self.connected(timeout)
        if self.takes_writes:
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._writers.append((turn, size + AROUND))
        self._allowed = 0  # those that come later queue behind
        if self._flows() and not self._letting_in:
            self._let_in_next_turn()
        await turn
        if not self.is_connected:
            raise BrokerUnavailableError("the connection broke before there was room for the message; nothing was sent")

    def _flows(self) -> bool:
        """Whether the transport takes more."""
        return True

    def _space(self) -> int:
        """Bytes that this turn may still have."""
        return TURN

    def _let_in_next_turn(self) -> None:
        self._letting_in = True
        asyncio.get_running_loop().call_soon(self._let_in)

    def _let_in(self) -> None:
        """Lets in as many writers as there is space for, in order; they have written when this is called the next time."""
        self._letting_in: bool = False
        if not self._flows():
            return  # called again when it does
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
        """The connection has broken: nobody need wait for room on it."""
        self._allowed = TURN
        while self._writers:
            turn, _ = self._writers.popleft()
            if not turn.done():
                turn.set_result(None)

    # ---- staying alive

    def violated(self, text: str) -> None:
        """The server refuses a subject; its words are in lower case."""
        if any(f'"{subject}"'.lower() in text for subject in self.optional):
            log.debug("nats-server says: %s", text)
        else:
            self.last_violation = text
            log.warning("nats-server says: %s", text)
        self.tell(self.on_violation, text)

    def tell(self, callbacks: Iterable[Callable[..., None]], *facts: str) -> None:
        """Calls everybody; one that raises must not end nats-py's reconnecting or reading."""
        for callback in tuple(callbacks):
            try:
                callback(*facts)
            except Exception:
                log.exception("%r failed", callback)
