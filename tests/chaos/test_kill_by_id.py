"""kill -9 at every place that a signal by id meets, in its router and in its receiver's owner: one workflow gets it, once."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from tests.chaos.app import collect_from
from tests.chaos.harness import check_histories, workers
from tests.engine.helpers import until
from tests.engine.test_signals_by_id import nothing_is_left, stored

WAIT = "60s"


@pytest.mark.parametrize(
    "point",
    ["after_claim", "after_claim:3", "after_forward", "after_forward:4", "before_commit:3", "after_commit:3", "after_commit:5", "after_taken",
     "after_taken:3", "after_state:3", "before_ack:3"],
)  # fmt: skip
async def test_by_id(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        for n in range(3):
            await client.signal(queue, n)
        handles = [await client.start(collect_from, queue, 4, workflow_id=f"w{number}", task_queue=queue) for number in range(2)]
        doomed = await started.start(fault=point)
        for n in range(3, 8):
            await client.signal(queue, n)
        assert await doomed.dead() == -9, f"never came to {point}: {doomed.errors.read_text()}"
        await started.start()
        got = [await handle.result(timeout=WAIT) for handle in handles]
        assert sorted(got[0] + got[1]) == list(range(8))
        assert [sorted(one) for one in got] == got, "in order, for each of them"
        await check_histories(client, queue, ["w0", "w1"], log)
        await nothing_is_left(client, queue)


async def test_by_id_with_a_router_that_stands_still(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    """Another task queue's worker takes over from a router that is stopped, which changes nothing when it goes on."""
    other = f"{queue}-b"
    with workers(server.url, queue, tmp_path / "one") as ones, workers(server.url, other, tmp_path / "two") as others:
        stopped = await ones.start()
        await until(lambda: "routes signals by id" in stopped.errors.read_text())
        await others.start()
        await client.signal(queue, 0)
        handle = await client.start(collect_from, queue, 20, task_queue=other)
        await until(lambda: _are(client, queue, 0))
        stopped.pause()
        for n in range(1, 10):
            await client.signal(queue, n)
        await until(lambda: _are(client, queue, 0), 60)
        stopped.go_on()
        for n in range(10, 20):
            await client.signal(queue, n)
        assert await handle.result(timeout=WAIT) == list(range(20))
        await nothing_is_left(client, queue)


async def _are(client: Client, name: str, count: int) -> bool:
    return await stored(client, name) == count


async def test_by_id_while_workers_die(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    """Two task queues whose workers are killed in turn: every signal is taken once."""
    other, total = f"{queue}-b", 60
    queues = [queue, other]
    with workers(server.url, queue, tmp_path / "one") as ones, workers(server.url, other, tmp_path / "two") as others:
        running = [await ones.start(), await others.start()]
        handles = [await client.start(collect_from, queue, 6, workflow_id=f"w{number}", task_queue=queues[number % 2]) for number in range(10)]

        async def send() -> None:
            for n in range(total):
                await client.signal(queue, n)
                await asyncio.sleep(0.02)

        sending = asyncio.create_task(send())
        for number in range(2):
            await until(lambda number=number: _below(client, queue, total, number))
            running[number % 2].kill()
            running[number % 2] = await (ones, others)[number % 2].start()
        await sending
        got = [await handle.result(timeout=WAIT) for handle in handles]
        assert sorted(n for one in got for n in one) == list(range(total))
        await nothing_is_left(client, queue)


async def _below(client: Client, name: str, total: int, number: int) -> bool:
    """Whether enough signals were sent for the next one to die."""
    names = client.broker.names
    info = await client.broker.lane.api(f"STREAM.INFO.{names.by_id_stream}")
    return info["state"]["last_seq"] > (number + 1) * total // 4
