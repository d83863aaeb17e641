"""The client's end of a connection to the double."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, NamedTuple
from urllib.parse import ParseResult, urlparse

from jetflow.broker.transport.wire import Handler, Wire
from jetflow.errors import BrokerUnavailableError, PayloadTooLargeError
from jetflow.testing.network import Arrival, Connection, Network
from jetflow.testing.virtual import Process

log: logging.Logger = logging.getLogger("jetflow.testing")

RECONNECT_WAIT = 0.25
PING_EVERY = 5.0
MAX_PINGS = 2


class Version(NamedTuple):
    """The version of the server that the double imitates."""

    major: int = 2
    minor: int = 15
    patch: int = 1


class MemoryWire(Wire):
    """A ``jetflow.broker.transport.wire.Wire`` to a server in memory. ``MemoryServer.connect`` creates it."""

    connected_server_version: Version = Version()  # type: ignore[assignment]
    server_info: dict[str, Any] = {"jetstream": True}  # noqa: RUF012
    last_error: Exception | None = None

    def __init__(self, server: Network, process: Process, loop: Any) -> None:
        super().__init__()
        self.server = server
        self.process = process
        self.loop = loop
        self.connection: Connection | None = None
        self.max_payload: int = server.max_payload
        self.is_connected: bool = False
        self.is_closed: bool = False
        self._subjects: dict[int, str] = {}
        self._handlers: dict[int, Handler] = {}
        self._sid = 0
        self._pending: list[Any] = []
        self._write_scheduled = False
        self._pings = 0
        self._ping: asyncio.TimerHandle | None = None
        self._last_attempt: float | None = None
        self._task: asyncio.Task[None] | None = None
        process.on_death.append(self._died)

    @property
    def connected_url(self) -> ParseResult | None:
        """The address of the server."""
        return urlparse("nats://memory:4222") if self.is_connected else None

    # ---- in

    def listen(self, subject: str, handler: Handler) -> int:
        """See ``Wire.listen``."""
        self._sid += 1
        sid = self._sid
        self._subjects[sid] = subject
        self._handlers[sid] = handler
        if self.is_connected:
            self._write(("SUB", sid, subject))
        return sid

    def unlisten(self, sid: int) -> None:
        """See ``Wire.unlisten``."""
        self._handlers.pop(sid, None)
        self._subjects.pop(sid, None)
        if self.is_connected:
            self._write(("UNSUB", sid, ""))

    def stop_listening(self, sid: int) -> None:
        """See ``Wire.stop_listening``."""
        self._write(("UNSUB", sid, ""))

    def feed(self, connection: Connection, arrivals: list[Arrival]) -> None:
        """Pass each message to its handler in this call, as the real connection does."""
        if connection is not self.connection:
            return
        handlers = self._handlers
        for sid, subject, reply, data, headers in arrivals:
            if not sid:
                self._pings = 0
                continue
            handler = handlers.get(sid)
            if handler is not None:
                try:
                    handler(subject, reply, data, headers)
                except Exception:
                    log.exception("handler of %r failed", subject)

    # ---- out

    def send(self, subject: str, body: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """See ``Wire.send``."""
        size = len(body) + (0 if headers is None else len(headers))
        if size > self.max_payload:
            raise PayloadTooLargeError(f"the message to {subject}", size, self.max_payload)
        self._write((subject, reply, body, headers))

    def ack(self, reply: str) -> None:
        """See ``Wire.ack``."""
        self._write((reply, "", b"", None))

    def _write(self, operation: tuple[Any, ...]) -> None:
        if not self.is_connected:
            raise BrokerUnavailableError("not connected to nats-server; nothing was sent")
        self._pending.append(operation)
        if not self._write_scheduled:
            self._write_scheduled = True
            self.loop.call_soon(self._write_pending)

    def _write_pending(self) -> None:
        self._write_scheduled = False
        if self._pending and self.is_connected and self.connection is not None and not self.process.dead:
            operations, self._pending = self._pending, []
            self.connection.send(operations)

    @property
    def takes_writes(self) -> bool:
        """See ``Wire.takes_writes``."""
        return self.is_connected and len(self._pending) < self._allowed

    @property
    def unwritten(self) -> int:
        """See ``Wire.unwritten``. The double counts messages, not bytes."""
        return len(self._pending)

    def abort(self) -> None:
        """See ``Wire.abort``."""

    # ---- staying alive

    def attach(self, connection: Connection) -> None:
        """Use a new connection: send the subscriptions, then what was unwritten."""
        self.connection = connection
        connection.send([("SUB", sid, subject) for sid, subject in self._subjects.items()])
        pending, self._pending = self._pending, []
        if pending:
            connection.send(pending)
        self.is_connected = True
        self._pings = 0
        self._ping = self.loop.call_later(PING_EVERY, self._send_ping)

    def _send_ping(self) -> None:
        if not self.is_connected or self.connection is None:
            return
        self._pings += 1
        if self._pings > MAX_PINGS:
            connection = self.connection
            connection.give_up(late=True)
            self.broke(connection)
            return
        self.connection.send([("PING", 0, "")])
        self._ping = self.loop.call_later(PING_EVERY, self._send_ping)

    def broke(self, connection: Connection) -> None:
        """Reconnect after the end of the connection, as nats-py does."""
        if connection is not self.connection or not self.is_connected or self.is_closed:
            return
        self.is_connected = False
        if self._ping is not None:
            self._ping.cancel()
        self._task = self.loop.create_task(self._reconnect())

    async def _reconnect(self) -> None:
        await asyncio.sleep(0)
        self.tell(self.on_disconnect)
        world = self.server.world
        while not self.is_closed:
            if self._last_attempt is not None and world.now < self._last_attempt + RECONNECT_WAIT:
                await asyncio.sleep(RECONNECT_WAIT)
            await asyncio.sleep(2 * self.server.latency())
            self._last_attempt = world.now
            if self.server.up and not self.is_closed:
                self.attach(self.server.accept(self))
                await asyncio.sleep(2 * self.server.latency())  # the flush
                if self.is_connected:
                    self.tell(self.on_reconnect)
                return

    def _died(self) -> None:
        if self.connection is not None and not self.connection.lost:
            self.connection.give_up()

    async def close(self) -> None:
        """Write what is pending and close the connection."""
        if self.is_closed or self.process.dead:
            return
        self._write_pending()
        was = self.is_connected
        self.is_closed, self.is_connected = True, False
        if self._ping is not None:
            self._ping.cancel()
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        if self.connection is not None and not self.connection.lost:
            self.connection.give_up(late=True)
        await asyncio.sleep(0)
        if was:
            self.tell(self.on_disconnect)
