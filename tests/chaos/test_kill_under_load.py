"""Workers killed, paused and joined under load, and the server killed: none lost, none stuck, nothing recorded runs again."""

import asyncio
import random
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from tests.chaos.app import everything, expected_everything, five_steps, one_slow_step, sleeper
from tests.chaos.harness import Workers, check_histories, executions, timeline_events, workers
from tests.chaos.together import VARIABLE

WORKFLOWS = 2_000
BATCH = 1_000
AT_ONCE = 200
KILLED = 4


@pytest.fixture(params=[False, True], ids=["alone", "together"])
def together(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the workers' commits travel in batches, as they do where each write waits for a disk."""
    if request.param:
        monkeypatch.setenv(VARIABLE, "1")
    return bool(request.param)


async def in_batches(client: Client) -> int:
    """How many of the last hundred keys of all timelines came in a batch with others."""
    stream, lane = client.broker.names.timeline_stream, client.broker.lane
    last = (await lane.api(f"STREAM.INFO.{stream}"))["state"]["last_seq"]
    found = [await lane.message(stream, seq) for seq in range(max(1, last - 100), last + 1)]
    return sum("Nats-Batch-Id" in message.headers for message in found if message is not None)


async def start_many(client: Client, queue: str, count: int, first: int = 0) -> list[str]:
    ids = [f"load-{first + n}" for n in range(count)]
    places = asyncio.Semaphore(AT_ONCE)

    async def start(n: int) -> None:
        async with places:
            await client.start(five_steps, first + n, workflow_id=ids[n], task_queue=queue)

    await asyncio.gather(*(start(n) for n in range(count)))
    return ids


async def check_five_steps(client: Client, queue: str, ids: list[str], first: int = 0) -> None:
    places = asyncio.Semaphore(AT_ONCE)

    async def check(n: int) -> None:
        async with places:
            assert await client.get_handle(ids[n], task_queue=queue).result(timeout="120s") == first + n + 15

    await asyncio.gather(*(check(n) for n in range(len(ids))))


async def kill_one_every_second(started: Workers, fleet: int) -> None:
    """Keeps ``fleet`` workers alive; one of them dies every second, and another one comes."""
    while True:
        await asyncio.sleep(1)  # the rhythm itself, not a wait for something
        alive = [worker for worker in started.all if worker.process.poll() is None]
        random.choice(alive).kill()
        await started.start()
        assert len([worker for worker in started.all if worker.process.poll() is None]) == fleet


async def test_three_workers_and_one_killed_every_second(server: LocalServer, client: Client, queue: str, tmp_path: Path, together: bool) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        await asyncio.gather(*(started.start() for _ in range(3)))
        killer = asyncio.create_task(kill_one_every_second(started, 3))
        ids: list[str] = []
        while len(ids) < WORKFLOWS or len(started.all) < 3 + KILLED:  # a quick machine needs more work to be disturbed at
            batch = await start_many(client, queue, BATCH, first=len(ids))
            await check_five_steps(client, queue, batch, first=len(ids))
            ids += batch
            assert not killer.done(), killer.exception()
        killer.cancel()
        await check_histories(client, queue, ids, log)
        assert len(executions(log)) >= 5 * len(ids)
        assert await in_batches(client) or not together


async def test_the_server_is_killed(tmp_path: Path, queue: str, together: bool) -> None:
    """kill -9 of nats-server, restarted on the same store: everything that was acknowledged goes on, timers fire."""
    log = tmp_path / "executions"
    config = tmp_path / "nats.conf"
    config.write_text("jetstream { sync_interval: always }" if together else "jetstream {}")
    server = LocalServer(tmp_path / "store", config=config)
    await server.start()
    try:
        async with Client.connect(server.url) as client:
            with workers(server.url, queue, log) as started:
                await asyncio.gather(*(started.start() for _ in range(2)))
                ids = await start_many(client, queue, 300)
                sleeping = await client.start(sleeper, 2500, workflow_id="sleeping", task_queue=queue)
                mixed = await client.start(everything, 5, workflow_id="mixed", task_queue=queue)
                for _ in range(3):
                    server.kill()
                    await asyncio.sleep(0.3)  # how long the server is gone
                    await server.start()
                await mixed.signal("early", {"n": 5})
                await mixed.signal("live", {"live": 5})
                await check_five_steps(client, queue, ids)
                assert await sleeping.result(timeout="60s") == "slept"
                result = await mixed.result(timeout="60s")
                result.pop("other")
                assert result == expected_everything(5)
                await check_histories(client, queue, [*ids, "sleeping", "mixed"], log)
    finally:
        await server.stop()


async def test_a_paused_worker_cannot_commit_what_its_successor_owns(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        paused = await started.start()
        handle = await client.start(one_slow_step, 0.5, workflow_id="slow", task_queue=queue)
        while not executions(log):
            await asyncio.sleep(0.01)
        paused.pause()
        successor = await started.start()
        assert await handle.result(timeout="60s") == 2
        before = await timeline_events(client, queue, "slow")
        paused.go_on()
        other = await client.start(one_slow_step, 0.1, workflow_id="after", task_queue=queue)
        assert await other.result(timeout="60s") == 2
        successor.kill()
        last = await client.start(one_slow_step, 0.1, workflow_id="last", task_queue=queue)
        assert await last.result(timeout="60s") == 2, "the paused worker does not serve any more"
        assert len(await timeline_events(client, queue, "slow")) == len(before)
        await check_histories(client, queue, ["slow", "after", "last"], log)


async def test_a_worker_that_stops_hands_over_at_once(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    """SIGTERM: running activities finish where they are, and the next step runs on the other worker."""
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        first = await started.start()
        handle = await client.start(everything, 1, workflow_id="handed", task_queue=queue)
        while not executions(log):
            await asyncio.sleep(0.01)
        await started.start()
        assert first.terminate() == 0
        await handle.signal("early", {"n": 1})
        await handle.signal("live", {"live": 1})
        result = await handle.result(timeout="60s")
        result.pop("other")
        assert result == expected_everything(1)
        slow = [execution for execution in executions(log) if execution["step"] == "slow_add"]
        assert len(slow) == 1, "a running activity was cut off and ran again"
        await check_histories(client, queue, ["handed"], log)


async def test_workers_that_come_and_go_share_the_work(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        first = await started.start()
        ids = await start_many(client, queue, 600)
        await asyncio.gather(started.start(), started.start())
        first.terminate()
        more = [f"more-{n}" for n in range(300)]
        for n, workflow_id in enumerate(more):
            await client.start(five_steps, n, workflow_id=workflow_id, task_queue=queue)
        await check_five_steps(client, queue, ids)
        await check_five_steps(client, queue, more)
        await check_histories(client, queue, ids + more, log)
        pids = {execution["pid"] for execution in executions(log)}
        assert len(pids) >= 2, "one worker did everything"
        assert len({(e["workflow_id"], e["index"]) for e in executions(log)}) == len(executions(log)), "a hand-over ran a step again"
