"""Children, their ids and lineage, what ends with whom; and workflows that go on as new."""

import asyncio
from typing import Any

import pytest

from jetflow import (
    ChildWorkflowError,
    Client,
    InvalidInputError,
    Worker,
    WorkflowTerminatedError,
    activity,
    condition,
    continue_as_new,
    execute_child,
    patched,
    sleep,
    start_child,
    workflow,
    workflow_info,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, another_worker, commands, dead_letters, until, waits_for


@activity
async def add(n: int) -> int:
    return n + 1


@workflow
async def leaf(n: int) -> int:
    return await add(n)


@workflow
async def waits(value: Any = None) -> Any:
    return [value, await condition("go")]


@workflow
async def breaks() -> None:
    raise ValueError("child's own") from KeyError("deeper")


@workflow
async def lineage(depth: int) -> list[Any]:
    info = workflow_info()
    below = await execute_child(lineage, depth - 1, workflow_id=f"{info.workflow_id}-{depth - 1}") if depth else []
    return [[info.parent_workflow_id, info.origin_id], *below]


@workflow
async def family(count: int) -> int:
    return sum(await asyncio.gather(*(execute_child(leaf, n) for n in range(count))))


@workflow
async def started_family(count: int) -> list[str]:
    children = await asyncio.gather(*(start_child(leaf, n, parent_close_policy="abandon") for n in range(count)))
    return [child.workflow_id for child in children]


@workflow
async def elsewhere(queue: str) -> Any:
    named = await execute_child("leaf", 1, task_queue=queue, workflow_id="named")
    child = await start_child(waits, task_queue=queue, workflow_id="other", parent_close_policy="cancel")
    return [named, child.workflow_id, child.task_queue]


@workflow
async def runs(name: str, child_id: str | None = None) -> str:
    """The error of a child, caught."""
    try:
        await execute_child(name, workflow_id=child_id)
    except ChildWorkflowError as error:
        return f"{error.code} {error.cause.type} {type(error.cause).__name__}"
    return "no error"


@workflow
async def starts_taken(child_id: str) -> str:
    try:
        await start_child(waits, workflow_id=child_id)
    except ChildWorkflowError as error:
        return error.cause.type  # type: ignore[union-attr]
    return "no error"


@workflow
async def lets_child_break() -> None:
    await execute_child(breaks)


@workflow
async def odd_children() -> list[str]:
    found = []
    for options in ({"workflow_id": "x" * 300}, {"task_queue": "y" * 300}, {"parent_close_policy": "forget"}):
        try:
            await execute_child(leaf, 1, **options)  # type: ignore[arg-type]
        except InvalidInputError:
            found.append(next(iter(options)))
    return found


@workflow
async def nested(depth: int) -> int:
    """Every level takes the id that is made for it."""
    return 1 + (await execute_child(nested, depth - 1) if depth else 0)


@workflow
async def ends(policy: str, how: str) -> str:
    child = await start_child(waits, parent_close_policy=policy)  # type: ignore[arg-type]
    await condition("end")
    if how == "fail":
        raise ValueError("parent's own")
    return child.workflow_id


@workflow
async def generations(left: int, seen: list[Any]) -> Any:
    seen.append(await condition("n"))
    if left > 1:
        continue_as_new(left - 1, seen)
    return [workflow_info().generation, seen]


@workflow
async def generations_with_child(generation: int) -> str:
    if generation == 1:
        await start_child(waits, workflow_id="cancelled-with-it", parent_close_policy="cancel")
        await start_child(waits, workflow_id="left-alone", parent_close_policy="abandon")
        continue_as_new(2)
    await condition("end")
    return "ended"


@workflow
async def changes_type(value: int) -> None:
    continue_as_new(value, workflow=leaf)


def patch_me(new: bool) -> Any:
    @workflow(name="patch_me")
    async def old(n: int) -> list[str]:
        await condition("go")
        return ["old", str(await add(n))]

    @workflow(name="patch_me")
    async def changed(n: int) -> list[str]:
        first = "new" if patched("change") else "old"
        if first == "new":
            await sleep("1ms")
        await condition("go")
        return [first, str(await add(n))]

    return changed if new else old


SERVED = {
    "workflows": [leaf, waits, breaks, lineage, family, started_family, elsewhere, runs, starts_taken, lets_child_break, odd_children, nested, ends,
                  generations, generations_with_child, changes_type],
    "activities": [add],
}  # fmt: skip


async def none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def test_lineage_is_told_and_shown(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        found = await client.execute(lineage, 2, workflow_id="root", task_queue=queue, timeout=WAIT)
        assert found == [[None, None], ["root", "root"], ["root-1", "root"]]
        record = await client.get_handle("root-1-0", queue).describe()
        assert record is not None
        assert (record.parent_workflow_id, record.origin_id) == ("root-1", "root")


@pytest.mark.parametrize("root", ["a b.c", "ünï 😀", "line\r\nNats-TTL:1s\r\n\r\n", "*"])
async def test_lineage_is_told_whatever_the_ids_are(client: Client, queue: str, root: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        found = await client.execute(lineage, 2, workflow_id=root, task_queue=queue, timeout=WAIT)
        assert found == [[None, None], [root, root], [f"{root}-1", root]]


async def test_two_hundred_children_of_one_parent(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(family, 200, task_queue=queue, timeout=WAIT) == sum(range(1, 201))
        ids = await client.execute(started_family, 50, task_queue=queue, timeout=WAIT)
        assert [await client.get_handle(child, queue).result(timeout=WAIT) for child in ids] == list(range(1, 51))
        await until(lambda: none_left(client, queue))
        assert await dead_letters(client, queue) == []


async def test_children_on_another_task_queue(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[elsewhere]), Worker(client, task_queue=f"{queue} 2", **SERVED):
        assert await client.execute(elsewhere, f"{queue} 2", task_queue=queue, timeout=WAIT) == [2, "other", f"{queue} 2"]
        other = await client.get_handle("other", f"{queue} 2").result(throw_on_error=False, timeout=WAIT)
        assert other.type == "CancelledFailure"


async def test_a_childs_failure_is_the_cause(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(runs, "breaks", task_queue=queue, timeout=WAIT) == "500 ValueError WorkflowFailedError"
        with pytest.raises(ChildWorkflowError, match="ValueError: child's own") as caught:
            await client.execute(lets_child_break, task_queue=queue, timeout=WAIT)
        assert "in breaks" in caught.value.stack
        assert caught.value.cause.cause.type == "KeyError"  # type: ignore[union-attr]
        waiting = await client.start(runs, "waits", "ended-from-outside", task_queue=queue)
        child = client.get_handle("ended-from-outside", queue)
        await waits_for(waiting, "ended-from-outside")
        await until(lambda: client.states.get(queue, "ended-from-outside"))
        await child.terminate("by hand")
        assert await waiting.result(timeout=WAIT) == "410 WorkflowTerminatedError WorkflowTerminatedError"


async def test_an_id_that_somebody_else_has_is_an_error_and_does_them_no_harm(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        taken = await client.start(waits, "mine", workflow_id="taken", task_queue=queue)
        await waits_for(taken, "go")
        assert await client.execute(runs, "waits", "taken", task_queue=queue, timeout=WAIT) == "409 WorkflowAlreadyStartedError WorkflowFailedError"
        assert await client.execute(starts_taken, "taken", task_queue=queue, timeout=WAIT) == "WorkflowAlreadyStartedError"
        own = await client.execute(runs, "waits", "itself", workflow_id="itself", task_queue=queue, timeout=WAIT)
        assert "WorkflowAlreadyStartedError" in own
        failing = await client.start(ends, "terminate", "fail", task_queue=queue)
        await failing.signal("end")
        await failing.result(throw_on_error=False, timeout=WAIT)
        await until(lambda: none_left(client, queue))
        await taken.signal("go", "unharmed")
        assert await taken.result(timeout=WAIT) == ["mine", "unharmed"]
        for again in (runs, starts_taken):  # a workflow that has ended has its id too
            given = ("waits", "taken") if again is runs else ("taken",)
            assert "WorkflowAlreadyStartedError" in await client.execute(again, *given, task_queue=queue, timeout=WAIT)


async def test_children_that_cannot_be_are_refused_in_the_code_that_starts_them(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(odd_children, task_queue=queue, timeout=WAIT) == ["workflow_id", "task_queue", "parent_close_policy"]


async def test_made_ids_fit_however_long_and_deep(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(nested, 30, task_queue=queue, timeout=WAIT) == 31
        assert await client.execute(nested, 2, workflow_id="p" * 256, task_queue=queue, timeout=WAIT) == 3
        assert await client.execute(nested, 2, workflow_id="ü" * 42, task_queue=queue, timeout=WAIT) == 3


@pytest.mark.parametrize("how", ["complete", "fail", "terminate"])
@pytest.mark.parametrize("policy", ["terminate", "cancel", "abandon"])
async def test_what_becomes_of_children_when_the_parent_ends_first(client: Client, queue: str, policy: str, how: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        parent = await client.start(ends, policy, how, workflow_id="p", task_queue=queue)
        await waits_for(parent, "end")
        child = client.get_handle(f"p-{parent.run_id}-1", queue)
        await (parent.terminate(expire="1h") if how == "terminate" else parent.signal("end"))
        await parent.result(throw_on_error=False, timeout=WAIT)
        if policy == "abandon":
            await until(lambda: none_left(client, queue))
            await child.signal("go", 1)
            assert await child.result(timeout=WAIT) == [None, 1]
        else:
            error = await child.result(throw_on_error=False, timeout=WAIT)
            assert error.type == {"terminate": "WorkflowTerminatedError", "cancel": "CancelledFailure"}[policy]


async def test_twenty_generations_keep_id_handle_and_signals(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = client.get_handle("long", queue)
        for n in range(8):
            await handle.signal("n", n)
        started = await client.start(generations, 20, [], workflow_id="long", task_queue=queue)
        for n in range(8, 20):
            await handle.signal("n", n)
        assert await started.result(timeout=WAIT) == await handle.result(timeout=WAIT) == [20, list(range(20))]
        record = await handle.describe()
        assert record is not None
        assert (record.run_id, record.generation) == (started.run_id, 20)
        assert await client.execute(changes_type, 4, task_queue=queue, timeout=WAIT) == 5


async def test_generations_go_on_with_another_worker(server: LocalServer, client: Client, queue: str) -> None:
    handle = await client.start(generations, 4, [], task_queue=queue)
    for n in range(4):
        async with another_worker(server.url, queue, **SERVED):
            await handle.signal("n", n)
            if n < 3:
                await until(lambda n=n: _in_generation(handle, n + 2))
            else:
                assert await handle.result(timeout=WAIT) == [4, [0, 1, 2, 3]]


async def _in_generation(handle: Any, generation: int) -> bool:
    record = await handle.describe()
    return record is not None and record.generation == generation and bool(record.waiting)


async def test_children_end_with_their_generation_as_their_policy_says(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(generations_with_child, 1, task_queue=queue)
        await waits_for(handle, "end")
        cancelled = await client.get_handle("cancelled-with-it", queue).result(throw_on_error=False, timeout=WAIT)
        assert cancelled.type == "CancelledFailure"
        await handle.signal("end")
        assert await handle.result(timeout=WAIT) == "ended"
        left = client.get_handle("left-alone", queue)
        await left.signal("go", 1)
        assert await left.result(timeout=WAIT) == [None, 1]


async def test_patched_code_goes_on_with_old_runs_and_starts_new_ones(server: LocalServer, client: Client, queue: str) -> None:
    before = await client.start("patch_me", 1, task_queue=queue)
    async with another_worker(server.url, queue, workflows=[patch_me(new=False)], activities=[add]):
        await waits_for(before, "go")
    after = await client.start("patch_me", 1, task_queue=queue)
    async with another_worker(server.url, queue, workflows=[patch_me(new=True)], activities=[add]):
        await waits_for(after, "go")
        await before.signal("go")
        assert await before.result(timeout=WAIT) == ["old", "2"]
    async with another_worker(server.url, queue, workflows=[patch_me(new=True)], activities=[add]):
        await after.signal("go")
        assert await after.result(timeout=WAIT) == ["new", "2"]


async def test_a_terminated_parent_takes_an_awaited_child_along(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        parent = await client.start(runs, "waits", "awaited", task_queue=queue)
        await until(lambda: client.states.get(queue, "awaited"))
        await parent.terminate()
        child = await client.get_handle("awaited", queue).result(throw_on_error=False, timeout=WAIT)
        assert isinstance(child, WorkflowTerminatedError)
