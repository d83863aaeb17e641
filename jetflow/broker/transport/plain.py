"""The slow connection, which uses only nats-py's public calls, for versions that ``direct`` was not checked with.

One asyncio task makes the calls in order. Each incoming message costs a task and two queues, so this is several times slower than ``direct``.
Handlers of different subscriptions may get messages in another order than they came.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import ParseResult

import nats.errors
from nats.aio.client import Client as NatsClient
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from jetflow.broker.transport.wire import TURN, Handler, Wire
from jetflow.errors import BrokerUnavailableError, PayloadTooLargeError
from jetflow.protocol.headers import parse_headers

log: logging.Logger = logging.getLogger("jetflow.broker")

REOPEN_PAUSE = 0.25
"""Seconds between tries to connect after nats-py has closed the connection for good."""
FLUSH_TIMEOUT = 10
"""Seconds in which the server must take what was written. After that the connection counts as broken."""
CLOSE_TIMEOUT = 2
"""Seconds to wait for a broken connection to close."""


class PlainWire(Wire):
    """A slower replacement of ``DirectWire``."""

    def __init__(self) -> None:
        super().__init__()
        self._client = NatsClient()
        self._closing = False
        self._handlers: dict[int, tuple[str, Handler]] = {}
        self._subscriptions: dict[int, Subscription] = {}
        self._sid = 0
        self._calls: deque[tuple[int, Callable[..., Awaitable[None]], tuple[Any, ...]]] = deque()
        self._asked = 0  # bytes in calls that are not made yet
        self._since_flush = 0
        self._broken: asyncio.Future[None] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._connecting: tuple[Any, dict[str, Any]] = ([], {})

    # ---- the connection

    async def connect(self, servers: list[str], **options: Any) -> None:
        """Connect as ``nats.aio.client.Client.connect`` does, and stay connected after errors of the server."""
        told = options["error_cb"]

        async def error(problem: Exception) -> None:
            await told(problem)
            text = str(problem).lower()
            if "permissions violation" in text:
                self.violated(text.removeprefix("nats: "))

        self._connecting = servers, options | {"error_cb": error}
        await self._open()

    async def _open(self) -> None:
        client = self._client
        servers, options = self._connecting

        async def closed() -> None:
            if client is self._client and not self._closing:
                self._reopen()

        async def disconnected() -> None:
            if client is self._client:
                self._drop_calls()
                await options["disconnected_cb"]()

        async def reconnected() -> None:
            if client is self._client:
                await options["reconnected_cb"]()

        own: dict[str, Any] = {"closed_cb": closed, "disconnected_cb": disconnected, "reconnected_cb": reconnected}
        await client.connect(servers, **options | own)

    def _reopen(self) -> None:
        """Connect with a new client: nats-py has given up, or waits for a socket that takes nothing."""
        if self._reopening is None or self._reopening.done():
            self._reopening = asyncio.get_running_loop().create_task(self._open_again())

    async def _open_again(self) -> None:
        before, self._client = self._client, NatsClient()
        self._drop_calls()
        self._subscriptions.clear()
        if not before.is_closed:
            self.tell(self.on_disconnect)
            putting_away = asyncio.ensure_future(before.close())
            await asyncio.wait([putting_away], timeout=CLOSE_TIMEOUT)
        while True:
            try:
                await self._open()
                break
            except (OSError, TimeoutError, nats.errors.Error) as problem:
                log.debug("no connection yet: %r", problem)
                if self._client.is_closed:
                    self._client = NatsClient()
            await asyncio.sleep(REOPEN_PAUSE)
        for sid in self._handlers:
            self._call(0, self._subscribe, sid)
        self.tell(self.on_reconnect)

    @property
    def is_connected(self) -> bool:  # type: ignore[override]
        """Whether the connection is up."""
        return self._client.is_connected

    @property
    def is_closed(self) -> bool:  # type: ignore[override]
        """Whether the connection was closed."""
        return self._closing

    @property
    def max_payload(self) -> int:  # type: ignore[override]
        """The most bytes that the server accepts in one message."""
        return self._client.max_payload

    @property
    def last_error(self) -> Exception | None:  # type: ignore[override]
        """The last error."""
        return self._client.last_error

    @property
    def connected_url(self) -> ParseResult | None:
        """See ``Wire.connected_url``."""
        return self._client.connected_url

    @property
    def connected_server_version(self) -> Any:  # type: ignore[override]
        """The server's version."""
        return self._client.connected_server_version

    @property
    def server_info(self) -> dict[str, Any]:  # type: ignore[override]
        """Nothing: nats-py has no public call for the server's description of itself."""
        return {}

    async def close(self) -> None:
        """See ``Wire.close``."""
        if self._reopening is not None:
            self._reopening.cancel()
        while self._worker is not None and self.is_connected:
            await asyncio.wait([self._worker])
        self._closing = True
        if self._client.is_connected or self._client.is_reconnecting:
            await self._client.close()

    def abort(self) -> None:
        """See ``Wire.abort``. What nats-py has of it stays in its task."""
        self._drop_calls()

    # ---- in

    def listen(self, subject: str, handler: Handler) -> int:
        """See ``Wire.listen``."""
        self._sid += 1
        self._handlers[self._sid] = subject, handler
        if self.is_connected:
            self._call(0, self._subscribe, self._sid)
        return self._sid

    def unlisten(self, sid: int) -> None:
        """See ``Wire.unlisten``."""
        self._handlers.pop(sid, None)
        self._call(0, self._unsubscribe, sid)

    def stop_listening(self, sid: int) -> None:
        """See ``Wire.stop_listening``. nats-py drops messages that are on their way, so those tasks come again when their lease ends."""
        self._call(0, self._unsubscribe, sid)

    async def _subscribe(self, sid: int) -> None:
        if sid not in self._handlers or sid in self._subscriptions:
            return
        subject, _ = self._handlers[sid]

        async def on_message(message: Msg) -> None:
            found = self._handlers.get(sid)
            if found is None:
                return
            try:
                found[1](message.subject.encode(), message.reply.encode(), message.data, _block(message.headers))
            except Exception:
                log.exception("handler of %r failed", message.subject)

        self._subscriptions[sid] = await self._client.subscribe(subject, cb=on_message)

    async def _unsubscribe(self, sid: int) -> None:
        subscription = self._subscriptions.pop(sid, None)
        if subscription is not None:
            await subscription.unsubscribe()

    # ---- out

    def send(self, subject: str, body: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """See ``Wire.send``."""
        size = len(body) + (0 if headers is None else len(headers))
        if size > self.max_payload:
            raise PayloadTooLargeError(f"the message to {subject}", size, self.max_payload)
        if not self.is_connected:
            raise BrokerUnavailableError("not connected to nats-server; nothing was sent")
        self._call(size, self._publish, subject, body, reply, headers, size)

    def ack(self, reply: str) -> None:
        """See ``Wire.ack``."""
        self.send(reply, b"")

    async def _publish(self, subject: str, body: bytes, reply: str, headers: bytes | None, size: int) -> None:
        fields = None
        if headers is not None:
            fields = parse_headers(headers)
            fields.pop("", None)
        await self._client.publish(subject, body, reply, headers=fields)
        self._since_flush += size
        if self._since_flush > TURN:
            self._since_flush = 0
            await self._flush()

    async def _flush(self) -> None:
        """Wait until the server takes what was written, or the connection breaks. nats-py alone would go on waiting, and must not be cancelled."""
        flush = asyncio.ensure_future(self._client.flush(FLUSH_TIMEOUT))
        self._broken = asyncio.get_running_loop().create_future()
        await asyncio.wait([flush, self._broken], return_when=asyncio.FIRST_COMPLETED)
        if not flush.done():
            flush.add_done_callback(lambda done: done.exception())
        elif isinstance(flush.exception(), nats.errors.FlushTimeoutError):
            log.warning("nats-server has taken nothing for %d s; reconnecting", FLUSH_TIMEOUT)
            self._reopen()
        elif flush.exception() is not None:
            log.debug("nats: %r", flush.exception())

    def _call(self, size: int, function: Callable[..., Awaitable[None]], *args: Any) -> None:
        self._calls.append((size, function, args))
        self._asked += size
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._make_calls())

    async def _make_calls(self) -> None:
        try:
            while self._calls:
                size, function, args = self._calls.popleft()
                try:
                    await function(*args)
                except (OSError, TimeoutError, nats.errors.Error) as problem:  # waiting callers get an error: the connection broke
                    log.debug("nats: %r", problem)
                except Exception:
                    log.exception("a call to nats-py failed")
                self._asked = max(0, self._asked - size)
        finally:
            self._worker = None

    def _drop_calls(self) -> None:
        """Drop unsent publishes, since the connection broke. Callers that wait for an answer get an error."""
        self._calls = deque(call for call in self._calls if not call[0] and call[1] != self._publish)
        self._asked = self._since_flush = 0
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(None)

    @property
    def takes_writes(self) -> bool:
        """See ``Wire.takes_writes``."""
        return self._asked < self._allowed and self.is_connected

    @property
    def unwritten(self) -> int:
        """See ``Wire.unwritten``."""
        return self._asked + self._since_flush

    def _space(self) -> int:
        return TURN - self._asked


def _block(headers: dict[str, str] | None) -> bytes | None:
    """Return the raw header block that nats-py has parsed."""
    if headers is None:
        return None
    status = " ".join(headers[name] for name in ("Status", "Description") if name in headers)
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if name not in ("Status", "Description"))
    return f"NATS/1.0{' ' if status else ''}{status}\r\n{lines}\r\n".encode()
