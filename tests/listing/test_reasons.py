"""Why a workflow stands where it stands, in every state, and the sentence that says it."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from jetflow import Client, RetryPolicy, Worker, WorkflowHandle, activity, condition, execute_child, sleep, workflow
from jetflow.cli.why import sentence
from jetflow.errors import WorkflowNotFoundError
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.why import Why, kept_signals, why
from tests.engine.helpers import parked, until, waits_for
from tests.records import put_record

go = asyncio.Event()


@activity
async def held() -> None:
    await go.wait()


@activity(retry=RetryPolicy(initial_interval="1h", maximum_interval="1h"))
async def failing() -> None:
    raise LookupError("no stock")


@activity(task_queue="nobody-serves-this")
async def elsewhere() -> None: ...


@workflow
async def on_activity() -> None:
    await held()


@workflow
async def on_retry() -> None:
    await failing()


@workflow
async def on_signal(timeout: str | None = None) -> Any:
    return await condition("approval", timeout=timeout)


@workflow
async def on_timer() -> None:
    await sleep("1h")


@workflow
async def on_condition() -> None:
    await condition(lambda: False)


@workflow
async def on_two() -> None:
    await asyncio.gather(condition("a"), condition("b"), sleep("1h"), condition("c"))


@workflow
async def on_remote() -> None:
    await elsewhere()


@workflow
async def on_child() -> None:
    await execute_child(on_signal, workflow_id="leaf")


@workflow
async def on_grandchild() -> None:
    await execute_child(on_child, workflow_id="middle")


@workflow
async def broken() -> None:
    raise ValueError("wrong")


WORKFLOWS = [on_activity, on_retry, on_signal, on_timer, on_condition, on_two, on_remote, on_child, on_grandchild, broken]


@pytest.fixture(autouse=True)
def held_activities() -> None:
    global go
    go = asyncio.Event()


async def _shown(client: Client, handle: WorkflowHandle, true: Callable[[Why], object]) -> Why:
    """What is said of it once that is so."""

    async def look() -> Why | None:
        found = await why(client.lookups, WorkflowRef.of(handle.workflow_id, handle.task_queue))
        return found if true(found) else None

    return await until(look)


def _first(kind: str) -> Callable[[Why], object]:
    return lambda found: bool(found.waits) and found.waits[0].kind == kind


async def test_what_there_is_not(client: Client, queue: str) -> None:
    with pytest.raises(WorkflowNotFoundError):
        await why(client.lookups, WorkflowRef.of("nobody", queue))
    assert await kept_signals(client.broker, WorkflowRef.of("nobody", queue)) == []


async def test_a_start_that_nobody_has_taken_up(client: Client, queue: str) -> None:
    handle = await client.start(on_timer, task_queue=queue, workflow_id="w 1")
    found = await why(client.lookups, WorkflowRef.of("w 1", queue))
    assert (found.status, found.owner, found.stored, found.waits[0].kind) == ("early", None, 1, "start")
    text = sentence(found)
    assert "waits for a worker to start it, since 20" in text
    assert "no worker of this task queue is alive" in text
    assert "no worker owns it; 1 of its commands is stored and not done" in text
    assert f"a worker of task queue '{queue}' with workflow type 'on_timer' would wake it." in text
    await handle.terminate()


async def test_a_start_that_is_put_off(client: Client, queue: str) -> None:
    handle = await client.start(on_timer, task_queue=queue, start_delay="2h")
    found = await why(client.lookups, WorkflowRef.of(handle.workflow_id, queue))
    assert (found.status, found.workflow_type, found.waits[0].kind) == ("early", "on_timer", "delay")
    text = sentence(found)
    assert "waits for the time of its start, 20" in text
    assert "(in 1h59m), delayed, since 20" in text
    assert text.endswith("the time of its start would wake it.")
    await handle.terminate()


@pytest.mark.parametrize(
    ("run", "kind", "parts"),
    [
        (on_timer, "timer", ("waits for a timer, since 20", ", due 20", "(in 59m", "its timer would wake it")),
        (
            on_condition,
            "condition",
            ("waits for a condition of its own code to be true, since", "a signal or an update that makes it true would wake it"),
        ),
        (on_activity, "activity", ("waits for activity 'held', since 20", "of which attempt 1 is under way", "its outcome would wake it")),
        (on_retry, "retry", ("the time of attempt 2 of activity 'failing', 20", "attempt 1 failed with LookupError: no stock")),
        (on_remote, "remote", ("activity 'elsewhere'", "attempt 1 waits on task queue 'nobody-serves-this' for a worker that has it")),
        (
            on_two,
            "signal",
            ("signal 'a', since", " and for signal 'b', since", " and for a timer", " and for 1 more", "signal 'a' or signal 'b' or its timer"),
        ),
    ],
)
async def test_a_live_one(client: Client, queue: str, run: Any, kind: str, parts: tuple[str, ...]) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[held, failing]) as worker:
        handle = await client.start(run, task_queue=queue)
        found = await _shown(client, handle, lambda found: _first(kind)(found) and found.owner)
        text = sentence(found)
        for part in (*parts, f"worker {worker.worker_id} (", f"({run.name} on {queue})"):
            assert part in text
        await handle.cancel("enough")
        go.set()
        await handle.result(throw_on_error=False)


async def test_a_wait_with_a_timeout_and_an_owner_that_is_gone(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        handle = await client.start(on_signal, "2h", task_queue=queue)
        await waits_for(handle, "approval")
    found = await _shown(client, handle, lambda found: found.owner is None)
    assert found.waits[0].wakes == "signal 'approval'"
    await handle.signal("approval")
    found = await _shown(client, handle, lambda found: found.stored == 1)
    text = sentence(found)
    assert ", until 20" in text
    assert "(in 1h59m)" in text
    assert "no worker owns it; 1 of its commands is stored and not done" in text
    await handle.terminate()


async def test_children_of_children(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        handle = await client.start(on_grandchild, task_queue=queue)
        leaf = await until(lambda: _leaf(client, handle))
        assert "child 'middle', since" in leaf
        assert ", which waits for child 'leaf', since" in leaf
        assert ", which waits for signal 'approval', since" in leaf
        assert "the end of child 'middle' would wake it." in leaf
        await handle.terminate(descend=True)


async def _leaf(client: Client, handle: WorkflowHandle) -> str | None:
    text = sentence(await why(client.lookups, WorkflowRef.of(handle.workflow_id, handle.task_queue)))
    return text if "approval" in text else None


async def test_a_parked_one(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[broken]):
        handle = await client.start("newer", task_queue=queue)
        await parked(handle)
        found = await why(client.lookups, WorkflowRef.of(handle.workflow_id, queue))
        assert (found.status, found.waits[0].kind, found.waits[0].name) == ("parked", "worker", "UnknownWorkflowType")
        text = sentence(found)
        assert "waits for a worker that can continue it, since 20" in text
        assert f"a worker of task queue '{queue}' with workflow type 'newer' would wake it." in text
        await handle.terminate()


async def test_one_that_was_asked_to_cancel(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[held]):
        handle = await client.start(on_activity, task_queue=queue)
        await waits_for(handle, "held")
        record = await handle.describe()
        assert record is not None
        record.cancel_requested = True  # as in the moment between the request and its end
        await put_record(client, record)
        assert ", though it was asked to cancel" in sentence(await why(client.lookups, WorkflowRef.of(handle.workflow_id, queue)))
        go.set()
        await handle.result()


async def test_ended_ones(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        failed = await client.start(broken, task_queue=queue, expire="1h")
        await failed.result(throw_on_error=False)
        text = sentence(await why(client.lookups, WorkflowRef.of(failed.workflow_id, queue)))
        assert "has failed with ValueError: wrong, 20" in text
        assert "its record expires at 20" in text
        assert text.endswith("nothing wakes it any more.")
        ended = await client.start(on_timer, task_queue=queue)
        await until(lambda: ended.status())
        await ended.terminate("enough", expire="1h")
        await ended.result(throw_on_error=False)
        assert "has been terminated with WorkflowTerminatedError" in sentence(await why(client.lookups, WorkflowRef.of(ended.workflow_id, queue)))
        done = await client.start(on_signal, task_queue=queue)
        await done.signal("approval")
        await done.result()
        assert "has completed, 20" in sentence(await why(client.lookups, WorkflowRef.of(done.workflow_id, queue)))


async def test_signals_that_are_kept(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        await client.get_handle("later", queue).signal("approval", expire="1h")
        (kept,) = await until(lambda: kept_signals(client.broker, WorkflowRef.of("later", queue)))
        assert kept.name == "approval"
        with pytest.raises(WorkflowNotFoundError):
            await why(client.lookups, WorkflowRef.of("later", queue))
