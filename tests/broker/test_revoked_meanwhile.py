"""A revocation in the middle of many writes, on one server and on three: what is read once it is there stays as it is."""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from msgspec import Raw

from bench.cluster import LocalCluster
from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.fencing.registry import Registry
from jetflow.broker.stores.state import OwnedStates
from jetflow.broker.stores.timeline import OwnedTimeline
from jetflow.broker.stores.timers import Timers
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.server import LocalServer
from jetflow.core.events import Commit, Started, encode_commit
from jetflow.errors import BrokerError, ConflictError
from jetflow.protocol.record import COMPLETED, StateRecord
from tests.broker.owning import OwnedLane, owned_lane, stored
from tests.broker.test_group_commit import convinced

ROUNDS = 5
WRITERS = 60
BODY = encode_commit(Commit(1, 1, [Started(1, "w", Raw(b"null"), generation=1)]))
T = TypeVar("T")


class Two:
    """The connection of an owner and of the one that takes over, in different processes as it were."""

    def __init__(self, owner: Broker, taker: Broker) -> None:
        self.owner, self.taker = owner, taker
        self.replicated = owner.topology.replicas > 1

    def lane(self, queue: str, tenure: str) -> OwnedLane:
        return owned_lane(self.owner, queue, tenure, replicated=self.replicated)


@pytest.fixture(params=["one server", "three servers"])
async def two(server: LocalServer, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Two]:
    if request.param == "one server":
        owner, taker = await Broker.connect(server.url), await Broker.connect(server.url)
        yield Two(owner, taker)
    else:
        async with LocalCluster(tmp_path) as cluster:
            first, second, _ = cluster.urls.split(",")
            owner, taker = await Broker.connect(first), await Broker.connect(second)
            assert owner.topology.replicas == taker.topology.replicas == 3
            yield Two(owner, taker)
            await owner.close()
            await taker.close()
            return
    await owner.close()
    await taker.close()


async def _read(two: Two, stream: str, subject_filter: str) -> list[tuple[str, int]]:
    """Subjects and positions; a follower that lags is asked until it has what the leader has."""
    newest = await two.taker.lane.last_message(stream, subject_filter)
    async with asyncio.timeout(20):
        while True:
            found = [(subject, seq) for subject, seq, _ in await stored(two.taker, stream, subject_filter)]
            if newest is None or (found and found[-1][1] >= newest.seq):
                return found
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("together", [False, True])
async def test_nothing_is_stored_behind_what_the_next_owner_has_read(two: Two, queue: str, together: bool) -> None:
    names, ends = two.taker.names, set[str]()
    for number in range(ROUNDS):
        tenure, mine = f"t{number}-0", f"{queue}-{number}"
        lane = two.lane(mine, tenure)
        timeline = OwnedTimeline(lane, names, convinced() if together else Choice())
        states, timers = OwnedStates(lane, names, convinced() if together else Choice()), Timers(lane, names)
        registry = Registry(two.taker.lane, names, mine, replicated=two.replicated)
        await registry.take(tenure, frozenset({0}), 0)
        written: list[int] = []

        async def write(writer: int, mine: str = mine, timeline: OwnedTimeline = timeline, written: list[int] = written,
                        states: OwnedStates = states, timers: Timers = timers) -> str:  # fmt: skip
            seq = 0
            try:
                while True:
                    seq += 1
                    written.append(await timeline.append(mine, f"w{writer}", seq, b"x"))
                    if writer % 3 == 0:
                        await states.put(StateRecord(f"w{writer}", mine, "kind", "1", COMPLETED, 0, 1, 2, expire=3_600_000))
                    if writer % 3 == 1:
                        await timers.schedule(mine, f"w{writer}", 1, seq % 3, 4_000_000_000_000)
            except BrokerError as error:
                return type(error).__name__

        writers = [asyncio.create_task(write(writer)) for writer in range(WRITERS)]
        async with asyncio.timeout(30):
            while len(written) < 3 * WRITERS:
                await asyncio.sleep(0.001)
        await registry.take(f"n{number}-0", frozenset({0}), 0)
        streams = [
            (names.timeline_stream, f"{names.timeline_prefix}{mine}.>"),
            (names.state_stream, f"{names.state_prefix}{mine}.*"),
            (names.inbox_stream, f"{names.timer_prefix}{mine}.>"),
        ]
        seen = [await _read(two, *stream) for stream in streams]
        ends |= set(await asyncio.gather(*writers))
        for message in lane.sent[-200:]:  # and all of it once more, late
            with pytest.raises(BrokerError) as refused:  # the last one of a batch alone is no batch
                await two.owner.lane.publish(*message)
            assert isinstance(refused.value, ConflictError) or "batch is incomplete" in str(refused.value)
        assert [await _read(two, *stream) for stream in streams] == seen
        assert {seq for _, seq in seen[0]} >= {max(written)}, "what was acked is there"
        assert lane.hold.over
        await two.taker.lane.api(f"STREAM.PURGE.{names.inbox_stream}", {"filter": f"{names.timer_prefix}{mine}.>"})
    assert ends == {TenureOverError.__name__}


@pytest.mark.parametrize("together", [False, True])
async def test_nobody_begins_a_workflow_behind_its_guard(two: Two, queue: str, together: bool) -> None:
    """Some begin before it, and then the next owner sees it; none after it has looked."""
    names, counts, chance = two.taker.names, {True: 0, False: 0}, random.Random(1)
    for number in range(ROUNDS):
        mine = f"{queue}-{number}"
        owner = OwnedTimeline(two.lane(mine, "t-0"), names, convinced() if together else Choice())
        next_owner = OwnedTimeline(owned_lane(two.taker, mine, "n-0", replicated=two.replicated), names, Choice())
        ids = [f"w{place}" for place in range(WRITERS)]

        async def soon(work: Awaitable[T]) -> T:
            await asyncio.sleep(chance.random() * 0.02)
            return await work

        async def look(name: str, mine: str = mine, next_owner: OwnedTimeline = next_owner) -> object:
            await next_owner.guard(mine, name)
            return await next_owner.last(mine, name)

        beginning = [asyncio.create_task(soon(owner.begin(mine, name, BODY))) for name in ids]
        seen = await asyncio.gather(*(soon(look(name)) for name in ids))
        outcomes = await asyncio.gather(*beginning, return_exceptions=True)
        for name, before, outcome in zip(ids, seen, outcomes, strict=True):
            assert await next_owner.last(mine, name) == before
            assert isinstance(outcome, int | ConflictError)
            assert isinstance(outcome, int) == (before is not None), (name, outcome)
            counts[before is not None] += 1
    assert all(counts.values()), counts


async def test_as_many_writes_as_come_are_stored_and_a_busy_leader_ends_no_tenure(two: Two, queue: str) -> None:
    lane, names = two.lane(queue, "t-0"), two.owner.names
    timeline, alone = OwnedTimeline(lane, names, convinced()), OwnedTimeline(lane, names, Choice())
    for commits in (timeline, alone):
        work = [commits.append(queue, f"w{number}", 2, b"x") for number in range(1500)]
        first = [commits.begin(queue, f"{id(commits)}-{number}", b"x") for number in range(200)]
        outcomes = await asyncio.gather(*work, *first, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {int}
    assert not lane.hold.over
    assert len(await _read(two, names.timeline_stream, f"{names.timeline_prefix}{queue}.>")) == 1900
