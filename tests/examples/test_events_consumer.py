"""``events_consumer.py`` run for real: it hears of every end once, also after it was killed."""

import asyncio
import subprocess
import sys

from jetflow import Client, Worker, workflow
from jetflow.broker.transport.server import LocalServer
from tests.examples.conftest import EXAMPLES, clean_environment


@workflow
async def echo(text: str) -> str:
    return text


def consume(url: str, count: int) -> list[str]:
    """The lines of a run that ends after so many."""
    command = [sys.executable, str(EXAMPLES / "events_consumer.py"), "--queue", "q", "--count", str(count)]
    done = subprocess.run(command, env=clean_environment(JETFLOW_URL=url), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


async def test_each_end_is_heard_once() -> None:
    async with LocalServer() as server, Client.connect(server.url) as client:
        await client.enable_events()
        async with Worker(client, task_queue="q", workflows=[echo]):
            for n in range(5):
                await client.execute(echo, f"n{n}", workflow_id=f"w{n}", task_queue="q", timeout="30s")
            first = await asyncio.to_thread(consume, server.url, 3)
            for n in range(5, 7):
                await client.execute(echo, f"n{n}", workflow_id=f"w{n}", task_queue="q", timeout="30s")
            rest = await asyncio.to_thread(consume, server.url, 4)
    heard = [line.split()[1:] for line in first + rest]
    assert sorted(heard) == [[f"w{n}", "completed", f'"n{n}"'] for n in range(7)]
