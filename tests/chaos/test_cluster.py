"""Three servers, each stream on all of them: what holds when the one that leads is killed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from bench.cluster import LocalCluster
from jetflow import Client, Worker
from jetflow.errors import BrokerUnavailableError, WorkflowNotFoundError

from . import app
from .harness import check_histories, executions, workers

WORKFLOWS = 40
T = TypeVar("T")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path) as cluster:
        yield cluster


async def persistently(ask: Callable[[], Awaitable[T]]) -> T:
    """What it gives once the servers have agreed on who leads, or the one that answers has caught up."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await ask()
            except BrokerUnavailableError:
                await asyncio.sleep(0.1)


async def test_nothing_is_lost_when_the_leader_is_killed(cluster: LocalCluster, queue: str, tmp_path: Path) -> None:
    """The leader of inbox, timeline and state goes down while workflows run and signals come, and comes back with what it had."""
    log = tmp_path / "executions"
    async with Client.connect(cluster.urls) as client:
        assert client.broker.topology.replicas == 3
        with workers(cluster.urls, queue, log) as started:
            await started.start()
            await started.start()
            handles = [await client.start(app.everything, n, workflow_id=f"w{n}", task_queue=queue) for n in range(WORKFLOWS)]
            stream, others = client.broker.names.inbox_stream, (client.broker.names.timeline_stream, client.broker.names.state_stream)
            leader = await cluster.leader_of(client, stream)
            assert leader is not None
            for other in others:
                await cluster.lead(client, other, leader)
            cluster.servers[leader].kill()
            await asyncio.gather(*(persistently(lambda handle=handle, n=n: handle.signal("early", {"n": n})) for n, handle in enumerate(handles)))
            await cluster.servers[leader].start()
            await cluster.until_in_step(client, stream)
            await asyncio.gather(*(persistently(lambda handle=handle, n=n: handle.signal("live", {"live": n})) for n, handle in enumerate(handles)))
            for n, handle in enumerate(handles):
                result = await handle.result(timeout="60s")
                assert result.pop("other")
                assert result == app.expected_everything(n)
        ids = [handle.workflow_id for handle in handles]
        await persistently(lambda: check_histories(client, queue, ids, log))
        assert {str(line["workflow_id"]) for line in executions(log)} >= set(ids)


async def test_signals_updates_and_retention_on_replicas(cluster: LocalCluster, queue: str) -> None:
    async with (
        Client.connect(cluster.urls) as client,
        Worker(client, task_queue=queue, workflows=app.WORKFLOWS, activities=app.ACTIVITIES) as worker,
    ):
        early = client.get_handle("early", queue)
        await early.signal("n", 0)
        await client.start(app.collect, 3, workflow_id="early", task_queue=queue)
        await early.signal("n", 1)
        await early.signal("n", 2)
        assert await early.result(timeout="30s") == [0, 1, 2]
        counting = await client.start(app.counts, workflow_id="counting", task_queue=queue, expire="1s")
        assert [await counting.update("count", n) for n in (5, 7)] == [1, 2]
        assert await counting.query("given") == [5, 7]
        await counting.update("end")
        assert await counting.result(timeout="30s") == [5, 7]
        stopped = await client.start(app.sleeper, 3_600_000, workflow_id="stopped", task_queue=queue)
        await stopped.terminate("enough", expire="1s", suppress=True)
        names, lane = client.broker.names, client.broker.lane
        async with asyncio.timeout(60):
            for handle in (counting, stopped):  # their records expire, and the janitor removes the rest
                while True:
                    try:
                        await handle.status()
                    except WorkflowNotFoundError:
                        key = f"{names.timeline_prefix}{queue}.{handle.workflow_id}.*"
                        if await lane.last_message(names.timeline_stream, key) is None:
                            break
                    await asyncio.sleep(0.1)
        assert worker.partitions == 64
