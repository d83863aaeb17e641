"""A server that takes little slows writers down: what is unwritten stays below its limit, and all of it arrives in the end."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.transport import lane as lane_module
from jetflow.broker.transport.connection import Broker, open_wire
from jetflow.broker.transport.direct import DirectWire
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.plain import PlainWire
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.wire import MAX_UNWRITTEN, Wire
from jetflow.engine.calls.answering import send
from jetflow.errors import BrokerUnavailableError
from jetflow.protocol.answers import Answer
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane
from tests.chaos.proxy import Proxy, proxy

BIG = b"x" * 100_000
IN_SOCKETS = 16 * 1024 * 1024
"""More than the sockets between a client and a proxy that reads nothing hold."""
KINDS = ["direct", "plain"]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both kinds of connection."""
    monkeypatch.setenv("JETFLOW_PLAIN", "nats" if request.param == "plain" else "")
    return request.param


@pytest.fixture
async def throttle(server: LocalServer) -> AsyncIterator[Proxy]:
    """Stands between the client and the shared server, and does not read while it is told to wait."""
    async with proxy(int(server.url.rpartition(":")[2]), ahead=64 * 1024) as throttle:
        yield throttle


@pytest.fixture
async def slow(kind: str, server: LocalServer, broker: Broker, throttle: Proxy, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broker]:
    """A connection through it, which is not given up while the server is silent."""
    monkeypatch.setattr("jetflow.broker.transport.connection.PING_EVERY", 5)
    slow = await Broker.connect(throttle.url)
    assert type(slow.wire) is (PlainWire if kind == "plain" else DirectWire)
    yield slow
    throttle.release()
    await slow.close()


class Watch:
    """The most that was ever unwritten."""

    def __init__(self, wire: Wire) -> None:
        self.most = 0
        self._wire = wire
        send, write = wire.send, getattr(wire, "_write_pending", None)

        def watched(*args: Any, **named: Any) -> None:
            send(*args, **named)
            self.look()

        def written() -> None:
            write()
            self.look()

        wire.send = watched  # type: ignore[method-assign]
        if write is not None:
            wire._write_pending = written  # type: ignore[attr-defined]

    def look(self) -> None:
        self.most = max(self.most, self._wire.unwritten)


async def _stuck(wire: Wire) -> None:
    """Returns once writers wait."""
    await until(lambda: not wire.takes_writes, "the limit is reached")
    await asyncio.sleep(0.2)
    assert not wire.takes_writes


def _writers(broker: Broker, queue: str) -> dict[str, Callable[[int], Awaitable[object]]]:
    prefix = f"{broker.names.timeline_prefix}{queue}"
    lane = OwnedLane(broker, queue, f"tenure-{queue}", replicated=False)
    copies = OwnedLane(broker, queue, f"tenure-{queue}r", replicated=True)

    async def begun(number: int) -> object:
        return await lane.stored(lane.begin_store("timeline", f"{prefix}.b.{number}", BIG), prefix)

    return {
        "publish": lambda number: broker.lane.publish(f"{prefix}.p.{number}", BIG),
        "publish_once": lambda number: broker.lane.publish_once(f"{prefix}.o.{number}", BIG, broker.lane.message_id()),
        "request": lambda number: broker.lane.request(f"{prefix}.r.{number}", BIG),
        "ask": lambda number: broker.lane.ask(f"{prefix}.a.{number}", BIG),
        "begin": lambda number: broker.lane.begin(f"{prefix}.g.{number}", BIG),
        "store": lambda number: lane.store("timeline", f"{prefix}.s.{number}", BIG),
        "begin_store": begun,
        "fenced": lambda number: lane.publish(f"{prefix}.f.{number}", BIG),
        "replicated": lambda number: copies.store("timeline", f"{prefix}.c.{number}", BIG),
    }


WRITERS = ["publish", "publish_once", "request", "ask", "begin", "store", "begin_store", "fenced", "replicated"]


@pytest.mark.parametrize("writer", WRITERS)
async def test_writers_wait_while_the_server_takes_nothing(slow: Broker, throttle: Proxy, queue: str, writer: str) -> None:
    """Each way to write: the buffer stays below its limit and a message, and everything arrives once the server takes it."""
    write, watch = _writers(slow, queue)[writer], Watch(slow.wire)
    count = IN_SOCKETS // len(BIG) + 100
    throttle.keep(answers=False)
    writing = [asyncio.create_task(_awaited(write, number)) for number in range(count)]
    await _stuck(slow.wire)
    sent = slow.lane.under_way
    assert sent < count
    assert watch.most < MAX_UNWRITTEN + len(BIG) + 1000
    assert slow.wire.unwritten > 0
    throttle.release()
    await asyncio.gather(*writing)
    assert watch.most < MAX_UNWRITTEN + len(BIG) + 1000
    assert slow.wire.takes_writes
    shape = (await slow.lane.api(f"STREAM.INFO.{slow.names.timeline_stream}", {"subjects_filter": f"{slow.names.timeline_prefix}{queue}.>"}))["state"]
    assert len(shape["subjects"]) == count
    await slow.lane.api(f"STREAM.PURGE.{slow.names.timeline_stream}", {"filter": f"{slow.names.timeline_prefix}{queue}.>"})


async def _awaited(write: Callable[[int], Awaitable[object]], number: int) -> object:
    return await write(number)


async def test_writers_are_let_in_in_the_order_in_which_they_came(slow: Broker, throttle: Proxy, queue: str) -> None:
    heard: list[bytes] = []
    order: list[bytes] = []
    slow.wire.listen(f"{queue}.x", lambda _s, _r, data, _h: heard.append(data[:6]))
    await slow.lane.api("INFO")

    async def write(number: int) -> None:
        await slow.lane.room(len(BIG))
        order.append(b"%06d" % number)
        slow.wire.send(f"{queue}.x", b"%06d" % number + BIG)

    throttle.keep(answers=False)
    count = IN_SOCKETS // len(BIG) + 100
    writing = [asyncio.create_task(write(number)) for number in range(count)]
    await _stuck(slow.wire)
    throttle.release()
    late = asyncio.create_task(write(count))
    await asyncio.gather(*writing, late)
    await until(lambda: len(heard) == count + 1, "everything is heard")
    assert heard == order
    assert order[:count] == [b"%06d" % number for number in range(count)]


async def test_a_cancelled_writer_takes_nobodys_turn(slow: Broker, throttle: Proxy, queue: str) -> None:
    throttle.keep(answers=False)
    subject = f"{slow.names.timeline_prefix}{queue}.w"
    writing = [asyncio.create_task(slow.lane.publish(f"{subject}.{number}", BIG)) for number in range(IN_SOCKETS // len(BIG) + 100)]
    await _stuck(slow.wire)
    for task in writing[-50::2]:
        task.cancel()
    throttle.release()
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    assert sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes) == 25
    assert not [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert slow.wire.takes_writes


async def test_a_disconnect_tells_those_who_wait_that_nothing_was_sent(slow: Broker, throttle: Proxy, queue: str) -> None:
    """And a later message finds the next connection, and its room."""
    throttle.keep(answers=False)
    back = asyncio.Event()
    slow.wire.on_reconnect.append(back.set)
    subject = f"{slow.names.timeline_prefix}{queue}.w"
    writing = [asyncio.create_task(slow.lane.publish(f"{subject}.{number}", BIG)) for number in range(IN_SOCKETS // len(BIG) + 100)]
    await _stuck(slow.wire)
    under_way = slow.lane.under_way
    throttle.cut()
    outcomes = await asyncio.gather(*writing, return_exceptions=True)
    texts = [str(outcome) for outcome in outcomes if isinstance(outcome, BrokerUnavailableError)]
    assert len(texts) == len(writing)
    assert sum("nothing was sent" in text for text in texts) >= len(writing) - under_way
    throttle.release()
    await asyncio.wait_for(back.wait(), 20)
    await until(lambda: slow.wire.takes_writes, "there is room")
    assert (await slow.lane.publish(f"{subject}.after", b"{}")).seq


async def test_a_server_that_stands_still_is_given_up_with_what_it_did_not_take(own_server: LocalServer) -> None:
    """nats-py would wait for the socket to take the rest, which is never; the next connection must not wait for that."""
    wire = await open_wire(own_server.url, credentials=None, tls=None, name="test", timeout=5)
    assert isinstance(wire, DirectWire)
    lane = Lane(wire, timeout=600)
    gone, back = asyncio.Event(), asyncio.Event()
    wire.on_disconnect.append(gone.set)
    wire.on_reconnect.append(back.set)
    assert own_server.pid
    os.kill(own_server.pid, signal.SIGSTOP)
    writing = [asyncio.create_task(lane.request("nobody.there", BIG)) for _ in range(IN_SOCKETS // len(BIG) + 100)]
    try:
        await _stuck(wire)
        await asyncio.wait_for(gone.wait(), 25)
        outcomes = await asyncio.gather(*writing, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {BrokerUnavailableError}
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    await asyncio.wait_for(back.wait(), 25)
    assert wire.takes_writes
    await wire.close()


async def test_a_connection_that_takes_nothing_closes(slow: Broker, throttle: Proxy, queue: str) -> None:
    throttle.keep(answers=False)
    writing = [asyncio.create_task(slow.lane.publish(f"{queue}.{number}", BIG)) for number in range(IN_SOCKETS // len(BIG) + 100)]
    await _stuck(slow.wire)
    async with asyncio.timeout(10):
        await slow.close()
    for task in writing:
        task.cancel()
    await asyncio.gather(*writing, return_exceptions=True)


async def test_nothing_is_sent_under_a_tenure_that_ends_while_its_writer_waits(slow: Broker, throttle: Proxy, queue: str) -> None:
    lane = OwnedLane(slow, queue, f"tenure-{queue}", replicated=False)
    filler = [
        asyncio.create_task(slow.lane.publish(f"{slow.names.timeline_prefix}{queue}.f.{number}", BIG))
        for number in range(IN_SOCKETS // len(BIG) + 100)
    ]
    throttle.keep(answers=False)
    await _stuck(slow.wire)
    storing = asyncio.create_task(lane.store("timeline", f"{slow.names.timeline_prefix}{queue}.late", b"{}"))
    await asyncio.sleep(0)
    lane.hold.lose("a test says so")
    throttle.release()
    with pytest.raises(TenureOverError, match="a test says so"):
        await storing
    await asyncio.gather(*filler)
    assert await slow.lane.last_message(slow.names.timeline_stream, f"{slow.names.timeline_prefix}{queue}.late") is None


async def test_answers_are_dropped_and_counted_while_nothing_is_taken(slow: Broker, throttle: Proxy, queue: str) -> None:
    """Callers may ask faster than the server takes answers; they ask again."""
    throttle.keep(answers=False)
    answer, count = Answer(result="x" * 100_000), 0
    watch = Watch(slow.wire)
    while not slow.wire.dropped:
        send(slow.wire, f"{queue}.reply", answer)
        count += 1
        if count % 10 == 0:
            await asyncio.sleep(0.001)
        assert count < 2000
    for _ in range(200):
        send(slow.wire, f"{queue}.reply", answer)
    assert slow.wire.dropped == 201
    assert watch.most < MAX_UNWRITTEN + 101_000


async def test_requests_that_cannot_wait_have_a_limit_too(slow: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MAX_AT_ALL", 5)
    slow.wire.listen(f"{queue}.ask", lambda *_: None)
    asked = [slow.lane.submit(f"{queue}.ask", b"") for _ in range(5)]
    with pytest.raises(BrokerUnavailableError, match="5 requests wait for an answer; nothing was sent"):
        slow.lane.submit(f"{queue}.ask", b"")
    for future in asked:
        future.cancel()


async def test_a_slow_server_makes_writers_as_slow(slow: Broker, throttle: Proxy, queue: str) -> None:
    """A server that takes a megabyte in each tenth of a second: nobody runs ahead of it by more than the limit and the sockets."""
    watch, written = Watch(slow.wire), 0
    subject = f"{slow.names.timeline_prefix}{queue}.w"

    async def write(number: int) -> None:
        nonlocal written
        await slow.lane.publish(f"{subject}.{number}", BIG)
        written += 1

    async def trickle() -> None:
        while True:
            throttle.keep(answers=False)
            await asyncio.sleep(0.05)
            throttle.release()
            await asyncio.sleep(0.002)

    trickling = asyncio.create_task(trickle())
    count = IN_SOCKETS // len(BIG) + 200
    await asyncio.gather(*(write(number) for number in range(count)))
    trickling.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await trickling
    assert written == count
    assert watch.most < MAX_UNWRITTEN + len(BIG) + 1000
