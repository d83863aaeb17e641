"""The timeline: one key is one commit, written once, read back whole."""

import asyncio

import pytest
from msgspec import Raw

from jetflow.broker.connection import Broker
from jetflow.broker.timeline import Entry, Timeline
from jetflow.core.events import Commit, SideEffect, Started, encode_commit
from jetflow.errors import BrokerError, BrokerUnavailableError, ConflictError


@pytest.fixture
def timeline(broker: Broker) -> Timeline:
    return Timeline(broker.lane, broker.names)


def _first(run: int, generation: int = 1) -> bytes:
    return encode_commit(Commit(run, run, [Started(1, "w", Raw(b"null"), generation=generation)]))


def _next(run: int, number: int) -> bytes:
    return encode_commit(Commit(run, run + number, [SideEffect(number, 1, Raw(b"%d" % number))]))


async def _write(timeline: Timeline, queue: str, first: int, count: int, run: int = 7) -> None:
    """A run of ``count`` entries whose first key is ``first``."""
    bodies = [_first(run), *(_next(run, number) for number in range(1, count))]
    await asyncio.gather(*(_put(timeline, queue, first + number, body) for number, body in enumerate(bodies)))


async def _put(timeline: Timeline, queue: str, seq: int, body: bytes) -> None:
    """A key as it may be in a bucket, without a fence."""
    await timeline._lane.publish(timeline.key(queue, "w", seq), body)


async def _last(timeline: Timeline, queue: str) -> Entry:
    last = await timeline.last(queue, "w")
    assert last is not None
    return last


async def _remove(broker: Broker, timeline: Timeline, queue: str, *seqs: int) -> None:
    for seq in seqs:
        await broker.lane.api(f"STREAM.PURGE.{broker.names.timeline_stream}", {"filter": timeline.key(queue, "w", seq)})


async def test_a_workflow_without_a_timeline(timeline: Timeline, queue: str) -> None:
    assert await timeline.last(queue, "w") is None


async def test_what_is_written_is_read_back(timeline: Timeline, queue: str) -> None:
    first = await timeline.append(queue, "w", 1, _first(7))
    await timeline.append(queue, "w", 2, _next(7, 1), first)
    last = await _last(timeline, queue)
    assert (last.seq, last.commit.run, last.commit.cause) == (2, 7, 8)
    entries = await timeline.run(queue, "w", last)
    assert [entry.seq for entry in entries] == [1, 2]
    assert isinstance(entries[0].commit.events[0], Started)


async def test_a_key_is_written_once(timeline: Timeline, queue: str) -> None:
    outcomes = await asyncio.gather(*(timeline.append(queue, "w", 1, _first(run)) for run in range(1, 51)), return_exceptions=True)
    written = [run for run, outcome in enumerate(outcomes, 1) if isinstance(outcome, int)]
    assert {type(outcome) for outcome in outcomes} == {int, ConflictError}
    assert [(await _last(timeline, queue)).commit.run] == written


@pytest.mark.parametrize("count", [1, 2, 500, 501, 502, 1_500])
async def test_a_run_of_any_length_is_read_whole_and_in_order(timeline: Timeline, queue: str, count: int) -> None:
    await _write(timeline, queue, 1, count)
    entries = await timeline.run(queue, "w", await _last(timeline, queue))
    assert [entry.seq for entry in entries] == list(range(1, count + 1))
    assert [entry.commit.cause for entry in entries] == list(range(7, count + 7))


@pytest.mark.parametrize("before", [1, 499, 500, 600])
async def test_only_the_run_of_the_last_entry_is_read(timeline: Timeline, queue: str, before: int) -> None:
    await _write(timeline, queue, 1, before, run=7)
    await _write(timeline, queue, before + 1, 501, run=9_000)
    entries = await timeline.run(queue, "w", await _last(timeline, queue))
    assert {entry.commit.run for entry in entries} == {9_000}
    assert [entry.seq for entry in entries] == list(range(before + 1, before + 502))


async def test_a_run_whose_predecessor_was_removed(broker: Broker, timeline: Timeline, queue: str) -> None:
    await _write(timeline, queue, 1, 3, run=7)
    await _write(timeline, queue, 4, 3, run=9_000)
    await _remove(broker, timeline, queue, 1, 2, 3)
    assert [entry.seq for entry in await timeline.run(queue, "w", await _last(timeline, queue))] == [4, 5, 6]


async def test_workflows_do_not_see_each_other(timeline: Timeline, queue: str) -> None:
    await timeline.append(queue, "w", 1, _first(7))
    await timeline.append(queue, "w2", 1, _first(8))
    await timeline.append(f"{queue}2", "w", 1, _first(9))
    assert (await _last(timeline, queue)).commit.run == 7


@pytest.mark.parametrize("missing", [1, 5, 250, 1_000, 1_001, 1_499])
async def test_a_missing_key_is_an_error_and_not_a_shorter_run(broker: Broker, timeline: Timeline, queue: str, missing: int) -> None:
    await _write(timeline, queue, 1, 1_500)
    last = await _last(timeline, queue)
    await _remove(broker, timeline, queue, missing)
    with pytest.raises(BrokerError, match="incomplete") as raised:
        await timeline.run(queue, "w", last)
    assert not isinstance(raised.value, BrokerUnavailableError)


async def test_a_server_that_lags_is_asked_again_and_not_believed(
    broker: Broker, timeline: Timeline, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await _write(timeline, queue, 1, 10)
    last = await _last(timeline, queue)
    read_many = broker.lane.read_many

    async def lagging(stream: str, request: dict[str, list[str]]) -> object:
        return [message for message in await read_many(stream, request) if not message.subject.endswith(".9")]

    monkeypatch.setattr(broker.lane, "read_many", lagging)
    with pytest.raises(BrokerUnavailableError, match="entry 9 is not on the server that answered yet"):
        await timeline.run(queue, "w", last)


@pytest.mark.parametrize(("seq", "body"), [("1", b"not json"), ("1", b'{"v":1}'), ("x", b"{}")])
async def test_a_key_that_cannot_be_read_is_named(broker: Broker, timeline: Timeline, queue: str, seq: str, body: bytes) -> None:
    await broker.lane.publish(timeline.key(queue, "w", seq), body)
    with pytest.raises(BrokerError, match=rf"timeline key .*{queue}\.w\.{seq} cannot be read"):
        await timeline.last(queue, "w")


async def test_a_history_that_the_server_gives_in_parts_is_read_whole(timeline: Timeline, queue: str) -> None:
    """One answer has 64 MiB at most."""
    large = Raw(b'"%b"' % (b"x" * 900_000))
    position = await timeline.append(queue, "w", 1, _first(7))
    for number in range(1, 80):
        position = await timeline.append(queue, "w", number + 1, encode_commit(Commit(7, 7 + number, [SideEffect(number, 1, large)])), position)
    entries = await timeline.run(queue, "w", await _last(timeline, queue))
    assert [entry.seq for entry in entries] == list(range(1, 81))


async def test_a_key_wiped_a_moment_ago_is_not_the_last(timeline: Timeline, queue: str) -> None:
    first = await timeline.append(queue, "w", 1, _first(7))
    await timeline.append(queue, "w", 2, _next(7, 1), first)
    timeline.wipe(queue, "w", 1, first + 1000)
    assert (await _last(timeline, queue)).seq == 2, "the fence held"
    timeline.wipe(queue, "w", 1, first)
    assert (await _last(timeline, queue)).seq == 2
    with pytest.raises(ConflictError):
        await timeline.append(queue, "w", 1, _first(9))


async def test_of_a_second_key_and_a_first_written_anew_one_is_refused(timeline: Timeline, queue: str) -> None:
    """Whoever comes second of two owners, whichever of the two each of them writes."""
    for winner, loser in ((1, 2), (2, 1), (1, 1), (2, 2)):
        workflow = f"w{winner}{loser}"
        first = await timeline.append(queue, workflow, 1, _first(7))
        await timeline.append(queue, workflow, winner, _next(7, 1), first)
        with pytest.raises(ConflictError):
            await timeline.append(queue, workflow, loser, _next(7, 2), first)


async def test_a_workflow_may_begin_only_where_no_key_is_left(timeline: Timeline, queue: str) -> None:
    first = await timeline.append(queue, "w", 1, _first(7))
    second = await timeline.append(queue, "w", 2, _next(7, 1), first)
    await timeline.remove(queue, "w", second)
    with pytest.raises(ConflictError):
        await timeline.append(queue, "w", 1, _first(9))
    with pytest.raises(ConflictError):
        await timeline.replace(queue, "w", 2, _first(7), first)
    await timeline.remove(queue, "w", second + 1)
    assert await timeline.append(queue, "w", 1, _first(9)) > second
