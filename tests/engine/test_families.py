"""What becomes of children: parent-close policies, and the end of a whole tree of workflows."""

import asyncio
from typing import Any

import pytest

from jetflow import Client, Worker, condition, continue_as_new, execute_child, start_child, workflow
from jetflow.errors import CancelledFailure, ChildWorkflowError, WorkflowTerminatedError

from .helpers import WAIT, commands, dead_letters, until, waits_for


@workflow
async def leaf() -> Any:
    return await condition("go")


@workflow
async def parent(how: str, policy: str, then: str) -> str:
    """Starts one child and ends in one of the ways a run can end."""
    if how == "start":
        await start_child(leaf, workflow_id=f"{then}-{policy}-child", parent_close_policy=policy)
    else:
        asyncio.create_task(execute_child(leaf, workflow_id=f"{then}-{policy}-child", parent_close_policy=policy))
    await condition("on")
    if then == "failed":
        raise ValueError("on purpose")
    if then == "continued":
        continue_as_new("none", policy, "again")
    return "done"


@workflow
async def again(*_: Any) -> None:
    await condition("on")


@workflow
async def tree(depth: int, path: str, queues: list[str], policy: str = "abandon") -> Any:
    """A child started and a child waited for on every level, on queues in turn."""
    if depth:
        queue = queues[depth % len(queues)]
        await start_child(tree, depth - 1, f"{path}s", queues, policy, workflow_id=f"{path}s", task_queue=queue, parent_close_policy=policy)
        await execute_child(tree, depth - 1, f"{path}e", queues, policy, workflow_id=f"{path}e", task_queue=queue, parent_close_policy=policy)
    return await condition("go")


@workflow
async def generations(n: int, queue: str) -> Any:
    """Each generation leaves a child behind."""
    await start_child(leaf, workflow_id=f"left-{n}", parent_close_policy="abandon")
    if n:
        continue_as_new(n - 1, queue)
    return await condition("go")


@workflow
async def completes_early(queue: str) -> None:
    await start_child(leaf, workflow_id="grandchild", parent_close_policy="abandon")


@workflow
async def keeps_an_early_child(queue: str) -> Any:
    await execute_child(completes_early, queue, workflow_id="child")
    return await condition("go")


@workflow
async def wants(child: str) -> Any:
    """Asks for an id that somebody else has."""
    try:
        await start_child(leaf, workflow_id=child)
    except ChildWorkflowError:
        return await condition("on")


SERVED = {"workflows": [leaf, parent, again, tree, generations, completes_early, keeps_an_early_child, wants]}


async def gone(client: Client, workflow_id: str, queue: str) -> Any:
    """How a terminated workflow's record looks until it expires; True once it has."""
    record = await client.states.get(queue, workflow_id)
    return record is None or record.status == "terminated"


@pytest.mark.parametrize("then", ["completed", "failed", "continued", "terminated"])
@pytest.mark.parametrize("how", ["start", "execute"])
async def test_a_parent_that_ends_does_what_the_policy_says(client: Client, queue: str, how: str, then: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        for policy in ("terminate", "cancel", "abandon"):
            child = client.get_handle(f"{then}-{policy}-child", queue)
            handle = await client.start(parent, how, policy, then, task_queue=queue)
            await until(lambda child=child: client.states.get(queue, child.workflow_id))
            await waits_for(handle, "on")
            await waits_for(child, "go")
            if then == "terminated":
                await handle.terminate()
            else:
                await handle.signal("on")
            if policy == "terminate":
                with pytest.raises(WorkflowTerminatedError):
                    await child.result(timeout=WAIT)
            elif policy == "cancel":
                with pytest.raises(CancelledFailure, match="has ended"):
                    await child.result(timeout=WAIT)
            else:
                await child.signal("go", "lives")
                assert await child.result(timeout=WAIT) == "lives"
            if then == "continued":
                await handle.terminate()


@pytest.mark.parametrize("policy", ["abandon", "cancel"])
async def test_terminate_with_descend_ends_the_whole_tree_on_every_queue(client: Client, queue: str, policy: str) -> None:
    queues = [queue, f"{queue}-b", f"{queue}-c"]
    ids = [("", 0)]
    for depth in range(3):
        ids += [(path + kind, depth + 1) for path, at in ids if at == depth for kind in "se"]
    tree_of = {f"t{path}": queues[(3 - depth + 1) % 3] if depth else queue for path, depth in ids}
    assert len(tree_of) == 15
    async with (
        Worker(client, task_queue=queues[0], **SERVED),
        Worker(client, task_queue=queues[1], **SERVED),
        Worker(client, task_queue=queues[2], **SERVED),
    ):
        root = await client.start(tree, 3, "t", queues, policy, workflow_id="t", task_queue=queue)
        for workflow_id, on in tree_of.items():
            await until(lambda workflow_id=workflow_id, on=on: client.states.get(on, workflow_id))
        await root.terminate(descend=True)
        for workflow_id, on in tree_of.items():
            await until(lambda workflow_id=workflow_id, on=on: gone(client, workflow_id, on))
        for on in queues:
            await until(lambda on=on: _none_left(client, on))
            assert await dead_letters(client, on) == []


async def _none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def test_descend_reaches_the_children_of_earlier_generations(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(generations, 3, queue, task_queue=queue)
        await waits_for(handle, "go")
        for n in range(4):
            await waits_for(client.get_handle(f"left-{n}", queue), "go")
        await handle.terminate(descend=True)
        for n in range(4):
            await until(lambda n=n: gone(client, f"left-{n}", queue))


async def test_descend_goes_through_a_child_that_has_ended(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(keeps_an_early_child, queue, task_queue=queue)
        await waits_for(handle, "go")
        await waits_for(client.get_handle("grandchild", queue), "go")
        await handle.terminate(descend=True)
        await until(lambda: gone(client, "grandchild", queue))
        assert await client.get_handle("child", queue).status() == 0


async def test_a_parent_ends_no_workflow_that_it_did_not_start(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        other = await client.start(leaf, workflow_id="somebody-else", task_queue=queue)
        await waits_for(other, "go")
        handle = await client.start(wants, "somebody-else", task_queue=queue)
        await waits_for(handle, "on")
        await handle.terminate(descend=True)
        await until(lambda: gone(client, handle.workflow_id, queue))
        await until(lambda: _none_left(client, queue))
        await other.signal("go", "untouched")
        assert await other.result(timeout=WAIT) == "untouched"
        assert await dead_letters(client, queue) == []
