"""kill -9 before and after the dead letter of an expired signal is written: there is one letter, and nothing else is left."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from tests.chaos.app import collect_from
from tests.chaos.harness import workers
from tests.engine.helpers import dead_letters, until
from tests.engine.test_expired_signals import letters, nothing_kept

POINTS = ["before_letter", "after_letter", "before_letter:2", "after_letter:3"]


async def letters_of(client: Client, queue: str, count: int) -> list[Any]:
    """The letters of a queue; a moment later there are no more."""
    found = await letters(client, queue, count)
    await asyncio.sleep(0.5)
    assert len(await dead_letters(client, queue)) == count
    return found


@pytest.mark.parametrize("point", POINTS)
async def test_to_workflows(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    """To one that waits for another signal, to one that there is not, and by way of the bucket and of memory."""
    with workers(server.url, queue, tmp_path / "executions") as started:
        doomed = await started.start(fault=point)
        handle = await client.start(collect_from, f"{queue}-never", 1, workflow_id="w", task_queue=queue)
        for n in range(2):
            await handle.signal("unheard", n, expire="500ms")
            await client.get_handle(f"none{n}", task_queue=queue).signal("unheard", 10 + n, expire="500ms")
        assert await doomed.dead() == -9, f"never came to {point}: {doomed.errors.read_text()}"
        await started.start()
        found = await letters_of(client, queue, 4)
        assert sorted(letter.data for letter in found) == [b"0", b"1", b"10", b"11"]
        await nothing_kept(client, queue)


@pytest.mark.parametrize("point", POINTS)
async def test_by_id(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    names = client.broker.names
    with workers(server.url, queue, tmp_path / "executions") as started:
        doomed = await started.start(fault=point)
        for n in range(3):
            await client.signal(queue, n, expire="500ms")
        assert await doomed.dead() == -9, f"never came to {point}: {doomed.errors.read_text()}"
        await started.start()
        found = await letters_of(client, queue, 3)
        assert sorted(letter.data for letter in found) == [b"0", b"1", b"2"]

        async def gone() -> bool:
            return await client.broker.lane.last_message(names.by_id_stream, f"{names.by_id_prefix}{queue}") is None

        await until(gone)
