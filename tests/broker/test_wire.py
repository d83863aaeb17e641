"""One connection: what keeps it reading, writing and alive."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jetflow.broker.transport.connection import open_wire
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerUnavailableError, PayloadTooLargeError
from jetflow.protocol.headers import header_block, parse_headers, status_of
from tests.broker.conftest import until


async def _open(url: str) -> Wire:
    return await open_wire(url, credentials=None, tls=None, name="test", timeout=5)


@pytest.fixture
async def wire(server: LocalServer) -> AsyncIterator[Wire]:
    wire = await _open(server.url)
    yield wire
    await wire.close()


async def _echo(wire: Wire, subject: str, count: int = 1) -> list[bytes]:
    """Sends numbers to itself and returns what came."""
    heard: list[bytes] = []
    sid = wire.listen(subject, lambda _s, _r, data, _h: heard.append(data))
    for number in range(count):
        wire.send(subject, b"%d" % number)
    await until(lambda: len(heard) >= count, "everything sent is heard")
    wire.unlisten(sid)
    return heard


async def test_messages_arrive_in_the_order_of_calls(wire: Wire, queue: str) -> None:
    assert await _echo(wire, queue, 2000) == [b"%d" % number for number in range(2000)]


async def test_reply_and_headers_are_handed_over(wire: Wire, queue: str) -> None:
    heard: list[tuple[bytes, bytes, bytes, bytes | None]] = []
    wire.listen(f"{queue}.*", lambda *message: heard.append(message))
    wire.send(f"{queue}.plain", b"1")
    wire.send(f"{queue}.asking", b"2", "back")
    wire.send(f"{queue}.headed", b"3", "back", header_block(Nats_TTL="1s"))
    await until(lambda: len(heard) == 3, "three messages")
    assert [(subject.decode(), bytes(reply or b""), bytes(data), parse_headers(headers)) for subject, reply, data, headers in heard] == [
        (f"{queue}.plain", b"", b"1", {}),
        (f"{queue}.asking", b"back", b"2", {}),
        (f"{queue}.headed", b"back", b"3", {"": "", "Nats-TTL": "1s"}),
    ]


async def test_a_handler_that_raises_does_not_end_the_reading(wire: Wire, queue: str) -> None:
    called = asyncio.Event()

    def fail(*_: object) -> None:
        called.set()
        raise RuntimeError("this handler is broken")

    wire.listen(f"{queue}.bad", fail)
    wire.send(f"{queue}.bad", b"")
    await asyncio.wait_for(called.wait(), 10)
    assert await _echo(wire, f"{queue}.good") == [b"0"]
    assert wire.stats["reconnects"] == 0


async def test_nothing_is_heard_after_unlisten(wire: Wire, queue: str) -> None:
    heard: list[bytes] = []
    sid = wire.listen(f"{queue}.x", lambda _s, _r, data, _h: heard.append(data))
    wire.unlisten(sid)
    wire.send(f"{queue}.x", b"late")
    await _echo(wire, f"{queue}.y")
    assert heard == []


async def test_a_pong_after_a_cancelled_flush_does_not_end_the_reading(wire: Wire, queue: str) -> None:
    for _ in range(3):
        flush = asyncio.create_task(wire.flush())
        await asyncio.sleep(0)
        assert wire._pongs  # the ping is under way
        flush.cancel()
        with pytest.raises(asyncio.CancelledError):
            await flush
    await wire.flush()
    assert await _echo(wire, queue) == [b"0"]
    assert wire.stats["reconnects"] == 0


async def test_an_exception_in_the_parser_leads_to_a_reconnect(wire: Wire, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    back = asyncio.Event()
    wire.on_reconnect.append(back.set)
    parse = wire._ps.parse

    async def broken(data: bytes) -> None:
        monkeypatch.setattr(wire._ps, "parse", parse)
        raise ValueError("not understood")

    monkeypatch.setattr(wire._ps, "parse", broken)
    wire.send(queue, b"")
    wire.write(b"PING\r\n")
    await asyncio.wait_for(back.wait(), 10)
    assert await _echo(wire, queue) == [b"0"]


@pytest.mark.parametrize(
    "words", ["'user authentication expired'", "'maximum connections exceeded'", "'stale connection'", "'secure connection required'"]
)
async def test_an_error_of_the_server_leads_to_a_reconnect(wire: Wire, queue: str, words: str) -> None:
    events: list[str] = []
    back = asyncio.Event()
    wire.on_disconnect.append(lambda: events.append("disconnected"))
    wire.on_reconnect.append(lambda: events.append("reconnected"))
    wire.on_reconnect.append(back.set)
    await wire._process_err(words)
    await asyncio.wait_for(back.wait(), 10)
    assert events == ["disconnected", "reconnected"]
    assert not wire.is_closed
    assert await _echo(wire, queue) == [b"0"]


async def test_a_callback_that_raises_does_not_stop_the_reconnect(wire: Wire, queue: str) -> None:
    def fail() -> None:
        raise RuntimeError("this callback is broken")

    back = asyncio.Event()
    wire.on_disconnect.append(fail)
    wire.on_reconnect += [fail, back.set]
    await wire.force_reconnect()
    await asyncio.wait_for(back.wait(), 10)
    assert await _echo(wire, queue) == [b"0"]


async def test_a_refused_subject_is_told_and_the_connection_stays(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('authorization { users: [ { user: a, password: b, permissions { publish { deny: "no.>" } } } ] }')
    async with LocalServer(tmp_path / "store", config=config) as server:
        wire = await _open(server.url.replace("//", "//a:b@"))
        heard: list[str] = []
        wire.on_violation.append(heard.append)
        wire.send("no.way", b"")
        await until(lambda: heard, "the violation is told")
        assert "no.way" in heard[0]
        assert wire.last_violation == heard[0]
        assert await _echo(wire, "yes") == [b"0"]
        assert wire.stats["reconnects"] == 0
        await wire.close()


async def test_credentials_taken_away_and_given_back_by_a_reload(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    users = "authorization {{ users: [ {{ user: a, password: {} }} ] }}"
    config.write_text(users.format("right"))
    async with LocalServer(tmp_path / "store", config=config) as server:
        assert server.pid
        wire = await _open(server.url.replace("//", "//a:right@"))
        gone, back = asyncio.Event(), asyncio.Event()
        wire.on_disconnect.append(gone.set)
        wire.on_reconnect.append(back.set)
        config.write_text(users.format("changed"))
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.wait_for(gone.wait(), 10)
        await until(lambda: "authentication error" in server.log(200), "a reconnect is refused")
        config.write_text(users.format("right"))
        os.kill(server.pid, signal.SIGHUP)
        await asyncio.wait_for(back.wait(), 20)
        assert await _echo(wire, "again") == [b"0"]
        await wire.close()


async def test_subscriptions_survive_a_server_that_was_killed(own_server: LocalServer) -> None:
    wire = await _open(own_server.url)
    heard: list[bytes] = []
    gone, back = asyncio.Event(), asyncio.Event()
    wire.on_disconnect.append(gone.set)
    wire.on_reconnect.append(back.set)
    wire.listen("news", lambda _s, _r, data, _h: heard.append(data))
    own_server.kill()
    await asyncio.wait_for(gone.wait(), 10)
    with pytest.raises(BrokerUnavailableError, match="nothing was sent"):
        wire.send("news", b"lost")
    await own_server.start()
    await asyncio.wait_for(back.wait(), 20)
    wire.send("news", b"kept")
    await until(lambda: heard, "the subscription is there again")
    assert heard == [b"kept"]
    await wire.close()


async def test_a_payload_too_large_is_refused_before_it_is_sent(wire: Wire, queue: str) -> None:
    limit = wire.max_payload
    with pytest.raises(PayloadTooLargeError, match=f"{limit + 1:,} bytes, the limit is {limit:,}"):
        wire.send(queue, b"x" * (limit + 1))
    headers = header_block(Nats_Msg_Id="1")
    with pytest.raises(PayloadTooLargeError):
        wire.send(queue, b"x" * (limit - len(headers) + 1), "", headers)
    wire.send(queue, b"x" * (limit - len(headers)), "", headers)
    assert await _echo(wire, queue) == [b"0"]
    assert wire.stats["reconnects"] == 0


@pytest.mark.parametrize(
    ("block", "status", "fields"),
    [
        (None, 0, {}),
        (b"", 0, {}),
        (b"NATS/1.0\r\n\r\n", 0, {"": ""}),
        (b"NATS/1.0 503\r\n\r\n", 503, {"": "503"}),
        (b"NATS/1.0 404 No Messages\r\nA: 1\r\nA: 2\r\n\r\n", 404, {"": "404 No Messages", "A": "2"}),
        (b"NATS/1.0 xyz\r\n\r\n", 0, {"": "xyz"}),
        (b"NATS/1.0\r\nA-B:x:y\r\n\r\n", 0, {"": "", "A-B": "x:y"}),
    ],
)
def test_header_blocks(block: bytes | None, status: int, fields: dict[str, str]) -> None:
    assert status_of(block) == status
    assert parse_headers(block) == fields


def test_a_header_block_is_read_back() -> None:
    assert parse_headers(header_block(Nats_TTL="5s", Nats_Msg_Id="a b")) == {"": "", "Nats-TTL": "5s", "Nats-Msg-Id": "a b"}
