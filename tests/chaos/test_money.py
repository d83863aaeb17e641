"""Money moved between workflows while workers and the server are killed at random: in the end every unit of it is where it should be.

``JETFLOW_TRANSFERS=5000 pytest -n0 tests/chaos/test_money.py`` for a long run.
"""

import asyncio
import os
import random
from pathlib import Path
from typing import Any

from jetflow import Client, WorkflowAlreadyStartedError
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import BrokerUnavailableError
from tests.chaos.bank import account, balance_of, transfer
from tests.chaos.harness import Workers, workers
from tests.engine.helpers import dead_letters, until

TRANSFERS = int(os.environ.get("JETFLOW_TRANSFERS", "300"))
ACCOUNTS = [f"account-{n}" for n in range(6)]
OPENING = 1_000
AT_ONCE = 40
MODULE = "tests.chaos.bank"


async def begin(client: Client, queue: str, number: int, source: str, target: str, amount: int) -> None:
    """Starts a transfer, again and again while it is unknown whether it is stored: its id makes that safe."""
    pause = f"{random.choice([0, 1, 30, 400, 1300])}ms"
    while True:
        try:
            await client.start(transfer, source, target, amount, pause, workflow_id=f"transfer-{number}", task_queue=queue)
            return
        except WorkflowAlreadyStartedError:
            return
        except BrokerUnavailableError:
            await asyncio.sleep(0.1)


async def disturb(started: Workers, server: LocalServer, moved: asyncio.Event) -> tuple[int, int]:
    """Kills a worker every now and then, and the server now and then, until everything has moved; how many of each."""
    killed, outages = 0, 0
    while not moved.is_set() or killed < 5 or outages < 2:
        await asyncio.sleep(random.uniform(0.1, 1))  # the disturbance's own rhythm
        if random.random() < 0.3:
            server.kill()
            await asyncio.sleep(random.uniform(0, 0.5))
            await server.start()
            outages += 1
        random.choice([worker for worker in started.all if worker.process.poll() is None]).kill()
        killed += 1
        await started.start(None, MODULE)
    return killed, outages


async def test_no_money_is_lost_or_made(queue: str, tmp_path: Path) -> None:
    expected = dict.fromkeys(ACCOUNTS, OPENING)
    moves = dict.fromkeys(ACCOUNTS, 0)
    server = LocalServer(tmp_path / "store")
    await server.start()
    try:
        async with Client.connect(server.url) as client:
            with workers(server.url, queue, tmp_path / "executions") as started:
                await asyncio.gather(*(started.start(None, MODULE) for _ in range(3)))
                for name in ACCOUNTS:
                    await client.start(account, OPENING, 0, workflow_id=name, task_queue=queue)
                moved = asyncio.Event()
                disturbance = asyncio.create_task(disturb(started, server, moved))
                places = asyncio.Semaphore(AT_ONCE)

                async def move(number: int) -> None:
                    source, target = random.sample(ACCOUNTS, 2)
                    amount = random.randint(1, 50)
                    expected[source], expected[target] = expected[source] - amount, expected[target] + amount
                    moves[source], moves[target] = moves[source] + 1, moves[target] + 1
                    async with places:
                        await begin(client, queue, number, source, target, amount)
                        assert await client.get_handle(f"transfer-{number}", queue).result(timeout="120s") == amount

                async with asyncio.TaskGroup() as group:
                    for number in range(TRANSFERS):
                        group.create_task(move(number))
                moved.set()
                killed, outages = await disturbance
                assert killed >= 5
                assert outages >= 2

                async def told(name: str) -> Any:
                    balance, count = balance_of(await client.get_handle(name, queue).query_state(["balance", "moves"]))
                    assert count <= moves[name], f"{name} was told of more than there was"
                    return count == moves[name] and (balance,)

                for name in ACCOUNTS:
                    (balance,) = await until(lambda name=name: told(name), 60)
                    assert balance == expected[name]
                    await client.get_handle(name, queue).signal("move")
                closing = [await client.get_handle(name, queue).result(timeout="60s") for name in ACCOUNTS]
                assert closing == list(expected.values())
                assert sum(closing) == OPENING * len(ACCOUNTS)
                assert await dead_letters(client, queue) == []
    finally:
        await server.stop()
