"""``handle.watch``: the events of an export, live, each once and in order, whatever happens on the way."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, Worker, WorkflowHandle, WorkflowNotFoundError, activity, condition, continue_as_new, workflow
from jetflow.broker.stores import timeline as timeline_module
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.server import LocalServer
from jetflow.core.ids import to_token
from jetflow.history.execution import HistoryEvent
from tests.engine.helpers import WAIT, another_worker, until
from tests.history.checks import check_events, told

gates: dict[str, asyncio.Event] = {}


@activity
async def add(a: int, b: int) -> int:
    return a + b


@activity
async def gated(name: str) -> str:
    await gates[name].wait()
    return name


@workflow
async def turns(count: int) -> list[Any]:
    """So many signals, and an activity after each."""
    given = []
    for n in range(count):
        given.append(await condition("go"))
        await add(n, 1)
    return given


@workflow
async def works(name: str) -> str:
    return await gated(name)


@workflow
async def again(n: int) -> int:
    await condition("go")
    if n:
        continue_as_new(n - 1)
    return n


SERVED: dict[str, Any] = {"workflows": [turns, works, again], "activities": [add, gated]}


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **SERVED) as worker:
        yield worker


class Watcher:
    """Somebody who watches, and what came."""

    def __init__(self, handle: WorkflowHandle, after: int = 0, **options: Any) -> None:
        self.events: list[HistoryEvent] = []
        self.task = asyncio.create_task(self._watch(handle, after, options))

    async def _watch(self, handle: WorkflowHandle, after: int, options: dict[str, Any]) -> None:
        async for event in handle.watch(after, **options):
            self.events.append(event)

    async def saw(self, count: int) -> None:
        """Returns once so many events have come."""
        await until(lambda: len(self.events) >= count or self.task.done())
        assert len(self.events) >= count, self.task.exception()

    async def ended(self) -> list[HistoryEvent]:
        await asyncio.wait_for(self.task, 30)
        return self.events


async def test_events_come_live_and_are_those_of_the_export(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(turns, 2, task_queue=queue)
    watcher = Watcher(handle)
    await watcher.saw(2)
    assert [told(event) for event in watcher.events] == ["1 workflow_execution_started turns input [2]", "2 signal_wait_started go"]
    await handle.signal("go", "a")
    await watcher.saw(6)
    assert told(watcher.events[2]) == '3 workflow_execution_signaled go <2 input "a"'
    assert not watcher.task.done()
    await handle.signal("go", "b")
    events = await watcher.ended()
    check_events(events)
    assert events == (await handle.export_execution()).events


@pytest.mark.parametrize("options", [{"extended": True, "enrich_inputs": True}, {"omit_results": True, "exclude_system": True}])
async def test_options_give_what_the_export_gives(client: Client, queue: str, worker: Worker, options: dict[str, Any]) -> None:
    handle = await client.start(again, 2, task_queue=queue)
    watcher = Watcher(handle, **options)
    for _ in range(3):
        await handle.signal("go", 1)
    assert await watcher.ended() == (await handle.export_execution(**options)).events


async def test_from_any_event_on(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(turns, 3, task_queue=queue)
    live = Watcher(handle, 4)
    for n in range(3):
        await handle.signal("go", n)
    await handle.result(timeout=WAIT)
    events = (await handle.export_execution()).events
    assert await live.ended() == events[4:]
    for after in range(len(events) + 2):
        assert await Watcher(handle, after).ended() == events[after:]


async def test_work_that_does_not_rest_is_seen(client: Client, queue: str, worker: Worker) -> None:
    """The activity ends only when the event of its beginning was seen."""
    gates["seen"] = asyncio.Event()
    handle = await client.start(works, "seen", task_queue=queue)
    async for event in handle.watch():
        if event.event_type == "activity_task_scheduled":
            gates["seen"].set()
    assert await handle.result(timeout=WAIT) == "seen"


async def test_it_waits_for_a_worker(client: Client, queue: str) -> None:
    handle = await client.start(turns, 1, workflow_id="w", task_queue=queue)
    watchers = [Watcher(handle), Watcher(client.get_handle("w", queue))]
    await handle.signal("go", 1)
    await until(lambda: client.lookups.watches._watches)
    async with Worker(client, task_queue=queue, **SERVED):
        for watcher in watchers:
            assert [event.event_id for event in await watcher.ended()] == [1, 2, 3, 4, 5, 6]


async def test_unknown_workflows(client: Client, queue: str) -> None:
    with pytest.raises(WorkflowNotFoundError):
        await Watcher(client.get_handle("nobody", queue)).ended()
    assert client.lookups.watches._watches == {}


async def test_a_history_that_goes_away(client: Client, queue: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = await client.start(turns, 2, workflow_id="w", task_queue=queue)
    watcher = Watcher(handle)
    await watcher.saw(2)
    for stream, prefix in (
        (client.broker.names.timeline_stream, client.broker.names.timeline_prefix),
        (client.broker.names.state_stream, client.broker.names.state_prefix),
    ):
        await client.broker.lane.api(f"STREAM.PURGE.{stream}", {"filter": f"{prefix}{queue}.w{'.*' if 'timeline' in prefix else ''}"})
    with pytest.raises(WorkflowNotFoundError):
        await watcher.ended()


# ---- what happens on the way


async def test_another_worker_goes_on(server: LocalServer, client: Client, queue: str) -> None:
    async with another_worker(server.url, queue, **SERVED):
        handle = await client.start(turns, 3, task_queue=queue)
        watcher = Watcher(handle)
        await watcher.saw(2)
    await handle.signal("go", 1)
    async with another_worker(server.url, queue, **SERVED):
        await watcher.saw(6)
    await handle.signal("go", 2)
    await handle.signal("go", 3)
    async with another_worker(server.url, queue, **SERVED):
        events = await watcher.ended()
    check_events(events)
    assert events == (await handle.export_execution()).events


async def test_connections_that_break(server: LocalServer, queue: str) -> None:
    async with Client.connect(server.url) as client, another_worker(server.url, queue, **SERVED):
        handle = await client.start(turns, 5, task_queue=queue)
        watcher = Watcher(handle)
        for n in range(5):
            await watcher.saw(2 + 4 * n)
            await client.broker.wire.force_reconnect()
            await client.broker.wire.connected(10)
            await handle.signal("go", n)
        events = await watcher.ended()
        assert events == (await handle.export_execution()).events


async def test_notices_that_are_lost(client: Client, queue: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client.lookups.watches, "_on_change", lambda subject, data: None)
    handle = await client.start(turns, 1, task_queue=queue)
    watcher = Watcher(handle)
    await watcher.saw(2)
    await handle.signal("go", 1)
    assert len(await watcher.ended()) == 6


@pytest.mark.parametrize("read_before", [0, 1, 2])
async def test_compaction_while_somebody_watches(
    client: Client, queue: str, worker: Worker, read_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys that were not read yet, or were just asked for, become one key."""
    monkeypatch.setattr("jetflow.reading.run_reader.PAGE", 2)
    handle = await client.start(turns, 3, workflow_id="w", task_queue=queue)
    watching = handle.watch()
    events = [await anext(watching) for _ in range(read_before)]
    for n in range(3):
        await handle.signal("go", n)
    await handle.result(timeout=WAIT)
    timeline = Timeline(client.broker.lane, client.broker.names)

    async def is_one_key() -> bool:
        last = await timeline.last(to_token(queue), "w")
        return last is not None and last.commit.compacted > 0 and not await timeline.has(to_token(queue), "w", 1)

    await until(is_one_key)
    events += [event async for event in watching]
    assert events == (await handle.export_execution()).events
    check_events(events)


async def test_compaction_between_two_pages(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader has the last key of before, and the first page; then the keys go."""
    monkeypatch.setattr("jetflow.reading.run_reader.PAGE", 2)
    between = Timeline.between
    pages = 0

    async def late(self: Timeline, queue_token: str, id_token: str, low: int, high: int) -> list[timeline_module.Entry]:
        nonlocal pages
        pages += 1
        if pages == 2:
            await handle.signal("go", "last")
            await handle.result(timeout=WAIT)
            await until(lambda: is_one_key(self))
        return await between(self, queue_token, id_token, low, high)

    async def is_one_key(timeline: Timeline) -> bool:
        return not await timeline.has(to_token(queue), "w", 1)

    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(turns, 3, workflow_id="w", task_queue=queue)
        watcher = Watcher(handle)
        for n in range(2):
            await handle.signal("go", n)
            await watcher.saw(6 + 4 * n)
        monkeypatch.setattr(Timeline, "between", late)
        execution = await handle.export_execution()
        monkeypatch.undo()
        assert pages >= 2
        assert execution.status == "completed"
        assert execution.events == await watcher.ended()


# ---- many


async def _consumers(client: Client) -> int:
    names = client.broker.names
    streams = (names.timeline_stream, names.state_stream)
    return sum([(await client.broker.lane.api(f"STREAM.INFO.{stream}"))["state"]["consumer_count"] for stream in streams])


async def test_many_watchers_of_one_workflow_share_what_is_read(client: Client, queue: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: Counter[str] = Counter()
    last = Timeline.last

    async def counted(self: Timeline, queue_token: str, id_token: str) -> Any:
        reads[id_token] += 1
        return await last(self, queue_token, id_token)

    handle = await client.start(turns, 3, workflow_id="w", task_queue=queue)
    await Watcher(handle, 0).saw(2)
    consumers = await _consumers(client)
    monkeypatch.setattr(Timeline, "last", counted)
    watchers = [Watcher(handle) for _ in range(500)]
    for watcher in watchers:
        await watcher.saw(2)
    assert len(client.lookups.watches._watches) == 1
    assert await _consumers(client) < consumers + 5
    for n in range(3):
        await handle.signal("go", n)
    for watcher in watchers:
        await watcher.ended()
    assert reads["w"] < 250
    events = (await handle.export_execution()).events
    assert all(watcher.events == events for watcher in watchers)
    await until(lambda: not client.lookups.watches._watches)
    assert not client.lookups.shared_reads._under_way


async def test_many_watchers_of_many_workflows_are_no_consumers(client: Client, queue: str, worker: Worker) -> None:
    handles = [await client.start(turns, 1, workflow_id=f"w{n}", task_queue=queue) for n in range(100)]
    before = await _consumers(client)
    watchers = [Watcher(handle) for handle in handles]
    for watcher in watchers:
        await watcher.saw(2)
    assert await _consumers(client) < before + 5
    assert len(client.lookups.watches._watches) == 100
    for handle in handles:
        await handle.signal("go", handle.workflow_id)
    for handle, watcher in zip(handles, watchers, strict=True):
        assert [event.event_id for event in await watcher.ended()] == [1, 2, 3, 4, 5, 6]
        assert told(watcher.events[-1]) == f'6 workflow_execution_completed result ["{handle.workflow_id}"]'


async def test_nothing_is_left_of_those_who_leave(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(turns, 1, task_queue=queue)
    watchers = [Watcher(handle) for _ in range(3)]
    for watcher in watchers:
        await watcher.saw(2)
        watcher.task.cancel()
    async for _ in handle.watch():
        break
    await until(lambda: not client.lookups.watches._watches)
    await handle.signal("go")
    assert await handle.result(timeout=WAIT) == [None]
