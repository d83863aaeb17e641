"""kill -9 of those who run remote activities, and of those who own the workflows: nothing is lost, stuck, or run again once recorded."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.engine.faults import TASK_POINTS
from tests.chaos.harness import WorkerProcess, Workers, check_histories, executions, workers
from tests.chaos.remote_app import expected_far_steps, far_reporter, far_steps

COUNT = 6
MODULE = "tests.chaos.remote_app"


async def owner(started: Workers, fault: str | None = None) -> WorkerProcess:
    return await started.start(fault, MODULE, "owner")


async def activities(started: Workers, fault: str | None = None) -> WorkerProcess:
    return await started.start(fault, MODULE, "activities")


async def start_all(client: Client, queue: str, seconds: float = 0.02) -> list[str]:
    ids = [f"w{n}" for n in range(COUNT)]
    for n, workflow_id in enumerate(ids):
        await client.start(far_steps, f"{queue}-far", n, seconds, workflow_id=workflow_id, task_queue=queue)
    return ids


async def check_all(client: Client, queue: str, ids: list[str], log: Path) -> None:
    for n, workflow_id in enumerate(ids):
        assert await client.get_handle(workflow_id, task_queue=queue).result(timeout=90) == expected_far_steps(n)
    await check_histories(client, queue, ids, log)


async def began(log: Path, count: int) -> None:
    async with asyncio.timeout(60):
        while len(executions(log)) < count:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("count", [1, 7])
@pytest.mark.parametrize("point", ["before_activity", "after_activity", *TASK_POINTS])
async def test_an_activity_worker_dies(point: str, count: int, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        await owner(started)
        ids = await start_all(client, queue)
        doomed = await activities(started, f"{point}:{count}")
        code = await doomed.dead()
        assert code == -9, doomed.errors.read_text()
        await activities(started)
        await check_all(client, queue, ids, log)


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("point", ["before_commit", "after_commit", "after_effects", "after_state", "before_ack"])
async def test_an_owner_dies(point: str, count: int, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        await activities(started)
        ids = await start_all(client, queue)
        doomed = await owner(started, f"{point}:{count}")
        code = await doomed.dead()
        assert code == -9, doomed.errors.read_text()
        await owner(started)
        await check_all(client, queue, ids, log)


async def test_both_die_in_the_middle_of_long_ones(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        first, other, own = await activities(started), await activities(started), await owner(started)
        ids = await start_all(client, queue, 0.5)
        await began(log, COUNT + 2)
        own.kill()
        first.kill()
        await owner(started)
        await began(log, 2 * COUNT)
        other.kill()
        await activities(started)
        await check_all(client, queue, ids, log)


async def test_a_worker_that_stood_still_finds_its_tasks_done(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        await owner(started)
        first = await activities(started)
        ids = await start_all(client, queue, 0.3)
        await began(log, 2)
        first.pause()
        await activities(started)
        for workflow_id in ids:
            await client.get_handle(workflow_id, task_queue=queue).result(timeout=90)
        first.go_on()
        await check_all(client, queue, ids, log)


async def test_the_next_worker_gets_the_details_of_one_that_died(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        await owner(started)
        doomed = await activities(started)
        handle = await client.start(far_reporter, f"{queue}-far", 30, task_queue=queue)
        await began(log, 1)
        names = client.broker.names
        async with asyncio.timeout(30):
            while await client.broker.lane.last_message(names.heartbeat_stream, f"{names.heartbeat_prefix}{queue}.>") is None:
                await asyncio.sleep(0.01)
        doomed.kill()
        await activities(started)
        begun_at, attempt = await handle.result(timeout=60)
        assert begun_at > 0
        assert attempt == 1  # it had not failed: its worker had
