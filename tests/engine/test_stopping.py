"""A worker stops when it is told to, whatever it hears in that moment."""

import asyncio

from jetflow import Client, Worker, workflow

from .helpers import until


@workflow
async def nothing() -> None: ...


async def test_news_at_the_moment_of_the_stop(client: Client, queue: str) -> None:
    """Something to look at, such as another worker that leaves, must not make the worker miss that it is to stop."""
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        await until(lambda: worker._ownership._wake._waiters)
        worker._ownership._changed()
        async with asyncio.timeout(30):
            await worker.stop()
        assert all(task.done() for task in worker._tasks)
