"""Each failed attempt of an activity is recorded, with its error and its time, by a commit that follows anyway."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import ActivityError, Client, RetryPolicy, Worker, WorkflowHandle, activity, condition, workflow
from jetflow.broker.stores.timeline import Timeline
from jetflow.core.ids import to_token
from jetflow.engine.activities import failed_attempts, steps

from .helpers import WAIT, until

QUICK = RetryPolicy(maximum_attempts=5, initial_interval="10ms", backoff_coefficient=1)
GATES: dict[str, asyncio.Event] = {}


@activity(retry=QUICK)
async def succeeds_at(attempt: int) -> int:
    if activity.info().attempt < attempt:
        raise ConnectionError(f"no {activity.info().attempt}")
    return activity.info().attempt


@activity(retry=RetryPolicy(maximum_attempts=0, initial_interval="1ms", backoff_coefficient=1))
async def until_opened(name: str) -> int:
    if not GATES[name].is_set():
        raise ConnectionError("closed")
    return activity.info().attempt


@workflow
async def one(attempt: int) -> int:
    return await succeeds_at(attempt)


@workflow
async def beside_signals(name: str) -> int:
    work = asyncio.create_task(until_opened(name))
    await condition("go")
    return await work


@workflow
async def stubborn(name: str) -> int:
    return await until_opened(name)


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, workflows=[one, beside_signals, stubborn], activities=[succeeds_at, until_opened]) as worker:
        yield worker


async def retries(handle: WorkflowHandle) -> list[Any]:
    exported = await handle.export_execution(extended=True, allow_direct_query=True)
    return [event for event in exported.events if event.event_type == "activity_task_retrying"]


async def written(client: Client, queue: str, workflow_id: str) -> int:
    """How many timeline keys the workflow has had."""
    last = await Timeline(client.broker.lane, client.broker.names).last(to_token(queue), to_token(workflow_id))
    return 0 if last is None else last.seq


async def test_attempts_within_a_second_are_in_the_history_with_no_write_more(client: Client, queue: str, worker: Worker) -> None:
    plain = await client.start(one, 1, task_queue=queue, workflow_id="plain")
    trying = await client.start(one, 4, task_queue=queue, workflow_id="trying")
    assert (await plain.result(timeout=WAIT), await trying.result(timeout=WAIT)) == (1, 4)
    assert await written(client, queue, "trying") <= 2, "the start, and the outcome with its attempts"
    found = await retries(trying)
    assert [event.attributes.attempt for event in found] == [1, 2, 3]
    assert [event.attributes.failure.message for event in found] == ["no 1", "no 2", "no 3"]
    assert [event.attributes.failure.type for event in found] == ["ConnectionError"] * 3
    assert all(event.attributes.failure.stack for event in found)
    times = [event.event_time for event in found]
    assert len(set(times)) == 3
    assert sorted(times) == times
    assert [event.event_type for event in (await trying.export_execution()).events] == [
        "workflow_execution_started", "activity_task_scheduled", "activity_task_completed", "workflow_execution_completed",
    ]  # fmt: skip


async def test_so_are_those_of_an_activity_that_fails(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(one, 9, task_queue=queue)
    with pytest.raises(ActivityError):
        await handle.result(timeout=WAIT)
    exported = await handle.export_execution(extended=True)
    assert [getattr(event.attributes, "attempt", 0) for event in exported.events if event.category == "activity"][1:] == [1, 2, 3, 4, 5]


async def test_any_commit_takes_them_along_and_the_next_owner_counts_on(client: Client, queue: str) -> None:
    GATES["x"] = asyncio.Event()
    served: dict[str, Any] = {"task_queue": queue, "workflows": [beside_signals], "activities": [until_opened], "graceful_timeout": "0s"}
    async with Worker(client, **served):
        handle = await client.start(beside_signals, "x", task_queue=queue)
        await until(lambda: handle.status())
        await handle.signal("go")

        async def recorded() -> list[Any]:
            return await retries(handle)

        seen = await until(recorded)
    GATES["x"].set()
    async with Worker(client, **served):
        assert await handle.result(timeout=WAIT) > seen[-1].attributes.attempt
    numbers = [event.attributes.attempt for event in await retries(handle)]
    assert numbers == sorted(set(numbers)), "each once"


async def test_one_that_fails_for_long_is_seen_and_keeps_a_bounded_number(
    client: Client, queue: str, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "RECORD_AFTER", 0.5)
    monkeypatch.setattr(failed_attempts, "MAX_FAILED", 20)
    GATES["y"] = asyncio.Event()
    handle = await client.start(stubborn, "y", task_queue=queue, workflow_id="stubborn")

    async def retrying() -> bool:
        return [record.workflow_id async for record in client.list(status="retrying", task_queue=queue)] == ["stubborn"]

    await until(retrying)
    GATES["y"].set()
    attempts = await handle.result(timeout=WAIT)
    found = await retries(handle)
    assert len(found) <= attempts - 1
    assert found[-1].attributes.attempt == attempts - 1
    assert sum(bool(event.attributes.failure.stack) for event in found) < len(found)
