"""Waiting for things, and looking at what everybody can see of a workflow."""

import asyncio
import inspect
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client as Nats

from jetflow import Client, Worker, WorkflowHandle

WAIT = "30s"
"""The longest that a test waits for a result."""


async def until(true: Callable[[], Any], seconds: float = 30) -> Any:
    """Waits for a function, async or not, to give something true, and gives that."""
    async with asyncio.timeout(seconds):
        while True:
            value = true()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)


async def waits_for(handle: WorkflowHandle, name: str) -> None:
    """Returns once the workflow's state shows that it waits for a signal, activity or child of this name."""

    async def shown() -> bool:
        record = await handle.describe()
        return record is not None and any(waiting.name == name for waiting in record.waiting)

    await until(shown)


async def parked(handle: WorkflowHandle) -> Any:
    """Why the workflow is parked, once it is."""

    async def shown() -> Any:
        record = await handle.describe()
        return record is not None and record.parked

    return await until(shown)


async def commands(client: Client, queue: str, workflow_id: str = "*") -> list[str]:
    """Subjects of the commands that are stored and not consumed."""
    names = client.broker.names
    found = await client.broker.lane.read_many(
        names.inbox_stream, {"seq": 1, "next_by_subj": f"{names.namespace}.*.{queue}.{workflow_id}.>", "batch": 1000}, may_lag="a test looks"
    )
    return [message.subject for message in found]


async def dead_letters(client: Client, queue: str) -> list[Any]:
    """Dead letters of a task queue, oldest first: ``data`` and ``headers``."""
    names = client.broker.names
    return await client.broker.lane.read_many(
        names.dead_stream, {"seq": 1, "next_by_subj": f"{names.dead_prefix}{queue}.>", "batch": 1000}, may_lag="a test looks"
    )


@asynccontextmanager
async def plain_nats(url: str) -> AsyncIterator[Nats]:
    """A connection of somebody who knows nothing of jetflow."""
    connection = await nats.connect(url)
    try:
        yield connection
        await connection.flush()
    finally:
        await connection.close()


async def cli(nats_cli: str, url: str, *arguments: str) -> str:
    """Output of the real ``nats`` command."""
    done = await asyncio.to_thread(subprocess.run, [nats_cli, "--server", url, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@asynccontextmanager
async def another_worker(url: str, queue: str, **options: Any) -> AsyncIterator[Worker]:
    """A worker with a connection of its own, as in another process; it owns partitions when this returns."""
    async with Client.connect(url) as client, Worker(client, task_queue=queue, **options) as worker:
        await until(lambda: worker.partitions)
        yield worker
