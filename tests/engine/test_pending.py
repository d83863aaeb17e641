"""Starts that no worker has begun are seen: in lists and counts, in the figures of the namespace, and in the log of who waits."""

import asyncio

import pytest

from jetflow import Client, Worker, workflow
from jetflow.reading.overview import unserved_queues

from .helpers import WAIT, until


@workflow
async def quick(n: int) -> int:
    return n


async def test_a_start_without_a_worker_is_pending_until_a_worker_begins_it(client: Client, queue: str) -> None:
    handles = [await client.start(quick, n, task_queue=queue, workflow_id=f"w{n}", search={"n": n}) for n in range(5)]
    listed = [record async for record in client.list(task_queue=queue)]
    assert [(record.workflow_id, record.status) for record in listed] == [(f"w{n}", "pending") for n in (4, 3, 2, 1, 0)]
    assert [record.run_id for record in listed] == [handle.run_id for handle in reversed(handles)]
    assert not listed[0].closed
    assert await client.count(task_queue=queue) == await client.count(task_queue=queue, status="pending") == 5
    assert await client.count_by("status", task_queue=queue) == {"pending": 5}
    assert await client.count(task_queue=queue, status="running") == 0
    assert [record.workflow_id async for record in client.list(task_queue=queue, search={"n": 3})] == ["w3"]
    first = await client.list_page(task_queue=queue, limit=2)
    async with Worker(client, task_queue=queue, workflows=[quick]):
        assert await asyncio.gather(*(handle.result(timeout=WAIT) for handle in handles)) == [0, 1, 2, 3, 4]
        rest, cursor = [], first.cursor
        while cursor is not None:
            page = await client.list_page(task_queue=queue, limit=2, cursor=cursor)
            rest += [record.workflow_id for record in page.workflows]
            cursor = page.cursor
        assert [record.workflow_id for record in first.workflows] == ["w4", "w3"]
        assert sorted(rest) == ["w0", "w1", "w2"], "each once, though they began meanwhile"

        async def none_left() -> bool:
            return await client.count_by("status", task_queue=queue) == {"completed": 5}

        await until(none_left)


async def test_a_queue_with_a_backlog_and_no_worker_is_named(client: Client, queue: str) -> None:
    await client.start(quick, 1, task_queue=queue)
    found = {each.task_queue: (each.commands, each.starts) for each in await unserved_queues(client.broker)}
    assert found[queue] == (1, 1)
    async with Worker(client, task_queue=queue, workflows=[quick]):
        await until(lambda: _is_served(client, queue))


async def _is_served(client: Client, queue: str) -> bool:
    return queue not in {each.task_queue for each in await unserved_queues(client.broker)}


async def test_result_says_after_some_seconds_that_no_worker_is_there(client: Client, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    handle = await client.start(quick, 1, task_queue=queue, workflow_id="alone")
    waiting = asyncio.create_task(handle.result(timeout=WAIT))
    await until(lambda: "no worker serves task queue" in caplog.text)
    (line,) = [record for record in caplog.records if record.name == "jetflow.client"]
    assert queue in line.getMessage()
    assert vars(line)["workflow_id"] == "alone"
    async with Worker(client, task_queue=queue, workflows=[quick]):
        assert await waiting == 1
