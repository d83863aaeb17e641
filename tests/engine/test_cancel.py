"""Cancelling asks, terminating does not."""

import asyncio
from typing import Any

import msgspec
import pytest

from jetflow import (
    CancellationScope,
    CancelledFailure,
    Client,
    Worker,
    WorkflowAlreadyClosedError,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    activity,
    condition,
    execute_child,
    is_cancellation,
    sleep,
    start_child,
    workflow,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, another_worker, commands, plain_nats, until, waits_for

RAN: list[str] = []
STOPPED: list[str] = []


@activity
async def note(key: str) -> str:
    RAN.append(key)
    return key


@activity
async def endless(key: str) -> None:
    RAN.append(key)
    try:
        await asyncio.Event().wait()
    finally:
        STOPPED.append(key)


@workflow
async def waits() -> Any:
    return await condition("go")


@workflow
async def lets_go(kind: str, key: str) -> None:
    """Waits for one of each kind, and does nothing about a cancel."""
    if kind == "sleep":
        await sleep("1h")
    elif kind == "gather":
        await asyncio.gather(sleep("1h"), endless(key), condition("never"))
    else:
        async with asyncio.TaskGroup() as group:
            group.create_task(sleep("1h"))
            group.create_task(endless(key))


@workflow
async def pending(kind: str, key: str) -> str:
    """Waits for one of each kind; tells what woke it, and what the cleanup did."""
    try:
        if kind == "sleep":
            await sleep("1h")
        elif kind == "asyncio.sleep":
            await asyncio.sleep(3600)
        elif kind == "activity":
            await endless(key)
        elif kind == "condition":
            await condition("never", timeout="1h")
        elif kind == "predicate":
            await condition(lambda: False)
        elif kind == "child":
            await execute_child(waits, workflow_id=f"child-{key}")
        elif kind == "gather":
            await asyncio.gather(sleep("1h"), endless(key), condition("never"))
        elif kind == "task group":
            async with asyncio.TaskGroup() as group:
                group.create_task(sleep("1h"))
                group.create_task(endless(key))
    except BaseException as error:
        if not is_cancellation(error):
            raise
        async with CancellationScope.non_cancellable():
            cleaned = await note(f"cleanup {key}")
            await sleep("1ms")
        again = ""
        try:
            await note(f"outside {key}")
        except CancelledFailure:
            again = "cancelled again"
        return f"{cleaned}, {again}"
    return "not cancelled"


@workflow
async def uncaught(key: str) -> None:
    await endless(key)


@workflow
async def ignores() -> str:
    """Catches every cancellation for as long as it likes, shielded."""
    async with CancellationScope.non_cancellable():
        return str(await condition("go"))


@workflow
async def only_activities(key: str) -> None:
    try:
        while True:
            await note(key)
            await sleep("20ms")
    except CancelledFailure as failure:
        raise ValueError(f"gave up: {failure.message}") from failure


@workflow
async def parent_of(key: str, policy: str) -> None:
    await start_child(waits, workflow_id=f"child-{key}", parent_close_policy=policy)  # type: ignore[arg-type]
    await start_child(parent_of_waiting, key, workflow_id=f"grand-{key}", parent_close_policy=policy)  # type: ignore[arg-type]
    await condition("go")


@workflow
async def parent_of_waiting(key: str) -> None:
    await execute_child(waits, workflow_id=f"grandchild-{key}", parent_close_policy="abandon")


SERVED = {
    "workflows": [waits, pending, uncaught, ignores, only_activities, parent_of, parent_of_waiting],
    "activities": [note, endless],
}
KINDS = ["sleep", "asyncio.sleep", "activity", "condition", "predicate", "child", "gather", "task group"]


async def none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def shown_running(client: Client, queue: str, workflow_id: str) -> bool:
    record = await client.states.get(queue, workflow_id)
    return record is not None and record.status == "running"


@pytest.mark.parametrize("kind", KINDS)
async def test_cancelling_wakes_whatever_is_waited_for_and_lets_clean_up(client: Client, queue: str, kind: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(pending, kind, queue, workflow_id="id", task_queue=queue)
        await until(lambda: shown_running(client, queue, "id"))
        await handle.cancel("enough")
        assert await handle.result(timeout=WAIT) == f"cleanup {queue}, cancelled again"
        assert f"outside {queue}" not in RAN
        if kind in ("activity", "gather", "task group"):
            await until(lambda: queue in STOPPED)
        if kind == "child":
            child = client.get_handle(f"child-{queue}", queue)
            assert isinstance(await child.result(throw_on_error=False, timeout=WAIT), WorkflowTerminatedError)


async def test_uncaught_it_ends_the_run_with_the_reason(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(uncaught, queue, task_queue=queue)
        await until(lambda: queue in RAN)
        await handle.cancel("budget")
        with pytest.raises(CancelledFailure, match="budget") as caught:
            await handle.result(timeout=WAIT)
        assert caught.value.type == "CancelledFailure"
        assert await handle.status() < 0
        record = await handle.describe()
        assert record is not None
        assert (record.status, record.failure.type) == ("cancelled", "CancelledFailure")  # type: ignore[union-attr]


async def test_it_is_durable_and_comes_also_before_the_start(server: LocalServer, client: Client, queue: str) -> None:
    before = client.get_handle("before", queue)
    await before.cancel("early")
    waiting = await client.start(pending, "sleep", f"{queue}-1", workflow_id="unstarted", task_queue=queue)
    await waiting.cancel("no worker yet")
    async with another_worker(server.url, queue, **SERVED):
        assert "cancelled again" in await waiting.result(timeout=WAIT)
        await until(lambda: none_left(client, queue))
        await client.start(uncaught, queue, workflow_id="before", task_queue=queue)
        with pytest.raises(CancelledFailure, match="early"):
            await before.result(timeout=WAIT)
        restarted = await client.start(ignores, workflow_id="restarted", task_queue=queue)
        await waits_for(restarted, "go")
        await restarted.cancel("remembered")

        async def asked() -> bool:
            record = await restarted.describe()
            return record is not None and record.cancel_requested

        await until(asked)
    async with another_worker(server.url, queue, **SERVED):
        await restarted.signal("go", 7)
        assert await restarted.result(timeout=WAIT) == "7"
    assert queue not in RAN


async def test_twice_and_after_the_end_it_changes_nothing(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(ignores, task_queue=queue)
        await waits_for(handle, "go")
        for _ in range(3):
            await handle.cancel()
        await handle.signal("go", "went on")
        assert await handle.result(timeout=WAIT) == "went on"
        await handle.cancel("too late")
        await until(lambda: none_left(client, queue))
        assert await handle.result(timeout=WAIT) == "went on"
        busy = await client.start(only_activities, queue, task_queue=queue)
        await until(lambda: RAN.count(queue) > 2)
        await busy.cancel("stop")
        assert "gave up: Workflow cancelled: stop" in str(await busy.result(throw_on_error=False, timeout=WAIT))


async def test_terminating_runs_no_more_of_its_code(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(pending, "activity", queue, task_queue=queue)
        waiter = asyncio.ensure_future(client.get_handle(handle.workflow_id, queue).result(timeout=WAIT))
        await until(lambda: queue in RAN)
        await handle.terminate("broken disk", code=418, stack="somewhere", expire="1h")
        with pytest.raises(WorkflowTerminatedError, match="broken disk") as caught:
            await waiter
        assert (caught.value.code, caught.value.stack) == (418, "somewhere")
        await until(lambda: queue in STOPPED)
        assert f"cleanup {queue}" not in RAN
        assert await handle.status() < 0
        record = await handle.describe()
        assert record is not None
        assert (record.status, record.expire) == ("terminated", 3_600_000)
        with pytest.raises(WorkflowAlreadyClosedError):
            await handle.terminate()
        await handle.terminate(suppress=True)
        await handle.signal("go", "late")
        await handle.cancel("late")
        await until(lambda: none_left(client, queue))
        assert (await handle.describe()).status == "terminated"  # type: ignore[union-attr]


async def test_terminate_without_throwing_and_its_record_that_expires(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(waits, workflow_id="quiet", task_queue=queue)
        await waits_for(handle, "go")
        result = asyncio.ensure_future(handle.result(timeout=WAIT))
        await handle.terminate(throw=False)
        assert await result is None

        async def gone() -> bool:
            return await client.states.get(queue, "quiet") is None

        await until(gone)
        for read in (handle.status, handle.result, handle.terminate):
            with pytest.raises(WorkflowNotFoundError):
                await read()


async def test_terminate_before_any_worker_and_by_nats_pub(client: Client, queue: str) -> None:
    unstarted = await client.start(pending, "activity", queue, task_queue=queue)
    await unstarted.terminate("never mind", expire="1h")
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        with pytest.raises(WorkflowTerminatedError, match="never mind"):
            await unstarted.result(timeout=WAIT)
        assert f"cleanup {queue}" not in RAN
        for body in (b"", b'"by hand"', b'{"reason": "by hand", "expire": "1h"}'):
            handle = await client.start(waits, task_queue=queue)
            await waits_for(handle, "go")
            await raw.publish(f"jetflow.{queue}.{handle.workflow_id}.terminate", body)
            with pytest.raises(WorkflowTerminatedError) as caught:
                await handle.result(timeout=WAIT)
            assert (caught.value.code, "by hand" in caught.value.message) == (410, b"by hand" in body)


@pytest.mark.parametrize("descend", [False, True])
async def test_descend_ends_descendants_whatever_their_policy(client: Client, queue: str, descend: bool) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(parent_of, queue, "abandon", task_queue=queue)
        await waits_for(handle, "go")
        below = [client.get_handle(f"{kind}-{queue}", queue) for kind in ("child", "grand", "grandchild")]
        await waits_for(below[2], "go")
        await handle.terminate(descend=descend, expire="1h")
        with pytest.raises(WorkflowTerminatedError):
            await handle.result(timeout=WAIT)
        if descend:
            for one in below:
                assert isinstance(await one.result(throw_on_error=False, timeout=WAIT), WorkflowTerminatedError)
        else:
            await until(lambda: none_left(client, queue))
            for one in below:
                assert await one.status() > 0
                await one.signal("go")


@pytest.mark.parametrize("policy", ["terminate", "cancel", "abandon"])
async def test_the_parents_cancellation_reaches_children_by_their_policy(client: Client, queue: str, policy: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(parent_of, queue, policy, task_queue=queue)
        await waits_for(handle, "go")
        await handle.cancel()
        assert isinstance(await handle.result(throw_on_error=False, timeout=WAIT), CancelledFailure)
        child = client.get_handle(f"child-{queue}", queue)
        if policy == "abandon":
            await until(lambda: none_left(client, queue))
            await child.signal("go", "alive")
            assert await child.result(timeout=WAIT) == "alive"
        else:
            expected = {"terminate": WorkflowTerminatedError, "cancel": CancelledFailure}[policy]
            assert type(await child.result(throw_on_error=False, timeout=WAIT)) is expected


# ---- what people see of a cancelled run


@pytest.mark.parametrize("kind", ["sleep", "gather", "task group"])
async def test_a_cancelled_run_is_cancelled_wherever_people_look(client: Client, queue: str, kind: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[lets_go], activities=[endless]):
        handle = await client.start(lets_go, kind, f"{queue}-{kind}", task_queue=queue, workflow_id="c")
        await until(lambda: handle.status())
        await handle.cancel("enough")
        with pytest.raises(CancelledFailure, match="enough"):
            await handle.result(timeout=WAIT)
        assert await handle.status() < 0
        assert (await handle.state(metadata=True))["metadata"]["status"] == "cancelled"
        assert [record.status async for record in client.list(status="cancelled", task_queue=queue)] == ["cancelled"]
        assert await client.count(status="failed", task_queue=queue) == 0
        assert await client.count_by("status", task_queue=queue) == {"cancelled": 1}
        exported = await handle.export_execution()
        assert (exported.status, exported.closing_reason) == ("failed", "cancelled")


async def test_a_cancelled_record_of_an_older_version_reads_as_cancelled(client: Client, queue: str) -> None:
    failure = {"type": "CancelledFailure", "message": "Workflow cancelled", "code": 598}
    old = {
        "workflow_id": "old", "task_queue": queue, "workflow_type": "waits", "run_id": "1", "status": "failed", "code": -598,
        "started_at": 1, "updated_at": 2, "closed_at": 2, "failure": failure,
    }  # fmt: skip
    names, lane = client.broker.names, client.broker.lane
    await lane.publish(f"{names.state_prefix}{queue}.old", msgspec.json.encode(old))
    await lane.publish(f"{names.state_prefix}{queue}.bad", msgspec.json.encode(old | {"workflow_id": "bad", "failure": {"type": "E"}}))
    assert [record.workflow_id async for record in client.list(status="cancelled", task_queue=queue)] == ["old"]
    assert [record.workflow_id async for record in client.list(status="failed", task_queue=queue)] == ["bad"]
    assert await client.count_by("status", task_queue=queue) == {"cancelled": 1, "failed": 1}
    assert (await client.get_handle("old", task_queue=queue).state(metadata=True))["metadata"]["status"] == "cancelled"
