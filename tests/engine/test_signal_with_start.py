"""Starting a workflow, if it does not run, and signaling it in one call."""

import asyncio
from typing import Any

import pytest

from jetflow import Client, InvalidInputError, Worker, WorkflowAlreadyClosedError, WorkflowNotFoundError, condition, workflow
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, another_worker, until


@workflow
async def hears(count: int) -> list[Any]:
    return [await condition("n") for _ in range(count)]


SERVED = {"workflows": [hears]}


@pytest.mark.parametrize("served", [True, False], ids=["a worker is up", "no worker yet"])
async def test_fifty_at_once_make_one_run_that_sees_fifty_signals(server: LocalServer, client: Client, queue: str, served: bool) -> None:
    async def send(sender: Client, n: int) -> str | None:
        return (await sender.signal_with_start(hears, 50, signal="n", data=n, workflow_id="one", task_queue=queue)).run_id

    async with Client.connect(server.url) as second:
        if served:
            async with another_worker(server.url, queue, **SERVED):
                runs = await asyncio.gather(*(send((client, second)[n % 2], n) for n in range(50)))
                heard = await client.get_handle("one", queue).result(timeout=WAIT)
        else:
            runs = await asyncio.gather(*(send((client, second)[n % 2], n) for n in range(50)))
            async with another_worker(server.url, queue, **SERVED):
                heard = await client.get_handle("one", queue).result(timeout=WAIT)
    assert sorted(heard) == list(range(50))
    assert len([run for run in runs if run is not None]) == 1


async def test_a_run_that_has_ended(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        first = await client.signal_with_start(hears, 1, signal="n", data=1, workflow_id="x", task_queue=queue, expire="1s")
        assert await first.result(timeout=WAIT) == [1]
        with pytest.raises(WorkflowAlreadyClosedError, match="completed"):
            await client.signal_with_start(hears, 1, signal="n", data=2, workflow_id="x", task_queue=queue)

        async def expired() -> bool:
            return await client.states.get(queue, "x") is None

        await until(expired)
        again = await client.signal_with_start("hears", 1, signal="n", data=3, workflow_id="x", task_queue=queue)
        assert await again.result(timeout=WAIT) == [3]
        assert again.run_id != first.run_id


async def test_what_cannot_be_signaled_starts_nothing(client: Client, queue: str) -> None:
    for wrong in ({"data": object()}, {"signal": ""}, {"signal_expire": "soon"}):
        with pytest.raises(InvalidInputError):
            await client.signal_with_start(hears, 1, **{"signal": "n", **wrong}, workflow_id="x", task_queue=queue)
    with pytest.raises(WorkflowNotFoundError):
        await client.get_handle("x", queue).status()
