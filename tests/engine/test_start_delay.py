"""``start_delay``: the broker holds a start until its time has come."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, Worker, condition, entity, search, workflow
from jetflow.errors import WorkflowAlreadyStartedError, WorkflowNotFoundError

from .helpers import WAIT, another_worker, commands, dead_letters, until, waits_for


@workflow
async def begun(what: Any) -> Any:
    return [what, time.time_ns() // 1_000_000, search().get("a"), entity().get()]


@workflow
async def waits() -> Any:
    return await condition("go")


KNOWING = {"workflows": [begun, waits]}


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **KNOWING) as worker:
        yield worker


async def test_it_begins_when_its_time_has_come(client: Client, queue: str, worker: Worker) -> None:
    before = time.time_ns() // 1_000_000
    handle = await client.start(begun, ["one", "list"], task_queue=queue, start_delay="700ms", expire="1h", search={"a": 1}, entity={"b": 2})
    assert await handle.status() == 1
    what, at, a, document = await handle.result(timeout=WAIT)
    assert (what, a, document) == (["one", "list"], 1, {"b": 2})
    assert at >= before + 700
    record = await handle.describe()
    assert record is not None
    assert record.expire == 3_600_000


async def test_nobody_need_be_up_meanwhile(client: Client, queue: str) -> None:
    handle = await client.start(begun, 1, task_queue=queue, start_delay="300ms")

    async def stored() -> Any:
        return await commands(client, queue)

    await until(stored)
    async with another_worker(client.url, queue, **KNOWING):
        assert (await handle.result(timeout=WAIT))[0] == 1


async def test_the_id_is_taken_meanwhile(client: Client, queue: str, worker: Worker) -> None:
    first = await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1500ms")
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start(begun, 2, workflow_id="x", task_queue=queue, start_delay="1ms")
    attached = await client.start(begun, 3, workflow_id="x", task_queue=queue, start_delay="1ms", if_exists="attach")
    assert (await attached.result(timeout=WAIT))[0] == 1
    assert (await first.result(timeout=WAIT))[0] == 1
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start(begun, 4, workflow_id="x", task_queue=queue, start_delay="1h")


async def test_another_one_replaces_it(client: Client, queue: str, worker: Worker) -> None:
    await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1h")
    handle = await client.start(begun, 2, workflow_id="x", task_queue=queue, start_delay="100ms", if_exists="replace")
    assert (await handle.result(timeout=WAIT))[0] == 2


async def test_it_replaces_what_runs_by_then(client: Client, queue: str, worker: Worker) -> None:
    old = await client.start(waits, workflow_id="x", task_queue=queue)
    await waits_for(old, "go")
    await client.start(begun, "new", workflow_id="x", task_queue=queue, start_delay="300ms", if_exists="replace")

    async def is_new() -> bool:
        record = await client.states.get(queue, "x")
        return record is not None and record.closed and record.run_id != old.run_id

    await until(is_new)
    assert (await client.get_handle("x", queue).result(timeout=WAIT))[0] == "new"


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_it_can_be_taken_back(client: Client, queue: str, worker: Worker, how: str) -> None:
    handle = await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1h")
    await (handle.cancel() if how == "cancel" else handle.terminate())

    async def gone() -> bool:
        return not await handle.exists()

    await until(gone)
    with pytest.raises(WorkflowNotFoundError):
        await handle.result(timeout=WAIT)
    assert await dead_letters(client, queue) == []
    again = await client.start(begun, 2, workflow_id="x", task_queue=queue)
    assert (await again.result(timeout=WAIT))[0] == 2
