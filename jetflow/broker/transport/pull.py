"""The pull consumer: one consumer over a worker's partitions, with limited credit.

After a reconnect, missed heartbeats, or a gap in the delivery sequence, the owner creates a new consumer. It gets every un-acked command again, in
order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from jetflow.broker.transport.codes import CONSUMER_NOT_FOUND, FILTERS_OVERLAP
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.headers import parse_headers, status_of
from jetflow.protocol.subjects import Names, inbox

log: logging.Logger = logging.getLogger("jetflow.broker")

SECOND = 1_000_000_000
ACK_WAIT = 24 * 3600 * SECOND
"""A new consumer redelivers commands. The ack wait never does, so it is long."""
INACTIVE_THRESHOLD = 60 * SECOND
HEARTBEAT = 5
EXPIRES = 30


class Delivery:
    """One delivered command.

    Attributes:
        subject: the stored subject: namespace, partition, queue token, id token, command and the rest.
        seq: its position in the inbox.
        stored_ms: when the broker stored it, ms since the epoch.
        reply: its ack subject.
        only_by: the consumer of partitions, if no other consumer can have delivered the command before; otherwise None.
    """

    __slots__ = ("data", "headers", "only_by", "reply", "seq", "stored_ms", "subject")

    def __init__(
        self, subject: str, reply: str, data: bytes, headers: bytes | None, seq: int, stored_ms: int, only_by: PullConsumer | None = None
    ) -> None:
        self.subject: str = subject
        self.reply: str = reply
        self.data: bytes = data
        self.headers: bytes | None = headers
        self.seq: int = seq
        self.stored_ms: int = stored_ms
        self.only_by: PullConsumer | None = only_by


class PullConsumer:
    """One consumer from its creation to its end.

    Args:
        lane: the connection; acks go over it too.
        names: the namespace.
        owner: a name that the server's consumer list shows.
        room: returns how many more commands may come.
        stream: the stream; the inbox if not given.

    Attributes:
        name: the consumer's name, never reused.
        born_at: the inbox's last position after the creation. While the consumer lasts, no other can deliver later commands.
        origin: the server's description of the stream at that time.
    """

    def __init__(
        self,
        lane: Lane,
        names: Names,
        owner: str,
        *,
        room: Callable[[], int],
        stream: str | None = None,
    ) -> None:
        self.name: str = f"{owner}-{clock.token(4)}"
        self._stream = stream or names.inbox_stream
        self.partitions: frozenset[int] = frozenset()
        self._lane = lane
        self._names = names
        self._room = room
        self._on_delivery: Callable[[Delivery], None] = _nobody
        self._on_lost: Callable[[str], None] = _nobody
        self._inbox = inbox(f"pull.{clock.token(8)}")
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self.name}"
        self._sids: list[int] = []
        self._asked = 0
        self._expected = 1
        self._heard = 0.0
        self._ticker: asyncio.TimerHandle | None = None
        self._lost = False
        self._begun = False
        self.born_at: int = 1 << 62
        self.origin: dict[str, Any] = {}

    async def create(self, partitions: Iterable[int], queue_token: str) -> bool:
        """Create the consumer, which claims its partitions. Return False if another consumer has one of them."""
        self.partitions = frozenset(partitions)
        created = await self.create_over([self._names.partition_filter(partition, queue_token) for partition in sorted(self.partitions)])
        if created:
            self.origin = await self._lane.stream_info(self._stream)
            self.born_at = self.origin["state"]["last_seq"]
        return created

    async def create_over(self, filters: list[str]) -> bool:
        """Create the consumer, which claims these subjects. Return False if another consumer has one of them."""
        stream = self._stream
        config = {
            "name": self.name,
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": ACK_WAIT,
            "max_deliver": -1,
            "max_ack_pending": -1,
            "max_waiting": 64,
            "mem_storage": True,
            "inactive_threshold": INACTIVE_THRESHOLD,
            "filter_subjects": filters,
        }
        wire, paused = self._lane.wire, f"$JS.EVENT.ADVISORY.CONSUMER.PAUSE.{stream}.{self.name}"
        wire.optional.add(paused)
        self._sids = [wire.listen(self._inbox, self._on_message), wire.listen(paused, self._on_pause)]
        try:
            await self._lane.api(f"CONSUMER.CREATE.{stream}.{self.name}", {"stream_name": stream, "config": config, "action": "create"})
        except BrokerError as error:
            self.close()
            if error.err_code == FILTERS_OVERLAP:
                return False
            raise
        return True

    def give_to(self, on_delivery: Callable[[Delivery], None], on_lost: Callable[[str], None]) -> None:
        """Set the callback for every command, in order, and the one that is called once with the reason when commands may be missing."""
        self._on_delivery, self._on_lost = on_delivery, on_lost

    def begin(self) -> None:
        """Begin to pull."""
        if not self._lost:
            self._heard = clock.monotonic()
            self._begun = True
            self._ticker = asyncio.get_running_loop().call_later(HEARTBEAT, self._tick)
            self.refill()

    def refill(self) -> None:
        """Ask for as many more commands as there is room for, once half of the credit is used."""
        if self._lost or not self._begun:
            return
        wanted = self._room()
        if wanted <= 0 or self._asked * 2 > wanted:
            return
        request = {"batch": wanted - self._asked, "expires": EXPIRES * SECOND, "idle_heartbeat": HEARTBEAT * SECOND}
        try:
            self._lane.wire.send(self._next, msgspec.json.encode(request), self._inbox)
        except BrokerError:
            self._lose("not connected")
            return
        self._asked = wanted

    def close(self) -> None:
        """Stop listening. Nothing more is delivered."""
        self._lost = True
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None
        for sid in self._sids:
            try:
                self._lane.wire.unlisten(sid)
            except BrokerError:
                log.debug("not connected while closing consumer %s", self.name)
        self._sids = []

    async def delete(self) -> None:
        """Stop listening and delete the consumer, which frees its partitions."""
        self.close()
        await delete_consumer(self._lane, self._stream, self.name)

    # ---- messages

    def _on_message(self, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if self._lost:
            return
        self._heard = clock.monotonic()
        status = status_of(headers)
        if status:
            self._on_status(status, headers)
            return
        tokens = reply.split(b".")
        # $JS.ACK.stream.consumer.delivered.sseq.cseq.time.pending, or with domain and account after ACK
        at = 4 if len(tokens) == 9 else 6
        if int(tokens[at + 2]) != self._expected:
            self._lose(f"delivery {int(tokens[at + 2])} came where {self._expected} was due")
            return
        self._expected += 1
        self._asked -= 1
        seq = int(tokens[at + 1])
        only_by = self if seq > self.born_at and tokens[at] == b"1" else None  # only this consumer can have got it
        self._on_delivery(Delivery(subject.decode(errors="replace"), reply.decode(), data, headers, seq, int(tokens[at + 3]) // 1_000_000, only_by))
        self.refill()

    def _on_status(self, status: int, headers: bytes | None) -> None:
        if status == 100:
            self.refill()
            return
        fields = parse_headers(headers)
        text = fields[""]
        if status == 503 or (status == 409 and "deleted" in text.lower()) or (status == 409 and "leadership" in text.lower()):
            self._lose(text or "no responders")
            return
        self._asked = max(0, self._asked - int(fields.get("Nats-Pending-Messages", self._asked)))
        if status in (404, 408):
            self.refill()
        else:
            level = logging.DEBUG if "shutdown" in text.lower() else logging.WARNING  # the connection logs that the server stops
            log.log(level, "consumer %s got no messages: %s", self.name, text)
            asyncio.get_running_loop().call_later(1, self.refill)

    def _on_pause(self, _subject: bytes, _reply: bytes, data: bytes, _headers: bytes | None) -> None:
        """Replace a paused consumer: it sends heartbeats but no messages."""
        if msgspec.json.decode(data).get("paused"):
            log.warning("consumer %s of stream %s was paused, so this worker replaces it. To stop work, stop the workers", self.name, self._stream)
            self._lose("it was paused")

    def _tick(self) -> None:
        self._ticker = asyncio.get_running_loop().call_later(HEARTBEAT, self._tick)
        if self._asked and clock.monotonic() - self._heard > 2.5 * HEARTBEAT:
            self._lose("no heartbeat")
        else:
            self.refill()

    def _lose(self, why: str) -> None:
        if not self._lost:
            self.close()
            self._on_lost(why)


def _nobody(_: object) -> None:
    """Do nothing: no callback is set yet."""


async def delete_consumer(lane: Lane, stream: str, name: str) -> None:
    """Delete a consumer. It may be gone already."""
    try:
        await lane.api(f"CONSUMER.DELETE.{stream}.{name}")
    except BrokerError as error:
        if error.err_code != CONSUMER_NOT_FOUND:
            raise


async def claimed_partitions(lane: Lane, names: Names, queue_token: str) -> dict[str, frozenset[int]]:
    """Return the partitions of a task queue by the consumer that has them."""
    claimed: dict[str, frozenset[int]] = {}
    for consumer in await lane.consumers(names.inbox_stream):
        config = consumer["config"]
        filters = config.get("filter_subjects") or [config.get("filter_subject", "")]
        parts = [subject.split(".") for subject in filters]
        mine = [int(part[1]) for part in parts if len(part) == 4 and part[2] == queue_token and part[1].isdigit()]
        if mine:
            claimed[consumer["name"]] = frozenset(mine)
    return claimed
