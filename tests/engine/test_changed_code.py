"""Workers without the right code: what they cannot go on with waits for one that can, and says why."""

import asyncio
from typing import Any

import pytest

from jetflow import (
    Client,
    Worker,
    WorkflowAlreadyStartedError,
    activity,
    condition,
    execute_activity,
    execute_child,
    set_update_handler,
    sleep,
    workflow,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, another_worker, commands, parked, until, waits_for


@activity
async def ship(n: int) -> int:
    return n + 1


@activity
async def bill(n: int) -> int:
    return n + 10


@activity(name="late_addition")
async def late(n: int) -> int:
    return n + 100


@workflow(name="order")
async def as_it_was(n: int) -> int:
    n = await ship(n)
    await condition("go")
    return await bill(n)


@workflow(name="order")
async def with_a_timer_first(n: int) -> int:
    await sleep("1h")
    return await ship(n)


@workflow(name="order")
async def with_a_step_less(n: int) -> int:
    await condition("go")
    return await bill(n)


@workflow(name="order")
async def with_another_signal(n: int) -> int:
    n = await ship(n)
    await condition("gone")
    return n


@workflow(name="order")
async def that_ends_early(n: int) -> int:
    return await ship(n)


@workflow(name="order")
async def that_raises(n: int) -> int:
    raise ValueError("not any more")


@workflow
async def plain(n: int) -> int:
    return await ship(n)


@workflow
async def newer(n: int) -> int:
    return await ship(n)


@workflow
async def calls_late(n: int) -> int:
    return await execute_activity("late_addition", n)


@workflow
async def calls_late_in_a_gather(n: int) -> list[Any]:
    return list(await asyncio.gather(ship(n), execute_activity("late_addition", n), execute_activity("late_addition", n)))


CHANGED = {
    with_a_timer_first: ("activity 'ship'", "timer", "in with_a_timer_first"),
    with_a_step_less: ("activity 'ship'", "wait for signal 'go'", "in with_a_step_less"),
    with_another_signal: ("wait for signal 'go'", "wait for signal 'gone'", "in with_another_signal"),
    that_ends_early: ("wait for signal 'go'", "completion", "that_ends_early"),
    that_raises: ("activity 'ship'", "failure", "that_raises"),
}
ACTIVITIES = [ship, bill]


async def test_a_workflow_whose_code_changed_is_parked_and_goes_on_with_the_right_code(server: LocalServer, client: Client, queue: str) -> None:
    handles = [await client.start("order", n, workflow_id=f"order-{n}", task_queue=queue) for n in range(3)]
    async with another_worker(server.url, queue, workflows=[as_it_was, plain], activities=ACTIVITIES):
        for handle in handles:
            await waits_for(handle, "go")
    for handle in handles:
        await handle.signal("go")
    for changed, facts in CHANGED.items():
        async with another_worker(server.url, queue, workflows=[changed, plain], activities=ACTIVITIES):
            for handle in handles:

                async def parked_here(handle: Any = handle, facts: Any = facts) -> bool:
                    record = await handle.describe()
                    return bool(record and record.parked and all(fact in record.parked.message for fact in facts))

                await until(parked_here)
                reason = await parked(handle)
                assert reason.reason == "NondeterminismError"
                assert all(part in reason.message for part in ("recorded", "attempted", "test_changed_code.py:"))
                assert await handle.status() > 0
                assert len(await commands(client, queue, handle.workflow_id)) == 1, "its command is not acked"
            assert await client.execute(plain, 1, task_queue=queue, timeout=WAIT) == 2, "others go on"
    async with another_worker(server.url, queue, workflows=[as_it_was, plain], activities=ACTIVITIES):
        assert [await handle.result(timeout=WAIT) for handle in handles] == [11, 12, 13]
        for handle in handles:
            assert (await handle.describe()).parked is None  # type: ignore[union-attr]


async def test_an_unknown_workflow_type_waits_for_a_worker_that_has_it(server: LocalServer, client: Client, queue: str) -> None:
    async with another_worker(server.url, queue, workflows=[plain], activities=ACTIVITIES):
        handles = [await client.start("newer", n, task_queue=queue) for n in range(5)]
        for handle in handles:
            reason = await parked(handle)
            assert reason.reason == "UnknownWorkflowType"
            assert "'newer'" in reason.message
            assert "plain" in reason.message
            assert await handle.status() > 0
        assert await client.execute(plain, 1, task_queue=queue, timeout=WAIT) == 2
    async with another_worker(server.url, queue, workflows=[plain, newer], activities=ACTIVITIES):
        assert [await handle.result(timeout=WAIT) for handle in handles] == [1, 2, 3, 4, 5]


async def test_a_rolling_upgrade_hands_new_workflow_types_to_new_workers(server: LocalServer, client: Client, queue: str) -> None:
    async with another_worker(server.url, queue, workflows=[plain], activities=ACTIVITIES) as old:
        handles = [await client.start("newer", n, task_queue=queue) for n in range(20)]
        for handle in handles:
            await parked(handle)
        async with another_worker(server.url, queue, workflows=[plain, newer], activities=ACTIVITIES):
            assert [await handle.result(timeout=WAIT) for handle in handles] == list(range(1, 21))
            assert old.partitions == 0
        await until(lambda: old.partitions)
        assert await client.execute(plain, 1, task_queue=queue, timeout=WAIT) == 2


async def test_an_unknown_activity_waits_for_a_worker_that_has_it(server: LocalServer, client: Client, queue: str) -> None:
    served = [plain, calls_late, calls_late_in_a_gather]
    async with another_worker(server.url, queue, workflows=served, activities=ACTIVITIES):
        handles = [await client.start(calls_late, 1, task_queue=queue), await client.start(calls_late_in_a_gather, 1, task_queue=queue)]
        for handle in handles:
            await waits_for(handle, "late_addition")
            assert await handle.status() > 0
        assert await client.execute(plain, 1, task_queue=queue, timeout=WAIT) == 2
    async with another_worker(server.url, queue, workflows=served, activities=[*ACTIVITIES, late]):
        assert await handles[0].result(timeout=WAIT) == 101
        assert await handles[1].result(timeout=WAIT) == [2, 101, 101]


async def test_a_rolling_upgrade_hands_new_activities_to_new_workers(server: LocalServer, client: Client, queue: str) -> None:
    served = [plain, calls_late]
    async with another_worker(server.url, queue, workflows=served, activities=ACTIVITIES):
        handles = [await client.start(calls_late, n, task_queue=queue) for n in range(20)]
        for handle in handles:
            await waits_for(handle, "late_addition")
        async with another_worker(server.url, queue, workflows=served, activities=[*ACTIVITIES, late]):
            assert [await handle.result(timeout=WAIT) for handle in handles] == list(range(100, 120))


async def test_a_parked_workflow_can_be_ended(server: LocalServer, client: Client, queue: str) -> None:
    """Terminating needs none of its code, whether it was begun or not, whether the command comes before or after."""
    stopped = await client.start("order", 1, task_queue=queue)
    async with another_worker(server.url, queue, workflows=[as_it_was], activities=ACTIVITIES):
        await waits_for(stopped, "go")
    asked = await client.start("newer", 2, task_queue=queue)
    await asked.terminate("before", expire="1h")
    async with another_worker(server.url, queue, workflows=[with_a_step_less], activities=ACTIVITIES):
        await stopped.signal("go")
        assert (await parked(stopped)).reason == "NondeterminismError"
        unknown = await client.start("newer", 1, workflow_id="newer", task_queue=queue)
        assert (await parked(unknown)).reason == "UnknownWorkflowType"
        for handle in (stopped, unknown):
            with pytest.raises(WorkflowAlreadyStartedError):
                await client.start("newer", 1, workflow_id=handle.workflow_id, task_queue=queue)
            await handle.signal("late")
            await handle.terminate("never mind", expire="1s" if handle is unknown else "1h")
            assert "never mind" in str(await handle.result(throw_on_error=False, timeout=WAIT))
        assert "before" in str(await asked.result(throw_on_error=False, timeout=WAIT))
        await until(lambda: _none_left(client, queue))

        async def expired() -> bool:
            return await client.states.get(queue, "newer") is None

        await until(expired)
        again = await client.start("order", 5, workflow_id="newer", task_queue=queue)
        await again.signal("go")
        assert await again.result(timeout=WAIT) == 15
    async with another_worker(server.url, queue, workflows=[as_it_was, newer], activities=ACTIVITIES):
        assert (await stopped.result(throw_on_error=False)).type == "WorkflowTerminatedError"


async def _none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


def totals(signature: str) -> Any:
    """The same workflow, with its first signature or another one."""

    @workflow(name="total")
    async def first(items: list[int]) -> Any:
        set_update_handler("add", lambda items: items)
        return await condition("go") and [items]

    @workflow(name="total")
    async def with_a_default(items: list[int], start: int = 0) -> Any:
        set_update_handler("add", lambda items, start=0: [items, start])
        return await condition("go") and [items, start]

    @workflow(name="total")
    async def with_the_rest(*items: Any) -> Any:
        set_update_handler("add", lambda *items: list(items))
        return await condition("go") and list(items)

    return {"first": first, "with_a_default": with_a_default, "with_the_rest": with_the_rest}[signature]


@pytest.mark.parametrize(("now", "expected"), [("first", [[1, 2]]), ("with_a_default", [[1, 2], 0]), ("with_the_rest", [[1, 2]])])
@pytest.mark.parametrize("started", ["by function", "by name", "as a child"])
async def test_a_stored_start_keeps_its_arguments(client: Client, queue: str, started: str, now: str, expected: Any) -> None:
    @workflow
    async def parent(child_queue: str) -> Any:
        return await execute_child(totals("first"), [1, 2], workflow_id=f"{child_queue}-total", task_queue=child_queue)

    async with Worker(client, task_queue=f"{queue}-parents", workflows=[parent]):
        if started == "as a child":
            await client.start(parent, queue, task_queue=f"{queue}-parents")
            await until(lambda: commands(client, queue))
        else:
            what = totals("first") if started == "by function" else "total"
            await client.start(what, [1, 2], task_queue=queue, workflow_id=f"{queue}-total")
        handle = client.get_handle(f"{queue}-total", queue)
        async with Worker(client, task_queue=queue, workflows=[totals(now)]):
            await waits_for(handle, "go")
            assert await handle.update("add", [1, 2]) == {"first": [1, 2]}.get(now, expected)
            await handle.signal("go", 1)
            assert await handle.result(timeout=WAIT) == expected


async def test_several_stored_arguments_are_never_taken_for_one(client: Client, queue: str) -> None:
    handle = await client.start(totals("with_a_default"), [1, 2], 3, task_queue=queue)
    async with Worker(client, task_queue=queue, workflows=[totals("first")]):
        error = await handle.result(throw_on_error=False, timeout=WAIT)
        assert "takes 1 argument(s), 2 given" in str(error)
