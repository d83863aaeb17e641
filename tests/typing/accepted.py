"""What type checkers must accept, with the types that they must find. It is checked, never run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any, Literal, assert_type

from msgspec import Struct

import jetflow
import jetflow.activity as activity_module
import jetflow.workflow as workflow_module
from jetflow import (
    ActivityDefinition,
    Client,
    FailureError,
    RetryPolicy,
    Worker,
    WorkflowDefinition,
    WorkflowHandle,
    activity,
    condition,
    continue_as_new,
    execute_activity,
    execute_child,
    side_effect,
    sleep,
    start_child,
    workflow,
)


class Order(Struct):
    item: str
    count: int = 1


class Receipt(Struct):
    id: str


@activity
async def charge(order: Order) -> Receipt:
    return Receipt(order.item)


@activity(retry=RetryPolicy(maximum_attempts=3, initial_interval="1s"), start_to_close_timeout="30s")
async def ship(order: Order, express: bool = False) -> list[str]:
    return [order.item]


@activity(task_queue="mail")
def send(address: str) -> bool:
    return bool(address)


@activity
def plain(number: int) -> int:
    return number


@workflow
async def order(item: str) -> Receipt:
    receipt = await charge(Order(item))
    assert_type(receipt, Receipt)
    assert_type(await ship(Order(item), express=True), list[str])
    assert_type(await send("a@b.c"), bool)
    assert_type(await plain(1), int)
    return receipt


@workflow(name="order.v2", task_queue="orders")
async def renamed(item: str, count: int = 1) -> int:
    return count


@workflow
async def variadic(item: str, *counts: int) -> int:
    return sum(counts)


@workflow
async def nothing() -> None: ...


@workflow
async def listed(numbers: list[float | str]) -> float:
    return float(numbers[0])


@workflow
async def both(item: str, count: int = 1, *more: int) -> int:
    return count


async def undecorated(number: int) -> str:
    return str(number)


@workflow
async def code() -> str:
    assert_type(await condition("a"), Any)
    assert_type(await condition("a", model=Order), Order)
    assert_type(await condition("a", model=list[int]), list[int])
    assert_type(await condition("a", timeout="24h", model=Order), Order | Literal[False])
    assert_type(await condition("a", timeout="24h", model=bool, on_timeout=None), bool | None)
    assert_type(await condition("a", timeout="24h", model=Order, on_timeout="late"), Order | str)
    assert_type(await condition("a", timeout="24h", model=bool, on_timeout=TimeoutError), bool)
    assert_type(await condition("a", timeout="24h", model=Order, on_timeout=ValueError("late")), Order)
    assert_type(await condition("a", timeout="24h", on_timeout=None), Any)
    assert_type(await condition(lambda: True, timeout=5, on_timeout=None), Literal[True] | None)
    assert_type(await condition(lambda: True, timeout=5, on_timeout=TimeoutError), Literal[True])
    assert_type(await condition(lambda: True), bool)
    assert_type(await condition(lambda: True, timeout=5), bool)
    assert_type(await execute_activity(charge, Order("a"), retry=RetryPolicy(maximum_attempts=1)), Receipt)
    assert_type(await execute_activity(ship, Order("a")), list[str])
    assert_type(await execute_activity(ship, Order("a"), True, task_queue="q"), list[str])
    assert_type(await execute_activity(send, "a@b.c"), bool)
    assert_type(await execute_activity("charge", 1, result_type=Receipt), Receipt)
    assert_type(await execute_activity("charge", 1), Any)
    assert_type(await execute_child(order, "A-1", workflow_id="c"), Receipt)
    assert_type(await execute_child(renamed, "A-1", 2), int)
    assert_type(await execute_child(variadic, "A-1", 2, 3), int)
    assert_type(await execute_child(undecorated, 1), str)
    assert_type(await execute_child("order", "A-1"), Any)
    assert_type(await asyncio.gather(execute_child(order, "A-1"), charge(Order("a")), sleep("1s")), tuple[Receipt, Receipt, float])
    child = await start_child(order, "A-1", parent_close_policy="abandon")
    assert_type(child, jetflow.ChildHandle)
    assert_type(side_effect(lambda: 5), int)
    assert_type(workflow.now(), datetime)
    assert_type(workflow.info(), jetflow.WorkflowInfo)
    assert_type(await workflow.condition("a", model=Order), Order)
    assert_type(await workflow.execute_child(order, "A-1"), Receipt)
    assert_type(activity.info(), jetflow.ActivityInfo)
    activity.heartbeat({"at": 1})
    async with workflow.CancellationScope.non_cancellable():
        await sleep("1s")
    continue_as_new("A-2")


async def client_code(client: Client, any_order: WorkflowDefinition[..., Receipt], step: ActivityDefinition[[int], str]) -> None:
    handle = await client.start(order, "A-1", workflow_id="o", task_queue="q")
    assert_type(handle, WorkflowHandle[Receipt])
    assert_type(await handle.result(), Receipt)
    assert_type(await handle.result(timeout="5s"), Receipt)
    assert_type(await handle.result(throw_on_error=False), Receipt | FailureError)
    assert_type(await client.start(renamed, "A-1", 2, start_delay="1h"), WorkflowHandle[int])
    assert_type(await client.start(any_order, 1, 2), WorkflowHandle[Receipt])
    assert_type(await client.start("order", 1, 2), WorkflowHandle[Any])
    assert_type(client.get_handle("o", workflow=order), WorkflowHandle[Receipt])
    assert_type(await client.get_handle("o", "q", workflow=order).result(), Receipt)
    assert_type(client.get_handle("o", run_id="5", result_type=Receipt), WorkflowHandle[Receipt])
    assert_type(client.get_handle("o", workflow="order"), WorkflowHandle[Any])
    assert_type(client.get_handle("o"), WorkflowHandle[Any])
    assert_type(await client.execute(order, "A-1", timeout="5s"), Receipt)
    assert_type(await client.execute(renamed, "A-1"), int)
    assert_type(await client.execute(undecorated, 1), str)
    assert_type(await client.execute("order", "A-1"), Any)
    assert_type(await client.execute(listed, [1, "2"]), float)
    assert_type(await client.execute(both, "A-1"), int)
    assert_type(await client.execute(both, "A-1", 1, 2), int)
    await client.execute(nothing)
    assert_type(await client.signal_with_start(order, "A-1", signal="s", data=1, workflow_id="o"), WorkflowHandle[Receipt])
    found = client.get_handle("o")
    assert_type(found, WorkflowHandle[Any])
    assert_type(await found.query("lines", result_type=list[str]), list[str])
    assert_type(await found.query("lines"), Any)
    assert_type(await found.update("add", "a", update_id="u", result_type=int), int)
    assert_type(await found.update("add", "a"), Any)
    await handle.terminate("enough", 410, throw=False, descend=True)
    assert_type(await step(1), str)
    assert_type(await order("A-1"), Receipt)


def takes_any(handle: WorkflowHandle) -> WorkflowHandle[object]:
    return handle


async def connections() -> AsyncIterator[Client]:
    async with jetflow.local(task_queue="q") as client, Worker(client, workflows=[order]):
        assert_type(client.task_queue, str)
    async with jetflow.local() as client, Worker(client, task_queue="q", workflows=[order, undecorated], activities=[charge, send]):
        yield client
    async with Client.connect(namespace="n", task_queue="orders") as client:
        yield client
    yield await Client.connect()


assert_type(workflow_module.now(), datetime)
assert_type(activity_module.info(), jetflow.ActivityInfo)
