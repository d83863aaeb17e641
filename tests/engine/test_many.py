"""Many at once: namespaces beside each other, queues beside each other, workflows of every kind."""

import asyncio
import uuid
from typing import Any

from jetflow import Client, Worker, activity, condition, continue_as_new, execute_child, sleep, workflow
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, dead_letters, until


@activity
async def add(a: int, b: int) -> int:
    return a + b


@activity
def add_in_a_thread(a: int, b: int) -> int:
    return a + b


@workflow
async def steps(n: int) -> int:
    for _ in range(5):
        n = await add(n, 1)
    return n


@workflow
async def wide(n: int) -> int:
    return sum(await asyncio.gather(*(add_in_a_thread(n, m) for m in range(5))))


@workflow
async def sleeper(n: int) -> int:
    await asyncio.gather(sleep(n % 7 / 100), sleep("1ms"))
    return n


@workflow
async def waiter(n: int) -> int:
    return n + await condition("more")


@workflow
async def parent(n: int) -> int:
    return sum(await asyncio.gather(execute_child(steps, n), execute_child(sleeper, n)))


@workflow
async def goes_on(n: int, left: int = 4) -> int:
    if left:
        continue_as_new(await add(n, 1), left - 1)
    return n


@workflow
async def breaks(n: int) -> int:
    raise ValueError(n)


@workflow
async def where(name: str) -> Any:
    return [name, await condition("go")]


EXPECTED = {
    steps: lambda n: n + 5,
    wide: lambda n: 5 * n + 10,
    sleeper: lambda n: n,
    waiter: lambda n: n + 1000,
    parent: lambda n: 2 * n + 5,
    goes_on: lambda n: n + 4,
    breaks: lambda n: f"ValueError: {n}",
}
SERVED = {"workflows": [*EXPECTED, where], "activities": [add, add_in_a_thread]}


async def test_five_hundred_of_every_kind_on_two_queues(server: LocalServer, client: Client, queue: str) -> None:
    queues = [queue, f"{queue}-2"]
    kinds = list(EXPECTED)

    async def one(n: int) -> None:
        kind = kinds[n % len(kinds)]
        handle = await client.start(kind, n, workflow_id=f"w-{n}", task_queue=queues[n % 2])
        if kind is waiter:
            await handle.signal("more", 1000)
        result = await handle.result(throw_on_error=False, timeout="60s")
        assert (str(result) if kind is breaks else result) == EXPECTED[kind](n)

    async with Client.connect(server.url) as second, Worker(client, task_queue=queues[0], **SERVED), Worker(second, task_queue=queues[1], **SERVED):
        await asyncio.gather(*(one(n) for n in range(500)))
    for name in queues:
        closed = [record async for record in client.list(task_queue=name) if record.closed]
        assert len([record for record in closed if record.parent_workflow_id is None]) == 250
        assert await dead_letters(client, name) == []


async def test_namespaces_do_not_see_each_other(server: LocalServer, queue: str) -> None:
    names = [f"n{uuid.uuid4().hex[:8]}" for _ in range(3)]

    async def live(name: str, partitions: int) -> list[Any]:
        async with (
            Client.connect(server.url, namespace=name, partitions=partitions) as client,
            Worker(client, task_queue=queue, **SERVED) as worker,
        ):
            await until(lambda: worker.partitions)
            assert worker.partitions == partitions
            handle = await client.start(where, name, workflow_id="same", task_queue=queue)
            others = await asyncio.gather(*(client.execute(steps, n, task_queue=queue, timeout=WAIT) for n in range(20)))
            assert others == [n + 5 for n in range(20)]
            assert await handle.status() > 0
            await handle.signal("go", name)
            return await handle.result(timeout=WAIT)  # type: ignore[no-any-return]

    found = await asyncio.gather(*(live(name, partitions) for name, partitions in zip(names, (1, 5, 64), strict=True)))
    assert found == [[name, name] for name in names]
