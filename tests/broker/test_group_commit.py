"""Messages that travel together are each stored or refused by themselves."""

import asyncio
import secrets
import time
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.fencing.group_commit import AGAIN, BUSY, CROWD, GAIN, MOST, PERIOD, SLOW, SOON, Choice, GroupCommit
from jetflow.broker.stores.timeline import OwnedTimeline
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import BrokerUnavailableError, ConflictError, PayloadTooLargeError
from jetflow.protocol.clock import cpu as wanted_cpu
from jetflow.protocol.headers import header_block
from tests.broker import owning
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane, owned_lane

OTHERS = 3 * CROWD
EXPECT_NEW = header_block(Nats_Expected_Last_Subject_Sequence="0")


async def make_stream(lane: Lane, **config: object) -> str:
    """A stream of this test's own; its name is the first token of its subjects."""
    name = f"t{secrets.token_hex(6)}"
    await lane.api(f"STREAM.CREATE.{name}", {"name": name, "subjects": [f"{name}.*"], "storage": "file", "allow_atomic": True, **config})
    return name


@pytest.fixture
async def stream(broker: Broker) -> str:
    return await make_stream(broker.lane)


@pytest.fixture
def group(broker: Broker, queue: str) -> GroupCommit:
    return GroupCommit(owned_lane(broker, queue), "timeline", convinced())


def convinced() -> Choice:
    """One that has found batches to be quicker."""
    choice = Choice()
    choice.together = choice._proven = True
    choice._until = inf
    choice._alone.each = inf
    choice._grouped_at = time.monotonic()
    return choice


async def publish(group: GroupCommit, stream: str, name: str, body: bytes = b"body", *, fenced: bool = False) -> int | BaseException:
    """With a condition of its own, or under the tenure's fence alone."""
    try:
        return await group.publish(f"{stream}.{name}", body, headers=None if fenced else EXPECT_NEW)
    except Exception as error:
        return error


async def stored(lane: Lane, stream: str) -> dict[int, tuple[str, dict[str, str]]]:
    """Name and headers of each message by its position."""
    state = (await lane.api(f"STREAM.INFO.{stream}"))["state"]
    found = [await lane.message(stream, seq) for seq in range(1, state["last_seq"] + 1)]
    return {message.seq: (message.subject.split(".")[1], message.headers) for message in found if message is not None}


def batches_of(messages: dict[int, tuple[str, dict[str, str]]]) -> set[str]:
    return {headers["Nats-Batch-Id"] for _, headers in messages.values() if "Nats-Batch-Id" in headers}


@pytest.mark.parametrize("fenced", [0, 1, 2])
async def test_each_gets_its_own_position(broker: Broker, group: GroupCommit, stream: str, fenced: int) -> None:
    """None of them fenced, all, or every second one."""
    names = [f"n{number}" for number in range(MOST + 2 * CROWD)]
    positions = await asyncio.gather(*(publish(group, stream, name, fenced=bool(fenced and place % fenced == 0)) for place, name in enumerate(names)))
    messages = await stored(broker.lane, stream)
    assert dict(zip(positions, names, strict=True)) == {seq: name for seq, (name, _) in messages.items()}
    assert len(batches_of(messages)) == 2


async def test_few_go_alone(broker: Broker, group: GroupCommit, stream: str) -> None:
    positions = await asyncio.gather(*(publish(group, stream, f"n{number}") for number in range(CROWD - 1)))
    messages = await stored(broker.lane, stream)
    assert sorted(map(str, positions)) == sorted(map(str, messages))
    assert not batches_of(messages)


async def test_a_crowd_that_has_gone_leaves_the_few_alone(broker: Broker, group: GroupCommit, stream: str) -> None:
    group.choice._grouped_at -= 2 * SOON
    assert isinstance(await publish(group, stream, "one"), int)
    assert not group.choice.together


async def test_one_whose_fence_fails_takes_nobody_with_it(broker: Broker, group: GroupCommit, stream: str) -> None:
    assert await publish(group, stream, "taken") == 1
    names = [f"n{number}" for number in range(OTHERS)]
    lost, *positions = await asyncio.gather(*(publish(group, stream, name) for name in ["taken", *names]))
    assert isinstance(lost, ConflictError)
    messages = await stored(broker.lane, stream)
    assert [messages[int(str(position))][0] for position in positions] == names
    assert len(messages) == 1 + OTHERS
    assert group.choice.together, "a lost fence says nothing against batches"


async def test_one_that_is_too_large_takes_nobody_with_it(broker: Broker, group: GroupCommit, stream: str) -> None:
    large = publish(group, stream, "large", b"x" * (broker.max_payload + 1))
    before = [publish(group, stream, f"b{number}") for number in range(CROWD)]
    after = [publish(group, stream, f"a{number}") for number in range(CROWD)]
    outcomes = await asyncio.gather(*before, large, *after)
    assert isinstance(outcomes[CROWD], PayloadTooLargeError)
    assert len(await stored(broker.lane, stream)) == 2 * CROWD
    assert sum(isinstance(outcome, int) for outcome in outcomes) == 2 * CROWD


async def test_large_messages_make_small_batches(broker: Broker, group: GroupCommit, stream: str) -> None:
    body = b"x" * 200_000
    positions = await asyncio.gather(*(publish(group, stream, f"n{number}", body) for number in range(2 * CROWD)))
    messages = await stored(broker.lane, stream)
    assert sorted(map(str, positions)) == sorted(map(str, messages))
    assert len(batches_of(messages)) == 1, "20 of them are 4 MB; the other 12 are too few for a batch"


async def test_a_stream_without_batches_is_asked_once(broker: Broker, group: GroupCommit) -> None:
    stream = await make_stream(broker.lane, allow_atomic=False)
    positions = await asyncio.gather(*(publish(group, stream, f"n{number}") for number in range(MOST + CROWD - 1)))
    assert sorted(map(str, positions)) == sorted(map(str, await stored(broker.lane, stream)))
    assert isinstance(await publish(group, stream, "one-more"), int)
    assert not group.choice.together
    assert group.choice._until == inf


async def test_one_that_nobody_waits_for_any_more(broker: Broker, group: GroupCommit, stream: str) -> None:
    tasks = [asyncio.create_task(publish(group, stream, f"n{number}")) for number in range(OTHERS)]
    await asyncio.sleep(0)
    tasks[3].cancel()
    positions = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(positions[3], asyncio.CancelledError)
    messages = await stored(broker.lane, stream)
    assert all(messages[int(str(position))][0] == f"n{number}" for number, position in enumerate(positions) if number != 3)
    assert len(messages) == OTHERS - 1, "it was not sent, and never will be"


async def test_time_to_live_and_notices_are_those_of_messages_alone(broker: Broker, group: GroupCommit) -> None:
    """What state records rest on: the republished copy, the TTL of a closed one, and the marker that it leaves."""
    copies = f"t{secrets.token_hex(6)}"
    heard: list[tuple[bytes, bytes]] = []
    stream = await make_stream(
        broker.lane,
        allow_msg_ttl=True,
        subject_delete_marker_ttl=60_000_000_000,
        max_msgs_per_subject=1,
        republish={"src": ">", "dest": f"{copies}.>"},
    )
    republished = [f"{copies}.{stream}.n{number}".encode() for number in range(CROWD)]
    broker.wire.listen(f"{copies}.>", lambda subject, _reply, data, _headers: heard.append((subject, data)))
    await asyncio.gather(*(group.publish(f"{stream}.n{number}", b"body", b"Nats-TTL:1s\r\n") for number in range(CROWD)))
    assert len(batches_of(await stored(broker.lane, stream))) == 1
    await until(lambda: len(heard) >= 2 * CROWD, "each is republished, and so is the marker of each that has expired")
    assert sorted(heard) == sorted([(subject, body) for subject in republished for body in (b"", b"body")])


async def test_a_batch_that_was_left_unfinished_keeps_nobody_out(server: LocalServer, broker: Broker, group: GroupCommit, stream: str) -> None:
    dying = await Broker.connect(server.url)
    for number in range(1, 6):
        headers = EXPECT_NEW[:-2] + b"Nats-Batch-Id:left\r\nNats-Batch-Sequence:%d\r\n\r\n" % number
        dying.lane.wire.send(f"{stream}.n{number}", b"left", headers=headers)
    await dying.lane.api("INFO")
    await dying.close()
    positions = await asyncio.gather(*(publish(group, stream, f"n{number}") for number in range(OTHERS)))
    assert sorted(map(str, positions)) == sorted(map(str, await stored(broker.lane, stream)))


async def test_the_server_is_killed_amid_batches(tmp_path: Path) -> None:
    """What was answered is there after kill -9; what was not may be there or not, is a BrokerUnavailableError, and ends the tenure."""
    config = tmp_path / "always.conf"
    config.write_text("jetstream { sync_interval: always }")
    server = LocalServer(tmp_path / "store", config=config)
    await server.start()
    try:
        broker = await Broker.connect(server.url)
        stream = await make_stream(broker.lane)
        group = GroupCommit(owned_lane(broker), "timeline", convinced())
        outcomes: dict[str, object] = {}

        async def keep_publishing(writer: int) -> None:
            number = 0
            while not any(isinstance(outcome, BaseException) for outcome in outcomes.values()):
                name = f"w{writer}-{number}"
                outcomes[name] = await publish(group, stream, name)
                number += 1

        writers = [asyncio.create_task(keep_publishing(writer)) for writer in range(OTHERS)]
        await until(lambda: len(outcomes) > 10 * OTHERS, "ten rounds are stored")
        server.kill()
        await asyncio.gather(*writers)
        await server.start()
        await broker.lane.wire.connected(30)
        messages = await stored(broker.lane, stream)
        assert len(batches_of(messages)) >= 5
        positions = {name: seq for seq, (name, _) in messages.items()}
        for name, outcome in outcomes.items():
            if isinstance(outcome, int):
                assert positions[name] == outcome
            else:
                assert isinstance(outcome, BrokerUnavailableError | TenureOverError), outcome
        assert any(isinstance(outcome, BrokerUnavailableError) for outcome in outcomes.values())
        over = await asyncio.gather(*(publish(group, stream, f"over-{number}") for number in range(OTHERS)))
        assert {type(outcome) for outcome in over} == {TenureOverError}
        group = GroupCommit(owned_lane(broker), "timeline", convinced())
        again = await asyncio.gather(*(publish(group, stream, f"again-{number}") for number in range(OTHERS)))
        assert all(isinstance(outcome, int) for outcome in again), again
        assert not [name for name, _ in (await stored(broker.lane, stream)).values() if name.startswith("over-")]
        await broker.close()
    finally:
        await server.stop()


# ---- under a tenure


class Committing:
    """A tenure's commits: appended ones, which are fenced, and first ones, which have a condition of their own."""

    def __init__(self, broker: Broker, queue: str, *, replicated: bool = False) -> None:
        self.broker, self.queue = broker, queue
        self.lane: OwnedLane = owned_lane(broker, queue, replicated=replicated)
        self.timeline = OwnedTimeline(self.lane, broker.names, convinced())
        self.choice = self.timeline._commits.choice

    async def all_of(self, appended: list[str], begun: list[str]) -> list[int | BaseException]:
        """Writes key 2 of some workflows, and key 1 of others; one of these after one of those."""
        work = {name: self.timeline.append(self.queue, name, 2, b"next") for name in appended}
        first = {name: self.timeline.begin(self.queue, name, b"first") for name in begun}
        names = [name for pair in zip(appended, begun, strict=False) for name in pair]
        rest = [name for name in (*appended, *begun) if name not in names]
        outcomes = await asyncio.gather(*((work | first)[name] for name in names + rest), return_exceptions=True)
        by_name = dict(zip(names + rest, outcomes, strict=True))
        return [by_name[name] for name in (*appended, *begun)]

    async def stored(self) -> dict[int, str]:
        """Workflow of each key of the queue, by position."""
        found = await owning.stored(self.broker, self.broker.names.timeline_stream, f"{self.broker.names.timeline_prefix}{self.queue}.>")
        return {seq: subject.split(".")[-2] for subject, seq, _ in found}

    async def batches(self) -> set[str]:
        names, lane = self.broker.names, self.broker.lane
        found = [await lane.message(names.timeline_stream, seq) for seq in await self.stored()]
        return {message.headers["Nats-Batch-Id"] for message in found if message is not None and "Nats-Batch-Id" in message.headers}


APPENDED = [f"a{number}" for number in range(OTHERS)]
BEGUN = [f"b{number}" for number in range(CROWD)]


@pytest.fixture(params=[False, True], ids=["alone", "replicated"])
def committing(broker: Broker, queue: str, request: pytest.FixtureRequest) -> Committing:
    """As with one server, and as with several: the fence is spelled in as many ways as there are writes under way."""
    return Committing(broker, queue, replicated=request.param)


async def test_fenced_ones_and_first_commits_are_stored_as_one(committing: Committing) -> None:
    positions = await committing.all_of(APPENDED, BEGUN)
    messages = await committing.stored()
    assert dict(zip(positions, APPENDED + BEGUN, strict=True)) == messages
    assert sorted(messages) == list(range(min(messages), min(messages) + len(messages))), "without a gap"
    assert len(await committing.batches()) == 1
    assert committing.choice.together
    assert committing.lane.hold.why is None


async def test_nothing_of_a_batch_is_stored_once_the_tenure_is_revoked(committing: Committing) -> None:
    before = await committing.all_of(APPENDED, [])
    await committing.lane.revoke()
    outcomes = await committing.all_of([f"late-{name}" for name in APPENDED], [f"late-{name}" for name in BEGUN])
    assert {type(outcome) for outcome in outcomes} == {TenureOverError}
    assert committing.lane.hold.why == "another worker has taken over"
    assert sorted(await committing.stored()) == before


async def test_a_first_commit_whose_id_is_taken_takes_nobody_with_it(committing: Committing) -> None:
    other = Committing(committing.broker, committing.queue)
    (taken,) = await other.all_of([], BEGUN[3:4])
    outcomes = await committing.all_of(APPENDED, BEGUN)
    lost = outcomes.pop(OTHERS + 3)
    assert isinstance(lost, ConflictError)
    assert not isinstance(lost, TenureOverError)
    messages = await committing.stored()
    assert messages.pop(taken) == BEGUN[3]  # type: ignore[arg-type]
    assert dict(zip(outcomes, APPENDED + BEGUN[:3] + BEGUN[4:], strict=True)) == messages
    assert not await committing.batches(), "nothing of the batch was stored; each has gone by itself"
    assert committing.choice.together, "a lost condition says nothing against batches"
    assert committing.lane.hold.why is None


async def test_first_commits_that_were_guarded_are_refused_alone(committing: Committing) -> None:
    other = Committing(committing.broker, committing.queue)
    for name in BEGUN[:2]:
        await other.timeline.guard(committing.queue, name)
    outcomes = await committing.all_of(APPENDED, BEGUN)
    assert [type(outcome) for outcome in outcomes] == [int] * OTHERS + [ConflictError] * 2 + [int] * (CROWD - 2)
    assert len(await committing.stored()) == OTHERS + CROWD - 2


async def test_a_tenure_that_ends_sends_no_batch(committing: Committing) -> None:
    committing.lane.hold.lose("a test says so")
    outcomes = await committing.all_of(APPENDED, BEGUN)
    assert {type(outcome) for outcome in outcomes} == {TenureOverError}
    assert not committing.lane.sent
    assert not await committing.stored()


async def test_a_batch_gives_its_spelling_back(committing: Committing) -> None:
    spellings = committing.lane._spellings
    free = {kind: len(one._free) for kind, one in spellings.items()}
    await committing.all_of(APPENDED, BEGUN)
    await committing.all_of([f"c{number}" for number in range(CROWD)], BEGUN)
    await committing.lane.revoke()
    await committing.all_of(APPENDED, [f"d{number}" for number in range(CROWD)])
    assert {kind: len(one._free) for kind, one in spellings.items()} == free


class WaitsForTheDisk(Choice):
    """One that takes whatever was measured for slow."""

    def went_alone(self, messages: int, seconds: float, now: float) -> None:
        assert messages > 0
        assert seconds > 0
        self.together = True


async def test_a_crowd_is_measured_and_then_grouped(broker: Broker, stream: str) -> None:
    group = GroupCommit(owned_lane(broker), "timeline", WaitsForTheDisk())
    for number in range(5):
        assert isinstance(await publish(group, stream, f"one{number}"), int)
    await asyncio.gather(*(publish(group, stream, f"few{number}") for number in range(CROWD - 1)))
    assert not group.choice.together, "that was no crowd"
    await asyncio.gather(*(publish(group, stream, f"a{number}") for number in range(OTHERS)))
    assert group.choice.together
    await asyncio.gather(*(publish(group, stream, f"b{number}") for number in range(OTHERS)))
    messages = await stored(broker.lane, stream)
    assert {name for name, headers in messages.values() if "Nats-Batch-Id" in headers} == {f"b{number}" for number in range(OTHERS)}


# ---- which way is quicker


def idle() -> float:
    """CPU that a thread without work wants."""
    return 0.0


def alone(choice: Choice, each: float, now: float) -> None:
    """Two periods of messages on their own, each of which took ``each`` seconds: the first look at the CPU says nothing."""
    for at in (now - PERIOD, now):
        choice.went_alone(100, 100 * each, at)
        choice.went_alone(round(PERIOD / each), PERIOD, at)


def together(choice: Choice, each: float, now: float) -> None:
    choice.went_together(round(PERIOD / each) + 1, (round(PERIOD / each) + 1) * each, now)


def test_a_quick_server_is_never_tried() -> None:
    choice = Choice(idle)
    alone(choice, SLOW * 0.9, 100)
    assert not choice.together


def test_batches_that_pay_go_on_until_the_next_comparison() -> None:
    choice = Choice(idle)
    alone(choice, 200e-6, 100)
    assert choice.together
    together(choice, 100e-6, 101)
    together(choice, 195e-6, 102)
    assert choice.together, "no slower is enough, once it has paid"
    together(choice, 100e-6, 100 + AGAIN)
    assert not choice.together, "messages alone are measured again"
    alone(choice, 200e-6, 101 + AGAIN)
    assert choice.together


def test_batches_that_do_not_pay_are_left_for_a_while() -> None:
    choice = Choice(idle)
    alone(choice, 200e-6, 100)
    together(choice, GAIN * 205e-6, 101)
    assert not choice.together
    alone(choice, 200e-6, 100 + AGAIN)
    assert not choice.together
    alone(choice, 200e-6, 102 + AGAIN)
    assert choice.together


def test_what_is_given_up_for_good_is_not_thought_over() -> None:
    choice = Choice(idle)
    alone(choice, 200e-6, 100)
    choice.give_up(101, inf)
    together(choice, 1e-6, 101)
    choice.were_few(102 + SOON)
    alone(choice, 200e-6, 1e9)
    assert not choice.together


def test_a_crowd_that_is_away_for_a_moment_changes_nothing() -> None:
    choice = Choice(idle)
    alone(choice, 200e-6, 100)
    choice.were_few(100 + SOON)
    together(choice, 100e-6, 103)
    choice.were_few(103 + SOON)
    assert choice.together
    choice.were_few(104 + SOON)
    assert not choice.together
    alone(choice, 200e-6, 105 + SOON)
    assert choice.together


def test_a_process_that_needs_the_cpu_does_not_wait_for_a_disk() -> None:
    used = 0.0

    def working() -> float:
        nonlocal used
        used += BUSY  # looks are a second apart at most
        return used

    choice = Choice(working)
    for now in range(100, 200):
        alone(choice, 200e-6, now)
        assert not choice.together


def test_a_look_at_the_cpu_that_is_long_ago_says_nothing() -> None:
    choice = Choice(idle)
    for now in (100, 101 + AGAIN):
        choice.went_alone(1000, PERIOD, now)
        assert not choice.together
    choice.went_alone(1000, PERIOD, 102 + AGAIN)
    assert choice.together


def test_the_cpu_a_thread_wants_is_in_seconds() -> None:
    before, began = wanted_cpu(), time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    assert 0.04 < wanted_cpu() - before < 30


def test_batches_that_no_longer_pay_are_given_up() -> None:
    choice = Choice(idle)
    alone(choice, 200e-6, 100)
    together(choice, 100e-6, 101)
    together(choice, 210e-6, 102)
    assert not choice.together
    alone(choice, 200e-6, 101 + SOON)
    assert not choice.together
    alone(choice, 200e-6, 103 + SOON)
    assert choice.together


def test_what_was_under_way_when_a_trial_began_does_not_count() -> None:
    choice = Choice(idle)
    alone(choice, 200e-6, 100)
    alone(choice, 1e-6, 101)
    together(choice, 100e-6, 102)
    assert choice.together


STEPS: list[Callable[[Choice, float, float], None]] = [alone, together]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.floats(1e-6, 1e-2), st.floats(0, 30))))
def test_what_lost_is_not_tried_again_at_once(history: list[tuple[Callable[[Choice, float, float], None], float, float]]) -> None:
    choice, now, barred_until = Choice(idle), 100.0, -inf
    for step, each, passed in history:
        now += passed
        before, alone_took, proven = choice.together, choice._alone.each, choice._proven
        step(choice, each, now)
        if choice.together and not before:
            assert step is alone
            assert each > SLOW * 0.99
            assert now >= barred_until
        elif before and not choice.together and each > alone_took * 1.01:
            barred_until = now + (SOON if proven else AGAIN)
