"""Who is alive: heartbeats, and what is made of their absence."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest

from jetflow.broker.stores import membership
from jetflow.broker.stores.membership import DEAD_AFTER, LATE_AFTER, Heart, Member, Members, presence_subject
from jetflow.broker.transport.connection import Broker, open_wire
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerUnavailableError
from tests.broker.conftest import until


def _member(queue: str, worker_id: str, version: int = 0) -> Member:
    return Member(worker_id, queue, "host", 1, 1, ["w"], [], version=version)


def _connect(url: str) -> Callable[[], Awaitable[tuple[Wire, Lane]]]:
    async def connect() -> tuple[Wire, Lane]:
        wire = await open_wire(url, credentials=None, tls=None, name="heart", timeout=5)
        return wire, Lane(wire, timeout=3)

    return connect


class Listener:
    """One worker's view of the others, with a count of its changes."""

    def __init__(self, broker: Broker, queue: str, me: str = "me") -> None:
        self.changes = 0
        self.members = Members(broker.lane, broker.names, queue, me, self._changed)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def alive(self) -> set[str]:
        return set(self.members.alive())

    def age(self, seconds: float) -> None:
        """Everybody was last heard so long ago."""
        at = time.monotonic() - seconds
        self.members._heard = {worker_id: (member, at) for worker_id, (member, _) in self.members._heard.items()}
        self.members._last_look = time.monotonic()


@pytest.fixture
async def listener(broker: Broker, queue: str) -> AsyncIterator[Listener]:
    listener = Listener(broker, queue)
    await listener.members.open()
    yield listener
    listener.members.close()


@pytest.fixture
async def heart(server: LocalServer, broker: Broker, queue: str) -> AsyncIterator[Heart]:
    heart = Heart(_connect(server.url), broker.names, _member(queue, "other"))
    heart.start()
    yield heart
    await heart.stop()


async def _beat(broker: Broker, queue: str, member: Member) -> None:
    """A heartbeat of a worker that is not there."""
    await broker.lane.publish(f"{broker.names.worker_prefix}{queue}.{member.worker_id}", msgspec.json.encode(member))


async def test_a_heartbeat_is_heard_and_is_a_lease(heart: Heart, listener: Listener, broker: Broker, queue: str) -> None:
    assert not Heart(_connect(""), broker.names, _member(queue, "x")).lease.valid
    await until(lambda: listener.alive == {"other"}, "it is heard")
    await until(lambda: heart.lease.valid, "it knows that it was heard")
    assert listener.members.alive()["other"] == _member(queue, "other")


async def test_what_is_told_anew_is_heard(heart: Heart, listener: Listener, queue: str) -> None:
    await until(lambda: listener.alive, "it is heard")
    changes = listener.changes
    heart.tell(_member(queue, "other", version=1))
    await until(lambda: listener.changes > changes, "the change is told")
    assert listener.members.alive()["other"].version == 1


async def test_one_that_leaves_is_gone_at_once_and_its_thread_too(server: LocalServer, listener: Listener, broker: Broker, queue: str) -> None:
    heart = Heart(_connect(server.url), broker.names, _member(queue, "other"))
    heart.start()
    await until(lambda: listener.alive, "it is heard")
    await heart.stop()
    await until(lambda: not listener.alive, "its leaving is heard")
    assert heart._thread is not None
    assert not heart._thread.is_alive()
    later = Listener(broker, queue)
    await later.members.open()
    assert later.alive == set()
    later.members.close()


async def test_one_that_comes_later_knows_who_is_there(heart: Heart, broker: Broker, queue: str) -> None:
    await until(lambda: heart.lease.valid, "it beats")
    later = Listener(broker, queue)
    await later.members.open()
    assert later.alive == {"other"}
    later.members.close()


async def test_the_last_heartbeat_of_a_dead_worker_deceives_nobody(broker: Broker, queue: str) -> None:
    await _beat(broker, queue, _member(queue, "ghost"))
    listener = Listener(broker, queue)
    await listener.members.open()
    assert listener.alive == set()
    listener.members.close()


async def test_a_late_one_that_does_not_answer_is_dropped(listener: Listener, broker: Broker, queue: str) -> None:
    await _beat(broker, queue, _member(queue, "ghost"))
    await until(lambda: listener.alive == {"ghost"}, "it is heard")
    listener.members.look()
    assert not listener.members._asking  # it is not late yet
    listener.age(LATE_AFTER + 0.1)
    listener.members.look()
    await until(lambda: not listener.alive, "nobody answers for it")


async def test_a_late_one_that_answers_is_kept(listener: Listener, broker: Broker, queue: str) -> None:
    asked = asyncio.Event()

    def answer(_s: bytes, reply: bytes, _d: bytes, _h: bytes | None) -> None:
        broker.wire.send(bytes(reply).decode(), b"here")
        asked.set()

    worker_id = f"slow{queue}"
    broker.wire.listen(presence_subject(broker.names, worker_id), answer)
    await _beat(broker, queue, _member(queue, worker_id))
    await until(lambda: listener.alive, "it is heard")
    listener.age(LATE_AFTER + 0.1)
    listener.members.look()
    await asyncio.wait_for(asked.wait(), 10)
    await until(lambda: not listener.members._asking, "the answer is there")
    assert listener.alive == {worker_id}


async def test_one_that_is_silent_for_too_long_is_dropped_even_if_it_would_answer(listener: Listener, broker: Broker, queue: str) -> None:
    await _beat(broker, queue, _member(queue, "hung"))
    await until(lambda: listener.alive, "it is heard")
    listener.age(DEAD_AFTER + 0.1)
    listener.members.look()
    assert listener.alive == set()


async def test_after_a_pause_of_its_own_nobody_is_blamed(listener: Listener, broker: Broker, queue: str) -> None:
    await _beat(broker, queue, _member(queue, "other"))
    await until(lambda: listener.alive, "it is heard")
    listener.age(DEAD_AFTER + 100)
    listener.members._last_look = time.monotonic() - 100
    listener.members.look()
    assert listener.alive == {"other"}
    listener.age(DEAD_AFTER + 100)
    listener.members.forgive()
    listener.members.look()
    assert listener.alive == {"other"}


async def test_what_is_no_heartbeat_is_ignored(listener: Listener, broker: Broker, queue: str) -> None:
    prefix = f"{broker.names.worker_prefix}{queue}."
    for body in (b"no json", b"{}", b""):
        await broker.lane.publish(f"{prefix}strange", body)
    await _beat(broker, queue, _member(queue, "me"))
    await _beat(broker, f"{queue}2", _member(f"{queue}2", "elsewhere"))
    await _beat(broker, queue, _member(queue, "other"))
    await until(lambda: listener.alive, "the right one is heard")
    assert listener.alive == {"other"}
    assert listener.changes == 1


async def test_without_a_server_the_lease_ends_and_comes_back_with_it(own_server: LocalServer, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "DEAD_AFTER", 1.0)
    broker = await Broker.connect(own_server.url)
    heart = Heart(_connect(own_server.url), broker.names, _member(queue, "w"))
    heart.start()
    await until(lambda: heart.lease.valid, "it beats")
    own_server.kill()
    await until(lambda: not heart.lease.valid, "its lease is over")
    await own_server.start()
    ticking = asyncio.create_task(_tick(heart))
    await until(lambda: heart.lease.valid, "it beats again")
    ticking.cancel()
    await heart.stop()
    await broker.close()


async def _tick(heart: Heart) -> None:
    while True:
        heart.tick()
        await asyncio.sleep(0.1)


async def test_a_worker_whose_loop_is_blocked_loses_its_lease(
    heart: Heart, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    await until(lambda: heart.lease.valid, "it beats")
    monkeypatch.setattr(membership, "DEAD_AFTER", 1.0)
    monkeypatch.setattr(membership, "BLOCKED_WARNING", 0.1)
    monkeypatch.setattr(membership, "BLOCKED_LIMIT", 0.2)
    await until(lambda: not heart.lease.valid, "it does not beat without a tick")
    assert "event loop has been blocked" in caplog.text
    ticking = asyncio.create_task(_tick(heart))
    await until(lambda: heart.lease.valid, "it beats again")
    ticking.cancel()


async def test_a_heart_that_finds_no_server_stops_all_the_same(broker: Broker, queue: str) -> None:
    tried = threading.Event()

    async def fail() -> tuple[Wire, Lane]:
        tried.set()
        raise BrokerUnavailableError("no nats-server")

    heart = Heart(fail, broker.names, _member(queue, "w"))
    heart.start()
    await asyncio.to_thread(tried.wait, 10)
    await heart.stop()
    assert not heart.lease.valid
    assert heart._thread is not None
    assert not heart._thread.is_alive()
