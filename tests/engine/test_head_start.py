"""The first activities of a run whose id its client made up begin before its first commit, which then holds their outcome too."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, RetryPolicy, Worker, activity, condition, search, set_query_handler, set_update_handler, side_effect, sleep, workflow
from jetflow import workflow as flow
from jetflow.broker.stores.timeline import OwnedTimeline, Timeline
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from jetflow.core.ids import to_token
from jetflow.errors import (
    ActivityError,
    BrokerUnavailableError,
    CancelledFailure,
    WorkflowAlreadyStartedError,
    WorkflowTerminatedError,
)

from .helpers import WAIT, commands, plain_nats, until, waits_for

calls: Counter[str] = Counter()
"""Executions of ``step`` by what it was given."""
committed: list[bool] = []
"""Whether its run had a timeline when each of them began."""
doors: dict[str, asyncio.Event] = {}
"""Where an execution waits before it returns, by what it was given."""
look: Any = None


@pytest.fixture(autouse=True)
def clean(client: Client, queue: str) -> None:
    global look
    calls.clear()
    committed.clear()
    doors.clear()

    async def look() -> bool:
        return bool(await keys(client, queue, activity.info().workflow_id))


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **KNOWING) as worker:
        await until(lambda: worker.partitions)
        yield worker


async def keys(client: Client, queue: str, workflow_id: str) -> list[list[type]]:
    """What each commit of a run has; nothing before its first."""
    timeline = Timeline(client.broker.lane, client.broker.names)
    last = await timeline.last(to_token(queue), to_token(workflow_id))
    entries = [] if last is None else await timeline.run(to_token(queue), to_token(workflow_id), last)
    return [[type(event) for event in entry.commit.events] for entry in entries]


def door(name: str) -> asyncio.Event:
    return doors.setdefault(name, asyncio.Event())


@activity
async def step(what: Any) -> Any:
    calls[str(what)] += 1
    committed.append(await look())
    if str(what) in doors:
        await doors[str(what)].wait()
    return what


@activity(retry=RetryPolicy(maximum_attempts=2, initial_interval="10ms"))
async def fails() -> None:
    calls["fails"] += 1
    raise ValueError("no")


@workflow
async def one(what: Any) -> Any:
    return await step(what)


@workflow
async def two(what: Any) -> Any:
    return [await step(what), await step(f"{what} again")]


@workflow
async def several(names: list[str]) -> Any:
    search().set(names=names)
    return await asyncio.gather(*(step(name) for name in names))


@workflow
async def at_the_time() -> Any:
    return await step(flow.now().isoformat())


@workflow
async def by_the_loop() -> Any:
    return await step(asyncio.get_running_loop().time())


@workflow
async def knows_itself() -> Any:
    return await step(flow.info().started_at.isoformat())


@workflow
async def with_a_value() -> Any:
    return await step(side_effect(lambda: "effect"))


@workflow
async def with_a_timer() -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(sleep("1ms"))
        task = group.create_task(step("timer"))
    return task.result()


@workflow
async def told(what: str) -> Any:
    set_query_handler("what", lambda: what)

    async def update(value: Any) -> Any:
        return value

    set_update_handler("same", update)
    return [await step(what), await condition("more", timeout="20s")]


@workflow
async def tries() -> Any:
    await fails()


@activity(retry=RetryPolicy(initial_interval="1500ms", backoff_coefficient=1))
async def later(what: str) -> str:
    """Fails at first; its backoff is waited for durably."""
    calls[what] += 1
    if activity.info().attempt == 1 and calls[what] == 1:
        raise ConnectionError("not yet")
    return f"{what} {calls[what]}"


@workflow
async def patient(what: str) -> str:
    return await later(what)


whims: list[str] = []


@workflow
async def whimsical() -> Any:
    return await step(whims.pop(0))


@workflow
async def taken() -> Any:
    return [await step("first"), await condition("go", timeout="20s")]


KNOWING = {
    "workflows": [one, two, several, at_the_time, by_the_loop, knows_itself, with_a_value, with_a_timer, told, tries, whimsical, patient, taken],
    "activities": [step, fails, later],
}


async def test_one_write_has_all_of_a_run_of_one_step(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(one, 1, task_queue=queue)
    assert await handle.result(timeout=WAIT) == 1
    assert await keys(client, queue, handle.workflow_id) == [[ev.Started, ev.ActivityScheduled, ev.ActivityCompleted, ev.Completed]]


async def test_the_next_steps_outcome_is_committed_before_it_begins_anything(client: Client, queue: str, worker: Worker) -> None:
    door("x again")
    handle = await client.start(two, "x", task_queue=queue)
    await until(lambda: calls["x again"])
    assert await keys(client, queue, handle.workflow_id) == [[ev.Started, ev.ActivityScheduled, ev.ActivityCompleted, ev.ActivityScheduled]]
    doors["x again"].set()
    assert await handle.result(timeout=WAIT) == ["x", "x again"]


async def test_of_several_the_first_outcome_is_what_commits(client: Client, queue: str, worker: Worker) -> None:
    door("a"), door("b")
    handle = await client.start(several, ["a", "b"], task_queue=queue)
    await until(lambda: calls["a"] and calls["b"])
    doors["b"].set()
    await until(lambda: keys(client, queue, handle.workflow_id))
    doors["a"].set()
    assert await handle.result(timeout=WAIT) == ["a", "b"]
    assert calls == {"a": 1, "b": 1}


async def test_it_was_not_committed_when_it_began(client: Client, queue: str, worker: Worker) -> None:
    assert await client.execute(two, "x", task_queue=queue, timeout=WAIT) == ["x", "x again"]
    assert committed == [False, True]


@pytest.mark.parametrize("kind", [at_the_time, by_the_loop, knows_itself, with_a_value, with_a_timer])
async def test_what_another_owner_might_decide_otherwise_is_committed_first(client: Client, queue: str, worker: Worker, kind: Any) -> None:
    await client.execute(kind, task_queue=queue, timeout=WAIT)
    assert committed == [True]


async def test_an_id_that_somebody_chose_is_committed_first(client: Client, queue: str, worker: Worker) -> None:
    """It may be taken."""
    await client.execute(one, 1, workflow_id="chosen", task_queue=queue, timeout=WAIT)
    assert committed == [True]


async def test_a_start_from_before_the_worker_is_committed_first(client: Client, queue: str) -> None:
    """Another worker may have had it."""
    handle = await client.start(one, 1, task_queue=queue)
    async with Worker(client, task_queue=queue, **KNOWING):
        assert await handle.result(timeout=WAIT) == 1
    assert committed == [True]


async def test_one_that_takes_long_is_to_be_seen(client: Client, queue: str, worker: Worker) -> None:
    door("x")
    handle = await client.start(one, "x", task_queue=queue)
    await waits_for(handle, "step")
    assert await keys(client, queue, handle.workflow_id) == [[ev.Started, ev.ActivityScheduled]]
    doors["x"].set()
    assert await handle.result(timeout=WAIT) == "x"
    assert calls == {"x": 1}


async def test_queries_updates_and_signals_meanwhile(client: Client, queue: str, worker: Worker) -> None:
    """What a query tells is committed."""
    door("x")
    handle = await client.start(told, "x", task_queue=queue)
    assert await handle.query("what") == "x"
    assert await keys(client, queue, handle.workflow_id) == [[ev.Started, ev.ActivityScheduled]]
    other = await client.start(told, "x", task_queue=queue)
    assert await other.update("same", 7) == 7
    for each in (handle, other):
        await each.signal("more", 1)
    doors["x"].set()
    assert await handle.result(timeout=WAIT) == await other.result(timeout=WAIT) == ["x", 1]
    assert calls == {"x": 2}


async def test_cancel_and_terminate_meanwhile(client: Client, queue: str, worker: Worker) -> None:
    door("x")
    first, second = [await client.start(one, "x", task_queue=queue) for _ in range(2)]
    await until(lambda: calls["x"] == 2)
    await first.cancel()
    await second.terminate()
    with pytest.raises(CancelledFailure):
        await first.result(timeout=WAIT)
    with pytest.raises(WorkflowTerminatedError):
        await second.result(timeout=WAIT)
    assert calls == {"x": 2}


async def test_one_that_fails_has_its_failure_in_the_first_commit(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(tries, task_queue=queue)
    with pytest.raises(ActivityError):
        await handle.result(timeout=WAIT)
    assert calls == {"fails": 2}
    assert await keys(client, queue, handle.workflow_id) == [[ev.Started, ev.ActivityScheduled, ev.ActivityRetrying, ev.ActivityFailed, ev.Failed]]


async def test_a_second_start_of_the_id_meanwhile_is_refused(client: Client, queue: str, worker: Worker) -> None:
    door("x")
    handle = await client.start(one, "x", task_queue=queue)
    await until(lambda: calls["x"])
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start(one, "y", workflow_id=handle.workflow_id, task_queue=queue)
    doors["x"].set()
    assert await handle.result(timeout=WAIT) == "x"
    assert calls == {"x": 1}


@pytest.fixture
async def forgetful(client: Client, queue: str) -> AsyncIterator[Worker]:
    """A worker that keeps one resting workflow in memory."""
    async with Worker(client, task_queue=queue, **KNOWING, max_cached_workflows=1) as worker:
        await until(lambda: worker.partitions)
        yield worker


async def test_an_id_that_is_said_to_be_new_and_has_a_run(server: LocalServer, client: Client, queue: str, forgetful: Worker) -> None:
    """To that run nothing of the start counts, though the activity that ran ahead is just what it waits for."""
    handle = await client.start(patient, "x", workflow_id="x", task_queue=queue)
    await waits_for(handle, "later")
    await waits_for(await client.start(taken, workflow_id="y", task_queue=queue), "go")
    await until(lambda: "x" not in in_memory(forgetful))
    await publish_start(server.url, queue, "x", "patient", b'"x"')
    await until(lambda: calls["x"] == 2)
    assert await handle.result(timeout=WAIT) == "x 3"
    await until(lambda: "x" not in in_memory(forgetful))
    assert not await commands(client, queue)


async def test_an_id_that_is_said_to_be_new_and_had_a_run(server: LocalServer, client: Client, queue: str, forgetful: Worker) -> None:
    handle = await client.start(one, "x", task_queue=queue)
    assert await handle.result(timeout=WAIT) == "x"
    door("late")
    await publish_start(server.url, queue, handle.workflow_id, "one", b'"late"')
    await until(lambda: calls["late"])
    doors["late"].set()
    await until(lambda: not in_memory(forgetful))
    assert not await commands(client, queue)
    assert await handle.result(timeout=WAIT) == "x"
    assert len(await keys(client, queue, handle.workflow_id)) == 1


async def test_an_outcome_outlives_doubts_about_the_first_commit(client: Client, queue: str, worker: Worker, monkeypatch: Any) -> None:
    """The commit's outcome is unknown, once stored and once not: what ran ahead does not run again."""
    doubts = iter(["lost", "stored"] * 2)

    def doubtful(write: Any) -> Any:
        async def maybe(timeline: OwnedTimeline, *arguments: Any) -> int:
            doubt = next(doubts, None)
            if doubt != "lost":
                position = await write(timeline, *arguments)
            if doubt is not None:
                timeline._owned.lose(doubt)
                raise BrokerUnavailableError(doubt)
            return position

        return maybe

    monkeypatch.setattr(OwnedTimeline, "begin", doubtful(OwnedTimeline.begin))
    monkeypatch.setattr(OwnedTimeline, "append", doubtful(OwnedTimeline.append))
    assert await client.execute(one, 1, task_queue=queue, timeout=WAIT) == 1
    assert await client.execute(several, ["a", "b"], task_queue=queue, timeout=WAIT) == ["a", "b"]
    assert next(doubts, None) is None
    assert calls == {"1": 1, "a": 1, "b": 1}


async def test_claiming_partitions_again_meanwhile(client: Client, queue: str, worker: Worker) -> None:
    door("x")
    handle = await client.start(one, "x", task_queue=queue)
    await until(lambda: calls["x"])
    before = worker._engine.tenure
    worker._ownership._lose("the test says so")
    await until(lambda: worker._engine.tenure not in (None, before) and worker.partitions)
    doors["x"].set()
    assert await handle.result(timeout=WAIT) == "x"
    assert calls == {"x": 1}


async def test_what_ran_ahead_of_code_that_decides_by_whim_counts_for_nothing(client: Client, queue: str, worker: Worker, monkeypatch: Any) -> None:
    """Decided again after a lost commit, the first step is another one."""
    begin, lost = OwnedTimeline.begin, [True]

    async def loses(timeline: OwnedTimeline, *arguments: Any) -> int:
        if lost:
            lost.pop()
            timeline._owned.lose("lost")
            raise BrokerUnavailableError("lost")
        return await begin(timeline, *arguments)

    monkeypatch.setattr(OwnedTimeline, "begin", loses)
    whims[:] = ["first", "second"]
    assert await client.execute(whimsical, task_queue=queue, timeout=WAIT) == "second"
    assert calls == {"first": 1, "second": 1}


def in_memory(worker: Worker) -> set[str]:
    return {actor.workflow_id for actor in worker._engine.actors}


async def publish_start(url: str, queue: str, workflow_id: str, kind: str, body: bytes) -> None:
    """As somebody without an SDK would, with the promise that the id is new."""
    async with plain_nats(url) as nats:
        await nats.jetstream().publish(f"jetflow.{queue}.{workflow_id}.start.{kind}", body, headers={"Jetflow-New-Id": "1"})
