"""The registry of tenures: whoever takes partitions revokes those who had them, everywhere, before it is entered."""

import asyncio
import logging

import msgspec
import pytest

from jetflow.broker.fencing.fence import revocation
from jetflow.broker.fencing.registry import Registry
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import PubAck
from jetflow.errors import BrokerError, BrokerUnavailableError
from tests.broker.owning import stored


class Known:
    """A queue's registry, and what the streams have of its tenures."""

    def __init__(self, broker: Broker, queue: str, *, replicated: bool = False) -> None:
        self.broker, self.queue = broker, queue
        self.subject = broker.names.registry(queue)
        self.registry = Registry(broker.lane, broker.names, queue, replicated=replicated)

    async def take(self, tenure: str, *partitions: int) -> int:
        return (await self.registry.take(tenure, frozenset(partitions), 0)).position

    async def entered(self) -> dict[str, set[int]]:
        message = await self.broker.lane.last_message(self.broker.names.timeline_stream, self.subject)
        if message is None:
            return {}
        tenures = msgspec.json.decode(message.data)["tenures"]
        return {name: {place for place in range(4096) if int(bits, 16) >> place & 1} for name, bits in tenures.items()}

    async def revoked(self) -> set[str]:
        """Tenures that are revoked in every stream that an owner writes; a half-way revocation fails the test."""
        names, where = self.broker.names, dict[str, set[str]]()
        for kind, stream in names.owned_streams.items():
            prefix = f"{names.tenure_prefix}{kind}.{self.queue}."
            found = await stored(self.broker, stream, f"{prefix}>")
            where[kind] = {subject.removeprefix(prefix).split(".")[0] for subject, _, _ in found}
            assert {subject for subject, _, _ in found} == {revocation(names, kind, self.queue, tenure) for tenure in where[kind]}
        assert len({frozenset(tenures) for tenures in where.values()}) == 1, where
        return where["inbox"]


@pytest.fixture(params=[False, True], ids=["alone", "replicated"])
def known(broker: Broker, queue: str, request: pytest.FixtureRequest) -> Known:
    return Known(broker, queue, replicated=request.param)


async def test_the_first_finds_nobody_to_revoke(known: Known) -> None:
    assert await known.take("t1", 0, 1, 63) == 0
    assert await known.entered() == {"t1": {0, 1, 63}}
    assert await known.revoked() == set()


async def test_exactly_those_are_revoked_that_had_one_of_the_partitions(known: Known) -> None:
    for tenure, partitions in (("t1", (0, 1, 2)), ("t2", (3, 4)), ("t3", (5,)), ("t4", (63, 4095))):
        await known.take(tenure, *partitions)
    position = await known.take("t5", 2, 5, 6)
    assert await known.revoked() == {"t1", "t3"}
    assert await known.entered() == {"t2": {3, 4}, "t4": {63, 4095}, "t5": {2, 5, 6}}
    names = known.broker.names
    ends = [await known.broker.lane.last_message(names.inbox_stream, revocation(names, "inbox", known.queue, name)) for name in ("t1", "t3")]
    assert position == max(end.seq for end in ends if end is not None)
    assert await known.take("t6", 4095) > position
    assert await known.revoked() == {"t1", "t3", "t4"}
    assert await known.take("t7", 100) == 0
    assert await known.entered() == {"t2": {3, 4}, "t5": {2, 5, 6}, "t6": {4095}, "t7": {100}}


async def test_a_revocation_is_kept_for_long_and_may_be_repeated(known: Known) -> None:
    await known.take("t1", 0)
    await known.take("t2", 0)
    names = known.broker.names
    for kind, stream in names.owned_streams.items():
        message = await known.broker.lane.last_message(stream, revocation(names, kind, known.queue, "t1"))
        assert message is not None
        assert message.headers["Nats-TTL"] == "2592000s"
    registry = await known.broker.lane.last_message(names.timeline_stream, known.subject)
    assert registry is not None
    assert "Nats-TTL" not in registry.headers


async def test_a_tenure_that_takes_more_is_not_revoked_by_itself(known: Known) -> None:
    await known.take("t1", 0)
    assert await known.take("t1", 0, 1) == 0
    assert await known.entered() == {"t1": {0, 1}}
    assert await known.revoked() == set()


async def test_of_two_takers_at_once_the_one_that_came_first_is_revoked(known: Known) -> None:
    await known.take("t0", 0)
    await asyncio.gather(*(known.take(f"t{number}", 0, number) for number in (1, 2, 3)))
    (last,) = await known.entered()
    assert await known.revoked() == {"t0", "t1", "t2", "t3"} - {last}
    assert last in ("t1", "t2", "t3")


async def test_many_takers_of_different_partitions_are_all_entered(known: Known) -> None:
    await known.take("old", 7, 30)
    ends = await asyncio.gather(*(known.take(f"t{number}", number, number + 40) for number in range(40)))
    assert await known.entered() == {f"t{number}": {number, number + 40} for number in range(40)}
    assert await known.revoked() == {"old"}
    assert [bool(end) for end in ends].count(True) >= 1


class Dying:
    """A lane that dies at the publish of one subject: before it is sent, or when the answer is under way."""

    def __init__(self, broker: Broker, subject: str, *, stored: bool) -> None:
        self._lane, self._subject, self._stored = broker.lane, subject, stored

    def __getattr__(self, name: str) -> object:
        return getattr(self._lane, name)

    async def publish(self, subject: str, body: bytes, headers: bytes | None = None) -> PubAck:
        if subject != self._subject:
            return await self._lane.publish(subject, body, headers)
        if self._stored:
            await self._lane.publish(subject, body, headers)
        raise BrokerUnavailableError("a test says so")


async def test_what_one_leaves_that_died_before_it_was_entered_the_next_one_repeats(known: Known) -> None:
    await known.take("t1", 0, 1)
    dying = Registry(Dying(known.broker, known.subject, stored=False), known.broker.names, known.queue, replicated=False)  # type: ignore[arg-type]
    with pytest.raises(BrokerUnavailableError):
        await dying.take("t2", frozenset({0}), 0)
    assert await known.revoked() == {"t1"}
    assert await known.entered() == {"t1": {0, 1}}, "whoever reads it now knows whom to revoke"
    assert await known.take("t3", 0) > 0
    assert await known.entered() == {"t3": {0}}
    assert await known.revoked() == {"t1"}


@pytest.mark.parametrize("kind", ["inbox", "timeline", "state", "signals", "waits", "tasks", "dead"])
async def test_one_that_died_while_it_revoked_is_not_entered(known: Known, kind: str) -> None:
    await known.take("t1", 0, 1)
    names = known.broker.names
    dying = Registry(Dying(known.broker, revocation(names, kind, known.queue, "t1"), stored=False), names, known.queue, replicated=False)  # type: ignore[arg-type]
    with pytest.raises(BrokerUnavailableError):
        await dying.take("t2", frozenset({0}), 0)
    assert await known.entered() == {"t1": {0, 1}}
    await known.take("t3", 1)
    assert await known.revoked() == {"t1"}
    assert await known.entered() == {"t3": {1}}


async def test_one_that_does_not_know_whether_it_is_entered_is_revoked_like_any_other(known: Known) -> None:
    dying = Registry(Dying(known.broker, known.subject, stored=True), known.broker.names, known.queue, replicated=False)  # type: ignore[arg-type]
    with pytest.raises(BrokerUnavailableError):
        await dying.take("t1", frozenset({0}), 0)
    await known.take("t2", 0)
    assert await known.revoked() == {"t1"}
    assert await known.entered() == {"t2": {0}}


async def test_who_has_left_is_not_revoked(known: Known) -> None:
    await known.take("t1", 0)
    await known.take("t2", 1)
    await known.registry.leave("t1")
    assert await known.entered() == {"t2": {1}}
    await known.registry.leave("t1")
    await known.registry.leave("nobody")
    assert await known.entered() == {"t2": {1}}
    assert await known.take("t3", 0) == 0
    await known.registry.leave("t3")
    await known.registry.leave("t2")
    assert await stored(known.broker, known.broker.names.timeline_stream, known.subject) == [], "the last one leaves nothing"
    assert await known.revoked() == set()
    assert await known.take("t4", 0) == 0
    assert await known.entered() == {"t4": {0}}


async def test_leaving_and_entering_at_once(known: Known) -> None:
    for number in range(10):
        await known.take(f"t{number}", number)
    work = [known.registry.leave(f"t{number}") for number in range(10)]
    await asyncio.gather(*work, *(known.take(f"n{number}", number + 20) for number in range(10)))
    assert await known.entered() == {f"n{number}": {number + 20} for number in range(10)}
    assert await known.revoked() == set()


async def test_the_last_that_leaves_does_not_take_one_with_it_that_enters(known: Known) -> None:
    for number in range(20):
        await known.take(f"t{number}", 0)
        await asyncio.gather(known.registry.leave(f"t{number}"), known.take(f"n{number}", 1))
        assert await known.entered() == {f"n{number}": {1}}
        await known.registry.leave(f"n{number}")


async def test_queues_do_not_know_each_other(broker: Broker, queue: str) -> None:
    one, other = Known(broker, queue), Known(broker, f"{queue}2")
    await one.take("t1", 0)
    await other.take("t2", 0)
    assert await one.entered() == {"t1": {0}}
    assert await other.entered() == {"t2": {0}}
    assert await one.revoked() == await other.revoked() == set()


@pytest.mark.parametrize(
    "rubbish",
    [b"rubbish", b"", b"null", b"[]", b'{"tenures":{"t0":7}}', b'{"tenures":{"a b":"1"}}', b'{"tenures":{"a.>":"1"}}', b'{"tenures":{"":"1"}}'],
)
async def test_rubbish_is_written_anew(known: Known, rubbish: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever wrote it was no worker, and no worker may fail for ever because of it."""
    await known.broker.lane.publish(known.subject, rubbish)
    await known.registry.leave("nobody")
    with caplog.at_level(logging.ERROR):
        assert await known.take("t1", 0) == 0
    assert await known.entered() == {"t1": {0}}
    assert not rubbish or known.subject in caplog.text
    assert await known.revoked() == set()


@pytest.mark.parametrize("bits", ["", "x", "-1", "0x1", "1 ", "F"])
async def test_a_tenure_whose_partitions_cannot_be_read_may_have_had_any(known: Known, bits: str) -> None:
    entries = {"t1": "1", "t2": bits, "t3": "2", "a b": "1"}
    await known.broker.lane.publish(known.subject, msgspec.json.encode({"tenures": entries, "more": 1}))
    assert await known.take("t4", 0) > 0
    assert await known.revoked() == {"t1", "t2"}
    assert await known.entered() == {"t3": {1}, "t4": {0}}


async def test_a_registry_that_never_holds_still_is_given_up_for_now(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    async def always_late(tenures: dict[str, str], position: int) -> bool:
        return False

    monkeypatch.setattr(known.registry, "_write", always_late)
    with pytest.raises(BrokerError, match="changed 50 times while"):
        await known.take("t1", 0)


async def test_only_what_a_revoked_tenure_may_have_been_given_is_in_doubt(broker: Broker, queue: str) -> None:
    registry = Registry(broker.lane, broker.names, queue, replicated=False)
    assert (await registry.take("t1", frozenset({0, 1}), 10)).doubt == 0
    assert (await registry.take("t2", frozenset({1}), 20)).doubt == 20
    assert (await registry.take("t3", frozenset({0}), 30)).doubt == 20, "t1 was revoked by t2"
    await registry.leave("t2")
    assert (await registry.take("t4", frozenset({1}), 40)).doubt == 20, "t2 has left in peace"
    assert (await registry.take("t5", frozenset({1}), 50)).doubt == 50


async def test_a_doubt_outlives_the_last_worker_while_a_command_waits(broker: Broker, queue: str) -> None:
    lane, names = broker.lane, broker.names
    registry = Registry(lane, names, queue, replicated=False)
    waiting = (await lane.publish(f"{names.namespace}.{queue}.w.start.order", b"")).seq
    await registry.take("t1", frozenset({0}), waiting)
    await registry.take("t2", frozenset({0}), waiting)
    await registry.leave("t2")
    assert (await registry.take("t3", frozenset({0}), waiting)).doubt == waiting
    await registry.leave("t3")
    await lane.api(f"STREAM.MSG.DELETE.{names.inbox_stream}", {"seq": waiting})
    assert (await registry.take("t4", frozenset({0}), waiting)).doubt == waiting
    await registry.leave("t4")
    assert (await registry.take("t5", frozenset({0}), waiting)).doubt == 0
    await registry.leave("t5")


async def test_what_cannot_be_read_leaves_everything_in_doubt(broker: Broker, queue: str) -> None:
    await broker.lane.publish(broker.names.registry(queue), b"{oops")
    registry = Registry(broker.lane, broker.names, queue, replicated=False)
    assert (await registry.take("t1", frozenset({0}), 70)).doubt == 70
