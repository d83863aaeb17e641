"""The timeline: one key is one commit, written once, read back whole."""

import asyncio

import pytest
from msgspec import Raw

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.stores.timeline import Entry, OwnedTimeline, Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.core.events import Commit, SideEffect, Started, encode_commit
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError
from tests.broker.owning import OwnedLane, owned_lane, stored, writes_until_revoked


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def timeline(broker: Broker, owned: OwnedLane) -> OwnedTimeline:
    return OwnedTimeline(owned, broker.names, Choice())


def _another(broker: Broker, queue: str) -> OwnedTimeline:
    """The same timelines under another tenure."""
    return OwnedTimeline(owned_lane(broker, queue), broker.names, Choice())


def _first(run: int, generation: int = 1) -> bytes:
    return encode_commit(Commit(run, run, [Started(1, "w", Raw(b"null"), generation=generation)]))


def _next(run: int, number: int) -> bytes:
    return encode_commit(Commit(run, run + number, [SideEffect(number, 1, Raw(b"%d" % number))]))


async def _write(timeline: OwnedTimeline, queue: str, first: int, count: int, run: int = 7) -> None:
    """A run of ``count`` entries whose first key is ``first``."""
    bodies = [_first(run), *(_next(run, number) for number in range(1, count))]
    await asyncio.gather(*(timeline.append(queue, "w", first + number, body) for number, body in enumerate(bodies)))


async def _last(timeline: Timeline, queue: str) -> Entry:
    last = await timeline.last(queue, "w")
    assert last is not None
    return last


async def _remove(broker: Broker, timeline: Timeline, queue: str, *seqs: int) -> None:
    for seq in seqs:
        await broker.lane.api(f"STREAM.PURGE.{broker.names.timeline_stream}", {"filter": timeline.key(queue, "w", seq)})


async def test_a_workflow_without_a_timeline(timeline: OwnedTimeline, queue: str) -> None:
    assert await timeline.last(queue, "w") is None


async def test_what_is_written_is_read_back(timeline: OwnedTimeline, queue: str) -> None:
    first = await timeline.append(queue, "w", 1, _first(7))
    second = await timeline.append(queue, "w", 2, _next(7, 1))
    last = await _last(timeline, queue)
    assert (last.seq, last.commit.run, last.commit.cause, last.position) == (2, 7, 8, second)
    entries = await timeline.run(queue, "w", last)
    assert [entry.seq for entry in entries] == [1, 2]
    assert [entry.position for entry in entries] == [first, second]
    assert isinstance(entries[0].commit.events[0], Started)


async def test_a_workflow_begins_once(broker: Broker, timeline: OwnedTimeline, queue: str) -> None:
    """Whoever begins it: many under one tenure, or each under its own."""
    each = [timeline] * 25 + [_another(broker, queue) for _ in range(25)]
    outcomes = await asyncio.gather(*(one.begin(queue, "w", _first(run)) for run, one in enumerate(each, 1)), return_exceptions=True)
    written = [run for run, outcome in enumerate(outcomes, 1) if isinstance(outcome, int)]
    assert {type(outcome) for outcome in outcomes} == {int, ConflictError}
    assert [(await _last(timeline, queue)).commit.run] == written


@pytest.mark.parametrize("count", [1, 2, 500, 501, 502, 1_500])
async def test_a_run_of_any_length_is_read_whole_and_in_order(timeline: OwnedTimeline, queue: str, count: int) -> None:
    await _write(timeline, queue, 1, count)
    entries = await timeline.run(queue, "w", await _last(timeline, queue))
    assert [entry.seq for entry in entries] == list(range(1, count + 1))
    assert [entry.commit.cause for entry in entries] == list(range(7, count + 7))


@pytest.mark.parametrize("before", [1, 499, 500, 600])
async def test_only_the_run_of_the_last_entry_is_read(timeline: OwnedTimeline, queue: str, before: int) -> None:
    await _write(timeline, queue, 1, before, run=7)
    await _write(timeline, queue, before + 1, 501, run=9_000)
    entries = await timeline.run(queue, "w", await _last(timeline, queue))
    assert {entry.commit.run for entry in entries} == {9_000}
    assert [entry.seq for entry in entries] == list(range(before + 1, before + 502))


async def test_a_run_whose_predecessor_was_removed(broker: Broker, timeline: OwnedTimeline, queue: str) -> None:
    await _write(timeline, queue, 1, 3, run=7)
    await _write(timeline, queue, 4, 3, run=9_000)
    await _remove(broker, timeline, queue, 1, 2, 3)
    assert [entry.seq for entry in await timeline.run(queue, "w", await _last(timeline, queue))] == [4, 5, 6]


async def test_workflows_do_not_see_each_other(timeline: OwnedTimeline, queue: str) -> None:
    await timeline.append(queue, "w", 1, _first(7))
    await timeline.append(queue, "w2", 1, _first(8))
    await timeline.append(f"{queue}2", "w", 1, _first(9))
    assert (await _last(timeline, queue)).commit.run == 7


@pytest.mark.parametrize("missing", [1, 5, 250, 1_000, 1_001, 1_499])
async def test_a_missing_key_is_an_error_and_not_a_shorter_run(broker: Broker, timeline: OwnedTimeline, queue: str, missing: int) -> None:
    await _write(timeline, queue, 1, 1_500)
    last = await _last(timeline, queue)
    await _remove(broker, timeline, queue, missing)
    with pytest.raises(BrokerError, match="incomplete") as raised:
        await timeline.run(queue, "w", last)
    assert not isinstance(raised.value, BrokerUnavailableError)


async def test_a_server_that_lags_is_asked_again_and_not_believed(
    broker: Broker, timeline: OwnedTimeline, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _write(timeline, queue, 1, 10)
    last = await _last(timeline, queue)
    read_many = broker.lane.read_many

    async def lagging(stream: str, request: dict[str, list[str]], *, may_lag: str) -> object:
        return [message for message in await read_many(stream, request, may_lag=may_lag) if not message.subject.endswith(".9")]

    monkeypatch.setattr(broker.lane, "read_many", lagging)
    with pytest.raises(BrokerUnavailableError, match="the server that answered does not have entry 9 yet"):
        await timeline.run(queue, "w", last)


@pytest.mark.parametrize(("seq", "body"), [("1", b"not json"), ("1", b'{"v":1}'), ("x", b"{}")])
async def test_a_key_that_cannot_be_read_is_named(broker: Broker, timeline: OwnedTimeline, queue: str, seq: str, body: bytes) -> None:
    await broker.lane.publish(timeline.key(queue, "w", seq), body)
    with pytest.raises(BrokerError, match=rf"timeline key .*{queue}\.w\.{seq} cannot be read"):
        await timeline.last(queue, "w")


async def test_a_history_that_the_server_gives_in_parts_is_read_whole(timeline: OwnedTimeline, queue: str) -> None:
    """One answer has 64 MiB at most."""
    large = Raw(b'"%b"' % (b"x" * 900_000))
    await timeline.append(queue, "w", 1, _first(7))
    for number in range(1, 80):
        await timeline.append(queue, "w", number + 1, encode_commit(Commit(7, 7 + number, [SideEffect(number, 1, large)])))
    entries = await timeline.run(queue, "w", await _last(timeline, queue))
    assert [entry.seq for entry in entries] == list(range(1, 81))


async def test_a_key_removed_a_moment_ago_is_not_the_last_and_what_came_later_stays(timeline: OwnedTimeline, queue: str) -> None:
    first = await timeline.append(queue, "w", 1, _first(7))
    second = await timeline.append(queue, "w", 2, _next(7, 1))
    await timeline.remove(queue, "w", first, only=1)
    await timeline.remove(queue, "w", 0)
    assert [entry.seq for entry in await timeline.between(queue, "w", 1, 2)] == [1, 2], "what is at the position stays"
    await timeline.remove(queue, "w", second, only=1)
    assert (await _last(timeline, queue)).seq == 2
    assert not await timeline.has(queue, "w", 1)
    with pytest.raises(ConflictError):
        await timeline.begin(queue, "w", _first(9))
    await timeline.append(queue, "w", 1, _first(9))
    await timeline.remove(queue, "w", second, only=1)
    await timeline.remove(queue, "w", second)
    assert [entry.seq for entry in await timeline.between(queue, "w", 1, 2)] == [1, 2], "however often, and however late it comes"


async def test_what_is_removed_of_one_workflow_is_left_to_the_others(timeline: OwnedTimeline, queue: str) -> None:
    for workflow in ("w", "w2"):
        await timeline.append(queue, workflow, 1, _first(7))
        last = await timeline.append(queue, workflow, 2, _next(7, 1))
    await timeline.remove(queue, "w", last + 1)
    assert await timeline.last(queue, "w") is None
    assert [entry.seq for entry in await timeline.between(queue, "w2", 1, 2)] == [1, 2]


async def test_of_two_owners_the_one_before_is_refused_whichever_key_it_writes(broker: Broker, queue: str) -> None:
    """A second key and a first written anew, in either order, and whether the later owner has written meanwhile or not."""
    for winner, loser in ((1, 2), (2, 1), (1, 1), (2, 2), (0, 1), (0, 2)):
        workflow, lane, later = f"w{winner}{loser}", owned_lane(broker, queue), _another(broker, queue)
        earlier = OwnedTimeline(lane, broker.names, Choice())
        await earlier.append(queue, workflow, 1, _first(7))
        await lane.revoke()
        if winner:
            await later.append(queue, workflow, winner, _next(7, 1))
        there = await stored(broker, broker.names.timeline_stream, later.key(queue, workflow, "*"))
        with pytest.raises(TenureOverError):
            await earlier.append(queue, workflow, loser, _next(7, 2))
        assert await stored(broker, broker.names.timeline_stream, later.key(queue, workflow, "*")) == there


async def test_a_workflow_may_begin_only_where_no_key_is_left(timeline: OwnedTimeline, queue: str) -> None:
    await timeline.append(queue, "w", 1, _first(7))
    second = await timeline.append(queue, "w", 2, _next(7, 1))
    await timeline.remove(queue, "w", second)
    with pytest.raises(ConflictError):
        await timeline.begin(queue, "w", _first(9))
    await timeline.remove(queue, "w", second + 1)
    assert await timeline.begin(queue, "w", _first(9)) > second


async def test_none_begins_that_was_guarded(broker: Broker, timeline: OwnedTimeline, queue: str) -> None:
    """The beginning that an earlier owner sent comes late, and there is nothing yet that would refuse it."""
    earlier = _another(broker, queue)
    await timeline.guard(queue, "w")
    for one in (earlier, timeline):
        with pytest.raises(ConflictError):
            await one.begin(queue, "w", _first(7))
    assert await timeline.last(queue, "w") is None, "a guard is not a key"
    await timeline.guard(queue, "w")
    assert await earlier.begin(queue, "w2", _first(7)) > 0, "it is that of one workflow"
    assert await timeline.append(queue, "w", 1, _first(7)) > 0, "who has looked at the timeline writes under the fence"
    guard = await broker.lane.last_message(broker.names.timeline_stream, broker.names.guard(queue, "w"))
    assert guard is not None
    assert guard.headers["Nats-TTL"] == "86400s"


async def test_nothing_is_appended_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, timeline: OwnedTimeline, queue: str) -> None:
    mine = timeline.key(queue, "w", "*")
    await writes_until_revoked(broker, owned, broker.names.timeline_stream, mine, lambda: timeline.append(queue, "w", 1, _first(7)))


async def test_nothing_is_guarded_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, timeline: OwnedTimeline, queue: str) -> None:
    guard = broker.names.guard(queue, "w")
    await writes_until_revoked(broker, owned, broker.names.timeline_stream, guard, lambda: timeline.guard(queue, "w"))


async def test_a_tenure_that_is_over_neither_begins_nor_removes(owned: OwnedLane, timeline: OwnedTimeline, queue: str) -> None:
    first = await timeline.begin(queue, "w", _first(7))
    owned.hold.lose("a test says so")
    for late in (timeline.begin(queue, "w2", _first(7)), timeline.remove(queue, "w", first + 1), timeline.last(queue, "w")):
        with pytest.raises(TenureOverError, match="a test says so"):
            await late
    owned.hold.over = False
    assert await timeline.last(queue, "w2") is None
    assert (await _last(timeline, queue)).position == first
