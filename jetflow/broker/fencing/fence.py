"""The fence between owners: the broker refuses writes of a revoked tenure.

A worker that claims partitions of a task queue has a *tenure* with a new name. Each write of an owner carries the condition that its tenure's
*revocation* is not in that stream: "expect nothing on <namespace>_tenure.<stream>.<queue>.<tenure>…". The next owner stores the revocation first, and
reads afterwards. From then on nothing that the earlier owner has sent changes anything, however late it arrives, and whatever was removed meanwhile.
See docs/design.md, "Ownership".
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from typing import Any, NoReturn, Protocol

from jetflow.broker.transport.lane import Lane, PubAck, StoredMessage, check_ack
from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError
from jetflow.protocol.headers import header_block
from jetflow.protocol.subjects import Names

SPELLINGS = 10
"""Tokens of a revocation's subject that a check can write in two ways. So 1,024 writes of a tenure can be under way in a replicated stream."""
REVOKED_FOR = 30 * 86_400
"""Seconds that a revocation stays. A server drops the connection of a silent client within minutes."""
GUARDED_FOR = 86_400
"""Seconds that the guard of a workflow's first key stays."""
EVERYTHING = 1 << 62
"""A position behind every other, for removals on subjects that are never reused."""
BUSY_PAUSE = 0.002
"""Seconds before a write is sent again that a replicated stream's leader refused because the write before was still under way."""

_EXPECT_NOTHING = "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence:0\r\nNats-Expected-Last-Subject-Sequence-Subject:%s\r\n"
_NUMBER = re.compile(r"\d+$")


class TenureOverError(BrokerError):
    """Raised when an owner acts under a tenure that is over. Nothing was sent, or the answer must not be used."""


class Hold(Protocol):
    """What the fence needs of its tenure.

    Attributes:
        over: whether the tenure is over, for good.
    """

    over: bool

    def check(self) -> None:
        """Raise TenureOverError unless the tenure lasts."""
        ...

    def lose(self, why: str) -> None:
        """End the tenure, for good."""
        ...


def revocation(names: Names, kind: str, queue_token: str, tenure: str) -> str:
    """Return the subject of the message that revokes a tenure in one stream."""
    return names.revocation(kind, queue_token, tenure) + ".0" * SPELLINGS


async def revoke(lane: Lane, names: Names, queue_token: str, tenure: str, *, replicated: bool) -> int:
    """Revoke a tenure in every stream that owners write. Return the revocation's position in the inbox. A repeat changes nothing.

    The leader of a replicated stream checks a write against what is applied. So writes that it proposed together with the revocation may be stored
    behind it. Once another write is acked, all of those are applied too.

    Raises:
        BrokerError: the tenure may not be revoked everywhere. Repeat the call before any read.
    """
    headers = header_block(Nats_TTL=f"{REVOKED_FOR}s")
    subjects = {kind: revocation(names, kind, queue_token, tenure) for kind in names.owned_streams}
    acks = await asyncio.gather(*(lane.publish(subject, b"", headers) for subject in subjects.values()))
    if replicated:
        acks = await asyncio.gather(*(lane.publish(subject, b"", headers) for subject in subjects.values()))
    return next(ack.seq for kind, ack in zip(subjects, acks, strict=True) if kind == "inbox")


class Spellings:
    """The spellings of one revocation's subject in checks, for one stream.

    The leader of a replicated stream refuses a write while another with the same spelling of the check subject is under way. A ``*`` in place of a
    token is another spelling that finds the same message.
    """

    def __init__(self, subject: str) -> None:
        self._stem = subject[: -2 * SPELLINGS]
        self._free = deque(range(1 << SPELLINGS))
        self._blocks: dict[int, bytes] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def take(self) -> int:
        """Return the number of a free spelling. Wait while all are taken."""
        while not self._free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append(turn)
            try:
                await turn
            except asyncio.CancelledError:
                if turn.done() and not turn.cancelled():
                    self._next_turn()
                raise
        return self._free.popleft()

    def give_back(self, number: int) -> None:
        """Free a spelling. It is reused last, since the leader may not have forgotten it."""
        self._free.append(number)
        self._next_turn()

    def _next_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                break

    def block(self, number: int) -> bytes:
        """Return the check with this spelling, as header lines without the empty line at the end."""
        found = self._blocks.get(number)
        if found is None:
            found = self._blocks[number] = (_EXPECT_NOTHING % self.subject(number)).encode()
        return found

    def subject(self, number: int) -> str:
        """Return the check subject with this spelling."""
        return self._stem + "".join(".*" if number >> place & 1 else ".0" for place in range(SPELLINGS))


class FencedLane:
    """A worker's lane under one tenure: the only way from an owner to the broker.

    Once the tenure is over, it sends nothing and raises instead of returning an answer. ``store`` adds the fence.

    Args:
        lane: the worker's connection.
        names: the namespace.
        queue_token: the task queue of the partitions.
        tenure: the tenure's name.
        replicated: whether streams have more than one replica.
        hold: the tenure.

    Attributes:
        under_way: the number of writes without an answer.
        is_in_doubt: whether the outcome of a write is unknown.
    """

    def __init__(self, lane: Lane, names: Names, queue_token: str, tenure: str, *, replicated: bool, hold: Hold) -> None:
        self.wire: Wire = lane.wire
        self.timeout: float = lane.timeout
        self.replicated: bool = replicated
        self.under_way: int = 0
        self.is_in_doubt = False
        self._lane = lane
        self._hold = hold
        subjects = self._subjects = {kind: revocation(names, kind, queue_token, tenure) for kind in names.owned_streams}
        self._blocks = {kind: (_EXPECT_NOTHING % subject).encode() for kind, subject in subjects.items()}
        self._bare = {kind: block + b"\r\n" for kind, block in self._blocks.items()}
        self._spellings: dict[str, Spellings] = {}
        if replicated:
            self._begin_spelling()

    def _begin_spelling(self) -> None:
        self.replicated = True
        self._spellings = {kind: Spellings(subject) for kind, subject in self._subjects.items()}

    def check(self) -> None:
        """Raise TenureOverError unless the tenure lasts."""
        self._hold.check()

    def lose(self, why: str) -> None:
        """End the tenure, for good."""
        self._hold.lose(why)

    # ---- writes

    async def store(self, kind: str, subject: str, body: bytes, fields: bytes = b"") -> PubAck:
        """Store a message in one of the ``owned_streams``, on the condition that the tenure is not revoked there.

        Args:
            kind: the stream, as in ``Names.owned_streams``.
            subject: the subject of the message.
            body: the body of the message.
            fields: further header lines, each with its line end.

        Raises:
            TenureOverError: the tenure is revoked; nothing was stored.
            BrokerUnavailableError: whether it was stored is unknown, which ends the tenure.
            BrokerError: the server refused it.
        """
        if self._spellings:
            return await self._store_replicated(kind, subject, body, fields)
        hold = self._hold
        hold.check()
        if not self._lane.has_room:
            await self.room(len(body))
        self.under_way += 1
        try:
            data, _ = await self._lane.submit(subject, body, self._blocks[kind] + fields + b"\r\n" if fields else self._bare[kind])
            ack = check_ack(data, subject)
        except (ConflictError, BrokerUnavailableError) as error:
            if isinstance(error, ConflictError) and is_busy(error):
                if not self._spellings:
                    self._begin_spelling()  # the streams have got replicas since this worker connected
                return await self._store_replicated(kind, subject, body, fields)
            self._end(error)
        finally:
            self.under_way -= 1
        if hold.over:
            raise TenureOverError(f"the tenure ended before the broker answered for {subject}")
        return ack

    def _end(self, error: BrokerError) -> NoReturn:
        """End the tenure after a refused fence or an unknown outcome, and raise."""
        if isinstance(error, ConflictError):
            self._hold.lose("another worker has taken over")
            raise TenureOverError(str(error)) from error
        self.is_in_doubt: bool = True
        self._hold.lose(f"the outcome of a write is unknown: {error}")
        raise error

    async def room(self, size: int) -> None:
        """Wait until a message of ``size`` bytes may be written. See ``Lane.room``.

        Raises:
            TenureOverError: the tenure ended meanwhile, or there was no connection. Nothing was sent.
        """
        try:
            await self._lane.room(size)
        except BrokerUnavailableError as error:
            self._hold.lose(str(error))
        self._hold.check()

    async def publish(self, subject: str, body: bytes, headers: bytes | None = None) -> PubAck:
        """Store a message with a condition of its own in place of the fence. Errors are those of ``Lane.publish``. An unknown outcome ends the
        tenure.
        """
        self._hold.check()
        if not self._lane.has_room:
            await self.room(len(body))
        self.under_way += 1
        try:
            data, _ = await self._lane.submit(subject, body, headers)
            ack = check_ack(data, subject)
        except BrokerUnavailableError as error:
            self._end(error)
        finally:
            self.under_way -= 1
        self._still()
        return ack

    async def _store_replicated(self, kind: str, subject: str, body: bytes, fields: bytes) -> PubAck:
        spellings = self._spellings[kind]
        while True:
            number = await spellings.take()
            try:
                return await self.publish(subject, body, spellings.block(number) + fields + b"\r\n")
            except ConflictError as error:
                if not is_busy(error):
                    self._end(error)
                await asyncio.sleep(BUSY_PAUSE)
            finally:
                spellings.give_back(number)

    def send(self, kind: str, subject: str, body: bytes, fields: bytes = b"") -> None:
        """Store a message as ``store`` does, without an answer. It may get lost.

        Raises:
            TenureOverError, BrokerUnavailableError: nothing was sent.
        """
        self._hold.check()
        if self._spellings or (self.wire.is_connected and not self.wire.takes_writes):  # a write that the leader refuses as a collision must go again
            asyncio.ensure_future(self.store(kind, subject, body, fields)).add_done_callback(_look_at)
        else:
            self.wire.send(subject, body, headers=self._blocks[kind] + fields + b"\r\n")

    def begin_store(self, kind: str, subject: str, body: bytes, fields: bytes = b"") -> asyncio.Future[Any]:
        """Send a message as ``store`` does, without waiting. Pass the returned answer to ``stored``.

        Raises:
            TenureOverError, BrokerUnavailableError: nothing was sent.
        """
        if self._spellings or (self.wire.is_connected and not self.wire.takes_writes):
            return asyncio.ensure_future(self.store(kind, subject, body, fields))
        self._hold.check()
        answer = self._lane.submit(subject, body, self._blocks[kind] + fields + b"\r\n")
        self.under_way += 1
        return answer

    async def stored(self, answer: asyncio.Future[Any], subject: str) -> PubAck:
        """Return the ack of a message that ``begin_store`` has sent. Errors are those of ``store``."""
        if isinstance(answer, asyncio.Task):
            return await answer  # type: ignore[no-any-return]
        try:
            data, _ = await answer
            ack = check_ack(data, subject)
        except (ConflictError, BrokerUnavailableError) as error:
            self._end(error)
        finally:
            self.under_way -= 1
        self._still()
        return ack

    def block(self, kind: str, spelling: int | None = None) -> bytes:
        """Return the fence as header lines, without the empty line at the end, for callers that send on their own."""
        if spelling is None:
            return self._blocks[kind]
        return self._spellings[kind].block(spelling)

    async def take_spelling(self, kind: str) -> int | None:
        """Return a spelling for a batch of writes, or None if the stream is not replicated and needs no spellings."""
        return await self._spellings[kind].take() if self._spellings else None

    def give_back(self, kind: str, spelling: int | None) -> None:
        """Free a spelling: its writes are answered."""
        if spelling is not None:
            self._spellings[kind].give_back(spelling)

    async def purge(self, stream: str, subject_filter: str, before: int) -> int:
        """Remove the messages of a filter before a position, and return how many. It has no fence, but never touches later messages."""
        if before <= 1:
            return 0
        answer = await self.api(f"STREAM.PURGE.{stream}", {"filter": subject_filter, "seq": before})
        return int(answer.get("purged", 0))

    # ---- the other calls of ``Lane``

    def _still(self) -> None:
        """Raise TenureOverError if the tenure ended before the answer came."""
        if self._hold.over:
            raise TenureOverError("the tenure ended before the answer came")

    def submit(self, subject: str, body: bytes, headers: bytes | None = None, *, many: bool = False, retry: bool = True) -> asyncio.Future[Any]:
        """See ``Lane.submit``."""
        self._hold.check()
        return self._lane.submit(subject, body, headers, many=many, retry=retry)

    async def request(self, subject: str, body: bytes = b"", headers: bytes | None = None) -> tuple[bytes, bytes | None]:
        """See ``Lane.request``."""
        self._hold.check()
        answer = await self._lane.request(subject, body, headers)
        self._still()
        return answer

    async def stream_info(self, stream: str) -> dict[str, Any]:
        """See ``Lane.stream_info``."""
        return await self.api(f"STREAM.INFO.{stream}")  # type: ignore[no-any-return]

    async def delete_message(self, stream: str, seq: int) -> None:
        """See ``Lane.delete_message``."""
        await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})

    async def api(self, operation: str, request: Any = None) -> Any:
        """See ``Lane.api``."""
        self._hold.check()
        answer = await self._lane.api(operation, request)
        self._still()
        return answer

    async def last_message(self, stream: str, subject_filter: str) -> StoredMessage | None:
        """See ``Lane.last_message``."""
        self._hold.check()
        message = await self._lane.last_message(stream, subject_filter)
        self._still()
        return message

    async def message(self, stream: str, seq: int) -> StoredMessage | None:
        """See ``Lane.message``."""
        self._hold.check()
        message = await self._lane.message(stream, seq)
        self._still()
        return message

    async def read_many(self, stream: str, request: dict[str, Any], *, may_lag: str) -> list[StoredMessage]:
        """See ``Lane.read_many``."""
        self._hold.check()
        found = await self._lane.read_many(stream, request, may_lag=may_lag)
        self._still()
        return found

    async def read_last(self, stream: str, subject: str, *, may_lag: str) -> StoredMessage | None:
        """See ``Lane.read_last``."""
        self._hold.check()
        message = await self._lane.read_last(stream, subject, may_lag=may_lag)
        self._still()
        return message

    async def read_data(self, stream: str, subject: str, *, may_lag: str) -> bytes | None:
        """See ``Lane.read_data``."""
        self._hold.check()
        data = await self._lane.read_data(stream, subject, may_lag=may_lag)
        self._still()
        return data

    async def consumers(self, stream: str) -> list[dict[str, Any]]:
        """See ``Lane.consumers``."""
        self._hold.check()
        found = await self._lane.consumers(stream)
        self._still()
        return found

    def message_id(self) -> str:
        """See ``Lane.message_id``."""
        return self._lane.message_id()


def _look_at(answer: asyncio.Future[Any]) -> None:
    """Read the answer's exception, so that asyncio does not warn: no caller awaits it."""
    if not answer.cancelled():
        answer.exception()


def is_busy(error: ConflictError) -> bool:
    """Return whether a refusal only means that a write with the same check subject is under way. Such a refusal names no sequence."""
    return _NUMBER.search(str(error)) is None
