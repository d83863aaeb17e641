"""The lane: pipelined requests with their own reply inbox.

Many requests are under way at once. Each has a future that is always resolved: by its answer, by its deadline, or at once when the connection
breaks. A permit is a place in the table of requests under way, so it cannot leak.
"""

from __future__ import annotations

import asyncio
import base64
from collections import deque
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from jetflow.broker.transport.codes import DUPLICATE_IN_PROCESS, NO_LEADER, NO_MESSAGE, WRONG_LAST_SEQUENCE
from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError
from jetflow.protocol import clock
from jetflow.protocol.headers import header_block, parse_headers, status_of
from jetflow.protocol.subjects import inbox

TIMEOUT = 10.0
"""Seconds without an answer after which the outcome of a request counts as unknown."""
MAX_UNDER_WAY = 8192
"""With this many requests under way, writers wait."""
MAX_AT_ALL = 2 * MAX_UNDER_WAY
"""With this many requests under way, the lane refuses those that cannot wait."""
ONCE_WITHIN = 30.0
"""Seconds in which a message id is tried again. They lie well within the inbox's dedupe window."""
RETRY_DELAYS = (0.05, 0.1, 0.25)
"""Seconds between tries while no leader answers (503)."""
_TICK = 0.25


class ApiError(Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(Struct):
    """JetStream's answer to a publish.

    Attributes:
        duplicate: whether the stream has the message id already.
        repeated: whether the message was sent more than once. A server that restarted in between may have stored an earlier copy too.
    """

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    repeated: bool = False
    error: ApiError | None = None


class StoredMessage(NamedTuple):
    """A stored message of a stream. ``time`` is the server's text, ISO 8601."""

    subject: str
    seq: int
    data: bytes
    headers: dict[str, str]
    time: str


class _Slot(Struct):
    """One request under way. ``collected`` has the answers so far, if there may be many."""

    future: Any
    subject: str
    body: bytes
    headers: bytes | None
    deadline: float
    retry: bool
    collected: list[tuple[bytes, bytes | None]] | None
    tries: int = 0


_decode_ack = msgspec.json.Decoder(PubAck).decode


class Lane:
    """Requests over one connection, on the event loop that created the lane. It listens for answers from its creation on."""

    def __init__(self, wire: Wire, timeout: float = TIMEOUT) -> None:
        self.wire = wire
        self.timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._nonce, self._ids = clock.token(8), 0
        self._inbox = inbox(f"{self._nonce}.")
        self._token_at = len(self._inbox)
        self._slots: dict[str, _Slot] = {}  # in the order of their deadlines
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._count = 0
        self._ticker: asyncio.TimerHandle | None = None
        wire.listen(self._inbox + "*", self._on_reply)
        wire.on_disconnect.append(self._on_disconnect)
        wire.on_violation.append(self._on_violation)

    @property
    def under_way(self) -> int:
        """The number of requests that wait for their answer."""
        return len(self._slots)

    @property
    def has_room(self) -> bool:
        """Whether a request may be sent now. If not, ``room`` waits until it may."""
        return self.wire.takes_writes and len(self._slots) < MAX_UNDER_WAY

    def submit(self, subject: str, body: bytes, headers: bytes | None = None, *, many: bool = False, retry: bool = True) -> asyncio.Future[Any]:
        """Send a request. The future gives ``(payload, headers)``, or with ``many`` the list of them up to the end marker.
        Without ``retry``, "no responders" (status 503) is an answer like any other.

        It does not wait for room: see ``ask``, and ``begin``.

        Raises:
            BrokerUnavailableError: at once if not connected or with ``MAX_AT_ALL`` under way, or from the future if the outcome is unknown.
        """
        if len(self._slots) >= MAX_AT_ALL:
            raise BrokerUnavailableError(f"{len(self._slots):,} requests wait for an answer; nothing was sent")
        self._count += 1
        token = str(self._count)
        try:
            self.wire.send(subject, body, self._inbox + token, headers)
        except Exception:  # the place stays free for the next waiting writer
            self._next_turn()
            raise
        future: asyncio.Future[Any] = self._loop.create_future()
        self._slots[token] = _Slot(future, subject, body, headers, clock.monotonic() + self.timeout, retry, [] if many else None)
        if self._ticker is None:
            self._ticker = self._loop.call_later(_TICK, self._tick)
        return future

    async def request(self, subject: str, body: bytes = b"", headers: bytes | None = None) -> tuple[bytes, bytes | None]:
        """Send a request and return its answer. Wait first for a connection and for room.

        Raises:
            BrokerUnavailableError: there was no connection within the timeout, so nothing was sent, or the outcome is unknown.
        """
        if not self.wire.takes_writes or len(self._slots) >= MAX_UNDER_WAY:
            await self.room(len(body))
        return await self.submit(subject, body, headers)  # type: ignore[no-any-return]

    async def ask(self, subject: str, body: bytes, headers: bytes | None = None, *, many: bool = False, retry: bool = True) -> Any:
        """Like ``submit``, but wait first for room. Errors are those of ``submit``, at once if not connected."""
        if not self.has_room and self.wire.is_connected:
            await self.room(len(body))
        return await self.submit(subject, body, headers, many=many, retry=retry)

    def begin(self, subject: str, body: bytes, headers: bytes | None = None, *, retry: bool = True) -> asyncio.Future[Any]:
        """Like ``submit``, for several requests at once. A request without room waits in an asyncio task of its own.

        Raises:
            BrokerUnavailableError: at once if not connected, or from the future if the outcome is unknown.
        """
        if self.has_room or not self.wire.is_connected:
            return self.submit(subject, body, headers, retry=retry)
        return asyncio.ensure_future(self.ask(subject, body, headers, retry=retry))

    async def room(self, size: int) -> None:
        """Wait until a request of ``size`` bytes may be sent. The caller must send it before it awaits anything else.

        Raises:
            BrokerUnavailableError: there was no connection within the timeout. Nothing was sent.
        """
        if not self.wire.takes_writes:
            await self.wire.room(size, self.timeout)
        while len(self._slots) >= MAX_UNDER_WAY:
            await self._slot()
            if self.wire.is_connected and not self.wire.takes_writes:
                try:
                    await self.wire.room(size, self.timeout)
                except BaseException:  # the place goes to the next waiting writer
                    self._next_turn()
                    raise

    async def _slot(self) -> None:
        """Wait for a place in the table."""
        while len(self._slots) >= MAX_UNDER_WAY:
            turn: asyncio.Future[None] = self._loop.create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next_turn()
                raise

    async def publish(self, subject: str, body: bytes, headers: bytes | None = None) -> PubAck:
        """Store a message. Wait first for a connection and for room.

        Raises:
            ConflictError: its condition does not hold.
            BrokerUnavailableError: whether it was stored is unknown.
            BrokerError: the server refused it.
        """
        if not self.wire.takes_writes or len(self._slots) >= MAX_UNDER_WAY:
            await self.room(len(body))
        data, _ = await self.submit(subject, body, headers)
        return check_ack(data, subject)

    def message_id(self) -> str:
        """Return an id that no other message has."""
        self._ids += 1
        return f"{self._nonce}-{self._ids}"

    async def publish_once(
        self, subject: str, body: bytes, message_id: str, *, at_first: str = "", expect_none_of: str = "", **headers: str
    ) -> PubAck:
        """Store a message once. Try again while the outcome is unknown: the broker drops repeats of a message id.

        Args:
            subject, body: the message.
            message_id: the message id.
            at_first: the name of a header, with the value 1, that only the first attempt has.
            expect_none_of: a subject filter; the message is refused while a message of that filter is stored.
            headers: further headers; ``_`` in a name stands for ``-``.

        Raises:
            ConflictError, BrokerError: as for ``publish``.
            BrokerUnavailableError: the outcome is still unknown after ``ONCE_WITHIN``.
        """
        if expect_none_of:
            headers |= {"Nats_Expected_Last_Subject_Sequence": "0", "Nats_Expected_Last_Subject_Sequence_Subject": expect_none_of}
        block = header_block(Nats_Msg_Id=message_id, **headers, **({at_first: "1"} if at_first else {}))
        deadline, repeated = clock.monotonic() + ONCE_WITHIN, False
        while True:
            try:
                ack = await self.publish(subject, body, block)
                ack.repeated = repeated and not ack.duplicate
                return ack
            except ConflictError as conflict:
                own = await self._own(conflict.stream, expect_none_of or subject, message_id) if repeated else None
                if own is None:
                    raise
                return own
            except BrokerUnavailableError:
                if clock.monotonic() + self.timeout > deadline:
                    raise
            except BrokerError as error:
                if error.err_code != DUPLICATE_IN_PROCESS or clock.monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_DELAYS[0])
            repeated, block = True, header_block(Nats_Msg_Id=message_id, **headers)

    async def _own(self, stream: str, subject: str, message_id: str) -> PubAck | None:
        """Return the ack of this message's first copy, if that is why a repeat was refused: one server checks the condition before the id."""
        found = await self.last_message(stream, subject)
        if found is None or found.headers.get("Nats-Msg-Id") != message_id:
            return None
        return PubAck(stream=stream, seq=found.seq, duplicate=True)

    async def api(self, operation: str, request: Any = None) -> Any:
        """Make a JetStream API call, ``$JS.API.<operation>``, and return the answer as plain JSON types.

        Raises:
            BrokerError: the server refused it. It has the server's words, and ``err_code``.
        """
        body, deadline = b"" if request is None else msgspec.json.encode(request), clock.monotonic() + self.timeout
        while True:
            data, headers = await self.request(f"$JS.API.{operation}", body)
            if status_of(headers):
                raise api_error(operation, {"description": parse_headers(headers)[""]})
            answer = msgspec.json.decode(data)
            error = answer.get("error")
            if not error:
                return answer
            if error.get("err_code") != NO_LEADER or clock.monotonic() > deadline:
                raise api_error(operation, error)
            await asyncio.sleep(RETRY_DELAYS[-1])  # the cluster elects a leader; nothing was done

    async def stream_info(self, stream: str) -> dict[str, Any]:
        """Return the server's description of a stream."""
        return await self.api(f"STREAM.INFO.{stream}")  # type: ignore[no-any-return]

    async def delete_message(self, stream: str, seq: int) -> None:
        """Remove the message at a position.

        Raises:
            BrokerError: the message is not there, or may not be removed.
        """
        await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})

    async def consumer_info(self, stream: str, name: str) -> dict[str, Any]:
        """Return the server's description of a consumer."""
        return await self.api(f"CONSUMER.INFO.{stream}.{name}")  # type: ignore[no-any-return]

    async def consumers(self, stream: str) -> list[dict[str, Any]]:
        """Return the server's descriptions of every consumer of a stream."""
        found: list[dict[str, Any]] = []
        while True:
            page = await self.api(f"CONSUMER.LIST.{stream}", {"offset": len(found)})
            consumers = page.get("consumers") or []
            found += consumers
            if not consumers or len(found) >= page.get("total", 0):
                return found

    async def last_message(self, stream: str, subject_filter: str) -> StoredMessage | None:
        """Return the newest message of a subject filter from the stream's leader, so never stale, or None."""
        return await self._stored(stream, {"last_by_subj": subject_filter})

    async def next_message(self, stream: str, subject_filter: str) -> StoredMessage | None:
        """Return the oldest message of a subject filter from the stream's leader, or None."""
        return await self._stored(stream, {"seq": 1, "next_by_subj": subject_filter})

    async def message(self, stream: str, seq: int) -> StoredMessage | None:
        """Return the message at a position from the stream's leader, or None if it is gone."""
        return await self._stored(stream, {"seq": seq})

    async def _stored(self, stream: str, request: dict[str, Any]) -> StoredMessage | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", request)
        except BrokerError as error:
            if error.err_code == NO_MESSAGE:
                return None
            raise
        message = answer["message"]
        headers = parse_headers(base64.b64decode(message["hdrs"])) if message.get("hdrs") else {}
        data = base64.b64decode(message.get("data") or "")
        return StoredMessage(message["subject"], message["seq"], data, headers, message["time"])

    async def read_many(self, stream: str, request: dict[str, Any], *, may_lag: str) -> list[StoredMessage]:
        """Return the messages of a batched direct get. A follower that lags may answer.

        Args:
            stream: the stream.
            request: the request in the server's format.
            may_lag: why a stale answer does no harm at this call; see ``jetflow.broker.fencing.fresh``.

        Raises:
            BrokerError: the server refused it, for example because it asks for too much at once.
        """
        found: list[StoredMessage] = []
        while True:
            parts = await self.ask(f"$JS.API.DIRECT.GET.{stream}", msgspec.json.encode(request), many=True)
            fields: dict[str, str] = {}
            for data, headers in parts:
                fields = parse_headers(headers)
                if "Nats-Subject" in fields:
                    found.append(StoredMessage(fields["Nats-Subject"], int(fields["Nats-Sequence"]), data, fields, fields.get("Nats-Time-Stamp", "")))
                elif status_of(headers) not in (204, 404):
                    raise BrokerError(f"reading {stream}: {fields['']}")
            if "multi_last" not in request or fields.get("Nats-Num-Pending", "0") == "0" or len(parts) == 1:
                return found
            request = {**request, "seq": found[-1].seq + 1, "up_to_seq": int(fields["Nats-UpTo-Sequence"])}  # the server cuts answers at 64 MiB

    async def read_data(self, stream: str, subject: str, *, may_lag: str) -> bytes | None:
        """Return the last payload of one subject by direct get, or None. Like ``read_last``, without the rest of the message."""
        data, headers = await self.request(f"$JS.API.DIRECT.GET.{stream}.{subject}")
        status = status_of(headers)
        if status and status != 404:
            raise BrokerUnavailableError(f"reading {subject}: {parse_headers(headers)['']}")
        return None if status else data

    async def read_last(self, stream: str, subject: str, *, may_lag: str) -> StoredMessage | None:
        """Return the last message of one subject by direct get, or None. A follower that lags may answer. ``may_lag`` is as in ``read_many``."""
        data, headers = await self.request(f"$JS.API.DIRECT.GET.{stream}.{subject}")
        if status_of(headers) == 404:
            return None
        if status_of(headers):
            raise BrokerUnavailableError(f"reading {subject}: {parse_headers(headers)['']}")
        fields = parse_headers(headers)
        return StoredMessage(subject, int(fields["Nats-Sequence"]), data, fields, fields.get("Nats-Time-Stamp", ""))

    # ---- answers

    def _on_reply(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        token = subject[self._token_at :].decode()
        slot = self._slots.get(token)
        if slot is None:
            return
        if headers is None and slot.collected is None:  # an ack, as most answers are
            del self._slots[token]
            if not slot.future.done():
                slot.future.set_result((data, None))
            if self._waiting:
                self._next_turn()
        elif slot.retry and status_of(headers) == 503 and not data:
            self._retry(token, slot)
        elif slot.collected is None:
            self._settle(token, (data, headers))
        elif status_of(headers):
            slot.collected.append((data, headers))
            self._settle(token, slot.collected)
        else:
            slot.collected.append((data, headers))

    def _retry(self, token: str, slot: _Slot) -> None:
        delay = RETRY_DELAYS[min(slot.tries, len(RETRY_DELAYS) - 1)]
        slot.tries += 1
        if clock.monotonic() + delay > slot.deadline or slot.tries > 12:
            self._settle(token, BrokerUnavailableError(f"no responder on {slot.subject}; is JetStream on, and does the stream exist?"))
            return
        self._loop.call_later(delay, self._send_again, token, slot)

    def _send_again(self, token: str, slot: _Slot) -> None:
        if self._slots.get(token) is slot:
            try:
                self.wire.send(slot.subject, slot.body, self._inbox + token, slot.headers)
            except BrokerError as error:
                self._settle(token, error)

    def _settle(self, token: str, outcome: Any) -> None:
        slot = self._slots.pop(token, None)
        if slot is None:
            return
        if not slot.future.done():
            if isinstance(outcome, BaseException):
                slot.future.set_exception(outcome)
            else:
                slot.future.set_result(outcome)
        self._next_turn()

    def _next_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break

    def _tick(self) -> None:
        self._ticker = None
        now = clock.monotonic()
        late = list(takewhile(lambda item: item[1].deadline <= now, self._slots.items()))
        hint = f" (the server refused something: {self.wire.last_violation})" if self.wire.last_violation else ""
        for token, slot in late:
            self._settle(token, BrokerUnavailableError(f"no answer on {slot.subject} within {self.timeout:g} s{hint}"))
        if self._slots:
            self._ticker = self._loop.call_later(_TICK, self._tick)

    def _on_violation(self, text: str) -> None:
        """Resolve requests that the server does not allow to be sent or answered, before their deadline. ``text`` is in lower case."""
        unheard = f'subscription to "{self._inbox}'.lower() in text
        for token, slot in list(self._slots.items()):
            if unheard or f'"{slot.subject}"'.lower() in text:
                self._settle(token, BrokerError(f"this user may not use {slot.subject}: {text}"))

    def _on_disconnect(self) -> None:
        for token, slot in list(self._slots.items()):
            self._settle(token, BrokerUnavailableError(f"the connection broke while {slot.subject} was under way"))


def check_ack(data: bytes, subject: str) -> PubAck:
    """Return the ack of a publish, or raise its error.

    Raises:
        ConflictError, BrokerError: see ``Lane.publish``.
    """
    ack = _decode_ack(data)
    if ack.error is None:
        return ack
    if ack.error.err_code in WRONG_LAST_SEQUENCE:
        conflict = ConflictError(f"{subject}: {ack.error.description}")
        conflict.stream = ack.stream
        raise conflict
    raise api_error(subject, msgspec.to_builtins(ack.error))


def api_error(what: str, error: dict[str, Any]) -> BrokerError:
    """Return a server's refusal as an exception with ``err_code``."""
    failure = BrokerError(f"{what}: {error.get('description', 'refused')}")
    failure.err_code = error.get("err_code", 0)
    return failure
