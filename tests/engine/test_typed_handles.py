"""A handle that another process made gives results of their type."""

import msgspec
import pytest

from jetflow import Client, InvalidInputError, Worker, workflow

from .helpers import WAIT


class Receipt(msgspec.Struct):
    id: str
    lines: list[int]


@workflow
async def buys(item: str) -> Receipt:
    return Receipt(item, [1, 2])


@workflow
async def other() -> Receipt:
    return Receipt("other", [])


async def test_a_handle_decodes_what_the_workflow_returns(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[buys]):
        await client.execute(buys, "a", workflow_id="w", task_queue=queue, timeout=WAIT)
    paid = Receipt("a", [1, 2])
    typed = client.get_handle("w", queue, workflow=buys)
    assert typed.workflow_type == "buys"
    assert await typed.result(timeout=WAIT) == paid
    assert await typed.state() == paid
    assert await client.get_handle("w", queue, result_type=Receipt).result() == paid
    assert await client.get_handle("w", queue, workflow="buys", result_type=Receipt).result() == paid
    assert await client.get_handle("w", queue).result() == {"id": "a", "lines": [1, 2]}
    assert await client.get_handle("w", queue, workflow=other).result() == {"id": "a", "lines": [1, 2]}, "it is of another type"
    with pytest.raises(InvalidInputError, match="workflow 'w', result: "):
        await client.get_handle("w", queue, result_type=list[int]).result()


async def test_what_cannot_be_used_is_refused(client: Client) -> None:
    with pytest.raises(InvalidInputError, match="not both"):
        client.get_handle("w", workflow=buys, result_type=Receipt)  # type: ignore[call-overload]
    with pytest.raises(InvalidInputError, match="cannot be read from JSON"):
        client.get_handle("w", result_type=3)  # type: ignore[call-overload]
    with pytest.raises(InvalidInputError, match="must be an async def function"):
        client.get_handle("w", workflow=len)  # type: ignore[call-overload]


async def test_it_is_looked_for_on_the_queue_of_its_workflow(client: Client) -> None:
    @workflow(task_queue="orders")
    async def order() -> int:
        return 1

    assert client.get_handle("w", workflow=order).task_queue == "orders"
    assert client.get_handle("w", "mail", workflow=order).task_queue == "mail"
