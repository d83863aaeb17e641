"""A handle that is pinned to a run: what it sends reaches that run, or becomes a dead letter with the reason."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, Worker, WorkflowHandle, condition, set_update_handler, workflow
from jetflow.errors import WorkflowNotFoundError
from jetflow.protocol.headers import REASON

from .helpers import WAIT, dead_letters, plain_nats, until, waits_for


@workflow
async def waits(name: str) -> list[Any]:
    told: list[Any] = []
    set_update_handler("tell", told.append)
    return [name, *told, await condition("go")]


SERVED: dict[str, Any] = {"workflows": [waits]}


async def two_runs(client: Client, queue: str) -> tuple[WorkflowHandle[Any], WorkflowHandle[Any]]:
    """The handles of an id's first run, which was replaced, and of its second."""
    old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
    new = await client.start(waits, "new", workflow_id="x", task_queue=queue, if_exists="replace")
    return old, new


async def send(handle: WorkflowHandle[Any], command: str) -> None:
    if command == "update":
        with pytest.raises(WorkflowNotFoundError, match=f"with run id {handle.run_id}"):
            await handle.update("tell", 1, timeout="20s")
    elif command == "terminate":
        with pytest.raises(WorkflowNotFoundError):
            await handle.terminate()
    elif command == "cancel":
        await handle.cancel("the old one")
    else:
        await handle.signal("go", "old")


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **SERVED) as worker:
        yield worker


@pytest.mark.parametrize("command", ["signal", "cancel", "terminate", "update"])
async def test_another_run_has_taken_the_id(client: Client, queue: str, worker: Worker, command: str) -> None:
    old, new = await two_runs(client, queue)
    await waits_for(new, "go")
    await send(old, command)
    if command in ("signal", "cancel"):
        letter = (await until(lambda: dead_letters(client, queue)))[0]
        assert f"for run {old.run_id} alone, and run {new.run_id} has the id" in letter.headers[REASON]
    assert await new.update("tell", 2) is None
    await client.get_handle("x", queue).signal("go", "latest")
    assert await new.result(timeout=WAIT) == ["new", "latest"]


@pytest.mark.parametrize("command", ["signal", "cancel"])
async def test_another_run_takes_the_id_while_no_worker_is_there(client: Client, queue: str, command: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
        await waits_for(old, "go")
    new = await client.start(waits, "new", workflow_id="x", task_queue=queue, if_exists="replace")
    await send(old, command)
    await new.signal("go", "new")
    async with Worker(client, task_queue=queue, **SERVED):
        assert await new.result(timeout=WAIT) == ["new", "new"]
        letter = (await until(lambda: dead_letters(client, queue)))[0]
        assert f"for run {old.run_id} alone" in letter.headers[REASON]


@pytest.mark.parametrize("command", ["signal", "cancel"])
async def test_the_run_is_over_and_its_record_has_expired(client: Client, queue: str, worker: Worker, command: str) -> None:
    """Neither waits for the next run of the id, as an early signal or an early cancel would."""
    old = await client.start(waits, "old", workflow_id="x", task_queue=queue, expire="1s")
    await old.signal("go", 1)
    await old.result(timeout=WAIT)

    async def expired() -> bool:
        return await client.states.get(queue, "x") is None

    await until(expired)
    await send(old, command)
    letter = (await until(lambda: dead_letters(client, queue)))[0]
    assert f"for run {old.run_id} alone, and that run is over" in letter.headers[REASON]
    new = await client.start(waits, "new", workflow_id="x", task_queue=queue)
    await new.signal("go", "new")
    assert await new.result(timeout=WAIT) == ["new", "new"]


async def test_a_signal_before_its_own_run_has_begun(client: Client, queue: str) -> None:
    handle = await client.start(waits, "first", workflow_id="x", task_queue=queue)
    await handle.signal("go", 1)
    async with Worker(client, task_queue=queue, **SERVED):
        assert await handle.result(timeout=WAIT) == ["first", 1]
    assert not await dead_letters(client, queue)


async def test_a_run_id_that_is_none(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(waits, "first", workflow_id="x", task_queue=queue)
    async with plain_nats(client.url) as raw:
        await raw.publish(f"jetflow.{queue}.x.signal.go", b"1", headers={"Jetflow-Run": "the first"})
        await raw.publish(f"jetflow.{queue}.x.signal.go", b"2", headers={"Jetflow-Run": str(handle.run_id)})
        await raw.flush()
    assert await handle.result(timeout=WAIT) == ["first", 2]
    letter = (await until(lambda: dead_letters(client, queue)))[0]
    assert "Jetflow-Run must be a run id" in letter.headers[REASON]


async def test_sent_while_the_id_changes_hands(client: Client, queue: str, worker: Worker) -> None:
    old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
    sent = [old.signal("go", number) for number in range(5)]
    _, new = await asyncio.gather(asyncio.gather(*sent), client.start(waits, "new", workflow_id="x", task_queue=queue, if_exists="replace"))
    await new.signal("go", "new")
    assert await new.result(timeout=WAIT) == ["new", "new"]
