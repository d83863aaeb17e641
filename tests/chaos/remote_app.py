"""Workflows whose activities run on other workers, and the two kinds of worker as processes.

``python -m tests.chaos.remote_app URL QUEUE owner|activities`` prints ``ready`` once it can be given work, and stops
gracefully on SIGTERM. The activities' queue is ``QUEUE-far``.
"""

import asyncio
import logging
import signal
import sys
from typing import Any

from jetflow import Client, RetryPolicy, Worker, activity, execute_activity, workflow
from tests.chaos.app import noted

LEASE = "1500ms"
RETRY = RetryPolicy(initial_interval="50ms", backoff_coefficient=1, maximum_attempts=0)


@activity
async def far_add(total: int, more: int, seconds: float) -> int:
    noted("far_add")
    await asyncio.sleep(seconds)
    return total + more


@activity
async def far_flaky(total: int, more: int) -> int:
    noted("far_flaky")
    if activity.info().attempt < 3:
        raise ConnectionError("not yet")
    return total + more


@activity
async def far_report(beats: int) -> list[Any]:
    """Goes on where the last heartbeat says that the one before it stood."""
    noted("far_report")
    begun_at = activity.info().heartbeat_details or 0
    for beat in range(begun_at, beats):
        activity.heartbeat(beat + 1)
        await asyncio.sleep(0.1)
    return [begun_at, activity.info().attempt]


@workflow
async def far_steps(queue: str, n: int, seconds: float) -> int:
    total = n
    for more in range(1, 4):
        total = await execute_activity(far_add, total, more, seconds, task_queue=queue)
    both = await asyncio.gather(
        execute_activity(far_flaky, total, 1, task_queue=queue, retry=RETRY), execute_activity(far_add, total, 2, seconds, task_queue=queue)
    )
    return sum(both)


def expected_far_steps(n: int) -> int:
    return 2 * (n + 6) + 3


@workflow
async def far_reporter(queue: str, beats: int) -> list[Any]:
    return await execute_activity(far_report, beats, task_queue=queue, heartbeat_timeout="900ms")


async def serve(url: str, queue: str, role: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    served: dict[str, Any] = {"task_queue": queue, "workflows": [far_steps, far_reporter]}
    if role == "activities":
        served = {"task_queue": f"{queue}-far", "activities": [far_add, far_flaky, far_report], "activity_lease": LEASE}
    async with Client.connect(url, name="chaos") as client, Worker(client, **served) as worker:
        while not worker.ready and not stop.is_set():
            await asyncio.sleep(0.02)
        print("ready", flush=True)
        await stop.wait()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3]))
