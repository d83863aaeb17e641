"""The fast connection, which uses nats-py's internals. Only this module of jetflow uses them.

nats-py does what it is good at: connecting, TLS, authentication, reconnecting. The handlers of jetflow's own subscriptions get messages as bytes in
the call that reads them, without a queue and a task for each. Jetflow's own publishes are joined and written once in each turn of the event loop.

``usable`` says whether this module works with the installed nats-py. If not, or with ``nats`` in the environment variable ``JETFLOW_PLAIN``,
``jetflow.broker.transport.plain`` makes the connections.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import nats.aio.transport
from nats.aio.client import Client as NatsClient
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError

from jetflow.broker.transport.parser import Parser
from jetflow.broker.transport.wire import TURN, Handler, Wire
from jetflow.core.plain import asked_for
from jetflow.errors import BrokerUnavailableError, PayloadTooLargeError

log: logging.Logger = logging.getLogger("jetflow.broker")

CHECKED_WITH = ("2.16.0",)
"""Versions of nats-py that this module was checked with. ``tests/broker/test_pins.py`` says what to do about another version."""

_ATTRIBUTES = (
    "_max_payload",
    "_pending",
    "_pending_data_size",
    "_pongs",
    "_ps",
    "_server_info",
    "_sid",
    "_status",
    "_subs",
    "_transport",
)
_METHODS = (
    "_attempt_reconnect",
    "_ping_interval",
    "_process_connect_init",
    "_process_err",
    "_process_info",
    "_process_msg",
    "_process_op_err",
    "_process_ping",
    "_process_pong",
    "_read_loop",
)


def missing() -> list[str]:
    """Return the internals that this module uses and that the installed nats-py or asyncio does not have."""
    client = NatsClient()
    gone = [f"nats.aio.client.Client.{name}" for name in _ATTRIBUTES if not hasattr(client, name)]
    gone += [f"nats.aio.client.Client.{name}()" for name in _METHODS if not inspect.iscoroutinefunction(getattr(NatsClient, name, None))]
    transport = nats.aio.transport.TcpTransport()
    gone += [f"nats.aio.transport.TcpTransport.{name}" for name in ("_io_reader", "_io_writer") if not hasattr(transport, name)]
    if "_buffer" not in asyncio.StreamReader.__init__.__code__.co_names:
        gone.append("asyncio.StreamReader._buffer")
    return gone


def usable() -> bool:
    """Return whether this module can make connections here."""
    if asked_for("nats"):
        return False
    installed = version("nats-py")
    if installed in CHECKED_WITH:
        return True
    if installed.split(".")[:2] not in [checked.split(".")[:2] for checked in CHECKED_WITH] or missing():
        log.warning("nats-py %s is not one of %s: jetflow uses only its public calls, which is slower", installed, ", ".join(CHECKED_WITH))
        return False
    return True


class DirectWire(Wire, NatsClient):  # type: ignore[misc]
    """A nats-py client with direct handlers and joined writes.

    Attributes:
        heard: whether the server has sent anything since the last ping.
    """

    def __init__(self) -> None:
        super().__init__()
        self.heard: bool = True
        self._handlers: dict[int, Handler] = {}
        self._ps = Parser(self, self._handlers, self._is_ours)  # type: ignore[assignment]
        self._write_scheduled = False
        self._flowing: asyncio.Task[None] | None = None

    @property
    def server_info(self) -> dict[str, Any]:  # type: ignore[override]
        """The server's description of itself."""
        return self._server_info

    async def close(self) -> None:
        """See ``Wire.close``."""
        if self.is_connected:
            self._write_pending()
        await NatsClient.close(self)

    # ---- in

    def listen(self, subject: str, handler: Handler) -> int:
        """See ``Wire.listen``."""
        self._sid += 1
        sid = self._sid
        self._subs[sid] = _Listening(subject)  # type: ignore[assignment]
        self._handlers[sid] = handler
        if self.is_connected:
            self.write(f"SUB {subject} {sid}\r\n".encode())
        return sid

    def unlisten(self, sid: int) -> None:
        """See ``Wire.unlisten``."""
        self._handlers.pop(sid, None)
        self._subs.pop(sid, None)
        if self.is_connected:
            self.write(b"UNSUB %d\r\n" % sid)

    def stop_listening(self, sid: int) -> None:
        """See ``Wire.stop_listening``."""
        self.write(b"UNSUB %d\r\n" % sid)

    def _is_ours(self, sid: int) -> bool:
        """Whether a subscription is not one of nats-py's: messages may come for a while after ``unlisten``."""
        return sid not in self._subs

    def _read_at_once(self) -> None:
        """Call jetflow's handlers when the bytes of a message come, not a task switch later. Pass everything else to nats-py's reading, and also
        what follows until nats-py has handled it, so that the order stays.
        """
        parser: Parser = self._ps  # type: ignore[assignment]
        reader = getattr(self._transport, "_io_reader", None)
        if type(reader) is not asyncio.StreamReader:  # a web socket
            return
        later: Callable[[bytes], None] = reader.feed_data

        def feed(data: bytes) -> None:
            self.heard = True
            if self.is_connected and not parser.busy and not reader._buffer:  # type: ignore[attr-defined]
                data = parser.take(data)
            if data:
                later(data)

        reader.feed_data = feed  # type: ignore[method-assign]

    # ---- out

    def send(self, subject: str, body: bytes, reply: str = "", headers: bytes | None = None) -> None:
        """See ``Wire.send``."""
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
        """See ``Wire.ack``."""
        self.write(f"PUB {reply} 0\r\n\r\n".encode())

    def write(self, command: bytes) -> None:
        """Add protocol bytes to the write of this turn."""
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
            io: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
            if io is None:
                self._transport.write(b"".join(commands))
            elif not io.is_closing():  # otherwise the connection has just broken, which nats-py notices next
                io.write(b"".join(commands))
                if io.transport.get_write_buffer_size() > TURN and self._flowing is None:
                    self._allowed = 0
                    self._flowing = asyncio.get_running_loop().create_task(self._until_it_flows(io))

    # ---- waiting for room

    @property
    def takes_writes(self) -> bool:
        """See ``Wire.takes_writes``."""
        return self._pending_data_size < self._allowed and self._status == NatsClient.CONNECTED

    @property
    def unwritten(self) -> int:
        """See ``Wire.unwritten``."""
        io: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        return self._pending_data_size + (0 if io is None else io.transport.get_write_buffer_size())

    def _flows(self) -> bool:
        return self._flowing is None

    def _space(self) -> int:
        return TURN - self._pending_data_size

    async def _until_it_flows(self, io: asyncio.StreamWriter) -> None:
        try:
            await io.drain()
        except Exception as error:  # the connection broke, which the read loop notices
            log.debug("waiting for the connection failed: %s", error)
        finally:
            if self._flowing is asyncio.current_task():
                self._flowing = None
                self._let_in_next_turn()

    def _let_all_in(self) -> None:
        self._flowing = None  # it belongs to the broken connection
        super()._let_all_in()

    def abort(self) -> None:
        """See ``Wire.abort``. nats-py would wait for the socket to take the rest, which never happens while the server stands still."""
        io: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if io is not None and io.transport.get_write_buffer_size():
            io.transport.abort()

    # ---- staying alive

    async def _read_loop(self) -> None:
        """Reconnect after an unknown exception: nats-py would stop reading and still look connected."""
        self._read_at_once()
        io: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if io is not None:
            io.transport.set_write_buffer_limits(high=TURN)
        await super()._read_loop()
        task = asyncio.current_task()
        if self.is_connected and task is not None and not task.cancelling():
            await self._process_op_err(NatsError("nats: reading ended"))

    async def _attempt_reconnect(self) -> None:
        self.abort()
        await super()._attempt_reconnect()

    async def _process_pong(self) -> None:
        """Accept the PONG of a cancelled flush, which would end all reading in nats-py."""
        self.heard = True
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()

    async def _process_err(self, err_msg: str) -> None:
        """Reconnect after every error except a permission error. nats-py would close the connection for good."""
        if "permissions violation" in err_msg:
            self.violated(err_msg)
            await super()._process_err(err_msg)
        else:
            log.log(self.outage.level, "nats-server says: %s", err_msg)
            await self._process_op_err(NatsError(f"nats: {err_msg}"))

    async def _process_connect_init(self) -> None:
        """Turn unknown exceptions, such as for a half-written credentials file, into a NatsError: nats-py would silently stop reconnecting."""
        try:
            await super()._process_connect_init()
        except (OSError, NatsError, TimeoutError):
            raise
        except Exception as error:
            raise NatsError(f"nats: {type(error).__name__}: {error}") from error

    async def _ping_interval(self) -> None:
        """Send pings, and reconnect when nothing comes any more. Any message shows that the server lives: a PONG may wait behind other messages."""
        silent, self.heard = 0, True
        while True:
            await asyncio.sleep(self.options["ping_interval"])
            if self._status != NatsClient.CONNECTED:
                continue
            silent, self.heard = 0 if self.heard else silent + 1, False
            if silent > self.options["max_outstanding_pings"]:
                log.log(self.outage.level, "nats-server does not answer")
                await self._process_op_err(StaleConnectionError())
                return
            self._pongs.append(asyncio.get_running_loop().create_future())  # otherwise its PONG would end another caller's flush
            self.write(b"PING\r\n")


class _Listening:
    """A subscription in nats-py's own table: enough to subscribe again after a reconnect, and nothing to close."""

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
        """Do nothing: no task processes the messages."""
