"""A worker stops when it is told to, whatever it hears in that moment, and leaves nothing behind at the broker."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from jetflow import Client, Worker, workflow
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, until


@workflow
async def nothing() -> None: ...


@pytest.fixture
async def own(server: LocalServer) -> AsyncIterator[Client]:
    """A client of a namespace of the test's own, whose streams nobody else uses."""
    async with Client.connect(server.url, namespace=f"t{uuid.uuid4().hex[:12]}") as client:
        yield client


async def test_news_at_the_moment_of_the_stop(client: Client, queue: str) -> None:
    """Something to look at, such as another worker that leaves, must not make the worker miss that it is to stop."""
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        assert worker._supervisor is not None
        tasks = list(worker._supervisor._tasks.values())
        assert len(tasks) == 7
        await until(lambda: worker.partitions)
        await until(lambda: worker._ownership._wake._waiters)
        worker._ownership._changed()
        async with asyncio.timeout(30):
            await worker.stop()
        assert all(task.done() for task in tasks)
        assert worker._supervisor._tasks == {}
        assert not worker._engine.context.background._tasks


async def _consumers(client: Client) -> dict[str, list[str]]:
    """Consumers of every stream that a worker without activities for others has any on."""
    names, lane = client.broker.names, client.broker.lane
    streams = [names.inbox_stream, names.by_id_stream, names.state_stream, names.timeline_stream, names.worker_stream]
    return {stream: [consumer["name"] for consumer in await lane.consumers(stream)] for stream in streams}


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_worker_that_has_stopped_leaves_no_consumer_and_no_tenure(own: Client, queue: str, workers: int) -> None:
    """Neither of its partitions, nor of signals by id, nor of its janitor's look at the records; nor is anything of it to be revoked."""
    names = own.broker.names
    running = [Worker(own, task_queue=queue, workflows=[nothing]) for _ in range(workers)]
    for worker in running:
        await worker._start()
    await until(lambda: sum(worker.partitions for worker in running) == 64 and all(worker.partitions for worker in running))
    assert await own.execute(nothing, task_queue=queue, timeout=WAIT) is None

    async def all_there() -> bool:
        found = await _consumers(own)
        counts = [len(found[stream]) for stream in (names.inbox_stream, names.by_id_stream, names.state_stream)]
        return counts == [workers, 1, 1]

    await until(all_there)
    assert await own.broker.lane.last_message(names.timeline_stream, names.registry(queue)) is not None
    for worker in running:
        await until(lambda worker=worker: worker.partitions == 64 or worker is not running[-1])
        await worker.stop()
    assert not any((await _consumers(own)).values())
    assert await own.broker.lane.last_message(names.timeline_stream, names.registry(queue)) is None


async def test_workers_that_stop_all_at_once_leave_no_consumer(own: Client, queue: str) -> None:
    """They hear of each other's end in the middle of their own."""
    running = [Worker(own, task_queue=queue, workflows=[nothing]) for _ in range(4)]
    for worker in running:
        await worker._start()
    await until(lambda: all(worker.partitions for worker in running))
    await asyncio.gather(*(worker.stop() for worker in running))
    assert not any((await _consumers(own)).values())


async def test_one_that_stops_before_it_owns_anything_leaves_nothing_either(own: Client, queue: str) -> None:
    names = own.broker.names
    for pause in (0, 0.005, 0.01, 0.02, 0.04, 0.08):
        async with Worker(own, task_queue=queue, workflows=[nothing]):
            await asyncio.sleep(pause)
    assert not any((await _consumers(own)).values())
    assert await own.broker.lane.last_message(names.timeline_stream, names.registry(queue)) is None
