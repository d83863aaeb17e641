"""What the handle's page promises, one promise a test, in its order."""

import asyncio
from typing import Any

import pytest

from jetflow import (
    CancellationScope,
    CancelledFailure,
    Client,
    Worker,
    WorkflowFailedError,
    WorkflowTerminatedError,
    activity,
    condition,
    execute_child,
    sleep,
    workflow,
)

from .helpers import WAIT, plain_nats, until, waits_for

DONE: list[str] = []
GATES: dict[str, asyncio.Event] = {}


@activity
async def clean(what: str) -> None:
    DONE.append(what)


@activity
async def gate(name: str) -> None:
    await GATES.setdefault(name, asyncio.Event()).wait()


@workflow
async def leaf() -> Any:
    return await condition("never")


@workflow
async def order(stop: str, name: str) -> str:
    """Stands at one kind of durable operation; cleans up when it is cancelled."""
    try:
        if stop == "sleep":
            await sleep("1h")
        elif stop == "activity":
            await gate(name)
        elif stop == "child":
            await execute_child(leaf)
        else:
            await condition("approval")
    except CancelledFailure:
        async with CancellationScope.non_cancellable():
            await clean(name)
        raise
    return "shipped"


@workflow
async def approval() -> Any:
    return await condition("approval")


@workflow
async def fails() -> None:
    raise LookupError("no stock")


SERVED = {"workflows": [leaf, order, approval, fails], "activities": [clean, gate]}
STANDS = ("sleep", "activity", "child", "condition")


async def stands(client: Client, queue: str, stop: str) -> Any:
    handle = await client.start(order, stop, f"{queue}-{stop}", task_queue=queue)

    async def shown() -> bool:
        record = await handle.describe()
        return record is not None and bool(record.waiting)

    await until(shown)
    return handle


@pytest.mark.parametrize("stop", STANDS)
async def test_cancel_raises_at_a_durable_operation_and_lets_the_code_clean_up(client: Client, queue: str, stop: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await stands(client, queue, stop)
        await handle.cancel("changed my mind")
        with pytest.raises(CancelledFailure, match="changed my mind"):
            await handle.result(timeout=WAIT)
        assert DONE.count(f"{queue}-{stop}") == 1
        assert await handle.status() < 0


@pytest.mark.parametrize("stop", STANDS)
async def test_terminate_ends_at_once_without_any_cleanup(client: Client, queue: str, stop: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        handle = await stands(client, queue, stop)
        told = await raw.subscribe(f"jetflow_changed.{queue}.{handle.workflow_id}")
        await raw.flush()
        await handle.terminate(reason="stop", code=411)
        with pytest.raises(WorkflowTerminatedError, match="stop") as caught:
            await handle.result(timeout=WAIT)
        assert caught.value.code == 411
        assert b"terminated" in (await told.next_msg(10)).data, "subscribers hear of it"
        assert f"{queue}-{stop}" not in DONE

        async def expired() -> bool:
            return await client.states.get(queue, handle.workflow_id) is None

        await until(expired)


async def test_result_waits_for_the_end_and_gives_or_raises_what_came_of_it(client: Client, queue: str) -> None:
    handle = await client.start(approval, task_queue=queue)
    waiting = asyncio.create_task(handle.result(timeout=WAIT))
    async with Worker(client, task_queue=queue, **SERVED):
        await waits_for(handle, "approval")
        assert not waiting.done()
        await handle.signal("approval", {"ok": True})
        assert await waiting == {"ok": True}
        failed = await client.start(fails, task_queue=queue)
        with pytest.raises(WorkflowFailedError, match="LookupError: no stock") as caught:
            await failed.result(timeout=WAIT)
        assert "in fails" in caught.value.stack
        error = await failed.result(throw_on_error=False, state=True)
        assert (error.type, error.message) == ("LookupError", "no stock")


async def test_a_signal_resumes_a_waiting_workflow_with_its_data(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(approval, task_queue=queue)
        await waits_for(handle, "approval")
        await client.get_handle(handle.workflow_id, task_queue=queue).signal("approval", [1, {"by": "me"}])
        assert await handle.result(timeout=WAIT) == [1, {"by": "me"}]


async def test_a_signal_may_come_long_before_its_workflow(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        early = client.get_handle("tomorrow", task_queue=queue)
        await early.signal("approval", "deposited", expire="30d")
        await client.start(approval, workflow_id="tomorrow", task_queue=queue)
        assert await early.result(timeout=WAIT) == "deposited"


async def test_state_and_status_of_a_running_and_a_completed_workflow(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(approval, task_queue=queue)
        await waits_for(handle, "approval")
        assert await handle.status() > 0
        assert await handle.state() is None
        await handle.signal("approval", "yes")
        await handle.result(timeout=WAIT)
        assert await handle.status() == 0
        assert await handle.state() == "yes"
        envelope = await handle.state(metadata=True)
        assert envelope["data"] == "yes"
        assert (envelope["metadata"]["workflow_id"], envelope["metadata"]["status"]) == (handle.workflow_id, "completed")
