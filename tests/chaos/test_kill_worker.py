"""kill -9 at every step that a command goes through: afterwards everything completes, and nothing recorded ran again."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.engine.faults import POINTS
from tests.chaos.app import everything, expected_everything
from tests.chaos.harness import check_histories, executions, workers

COUNT = 4


async def start_all(client: Client, queue: str) -> list[str]:
    """Workflows with a signal that comes before them and one that comes while they run."""
    ids = [f"w{n}" for n in range(COUNT)]
    for n, workflow_id in enumerate(ids):
        handle = client.get_handle(workflow_id, task_queue=queue)
        await handle.signal("early", {"n": n})
        await client.start(everything, n, workflow_id=workflow_id, task_queue=queue)
        await handle.signal("live", {"live": n})
    return ids


async def check_all(client: Client, queue: str, ids: list[str], log: Path) -> None:
    children: list[str] = []
    for n, workflow_id in enumerate(ids):
        result = await client.get_handle(workflow_id, task_queue=queue).result(timeout=60)
        children.append(result.pop("other"))
        assert result == expected_everything(n)
    for n, child in enumerate(children):
        assert await client.get_handle(child, task_queue=queue).result(timeout=60) == n + 1 + 15
    await check_histories(client, queue, ids + children, log)
    handles = [client.get_handle(workflow_id, task_queue=queue) for workflow_id in ids]
    assert [await handle.status() for handle in handles] == [0] * COUNT


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("point", POINTS)
async def test_killed_at(point: str, count: int, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        ids = await start_all(client, queue)
        doomed = await started.start(fault=f"{point}:{count}")
        code = await doomed.dead()
        assert code == -9, f"never came to {point} {count} times: {doomed.errors.read_text()}"
        await started.start()
        await check_all(client, queue, ids, log)


async def test_killed_again_and_again(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    """A worker that dies at its tenth commit, started until the work is done."""
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        ids = await start_all(client, queue)

        async def keep_starting() -> None:
            while True:
                worker = await started.start(fault="after_commit:10")
                await worker.dead()

        keeper = asyncio.create_task(keep_starting())
        await check_all(client, queue, ids, log)
        keeper.cancel()
        assert executions(log)
