"""One connection to nats-server, with a short way in and out beside nats-py's.

nats-py keeps what it is good at: connecting, TLS, authentication, reconnecting. Messages for our own subscriptions are handed
over as bytes in the call that brings them, without a queue and a task each; our own publishes are joined and written once
per turn of the event loop. Both rest on nats-py 2.16's internals, which is why its version is pinned.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError

from jetflow.broker.transport.parser import Parser
from jetflow.errors import BrokerUnavailableError, PayloadTooLargeError

log: logging.Logger = logging.getLogger("jetflow.broker")

Handler = Callable[[bytes, bytes, bytes, bytes | None], None]
"""Called with subject, reply, payload and raw header block (None without headers). Must not block."""


class Wire(NatsClient):
    """A nats-py client with direct handlers and joined writes."""

    def __init__(self) -> None:
        super().__init__()
        self.last_violation: str | None = None
        self.on_disconnect: list[Callable[[], None]] = []
        self.on_reconnect: list[Callable[[], None]] = []
        self.on_violation: list[Callable[[str], None]] = []
        self._handlers: dict[int, Handler] = {}
        self._ps = Parser(self, self._on_message)  # type: ignore[assignment]
        self._write_scheduled = False

    # ---- in

    def listen(self, subject: str, handler: Handler) -> int:
        """Subscribes; returns the number to ``unlisten`` with. Survives reconnects."""
        self._sid += 1
        sid = self._sid
        self._subs[sid] = _Listening(subject)  # type: ignore[assignment]
        self._handlers[sid] = handler
        if self.is_connected:
            self.write(f"SUB {subject} {sid}\r\n".encode())
        return sid

    def unlisten(self, sid: int) -> None:
        """Ends a subscription."""
        self._handlers.pop(sid, None)
        self._subs.pop(sid, None)
        if self.is_connected:
            self.write(b"UNSUB %d\r\n" % sid)

    def _on_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> bool:
        handler = self._handlers.get(sid)
        if handler is None:
            return sid not in self._subs
        try:
            handler(subject, reply, data, headers)
        except Exception:  # raised into the reading it would end it
            log.exception("handler of %r failed", subject)
        return True

    def _read_at_once(self) -> None:
        """Has messages for our handlers handed over when their bytes come, not a task switch later. The rest goes on to nats-py's reading,
        and everything after it until that has been seen to, so that the order stays.
        """
        parser: Parser = self._ps  # type: ignore[assignment]
        reader = getattr(self._transport, "_io_reader", None)
        if type(reader) is not asyncio.StreamReader:  # a web socket
            return
        later: Callable[[bytes], None] = reader.feed_data

        def feed(data: bytes) -> None:
            if self.is_connected and not parser.busy and not reader._buffer:  # type: ignore[attr-defined]
                data = parser.take(data)
            if data:
                later(data)

        reader.feed_data = feed  # type: ignore[method-assign]

    # ---- out

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

    def send(self, subject: str, body: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """Publishes in the order of calls; written at the end of this turn of the event loop.

        Raises:
            BrokerUnavailableError: not connected now; nothing was sent.
            PayloadTooLargeError: body and headers exceed the server's ``max_payload``.
        """
        size = len(body)
        if headers is None:
            command = b"%b%b\r\n" % (f"PUB {subject} {reply} {size}\r\n".encode(), body)
        else:
            size += len(headers)
            command = b"%b%b%b\r\n" % (f"HPUB {subject} {reply} {len(headers)} {size}\r\n".encode(), headers, body)
        if size > self._max_payload:
            raise PayloadTooLargeError(f"the message to {subject}", size, self._max_payload)
        self.write(command)

    def ack(self, reply: str) -> None:
        """Tells a consumer that a delivery is done with.

        Raises:
            BrokerUnavailableError: not connected now; it will come again.
        """
        self.write(f"PUB {reply} 0\r\n\r\n".encode())

    def write(self, command: bytes) -> None:
        """Adds protocol bytes to this turn's write."""
        if self._status != NatsClient.CONNECTED:
            raise BrokerUnavailableError("not connected to nats-server; nothing was sent")
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._write_scheduled:
            self._write_scheduled = True
            asyncio.get_running_loop().call_soon(self._write_pending)

    def _write_pending(self) -> None:
        self._write_scheduled = False
        if self._pending and self.is_connected and self._transport is not None:
            commands, self._pending, self._pending_data_size = self._pending, [], 0
            io = getattr(self._transport, "_io_writer", None)
            if io is None or not io.is_closing():  # otherwise it has just broken, which is noticed next
                self._transport.write(b"".join(commands))

    # ---- staying alive

    def tell(self, callbacks: Iterable[Callable[..., None]], *facts: str) -> None:
        """Calls everybody; one that raises must not end nats-py's reconnecting or reading."""
        for callback in tuple(callbacks):
            try:
                callback(*facts)
            except Exception:
                log.exception("%r failed", callback)

    async def _read_loop(self) -> None:
        """nats-py ends reading after an exception it does not know, and goes on looking connected: reconnect instead."""
        self._read_at_once()
        await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and task is not None and not task.cancelling():
            await self._process_op_err(NatsError("nats: reading ended"))

    async def _process_pong(self) -> None:
        """Lets a cancelled flush have its PONG, which in nats-py would end all reading."""
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        """Keeps the connection where nats-py would close it for good: every error but a permission one means reconnecting."""
        if "permissions violation" in err_msg:
            self.last_violation = err_msg
            log.warning("nats-server says: %s", err_msg)
            self.tell(self.on_violation, err_msg)
            await super()._process_err(err_msg)
        else:
            log.warning("nats-server says: %s; reconnecting", err_msg)
            await self._process_op_err(NatsError(f"nats: {err_msg}"))


class _Listening:
    """What nats-py's own book-keeping wants to know of a subscription: enough to subscribe again, and nothing to close."""

    __slots__ = ("_subject",)
    _queue = ""
    _max_msgs = 0
    _received = 0
    _pending_next_msgs_calls = None
    _wait_for_msgs_task = None
    _message_iterator = None
    _closed = False

    def __init__(self, subject: str) -> None:
        self._subject = subject

    def _stop_processing(self) -> None:
        """Nothing is processed elsewhere."""
