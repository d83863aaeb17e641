"""Whose workers run a workflow: what the call names, then the workflow's own queue, then the client's; of a child the parent's comes last."""

import pytest

import jetflow
from jetflow import Client, Worker, condition, execute_child, start_child, workflow, workflow_info
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import InvalidInputError

from .helpers import WAIT, until

OWN = "own-queue"


@workflow
async def plain() -> str:
    return workflow_info().task_queue


@workflow(task_queue=OWN)
async def owned() -> str:
    return workflow_info().task_queue


@workflow(name="other.name", task_queue=OWN)
async def waits() -> list[str]:
    return [workflow_info().task_queue, await condition("go")]


@workflow
async def parent(elsewhere: str) -> list[str]:
    started = await start_child(owned, workflow_id="started", parent_close_policy="abandon")
    return [
        await execute_child(plain),
        await execute_child(owned),
        await execute_child(owned, task_queue=elsewhere),
        await execute_child("owned"),
        started.task_queue,
    ]


WORKFLOWS = [plain, owned, waits, parent]


async def test_every_call_of_a_client(server: LocalServer, queue: str) -> None:
    elsewhere = f"{queue}-b"
    async with (
        Client.connect(server.url, task_queue=queue) as client,
        Worker(client, workflows=WORKFLOWS) as worker,
        Worker(client, task_queue=elsewhere, workflows=WORKFLOWS),
        Worker(client, task_queue=OWN, workflows=WORKFLOWS) as owner,
    ):
        assert (client.task_queue, worker.task_queue) == (queue, queue)
        await until(lambda: worker.partitions and owner.partitions)
        assert await client.execute(plain, timeout=WAIT) == queue
        assert await client.execute("plain", timeout=WAIT) == queue
        assert await client.execute("owned", timeout=WAIT) == queue, "a name alone tells of no queue"
        assert await client.execute(owned, timeout=WAIT) == OWN
        assert await client.execute(owned, task_queue=elsewhere, timeout=WAIT) == elsewhere
        handle = await client.start(plain, workflow_id="w")
        assert handle.task_queue == queue
        assert await client.get_handle("w").result(timeout=WAIT) == queue
        delayed = await client.start(owned, workflow_id=f"{queue}-delayed", start_delay="100ms")
        assert delayed.task_queue == OWN
        signaled = await client.signal_with_start(waits, signal="go", data="now", workflow_id=f"{queue}-s")
        assert signaled.task_queue == OWN
        assert await signaled.result(timeout=WAIT) == [OWN, "now"]
        assert await client.execute(parent, elsewhere, timeout=WAIT) == [queue, OWN, elsewhere, queue, OWN]
        assert {record.task_queue async for record in client.list(workflow_type="plain")} >= {queue}, "a filter has no default"


async def test_without_one(server: LocalServer, monkeypatch: pytest.MonkeyPatch, queue: str) -> None:
    monkeypatch.delenv("JETFLOW_TASK_QUEUE", raising=False)
    async with Client.connect(server.url) as client:
        assert client.task_queue == "default"
        assert client.get_handle("x").task_queue == "default"
        assert client.get_handle("x", queue).task_queue == queue
        assert Worker(client, workflows=[plain]).task_queue == "default"
        assert Worker(client, task_queue=queue, workflows=[plain]).task_queue == queue
    monkeypatch.setenv("JETFLOW_TASK_QUEUE", queue)
    async with Client.connect(server.url) as client:
        assert client.task_queue == queue
    async with Client.connect(server.url, task_queue="another") as client:
        assert client.task_queue == "another"


async def test_of_a_local_server() -> None:
    async with jetflow.local(task_queue="here") as client, Worker(client, workflows=[plain]):
        assert await client.execute(plain, timeout=WAIT) == "here"


async def test_a_queue_that_cannot_be(server: LocalServer) -> None:
    with pytest.raises(InvalidInputError, match="task queue"):
        Client.connect(server.url, task_queue="")
    with pytest.raises(InvalidInputError, match="task queue"):
        workflow(task_queue="")(plain.function)


async def test_a_worker_of_another_queue_says_so(client: Client, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    Worker(client, task_queue=queue, workflows=[owned, plain])
    assert f"workflow 'owned' names task queue '{OWN}', and this worker serves '{queue}'" in caplog.text
    caplog.clear()
    Worker(client, task_queue=OWN, workflows=[owned, plain])
    assert not caplog.text
