"""What type checkers must refuse: every line that ends in a mark, and no other. It is checked, never run."""

# ruff: noqa: F841
from __future__ import annotations

from msgspec import Struct

from jetflow import (
    Client,
    RetryPolicy,
    WorkflowHandle,
    activity,
    condition,
    continue_as_new,
    execute_activity,
    execute_child,
    start_child,
    workflow,
)


class Receipt(Struct):
    id: str


@activity
async def charge(item: str) -> Receipt:
    return Receipt(item)


@activity(retry=RetryPolicy(maximum_attempts=3), start_to_close_timeout="30s")
async def ship(item: str, count: int = 1) -> str:
    return item


@activity(retry=3)  # refused
async def wrong_retry(item: str) -> None: ...


@activity(timeout="30s")  # refused
async def wrong_option(item: str) -> None: ...


@workflow(task_queue=5)  # refused
async def wrong_queue(item: str) -> None: ...


@workflow  # refused
def not_async(item: str) -> str:
    return item


async def undecorated(item: str) -> str:
    return item


@workflow
async def order(item: str) -> Receipt:
    await charge(5)  # refused
    await ship("a", "b")  # refused
    await ship("a", number=1)  # refused
    number: int = await ship("a")  # refused
    return await charge(item)


@workflow(name="order.v2")
async def renamed(item: str, count: int = 1) -> int:
    return count


@workflow
async def code() -> int:
    await condition("a", model=Receipt, timeot="1h")  # refused
    receipt: Receipt = await condition("a", model=Receipt, timeout="1h")  # refused
    sure: bool = await condition("a", model=bool, timeout="1h", on_timeout=None)  # refused
    text: str = await condition("a", model=int)  # refused
    payload: str = await condition(lambda: True)  # refused
    await execute_activity(charge, 5)  # refused
    await execute_activity(ship)  # refused
    await execute_activity(ship, "a", 1, 2)  # refused
    await execute_activity(charge, "a", timeout="1s")  # refused
    await execute_activity(undecorated, "a")  # refused
    wrong: int = await execute_activity(charge, "a")  # refused
    named: int = await execute_activity("charge", result_type=str)  # refused
    await execute_child(order, 5)  # refused
    await execute_child(order)  # refused
    await execute_child(order, "a", parent_close_policy="stop")  # refused
    result: str = await execute_child(order, "a")  # refused
    await start_child(order, 5)  # refused
    await start_child(renamed, "a", "b")  # refused
    workflow.no_such_name()  # refused
    activity.no_such_name()  # refused
    await workflow.execute_child(order, 5)  # refused
    continue_as_new("a", workflow=5)  # refused


async def client_code(client: Client, handle: WorkflowHandle[Receipt]) -> None:
    await client.start(order, 5)  # refused
    await client.start(order)  # refused
    await client.start(order, "a", "b")  # refused
    await client.start(renamed, "a", "b")  # refused
    await client.start(order, "a", workflow_ident="o")  # refused
    await client.start(order, "a", if_exists="ignore")  # refused
    await client.start(5)  # refused
    await client.execute(order, 5)  # refused
    text: str = await client.execute(order, "a")  # refused
    await client.signal_with_start(order, 5, signal="s", workflow_id="o")  # refused
    other: WorkflowHandle[str] = await client.start(order, "a")  # refused
    found: WorkflowHandle[int] = client.get_handle("o", workflow=order)  # refused
    number: int = await handle.result()  # refused
    sure: Receipt = await handle.result(throw_on_error=False)  # refused
    await handle.result(False)  # refused
    await handle.state(True)  # refused
    await handle.export(None, (), False)  # refused
    await handle.terminate("enough", 410, False)  # refused
    answer: str = await handle.query("lines", result_type=int)  # refused
    changed: str = await handle.update("add", result_type=int)  # refused
