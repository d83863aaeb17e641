"""The fence: what a tenure may still write and hear once somebody has revoked it, once it is over, or when an outcome is unknown."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from jetflow.broker.fencing.fence import SPELLINGS, Spellings, TenureOverError, is_busy, revocation
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import Lane, PubAck
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError, PayloadTooLargeError
from jetflow.protocol.headers import header_block
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane, owned_lane, stored

KINDS = ["inbox", "timeline", "state", "signals", "waits", "tasks", "dead"]


def _subject(broker: Broker, kind: str, queue: str, name: str = "w") -> str:
    """Somewhere in a stream of an owner's."""
    names = broker.names
    prefixes = {
        "inbox": names.timer_prefix, "timeline": names.timeline_prefix, "state": names.state_prefix, "signals": names.signal_prefix,
        "waits": names.wait_prefix, "tasks": names.task_prefix, "dead": names.dead_prefix,
    }  # fmt: skip
    return f"{prefixes[kind]}{queue}.{name}"


@pytest.fixture(params=[False, True], ids=["alone", "replicated"])
def lane(broker: Broker, queue: str, request: pytest.FixtureRequest) -> OwnedLane:
    """With the fence as it is spelled for one server, and for several."""
    return owned_lane(broker, queue, replicated=request.param)


def test_every_stream_that_an_owner_writes_is_known(broker: Broker) -> None:
    assert list(broker.names.owned_streams) == KINDS


@pytest.mark.parametrize("kind", KINDS)
async def test_a_revocation_ends_what_may_be_written(broker: Broker, lane: OwnedLane, queue: str, kind: str) -> None:
    subject, stream = _subject(broker, kind, queue), broker.names.owned_streams[kind]
    ack = await lane.store(kind, subject, b"first", b"A:1\r\nNats-TTL:60s\r\n")
    message = await broker.lane.message(stream, ack.seq)
    assert message is not None
    assert (message.subject, message.data, message.headers["A"]) == (subject, b"first", "1")
    late = list(lane.sent)
    await lane.revoke()
    with pytest.raises(TenureOverError):
        await lane.store(kind, _subject(broker, kind, queue, "other"), b"second")
    assert (lane.hold.over, lane.is_in_doubt, lane.under_way) == (True, False, 0)
    for sent in late:
        with pytest.raises(ConflictError):
            await broker.lane.publish(*sent)
    assert await stored(broker, stream, _subject(broker, kind, queue, ">")) == [(subject, ack.seq, b"first")]
    await broker.lane.api(f"STREAM.PURGE.{stream}", {"filter": subject})


@pytest.mark.parametrize("kind", KINDS)
async def test_a_revocation_in_one_stream_says_nothing_of_another(broker: Broker, lane: OwnedLane, queue: str, kind: str) -> None:
    """It is only when it is in all of them that whoever takes over reads."""
    await broker.lane.publish(revocation(broker.names, kind, queue, lane.tenure), b"", header_block(Nats_TTL="60s"))
    for other in KINDS:
        if other != kind:
            await lane.store(other, _subject(broker, other, queue), b"x", b"Nats-TTL:1s\r\n")
    with pytest.raises(TenureOverError):
        await lane.store(kind, _subject(broker, kind, queue), b"x")


async def test_other_tenures_are_left_alone(broker: Broker, queue: str) -> None:
    lanes = [owned_lane(broker, queue, f"{name}-0", replicated=replicated) for replicated in (False, True) for name in ("t", "t2", "t-0")]
    lanes.append(owned_lane(broker, f"{queue}2", "gone-0"))
    gone = owned_lane(broker, queue, "gone-0")
    await gone.revoke()
    for number, lane in enumerate(lanes):
        await lane.store("state", _subject(broker, "state", queue, f"w{number}"), b"{}")
    assert len(await stored(broker, broker.names.state_stream, _subject(broker, "state", queue, ">"))) == len(lanes)


async def test_a_revocation_that_was_removed_by_its_age_is_not_forgotten_as_long_as_it_can_matter(
    broker: Broker, lane: OwnedLane, queue: str
) -> None:
    await lane.revoke()
    for kind, stream in broker.names.owned_streams.items():
        message = await broker.lane.last_message(stream, revocation(broker.names, kind, queue, lane.tenure))
        assert message is not None
        assert message.headers["Nats-TTL"] == f"{30 * 86_400}s"


# ---- spellings


def test_every_spelling_is_another_and_finds_the_revocation() -> None:
    subject = "ns_tenure.state.q.t" + ".0" * SPELLINGS
    spellings = Spellings(subject)
    made = {spellings.subject(number) for number in range(1 << SPELLINGS)}
    assert len(made) == 1024
    assert subject in made
    for one in made:
        assert len(one.split(".")) == len(subject.split("."))
        assert all(token in (given, "*") for token, given in zip(one.split("."), subject.split("."), strict=True))
        assert one.startswith("ns_tenure.state.q.t.")


async def test_spellings_are_lent_one_at_a_time_and_wait_their_turn() -> None:
    spellings = Spellings("a" + ".0" * SPELLINGS)
    lent = [await spellings.take() for _ in range(1 << SPELLINGS)]
    assert len(set(lent)) == 1 << SPELLINGS
    waiting = [asyncio.create_task(spellings.take()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    spellings.give_back(7)
    spellings.give_back(9)
    assert await asyncio.gather(*waiting[1:]) == [7, 9]
    for number in lent:
        spellings.give_back(number)
    assert await spellings.take() == lent[0]


async def test_a_waiter_that_is_cancelled_with_its_turn_hands_it_on() -> None:
    spellings = Spellings("a" + ".0" * SPELLINGS)
    for _ in range(1 << SPELLINGS):
        await spellings.take()
    first, second = (asyncio.create_task(spellings.take()) for _ in range(2))
    await asyncio.sleep(0)
    spellings.give_back(7)
    first.cancel()
    async with asyncio.timeout(5):
        assert await second == 7


async def test_more_writes_than_there_are_spellings(broker: Broker, queue: str) -> None:
    lane = owned_lane(broker, queue, replicated=True)
    subjects = [_subject(broker, "state", queue, f"w{number}") for number in range(2_500)]
    await asyncio.gather(*(lane.store("state", subject, b"{}") for subject in subjects))
    assert len(await stored(broker, broker.names.state_stream, _subject(broker, "state", queue, ">"))) == 2_500
    assert (lane.under_way, len(lane._spellings["state"]._free)) == (0, 1 << SPELLINGS)


class _Answering:
    """A lane whose publishes are answered as a test says."""

    def __init__(self, lane: Lane, answers: list[BaseException | None]) -> None:
        self._lane, self._answers = lane, answers

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lane, name)

    def submit(self, subject: str, body: bytes, headers: bytes | None = None) -> asyncio.Future[Any]:
        answer = self._answers.pop(0) if self._answers else None
        if answer is None:
            return self._lane.submit(subject, body, headers)
        refused: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        refused.set_exception(answer)
        return refused


BUSY = ConflictError("x: wrong last sequence")
LOST = ConflictError("x: wrong last sequence: 17")


def test_a_busy_leader_names_no_sequence() -> None:
    assert (is_busy(BUSY), is_busy(LOST)) == (True, False)


async def test_one_that_a_busy_leader_refused_is_sent_again(broker: Broker, queue: str) -> None:
    lane = owned_lane(broker, queue, replicated=True)
    lane._lane = _Answering(broker.lane, [BUSY, BUSY, BUSY])  # type: ignore[assignment]
    assert (await lane.store("state", _subject(broker, "state", queue), b"{}")).seq > 0
    assert not lane.hold.over
    lane._lane = _Answering(broker.lane, [BUSY, LOST])  # type: ignore[assignment]
    with pytest.raises(TenureOverError):
        await lane.store("state", _subject(broker, "state", queue), b"{}")
    assert lane.hold.over


async def test_a_tenure_that_ends_while_a_leader_is_busy_is_not_sent_for_again(broker: Broker, queue: str) -> None:
    lane, answers = owned_lane(broker, queue, replicated=True), [BUSY] * 1000
    lane._lane = _Answering(broker.lane, answers)  # type: ignore[arg-type, assignment]
    storing = asyncio.create_task(lane.store("state", _subject(broker, "state", queue), b"{}"))
    await asyncio.sleep(0.05)
    lane.hold.lose("a test says so")
    with pytest.raises(TenureOverError, match="a test says so"):
        await storing
    assert len(answers) > 900
    assert await stored(broker, broker.names.state_stream, _subject(broker, "state", queue, ">")) == []


async def test_streams_that_were_given_replicas_meanwhile_end_no_tenure(broker: Broker, queue: str) -> None:
    """One server never says that it is busy: an operator has edited the streams since this worker connected."""
    lane = owned_lane(broker, queue)
    lane._lane = _Answering(broker.lane, [BUSY, BUSY])  # type: ignore[assignment]
    assert (await lane.store("state", _subject(broker, "state", queue), b"{}")).seq > 0
    assert lane.replicated
    assert not lane.hold.over
    assert not lane.under_way
    lane._lane = _Answering(broker.lane, [LOST])  # type: ignore[assignment]
    with pytest.raises(TenureOverError):
        await lane.store("state", _subject(broker, "state", queue), b"{}")
    assert lane.hold.over


# ---- what is unknown, and what was only refused


async def test_a_write_without_an_answer_ends_the_tenure(broker: Broker, lane: OwnedLane, queue: str) -> None:
    lane._lane = _Answering(broker.lane, [BrokerUnavailableError("no answer")])  # type: ignore[assignment]
    with pytest.raises(BrokerUnavailableError, match="no answer"):
        await lane.store("state", _subject(broker, "state", queue), b"{}")
    assert (lane.hold.over, lane.is_in_doubt, lane.under_way) == (True, True, 0)
    assert lane.hold.why == "the outcome of a write is unknown: no answer"


async def test_one_with_a_condition_of_its_own_ends_it_likewise(broker: Broker, lane: OwnedLane, queue: str) -> None:
    lane._lane = _Answering(broker.lane, [LOST, BrokerUnavailableError("no answer")])  # type: ignore[assignment]
    with pytest.raises(ConflictError):
        await lane.publish(_subject(broker, "timeline", queue), b"x", header_block(Nats_Expected_Last_Subject_Sequence="0"))
    assert not lane.hold.over, "that condition says nothing of the tenure"
    with pytest.raises(BrokerUnavailableError):
        await lane.publish(_subject(broker, "timeline", queue), b"x")
    assert (lane.hold.over, lane.is_in_doubt) == (True, True)


async def test_what_is_only_refused_ends_nothing(broker: Broker, lane: OwnedLane, queue: str) -> None:
    with pytest.raises(PayloadTooLargeError):
        await lane.store("state", _subject(broker, "state", queue), b"x" * (broker.max_payload + 1))
    with pytest.raises(BrokerError, match="invalid per-message TTL"):
        await lane.store("state", _subject(broker, "state", queue), b"x", b"Nats-TTL:soon\r\n")
    assert (lane.hold.over, lane.is_in_doubt, lane.under_way) == (False, False, 0)


async def test_a_server_that_is_killed_leaves_the_tenure_in_doubt(tmp_path: Path) -> None:
    async with LocalServer(tmp_path / "store") as server:
        broker = await Broker.connect(server.url)
        lane = owned_lane(broker)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSTOP)  # so that nothing is answered before it dies
        work = [asyncio.create_task(lane.store("state", _subject(broker, "state", "q", f"w{number}"), b"{}")) for number in range(500)]
        await until(lambda: lane.under_way, "they are sent")
        server.kill()
        outcomes = await asyncio.gather(*work, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {PubAck, BrokerUnavailableError, TenureOverError}
        assert (lane.hold.over, lane.is_in_doubt, lane.under_way) == (True, True, 0)
        await broker.close()


# ---- once it is over


def _reads(broker: Broker, lane: OwnedLane) -> dict[str, Callable[[], Awaitable[object]]]:
    stream, subject = broker.names.state_stream, _subject(broker, "state", "q")
    return {
        "request": lambda: lane.request("$JS.API.INFO"),
        "api": lambda: lane.api("INFO"),
        "last_message": lambda: lane.last_message(stream, subject),
        "message": lambda: lane.message(stream, 1),
        "read_many": lambda: lane.read_many(stream, {"multi_last": [subject]}, may_lag="a test looks"),
        "read_last": lambda: lane.read_last(stream, subject, may_lag="a test looks"),
        "read_data": lambda: lane.read_data(stream, subject, may_lag="a test looks"),
        "consumers": lambda: lane.consumers(stream),
        "purge": lambda: lane.purge(stream, subject, 10),
        "store": lambda: lane.store("state", subject, b"{}", b"Nats-TTL:1s\r\n"),
        "publish": lambda: lane.publish(subject, b"{}", header_block(Nats_TTL="1s")),
    }


CALLS = ["request", "api", "last_message", "message", "read_many", "read_last", "read_data", "consumers", "purge", "store", "publish"]


@pytest.mark.parametrize("call", CALLS)
async def test_nothing_is_sent_and_nothing_is_handed_out(broker: Broker, lane: OwnedLane, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither once it is over, nor when it ends before the answer comes."""
    act = _reads(broker, lane)[call]
    await act()
    acting = asyncio.ensure_future(act())
    await asyncio.sleep(0)
    lane.hold.lose("a test says so")
    with pytest.raises(TenureOverError):
        await acting
    sent: list[object] = []
    monkeypatch.setattr(broker.wire, "send", lambda *args, **named: sent.append(args))
    with pytest.raises(TenureOverError, match="a test says so"):
        await act()
    with pytest.raises(TenureOverError):
        lane.submit("$JS.API.INFO", b"")
    with pytest.raises(TenureOverError):
        lane.send("state", _subject(broker, "state", "q"), b"{}")
    assert sent == []


async def test_a_purge_of_nothing_asks_nobody(broker: Broker, lane: OwnedLane, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the server a position of 0 means all."""
    ack = await lane.store("state", _subject(broker, "state", lane.tenure), b"{}")
    for before in (-1, 0, 1):
        assert await lane.purge(broker.names.state_stream, _subject(broker, "state", lane.tenure), before) == 0
    assert await lane.purge(broker.names.state_stream, _subject(broker, "state", lane.tenure), ack.seq) == 0
    assert await lane.purge(broker.names.state_stream, _subject(broker, "state", lane.tenure), ack.seq + 1) == 1
