"""Many workflows, many signals from many publishers, and workers that come and go all the time.

``JETFLOW_SIGNAL_LOAD=500x100`` sets the numbers of workflows and of signals to each; the publishers are always 20.
"""

import asyncio
import os
from collections import defaultdict
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from tests.chaos.app import collect
from tests.chaos.harness import Workers, check_histories, workers

COUNT, SIGNALS = (int(number) for number in os.environ.get("JETFLOW_SIGNAL_LOAD", "100x60").split("x"))
PUBLISHERS = 20
PATIENCE = 60 + COUNT * SIGNALS / 100
"""Seconds to wait for the last result."""


class Change:
    """Workers that come and go every two seconds, by a graceful stop and by kill -9 in turn."""

    def __init__(self, started: Workers) -> None:
        self._started = started
        self._times = 0
        self._changed = asyncio.Condition()

    async def go_on(self) -> None:
        while True:
            await asyncio.sleep(2)  # the rhythm itself, not a wait for something
            oldest = next(worker for worker in self._started.all if worker.process.poll() is None)
            await self._started.start()
            if self._times % 2:
                oldest.kill()
            else:
                await asyncio.to_thread(oldest.terminate)
            async with self._changed:
                self._times += 1
                self._changed.notify_all()

    async def at_least(self, times: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self._times >= times)


async def publish(url: str, number: int, queue: str, ids: list[str], change: Change) -> None:
    """One publisher: its signals to each workflow one after the other, a share of them between any two changes of workers."""
    async with asyncio.timeout(PATIENCE), Client.connect(url) as client:
        handles = [client.get_handle(workflow_id, queue) for workflow_id in ids]
        for share, k in enumerate(range(number, SIGNALS, PUBLISHERS)):
            await change.at_least(share)
            await asyncio.gather(*(handle.signal("n", [number, k], expire="1h") for handle in handles))


def check_seen(seen: list[list[int]]) -> None:
    """Every signal once, and each publisher's in the order in which it sent them."""
    by_publisher = defaultdict(list)
    for number, k in seen:
        by_publisher[number].append(k)
    assert by_publisher == {number: list(range(number, SIGNALS, PUBLISHERS)) for number in range(min(PUBLISHERS, SIGNALS))}


@pytest.mark.timeout(int(PATIENCE * 3))
async def test_every_signal_is_seen_once_and_in_its_publishers_order(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        ids = [f"load-{n}" for n in range(COUNT)]
        await asyncio.gather(*(client.start(collect, SIGNALS, workflow_id=workflow_id, task_queue=queue) for workflow_id in ids[1::2]))
        await started.start()
        await started.start()
        change = Change(started)
        changing = asyncio.create_task(change.go_on())
        publishing = [asyncio.create_task(publish(server.url, number, queue, ids, change)) for number in range(PUBLISHERS)]
        await asyncio.gather(*(client.start(collect, SIGNALS, workflow_id=workflow_id, task_queue=queue) for workflow_id in ids[::2]))
        await asyncio.gather(*publishing)
        for workflow_id in ids:
            check_seen(await client.get_handle(workflow_id, queue).result(timeout=PATIENCE))
        changing.cancel()
        await asyncio.gather(changing, return_exceptions=True)
        assert len(started.all) > 3, "workers came and went"
        await check_histories(client, queue, ids[:10], log)
