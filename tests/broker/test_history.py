"""Reading a run forward: pages, where it begins, what has come since, and keys that go while they are read."""

import asyncio

import pytest
from msgspec import Raw

from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.stores.timeline import Entry, OwnedTimeline, Timeline
from jetflow.broker.transport.connection import Broker
from jetflow.core.events import Commit, Completed, SideEffect, Started, encode_commit
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.reading import run_reader as history_module
from jetflow.reading.run_reader import RunReader
from tests.broker.owning import owned_lane


@pytest.fixture
def timeline(broker: Broker, queue: str) -> OwnedTimeline:
    return OwnedTimeline(owned_lane(broker, queue), broker.names, Choice())


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "PAGE", 3)


def event(number: int) -> SideEffect:
    return SideEffect(number, 1, Raw(b"%d" % number))


STARTED = Started(1, "w", Raw(b"null"))


async def write(timeline: OwnedTimeline, queue: str, first: int, count: int, run: int = 7) -> None:
    """A run of ``count`` keys of one event each, the first of which is ``first``."""
    for number in range(count):
        commit = Commit(run, run + number, [event(number) if number else STARTED])
        await timeline.append(queue, "w", first + number, encode_commit(commit))


async def read(reader: RunReader) -> list[list[int]]:
    """What is unread, page by page: numbers of events, 0 for the one that begins."""
    return [[getattr(found, "index", 0) for found in page] async for page in reader.unread()]


async def test_nothing(timeline: OwnedTimeline, queue: str) -> None:
    reader = RunReader(timeline, queue, "w")
    assert await read(reader) == []
    assert (reader.gone, reader.run, reader.last) == (True, None, None)


async def test_page_by_page_and_then_what_is_new(timeline: OwnedTimeline, queue: str) -> None:
    await write(timeline, queue, 1, 8)
    reader = RunReader(timeline, queue, "w")
    assert await read(reader) == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert (reader.run, reader.first_seq, reader.next_seq, reader.seen) == (7, 1, 9, 8)
    assert await read(reader) == []
    await timeline.append(queue, "w", 9, encode_commit(Commit(7, 30, [event(8), event(9)])))
    assert await read(reader) == [[8, 9]]
    assert await read(reader) == []
    assert not reader.gone


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
async def test_other_runs_had_the_id_before(timeline: OwnedTimeline, queue: str, count: int) -> None:
    await write(timeline, queue, 1, 7, run=3)
    await write(timeline, queue, 8, 5, run=4)
    await write(timeline, queue, 13, count, run=5)
    pages = await read(RunReader(timeline, queue, "w"))
    assert [number for page in pages for number in page] == list(range(count))
    assert max(map(len, pages)) <= 3
    earlier = RunReader(timeline, queue, "w", run=4)
    assert await read(earlier) == []
    assert earlier.gone


async def test_an_earlier_run_that_is_one_key(broker: Broker, timeline: OwnedTimeline, queue: str) -> None:
    await write(timeline, queue, 1, 5, run=3)
    for seq in range(1, 5):
        await broker.lane.api(f"STREAM.PURGE.{broker.names.timeline_stream}", {"filter": timeline.key(queue, "w", seq)})
    await write(timeline, queue, 6, 4, run=9)
    assert await read(RunReader(timeline, queue, "w")) == [[0, 1, 2], [3]]


async def compact(broker: Broker, timeline: OwnedTimeline, queue: str, seq: int) -> None:
    """Ends the run of keys up to ``seq`` with the next one, which has everything."""
    events = [STARTED, *(event(number) for number in range(1, seq)), Completed(at=1)]
    position = await timeline.append(queue, "w", seq + 1, encode_commit(Commit(7, 40, events, compacted=seq)))
    await timeline.remove(queue, "w", position)


@pytest.mark.parametrize("pages_before", [0, 1, 2])
async def test_keys_become_one_while_they_are_read(broker: Broker, timeline: OwnedTimeline, queue: str, pages_before: int) -> None:
    await write(timeline, queue, 1, 8)
    reader = RunReader(timeline, queue, "w")
    numbers: list[int] = []
    unread = reader.unread()
    for _ in range(pages_before):
        numbers += [getattr(found, "index", 0) for found in await anext(unread)]
    await compact(broker, timeline, queue, 8)
    numbers += [getattr(found, "index", -1) for page in [page async for page in unread] for found in page]
    assert [0 if number == -1 and place == 0 else number for place, number in enumerate(numbers)] == [*range(8), -1]
    assert await read(reader) == []
    assert reader.seen == 9


class Compacted(Timeline):
    """The last key is written anew with the whole run after a reader has looked at it, and before it reads on."""

    body = b""
    after = 0
    removes = False

    def __init__(self, owned: OwnedTimeline, broker: Broker) -> None:
        super().__init__(broker.lane, broker.names)
        self.owned = owned

    async def between(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        self.after -= 1
        if self.after == 0:
            position = await self.owned.append(queue_token, id_token, 8, self.body)
            if self.removes:
                await self.owned.remove(queue_token, id_token, position)
        return await super().between(queue_token, id_token, low, high)


@pytest.mark.parametrize("removes", [False, True])
@pytest.mark.parametrize("after", [1, 2, 3, 4])
async def test_the_last_key_becomes_the_whole_run_after_a_reader_has_looked_at_it(
    broker: Broker, timeline: OwnedTimeline, queue: str, after: int, removes: bool
) -> None:
    """Between the two steps of a compaction the other keys are still there; after the second they are gone."""
    await write(timeline, queue, 1, 7)
    closing = [event(7), Completed(at=1)]
    await timeline.append(queue, "w", 8, encode_commit(Commit(7, 40, closing)))
    followed = Compacted(timeline, broker)
    followed.body = encode_commit(Commit(7, 40, [STARTED, *(event(number) for number in range(1, 7)), *closing], compacted=7))
    followed.after, followed.removes = after, removes
    reader = RunReader(followed, queue, "w")
    pages = [found async for page in reader.unread() for found in page]
    assert [type(found) for found in pages] == [Started] + [SideEffect] * 7 + [Completed]
    assert [found.index for found in pages[1:-1]] == list(range(1, 8))
    assert (reader.seen, await read(reader)) == (9, [])
    assert reader.last is not None
    assert reader.last.commit.compacted == (7 if after < 4 else 0)


async def test_a_run_that_goes_while_it_is_read(timeline: OwnedTimeline, queue: str) -> None:
    await write(timeline, queue, 1, 8)
    reader = RunReader(timeline, queue, "w")
    unread = reader.unread()
    await anext(unread)
    assert reader.last is not None
    await timeline.remove(queue, "w", reader.last.position + 1)
    assert [page async for page in unread] == []
    assert reader.gone


async def test_a_key_that_is_missing_is_an_error(broker: Broker, timeline: OwnedTimeline, queue: str) -> None:
    await write(timeline, queue, 1, 8)
    await broker.lane.api(f"STREAM.PURGE.{broker.names.timeline_stream}", {"filter": timeline.key(queue, "w", 5)})
    reader = RunReader(timeline, queue, "w")
    with pytest.raises(BrokerError, match="incomplete: entry 4 or one after it is missing"):
        await read(reader)
    assert reader.seen == 3


class Lagging(Timeline):
    """Answers without the newest keys a few times, as a follower may."""

    behind = 4

    async def between(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        self.behind -= 1
        entries = await super().between(queue_token, id_token, low, high)
        return entries[:-1] if self.behind > 0 else entries


async def test_a_server_that_lags_is_asked_again(broker: Broker, timeline: OwnedTimeline, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await write(timeline, queue, 1, 8)
    lagging = Lagging(broker.lane, broker.names)
    reader = RunReader(lagging, queue, "w")
    assert [number for page in await read(reader) for number in page] == list(range(8))
    monkeypatch.setattr(history_module, "LAGS", 2)
    lagging.behind = 1000
    with pytest.raises(BrokerUnavailableError, match="the answering server does not have entry"):
        await read(RunReader(lagging, queue, "w"))


async def test_many_readers_at_once(timeline: OwnedTimeline, queue: str) -> None:
    await write(timeline, queue, 1, 20)
    found = await asyncio.gather(*(read(RunReader(timeline, queue, "w")) for _ in range(50)))
    assert all([number for page in pages for number in page] == list(range(20)) for pages in found)
