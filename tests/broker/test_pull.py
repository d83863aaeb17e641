"""The pull lane: bounded credit, unbroken order, and no trust in a consumer that is in doubt."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jetflow.broker.transport import pull
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.pull import Delivery, PullConsumer, claimed_partitions, delete_consumer
from jetflow.broker.transport.server import LocalServer
from tests.broker.conftest import until


class Taker:
    """A consumer with what came through it."""

    def __init__(self, broker: Broker, queue: str, limit: int = 1_000) -> None:
        self.broker = broker
        self.queue = queue
        self.limit = limit
        self.held: list[Delivery] = []
        self.most = 0
        self.lost: list[str] = []
        self.consumer = PullConsumer(broker.lane, broker.names, f"{queue}-test", room=lambda: self.limit - len(self.held))
        self.consumer.give_to(self._take, self.lost.append)

    def _take(self, delivery: Delivery) -> None:
        self.held.append(delivery)
        self.most = max(self.most, len(self.held))

    async def open(self, partitions: Any = None) -> bool:
        created = await self.consumer.create(partitions if partitions is not None else range(self.broker.topology.partitions), self.queue)
        if created:
            self.consumer.begin()
        return created

    def ack(self, delivery: Delivery) -> None:
        self.broker.wire.send(delivery.reply, b"")

    def ack_all(self) -> None:
        held, self.held[:] = self.held[:], []
        for delivery in held:
            self.ack(delivery)

    async def info(self) -> dict[str, Any]:
        return await self.broker.lane.api(f"CONSUMER.INFO.{self.broker.names.inbox_stream}.{self.consumer.name}")  # type: ignore[no-any-return]

    async def until_info(self, wanted: Callable[[dict[str, Any]], bool], what: str) -> None:
        async with asyncio.timeout(20):
            while not wanted(await self.info()):
                await asyncio.sleep(0.01)
        assert wanted(await self.info()), what

    @property
    def seqs(self) -> list[int]:
        return [delivery.seq for delivery in self.held]


async def _publish(broker: Broker, queue: str, count: int, workflows: int = 10) -> list[int]:
    """Commands for some workflows; their sequences in the inbox."""
    subjects = [broker.names.command(queue, f"w{number % workflows}", "signal.x") for number in range(count)]
    acks = await asyncio.gather(*(broker.lane.publish(subject, b"%d" % number) for number, subject in enumerate(subjects)))
    return [ack.seq for ack in acks]


async def _clean(taker: Taker) -> None:
    """Nothing of the test stays in the shared inbox."""
    await taker.consumer.delete()
    names = taker.broker.names
    await taker.broker.lane.api(f"STREAM.PURGE.{names.inbox_stream}", {"filter": f"{names.namespace}.*.{taker.queue}.>"})


async def test_a_delivery_has_subject_sequence_time_and_body(broker: Broker, queue: str) -> None:
    (seq,) = await _publish(broker, queue, 1)
    taker = Taker(broker, queue)
    assert await taker.open()
    await until(lambda: taker.held, "it comes")
    delivery = taker.held[0]
    tokens = delivery.subject.split(".")
    assert tokens[0] == "jetflow"
    assert tokens[2:] == [queue, "w0", "signal", "x"]
    assert (delivery.seq, bytes(delivery.data), delivery.headers) == (seq, b"0", None)
    stored = await broker.lane.last_message(broker.names.inbox_stream, delivery.subject)
    assert stored is not None
    assert abs(delivery.stored_ms - _ms(stored.time)) <= 1
    await _clean(taker)


def _ms(iso: str) -> int:
    from datetime import datetime

    return int(datetime.fromisoformat(iso[:23] + "+00:00").timestamp() * 1000)


async def test_no_more_comes_than_there_is_room_for(broker: Broker, queue: str) -> None:
    seqs = await _publish(broker, queue, 100)
    taker = Taker(broker, queue, limit=10)
    await taker.open()
    got: list[int] = []
    while len(got) < 100:
        await until(lambda: len(taker.held) == 10, "the room is full")
        assert (await taker.info())["num_ack_pending"] == 10  # the server has not sent more either
        got += taker.seqs
        taker.ack_all()
        taker.consumer.refill()
    assert got == seqs
    assert taker.most == 10
    assert taker.lost == []
    await _clean(taker)


async def test_room_that_shrinks_and_grows_is_kept(broker: Broker, queue: str) -> None:
    taker = Taker(broker, queue, limit=16)
    await taker.open()
    seqs = await _publish(broker, queue, 16)
    await until(lambda: len(taker.held) == 16, "the room is full")
    got = taker.seqs
    taker.limit = 3
    taker.ack_all()
    taker.most = 0
    taker.consumer.refill()
    seqs += await _publish(broker, queue, 30)
    while len(got) < 46:
        await until(lambda: taker.held, "more comes")
        got += taker.seqs
        taker.ack_all()
        taker.consumer.refill()
    assert got == seqs
    assert taker.most <= 16
    await _clean(taker)


async def test_nothing_comes_before_begin_or_after_close(broker: Broker, queue: str) -> None:
    await _publish(broker, queue, 5)
    taker = Taker(broker, queue)
    assert await taker.consumer.create(range(64), queue)
    taker.consumer.refill()
    assert (await taker.info())["num_waiting"] == 0
    taker.consumer.begin()
    await until(lambda: len(taker.held) == 5, "they come")
    taker.consumer.close()
    await _publish(broker, queue, 5)
    await broker.lane.api("INFO")
    assert len(taker.held) == 5
    assert taker.lost == []
    await _clean(taker)


async def test_a_gap_in_the_delivery_sequence_loses_the_consumer(broker: Broker, queue: str) -> None:
    taker = Taker(broker, queue)
    assert await taker.consumer.create(range(64), queue)
    stolen = asyncio.Event()
    broker.wire.listen(f"{queue}.thief", lambda *_: stolen.set())
    broker.wire.send(taker.consumer._next, msgspec.json.encode({"batch": 1}), f"{queue}.thief")
    await _publish(broker, queue, 3)
    await stolen.wait()
    taker.consumer.begin()
    await until(lambda: taker.lost, "the gap is noticed")
    assert taker.lost == ["delivery 2 came where 1 was due"]
    assert taker.held == []
    await _clean(taker)


async def test_a_consumer_deleted_under_it_is_lost_once(broker: Broker, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    await taker.until_info(lambda info: info["num_waiting"] == 1, "it pulls")
    await delete_consumer(broker.lane, broker.names.inbox_stream, taker.consumer.name)
    await until(lambda: taker.lost, "the deletion is noticed")
    assert len(taker.lost) == 1
    assert "deleted" in taker.lost[0].lower()
    taker.consumer.refill()
    await _clean(taker)


async def test_a_consumer_deleted_before_it_pulls_is_lost(broker: Broker, queue: str) -> None:
    taker = Taker(broker, queue)
    assert await taker.consumer.create(range(64), queue)
    await delete_consumer(broker.lane, broker.names.inbox_stream, taker.consumer.name)
    taker.consumer.begin()
    await until(lambda: taker.lost, "nobody answers the pull")
    await _clean(taker)


async def test_a_silent_server_loses_the_consumer(own_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "HEARTBEAT", 1)
    broker = await Broker.connect(own_server.url)
    taker = Taker(broker, "q")
    await taker.open()
    await taker.until_info(lambda info: info["num_waiting"] == 1, "it pulls")
    assert own_server.pid
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        await until(lambda: taker.lost, "the silence is noticed")
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    assert taker.lost == ["no heartbeat"]
    await broker.close()


async def test_overlapping_partitions_are_refused(broker: Broker, queue: str) -> None:
    first, second, third = Taker(broker, queue), Taker(broker, queue), Taker(broker, queue)
    assert await first.open(range(32))
    assert not await second.open(range(31, 64))
    assert await third.open(range(32, 64))
    assert await claimed_partitions(broker.lane, broker.names, queue) == {
        first.consumer.name: frozenset(range(32)),
        third.consumer.name: frozenset(range(32, 64)),
    }
    await first.consumer.delete()
    again = Taker(broker, queue)
    assert await again.open(range(32))
    await again.consumer.delete()
    await _clean(third)
    assert await claimed_partitions(broker.lane, broker.names, queue) == {}


async def test_queues_do_not_overlap(broker: Broker, queue: str) -> None:
    mine, other = Taker(broker, queue), Taker(broker, f"{queue}x")
    assert await mine.open()
    assert await other.open()
    await _publish(broker, queue, 3)
    await until(lambda: len(mine.held) == 3, "mine come to me")
    assert other.held == []
    await _clean(mine)
    await _clean(other)


async def test_one_of_twenty_claims_a_partition(broker: Broker, queue: str) -> None:
    takers = [Taker(broker, queue) for _ in range(20)]
    assert sorted(await asyncio.gather(*(taker.open([7]) for taker in takers))) == [False] * 19 + [True]
    for taker in takers:
        await taker.consumer.delete()


async def test_a_new_consumer_gets_every_unacked_command_in_order(broker: Broker, queue: str) -> None:
    seqs = await _publish(broker, queue, 60)
    first = Taker(broker, queue)
    await first.open()
    await until(lambda: len(first.held) == 60, "all come")
    for delivery in first.held[::3]:
        first.ack(delivery)
    await first.until_info(lambda info: info["num_ack_pending"] == 40, "the acks are in: a deletion would overtake them")
    await first.consumer.delete()
    seqs += await _publish(broker, queue, 20)
    second = Taker(broker, queue)
    await second.open()
    expected = [seq for number, seq in enumerate(seqs) if number >= 60 or number % 3]
    await until(lambda: len(second.held) >= len(expected), "the rest comes")
    assert second.seqs == expected
    assert second.lost == []
    await _clean(second)


async def test_an_expired_pull_is_asked_again(broker: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "SECOND", 20_000_000)  # a pull of 30 "seconds" expires after 0.6
    taker = Taker(broker, queue)
    asked = 0
    send = broker.wire.send

    def count(subject: str, *rest: Any) -> None:
        nonlocal asked
        asked += subject == taker.consumer._next
        send(subject, *rest)

    monkeypatch.setattr(broker.wire, "send", count)
    await taker.open()
    await until(lambda: asked >= 3, "two pulls have expired")
    seqs = await _publish(broker, queue, 5)
    await until(lambda: len(taker.held) == 5, "they come")
    assert taker.seqs == seqs
    assert taker.lost == []
    assert taker.consumer._asked <= taker.limit
    await _clean(taker)


async def test_a_pull_dropped_for_too_many_waiting_loses_the_consumer(broker: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With heartbeats asked for, the server drops such a pull without a word: only the silence tells."""
    monkeypatch.setattr(pull, "HEARTBEAT", 1)
    taker = Taker(broker, queue)
    assert await taker.consumer.create(range(64), queue)
    over: list[bytes] = []
    broker.wire.listen(f"{queue}.other", lambda _s, _r, _d, headers: over.append(headers or b""))
    for _ in range(65):
        broker.wire.send(taker.consumer._next, msgspec.json.encode({"batch": 1, "expires": 60 * pull.SECOND}), f"{queue}.other")
    await until(lambda: any(b"409 Exceeded MaxWaiting" in headers for headers in over), "no more may wait")
    taker.consumer.begin()
    await until(lambda: taker.lost, "the silence is noticed")
    assert taker.lost == ["no heartbeat"]
    await _clean(taker)


async def test_a_refused_pull_gives_its_credit_back_and_is_asked_again(broker: Broker, queue: str) -> None:
    taker = Taker(broker, queue)
    assert await taker.consumer.create(range(64), queue)
    taker.consumer._begun, taker.consumer._asked = True, taker.limit  # a pull that never reached the consumer
    taker.consumer._on_message(taker.consumer._inbox.encode(), b"", b"", b"NATS/1.0 409 Exceeded MaxWaiting\r\n\r\n")
    assert taker.consumer._asked == 0
    seqs = await _publish(broker, queue, 5)
    await until(lambda: len(taker.held) == 5, "they come")
    assert taker.seqs == seqs
    assert taker.lost == []
    await _clean(taker)


@pytest.mark.parametrize(
    "reply",
    [
        "$JS.ACK.JETFLOW.consumer.1.17.1.1700000000123456789.0",
        "$JS.ACK.hub.ACCOUNTHASH.JETFLOW.consumer.1.17.1.1700000000123456789.0",
        "$JS.ACK._.ACCOUNTHASH.JETFLOW.consumer.1.17.1.1700000000123456789.0.token",
    ],
)
async def test_every_form_of_ack_subject_is_understood(broker: Broker, queue: str, reply: str) -> None:
    taker = Taker(broker, queue)
    taker.consumer._on_message(b"jetflow.1.q.w.cancel", reply.encode(), b"", None)
    assert taker.lost == []
    assert [(delivery.seq, delivery.stored_ms, delivery.reply) for delivery in taker.held] == [(17, 1700000000123, reply)]


@pytest.mark.parametrize("flags", ["", "feature_flags { js_ack_fc_v2: true }"])
async def test_a_server_with_a_domain(tmp_path: Path, flags: str) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(f"jetstream {{ domain: hub }}\n{flags}\n")
    async with LocalServer(tmp_path / "store", config=config) as server:
        broker = await Broker.connect(server.url)
        seqs = await _publish(broker, "q", 10)
        taker = Taker(broker, "q", limit=4)
        await taker.open()
        got: list[int] = []
        while len(got) < 10:
            await until(lambda: taker.held, "they come")
            assert not flags or taker.held[0].reply.startswith("$JS.ACK.hub.")
            got += taker.seqs
            taker.ack_all()
            taker.consumer.refill()
        assert got == seqs
        await taker.until_info(lambda info: info["num_ack_pending"] == 0, "the acks are understood")
        await broker.close()


async def test_only_what_came_after_it_and_once_is_a_consumers_own(broker: Broker, queue: str) -> None:
    """Anything else may have been delivered to somebody else before."""
    await _publish(broker, queue, 1)
    first = Taker(broker, queue)
    assert await first.open()
    await _publish(broker, queue, 1)
    await until(lambda: len(first.held) == 2, "both come")
    assert [delivery.only_by for delivery in first.held] == [None, first.consumer]
    broker.wire.send(first.held[1].reply, b"-NAK")
    await until(lambda: len(first.held) == 3, "it comes again")
    assert first.held[2].seq == first.held[1].seq
    assert first.held[2].only_by is None
    await first.consumer.delete()
    second = Taker(broker, queue)
    assert await second.open()
    await until(lambda: len(second.held) == 2, "both come again")
    assert [delivery.only_by for delivery in second.held] == [None, None]
    await _clean(second)
