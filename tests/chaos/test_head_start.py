"""kill -9 around a first commit that was not written yet when the activities began, and an owner that stands still meanwhile."""

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.server import LocalServer
from jetflow.core.ids import to_token
from tests.chaos.app import draws_lots, five_steps
from tests.chaos.harness import check_histories, executions, workers
from tests.engine.helpers import until

COUNT = 5
BEFORE_IT = ("before_activity", "after_activity", "before_commit")
AFTER_IT = ("after_commit", "after_effects", "after_state", "before_ack")


async def has_timeline(client: Client, queue: str, workflow_id: str) -> bool:
    return await Timeline(client.broker.lane, client.broker.names).last(to_token(queue), to_token(workflow_id)) is not None


@pytest.mark.parametrize("point", BEFORE_IT + AFTER_IT)
async def test_killed_at(point: str, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        doomed = await started.start(fault=f"{point}:1")
        handles = [await client.start(five_steps, n, task_queue=queue) for n in range(COUNT)]
        assert await doomed.dead() == -9, doomed.errors.read_text()
        ids = [handle.workflow_id for handle in handles]
        begun = {str(execution["workflow_id"]) for execution in executions(log)}
        kept = [workflow_id for workflow_id in ids if await has_timeline(client, queue, workflow_id)]
        assert bool(kept) == (point in AFTER_IT)
        if point != "before_activity":
            assert begun
        await started.start()
        assert [await handle.result(timeout="60s") for handle in handles] == [n + 15 for n in range(COUNT)]
        await check_histories(client, queue, ids, log)
        assert {execution["index"] for execution in executions(log)} == {1, 2, 3, 4, 5}


async def test_what_is_run_again_is_run_with_the_same(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    """Chance is the run's own: an idempotency key that is drawn for the first step is drawn again."""
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        doomed = await started.start(fault="after_activity:1")
        handle = await client.start(draws_lots, task_queue=queue)
        assert await doomed.dead() == -9
        assert not await has_timeline(client, queue, handle.workflow_id)
        await started.start()
        key = await handle.result(timeout="60s")
        assert [execution["step"] for execution in executions(log)] == [key, key]


async def test_an_owner_that_stands_still_runs_nothing_that_its_successor_has_run(
    server: LocalServer, client: Client, queue: str, tmp_path: Path
) -> None:
    """What lies in its socket when it goes on was delivered to it first, and yet is not its to begin."""
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        paused = await started.start()
        assert await client.execute(five_steps, 0, task_queue=queue, timeout="60s") == 15
        paused.pause()
        handles = [await client.start(five_steps, n, task_queue=queue) for n in range(COUNT)]
        await started.start()
        assert [await handle.result(timeout="60s") for handle in handles] == [n + 15 for n in range(COUNT)]
        paused.go_on()
        later = [await client.start(five_steps, n, task_queue=queue) for n in range(COUNT)]
        assert [await handle.result(timeout="60s") for handle in later] == [n + 15 for n in range(COUNT)]
        await until(lambda: "claims its partitions again" in paused.errors.read_text())
        times = Counter((execution["workflow_id"], execution["index"]) for execution in executions(log))
        assert set(times.values()) == {1}
        assert len(times) == 5 * (2 * COUNT + 1)
        await check_histories(client, queue, [handle.workflow_id for handle in handles + later], log)


async def test_many_while_workers_are_killed(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        await asyncio.gather(*(started.start() for _ in range(2)))
        handles = []
        for round_ in range(6):
            handles += await asyncio.gather(*(client.start(five_steps, round_, task_queue=queue) for _ in range(100)))
            started.all[-1].kill()
            handles += await asyncio.gather(*(client.start(five_steps, round_, task_queue=queue) for _ in range(100)))
            await started.start()
        results = await asyncio.gather(*(handle.result(timeout="120s") for handle in handles))
        assert results == [round_ + 15 for round_ in range(6) for _ in range(200)]
        await check_histories(client, queue, [handle.workflow_id for handle in handles], log)
