"""Pipelined requests: each is settled, whatever happens, and gives its place back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jetflow.broker.transport import lane as lane_module
from jetflow.broker.transport.connection import Broker, open_wire
from jetflow.broker.transport.lane import Lane, PubAck
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError, PayloadTooLargeError
from jetflow.protocol.headers import header_block, parse_headers
from tests.broker.conftest import until

EXPECT_NEW = header_block(Nats_Expected_Last_Subject_Sequence="0")
NEVER = 600.0
"""A timeout that does not come within a test: what ends earlier was not ended by it."""


@pytest.fixture
async def lane(server: LocalServer, broker: Broker) -> AsyncIterator[Lane]:
    """A lane without haste, on the shared server."""
    wire = await open_wire(server.url, credentials=None, tls=None, name="lane", timeout=5)
    yield Lane(wire, timeout=NEVER)
    await wire.close()


class Responder:
    """Listens on a subject and answers when it is told to."""

    def __init__(self, lane: Lane, subject: str) -> None:
        self.subject = subject
        self.asked: list[str] = []
        self._lane = lane
        lane.wire.listen(subject, lambda _s, reply, _d, _h: self.asked.append(bytes(reply).decode()))

    def answer(self) -> None:
        for reply in self.asked:
            self._lane.wire.send(reply, b"{}")
        self.asked.clear()


async def test_an_answer_comes_with_payload_and_headers(lane: Lane, queue: str) -> None:
    key = f"$KV.jetflow_timeline.{queue}.w.1"
    ack = await lane.publish(key, b"{}", EXPECT_NEW)
    assert isinstance(ack, PubAck)
    assert ack.stream == "KV_jetflow_timeline"
    assert ack.seq > 0
    assert lane.under_way == 0


async def test_ten_thousand_conflicts_give_their_places_back(lane: Lane, queue: str) -> None:
    key = f"$KV.jetflow_timeline.{queue}.w.1"
    await lane.publish(key, b"{}", EXPECT_NEW)
    outcomes = await asyncio.gather(*(lane.publish(key, b"{}", EXPECT_NEW) for _ in range(10_000)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConflictError}
    assert lane.under_way == 0
    assert (await lane.publish(f"{key}x", b"{}", EXPECT_NEW)).seq > 0


async def test_an_error_ack_settles_its_future(lane: Lane, queue: str) -> None:
    with pytest.raises(BrokerError, match="expected stream does not match") as raised:
        await lane.publish(f"$KV.jetflow_timeline.{queue}.w.1", b"{}", header_block(Nats_Expected_Stream="OTHER"))
    assert raised.value.err_code == 10060
    assert not isinstance(raised.value, ConflictError | BrokerUnavailableError)
    assert lane.under_way == 0


async def test_an_api_error_has_the_servers_words_and_number(lane: Lane) -> None:
    with pytest.raises(BrokerError, match=r"STREAM\.INFO\.NONE: stream not found") as raised:
        await lane.api("STREAM.INFO.NONE")
    assert raised.value.err_code == 10059


async def test_no_responders_is_tried_again_until_the_stream_is_there(lane: Lane, namespace: str) -> None:
    publishing = asyncio.create_task(lane.publish(f"{namespace}.x", b"{}"))
    await until(lambda: [slot.tries for slot in lane._slots.values()] == [1], "the first try was refused")
    await lane.api(f"STREAM.CREATE.{namespace}", {"name": namespace, "subjects": [f"{namespace}.>"], "storage": "memory"})
    assert (await publishing).seq == 1
    await lane.api(f"STREAM.DELETE.{namespace}")


async def test_no_responders_to_the_end_of_the_deadline_is_unavailable(lane: Lane, namespace: str) -> None:
    lane.timeout = 0.5
    with pytest.raises(BrokerUnavailableError, match=rf"no responder on {namespace}\.x"):
        await lane.publish(f"{namespace}.x", b"{}")
    assert lane.under_way == 0


async def test_no_responders_is_an_answer_without_retry(lane: Lane, namespace: str) -> None:
    data, headers = await lane.submit(f"{namespace}.x", b"", retry=False)
    assert data == b""
    assert headers is not None
    assert headers.startswith(b"NATS/1.0 503")


async def test_silence_is_unavailable_at_the_deadline(lane: Lane, queue: str) -> None:
    responder = Responder(lane, queue)
    lane.timeout = 0.2
    with pytest.raises(BrokerUnavailableError, match=f"no answer on {queue} within 0.2 s"):
        await lane.request(queue)
    assert lane.under_way == 0
    responder.answer()  # too late: nobody is there to get it
    lane.timeout = NEVER
    assert await lane.api("INFO")


async def test_a_payload_too_large_takes_no_place(lane: Lane, queue: str) -> None:
    with pytest.raises(PayloadTooLargeError):
        await lane.publish(queue, b"x" * (lane.wire.max_payload + 1))
    assert lane.under_way == 0


async def test_a_cancelled_request_gives_its_place_back_with_its_answer(lane: Lane, queue: str) -> None:
    responder = Responder(lane, queue)
    asking = [asyncio.create_task(lane.request(queue)) for _ in range(100)]
    await until(lambda: len(responder.asked) == 100, "all requests are there")
    for task in asking[::2]:
        task.cancel()
    responder.answer()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, tuple] * 50
    assert lane.under_way == 0


async def test_those_who_wait_for_a_place_get_one_in_turn(lane: Lane, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MAX_UNDER_WAY", 4)
    responder = Responder(lane, queue)
    asking = [asyncio.create_task(lane.request(queue)) for _ in range(20)]
    for _ in range(5):
        await until(lambda: len(responder.asked) == 4, "as many as there are places")
        assert lane.under_way == 4
        responder.answer()
        await until(lambda: lane.under_way < 4 or len(responder.asked) == 4 or all(task.done() for task in asking), "they go on")
    await asyncio.gather(*asking)
    assert lane.under_way == 0


async def test_a_waiter_cancelled_with_its_turn_hands_it_on(lane: Lane, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MAX_UNDER_WAY", 1)
    responder = Responder(lane, queue)
    first, second, third = (asyncio.create_task(lane.request(queue)) for _ in range(3))
    await until(lambda: responder.asked and len(lane._waiting) == 2, "one is under way, two wait")
    lane._settle(next(iter(lane._slots)), (b"{}", None))  # the second has its turn, and before it can take it:
    second.cancel()
    await first
    with pytest.raises(asyncio.CancelledError):
        await second
    await until(lambda: len(responder.asked) == 2, "the third has the place")
    responder.answer()
    await third
    assert lane.under_way == 0


async def test_a_disconnect_settles_those_under_way_and_those_who_wait(own_server: LocalServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_module, "MAX_UNDER_WAY", 3)
    wire = await open_wire(own_server.url, credentials=None, tls=None, name="lane", timeout=5)
    lane = Lane(wire, timeout=NEVER)
    responder = Responder(lane, "ask")
    asking = [asyncio.create_task(lane.request("ask")) for _ in range(50)]
    await until(lambda: len(responder.asked) == 3 and len(lane._waiting) == 47, "three are under way, the others wait")
    own_server.kill()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {BrokerUnavailableError}
    assert lane.under_way == 0
    await wire.close()


async def test_a_killed_server_settles_everything_and_keeps_what_it_acked(own_server: LocalServer) -> None:
    broker = await Broker.connect(own_server.url)
    lane, prefix = broker.lane, broker.names.timeline_prefix
    lane.timeout = NEVER
    back = asyncio.Event()
    broker.wire.on_reconnect.append(back.set)
    pid = own_server.pid
    assert pid
    acked = 0
    stopped = asyncio.Event()

    def count(_: object) -> None:
        nonlocal acked
        acked += 1
        if acked == 300:
            os.kill(pid, signal.SIGSTOP)
            stopped.set()

    keys = [f"{prefix}q.w{number}.1" for number in range(1_000)]
    futures = [lane.submit(key, b'{"run":1}' * 50, EXPECT_NEW) for key in keys]
    for future in futures:
        future.add_done_callback(count)
    await stopped.wait()
    late = [f"{prefix}q.late{number}.1" for number in range(100)]
    futures += [lane.submit(key, b"{}", EXPECT_NEW) for key in late]
    own_server.kill()
    await asyncio.wait(futures)
    assert lane.under_way == 0
    stored = [key for key, future in zip(keys + late, futures, strict=True) if future.exception() is None]
    unknown = [future.exception() for future in futures if future.exception() is not None]
    assert len(stored) >= 300
    assert len(unknown) >= 100
    assert {type(error) for error in unknown} == {BrokerUnavailableError}

    await own_server.start()
    await asyncio.wait_for(back.wait(), 20)
    found = await lane.api(f"STREAM.INFO.{broker.names.timeline_stream}", {"subjects_filter": ">"})
    assert set(stored) <= set(found["state"]["subjects"])
    again = await asyncio.gather(*(lane.publish(key, b"{}", EXPECT_NEW) for key in stored), return_exceptions=True)
    assert {type(outcome) for outcome in again} == {ConflictError}
    assert lane.under_way == 0
    await broker.close()


async def test_what_is_sent_again_has_not_the_header_of_the_first_attempt(broker: Broker, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, sent = Lane.publish, list[bytes | None]()

    async def loses_the_first_answer(lane: Lane, subject: str, body: bytes, headers: bytes | None = None) -> PubAck:
        sent.append(headers)
        ack = await publish(lane, subject, body, headers)
        if len(sent) == 1:
            raise BrokerUnavailableError("lost")
        return ack

    monkeypatch.setattr(Lane, "publish", loses_the_first_answer)
    await broker.lane.publish_once(f"{broker.names.namespace}.{queue}.x.start.y", b"", "one-id", at_first="Jetflow-New-Id", Other="kept")
    assert [parse_headers(headers) for headers in sent] == [
        {"": "", "Nats-Msg-Id": "one-id", "Other": "kept", "Jetflow-New-Id": "1"},
        {"": "", "Nats-Msg-Id": "one-id", "Other": "kept"},
    ]


async def test_a_request_that_is_not_allowed_fails_at_once(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('authorization { users: [ { user: a, password: b, permissions { publish { deny: "No.>" } } } ] }')
    async with LocalServer(tmp_path / "store", config=config) as server:
        wire = await open_wire(server.url.replace("//", "//a:b@"), credentials=None, tls=None, name="lane", timeout=5)
        lane = Lane(wire, timeout=NEVER)
        with pytest.raises(BrokerError, match=r"this user may not use No\.Way"):
            await lane.request("No.Way")
        assert lane.under_way == 0
        assert await lane.api("INFO")
        await wire.close()


async def test_an_inbox_that_is_not_allowed_fails_at_once(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text('authorization { users: [ { user: a, password: b, permissions { subscribe { deny: "_INBOX.>" } } } ] }')
    async with LocalServer(tmp_path / "store", config=config) as server:
        wire = await open_wire(server.url.replace("//", "//a:b@"), credentials=None, tls=None, name="lane", timeout=5)
        lane = Lane(wire, timeout=NEVER)
        with pytest.raises(BrokerError, match="subscription"):
            await lane.api("INFO")
        await wire.close()


async def test_reads_that_find_nothing(lane: Lane, queue: str) -> None:
    stream, subject = "KV_jetflow_state", f"$KV.jetflow_state.{queue}.w"
    assert await lane.last_message(stream, subject) is None
    assert await lane.read_last(stream, subject, may_lag="a test looks") is None
    assert await lane.read_many(stream, {"multi_last": [subject]}, may_lag="a test looks") == []


async def test_reads_give_subject_sequence_headers_and_body(lane: Lane, queue: str) -> None:
    stream, subject = "KV_jetflow_state", f"$KV.jetflow_state.{queue}.w"
    ack = await lane.publish(subject, b'{"a":1}', header_block(Nats_TTL="1h"))
    fresh = await lane.last_message(stream, f"$KV.jetflow_state.{queue}.*")
    direct = await lane.read_last(stream, subject, may_lag="a test looks")
    (batched,) = await lane.read_many(stream, {"multi_last": [subject]}, may_lag="a test looks")
    for message in (fresh, direct, batched):
        assert message is not None
        assert (message.subject, message.seq, message.data, message.headers["Nats-TTL"]) == (subject, ack.seq, b'{"a":1}', "1h")
        assert message.time.startswith("20")


async def test_a_read_of_too_much_is_an_error_and_not_nothing(lane: Lane, queue: str) -> None:
    prefix = f"$KV.jetflow_state.{queue}."
    await asyncio.gather(*(lane.publish(f"{prefix}w{number}", b"{}") for number in range(1_100)))
    with pytest.raises(BrokerError, match="Too Many"):
        await lane.read_many("KV_jetflow_state", {"multi_last": [f"{prefix}*"]}, may_lag="a test looks")
