"""Activities that are plain functions: when their time begins, and what becomes of threads that do not come back."""

import asyncio
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from jetflow import ActivityError, Client, RetryPolicy, Worker, activity, execute_activity, workflow
from jetflow.reading.overview import overview

from .helpers import WAIT, until

ONCE = RetryPolicy(maximum_attempts=1)
GATES: dict[str, threading.Event] = {}


@activity(retry=ONCE)
def blocks(key: str) -> str:
    assert GATES[key].wait(30)
    return key


@activity(retry=ONCE, start_to_close_timeout="1s")
def quick(n: int) -> int:
    return n


@activity(retry=ONCE, start_to_close_timeout="50ms")
def too_slow(key: str) -> None:
    GATES[key].wait(30)


@activity(retry=ONCE, schedule_to_close_timeout="100ms")
def waits_too_long() -> None:
    raise NotImplementedError


@workflow
async def one(name: str, *args: Any) -> Any:
    try:
        return await execute_activity({"blocks": blocks, "quick": quick, "too_slow": too_slow, "waits_too_long": waits_too_long}[name], *args)
    except ActivityError as error:
        return str(error)


SERVED: dict[str, Any] = {"workflows": [one], "activities": [blocks, quick, too_slow, waits_too_long]}


@pytest.fixture
def gate(queue: str) -> Any:
    GATES[queue] = threading.Event()
    yield GATES[queue]
    GATES[queue].set()


async def complaints(client: Client) -> str:
    return " ".join((await overview(client.broker)).complaints)


async def test_the_time_of_an_attempt_begins_once_it_has_a_thread(client: Client, queue: str, gate: threading.Event) -> None:
    async with Worker(client, task_queue=queue, threads=1, **SERVED):
        first = await client.start(one, "blocks", queue, task_queue=queue)
        await until(lambda: any(thread.name.startswith("jetflow-activity") for thread in threading.enumerate()))
        others = [await client.start(one, "quick", n, task_queue=queue) for n in range(20)]
        late = await client.execute(one, "waits_too_long", task_queue=queue, timeout=WAIT)
        assert "had no thread within 0.1 s" in late
        await asyncio.sleep(1.2)
        gate.set()
        assert await first.result(timeout=WAIT) == queue
        assert await asyncio.gather(*(handle.result(timeout=WAIT) for handle in others)) == list(range(20))


async def test_a_shortage_is_counted_shown_and_logged(client: Client, queue: str, gate: threading.Event, caplog: pytest.LogCaptureFixture) -> None:
    async with Worker(client, task_queue=queue, threads=1, **SERVED) as worker:
        assert "took longer than 0.05 s" in await client.execute(one, "too_slow", queue, task_queue=queue, timeout=WAIT)
        threads = worker._runner.threads
        assert (threads.busy, threads.over) == (1, 1)

        async def shown(text: str) -> bool:
            return text in await complaints(client)

        await until(lambda: shown("1 of 1 threads are busy, 1 of them by attempts that are over"))
        waiting = await client.start(one, "quick", 1, task_queue=queue)
        await until(lambda: shown("activities wait for a thread: 1"))
        assert threads.short == 1
        assert caplog.text.count("activities wait for a thread") == 1
        gate.set()
        assert await waiting.result(timeout=WAIT) == 1
        await until(lambda: not threads.over and not threads.busy)


async def test_a_worker_stops_without_threads_that_do_not_come_back(client: Client, queue: str, gate: threading.Event) -> None:
    async with Worker(client, task_queue=queue, threads=2, graceful_timeout="100ms", **SERVED):
        await client.start(one, "blocks", queue, task_queue=queue)
        await until(lambda: any(thread.name.startswith("jetflow-activity") for thread in threading.enumerate()))
        began = time.monotonic()
    assert time.monotonic() - began < 5


def test_a_process_ends_though_a_thread_is_busy() -> None:
    program = """
        import asyncio, time
        from jetflow.engine.activities.threads import Threads

        async def main():
            threads = Threads(1)
            await threads.take()
            asyncio.create_task(threads.run(lambda: time.sleep(60)))
            await asyncio.sleep(0.1)
            threads.close()

        asyncio.run(main())
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=20)
