"""``if_exists="replace"``: the new run takes the id, whatever has it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, Worker, condition, sleep, workflow
from jetflow.errors import InvalidInputError, WorkflowNotFoundError, WorkflowTerminatedError

from .helpers import WAIT, another_worker, cli, commands, parked, until, waits_for


@workflow
async def waits(what: Any) -> Any:
    return [what, await condition("go", timeout="1h")]


@workflow
async def sleeps_then_waits(what: Any) -> Any:
    await sleep("1500ms")
    return what


@workflow
async def at_once(what: Any) -> Any:
    return what


@workflow
async def other() -> None: ...


KNOWING = {"workflows": [waits, at_once, sleeps_then_waits]}


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **KNOWING) as worker:
        yield worker


async def replaced(client: Client, queue: str, what: Any, kind: Any = waits) -> Any:
    return await client.start(kind, what, workflow_id="x", task_queue=queue, if_exists="replace")


async def test_nothing_is_there(client: Client, queue: str, worker: Worker) -> None:
    handle = await replaced(client, queue, "first", at_once)
    assert await handle.result(timeout=WAIT) == "first"


async def test_one_that_runs_is_terminated(client: Client, queue: str, worker: Worker) -> None:
    old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
    await waits_for(old, "go")
    ended = asyncio.create_task(old.result(throw_on_error=False, timeout=WAIT))
    new = await replaced(client, queue, "new")
    await waits_for(new, "go")
    assert new.run_id != old.run_id
    await new.signal("go", 1)
    assert await new.result(timeout=WAIT) == ["new", 1]
    assert isinstance(await ended, (WorkflowTerminatedError, WorkflowNotFoundError))
    with pytest.raises(WorkflowNotFoundError):
        await old.status()


async def test_one_that_has_ended_gives_up_its_record(client: Client, queue: str, worker: Worker) -> None:
    old = await client.start(at_once, "old", workflow_id="x", task_queue=queue, expire="1h")
    assert await old.result(timeout=WAIT) == "old"
    new = await replaced(client, queue, "new", at_once)
    assert await new.result(timeout=WAIT) == "new"


async def test_timers_of_the_new_run_hold(client: Client, queue: str, worker: Worker) -> None:
    """The old one's are forgotten, and have none of the numbers of the new one's."""
    for _ in range(3):
        last = await replaced(client, queue, "slept", sleeps_then_waits)
        await waits_for(last, "")
    assert await last.result(timeout=WAIT) == "slept"


async def test_the_last_of_many_goes_on(client: Client, queue: str, worker: Worker) -> None:
    handles = await asyncio.gather(*(replaced(client, queue, number) for number in range(20)))
    last = max(handles, key=lambda handle: int(handle.run_id))
    await waits_for(last, "go")
    await last.signal("go", "on")
    number, data = await last.result(timeout=WAIT)
    assert (handles[number].run_id, data) == (last.run_id, "on")

    async def consumed() -> bool:
        return not await commands(client, queue)

    await until(consumed)


async def test_signals_of_the_old_run_go_with_it(client: Client, queue: str, worker: Worker) -> None:
    old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
    await waits_for(old, "go")
    await old.signal("other", "kept for the old one")
    new = await replaced(client, queue, "new")
    await waits_for(new, "go")
    await new.signal("go", "for the new one")
    assert await new.result(timeout=WAIT) == ["new", "for the new one"]


async def test_one_that_no_worker_knows(client: Client, queue: str) -> None:
    old = await client.start("unheard_of", workflow_id="x", task_queue=queue)
    async with another_worker(client.url, queue, **KNOWING):
        await parked(old)
        new = await replaced(client, queue, "new", at_once)
        assert await new.result(timeout=WAIT) == "new"


async def test_both_starts_come_before_any_worker(client: Client, queue: str) -> None:
    await client.start(waits, "old", workflow_id="x", task_queue=queue)
    new = await replaced(client, queue, "new", at_once)
    async with another_worker(client.url, queue, **KNOWING):
        assert await new.result(timeout=WAIT) == "new"


async def test_one_that_is_in_no_memory(client: Client, queue: str) -> None:
    async with another_worker(client.url, queue, **KNOWING):
        old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
        await waits_for(old, "go")
    async with another_worker(client.url, queue, **KNOWING):
        new = await replaced(client, queue, "new", sleeps_then_waits)
        assert await new.result(timeout=WAIT) == "new"


async def test_by_nats_pub(client: Client, queue: str, worker: Worker, nats_cli: str) -> None:
    old = await client.start(waits, "old", workflow_id="x", task_queue=queue)
    await waits_for(old, "go")
    await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow.{queue}.x.start.at_once", '"new"', "-H", "Jetflow-Replace:1")
    with pytest.raises((WorkflowTerminatedError, WorkflowNotFoundError)):
        await old.result(timeout=WAIT)
    new = client.get_handle("x", queue)

    async def is_new() -> bool:
        return str((await new.state(metadata=True))["metadata"]["run_id"]) != old.run_id

    await until(is_new)
    assert await new.result(timeout=WAIT) == "new"


async def test_another_word_is_refused(client: Client, queue: str) -> None:
    with pytest.raises(InvalidInputError, match="replace"):
        await client.start(waits, 1, workflow_id="x", task_queue=queue, if_exists="other")  # type: ignore[arg-type]
