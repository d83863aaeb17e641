"""What histories cost: exports of 1,000 and 50,000 events, and many who watch at once.

``python -m bench.history`` starts a server of its own; ``--watchers N`` says how many, each of a workflow of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time
from typing import Any

import jetflow
from jetflow import Client, Worker, WorkflowHandle, activity, condition, workflow

AT_ONCE = 200
REPEATS = 15


@activity
async def step(n: int) -> int:
    return n


@workflow
async def steps(n: int, then_wait: bool) -> int:
    for i in range(n):
        await step(i)
    if then_wait:
        await condition("go")
    return n


async def milliseconds(read: Any, repeats: int = REPEATS) -> tuple[float, float]:
    """Median and best of so many times."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        await read()
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times), min(times)


async def exports(client: Client) -> None:
    for what, n, waits in (("1,000 events, ended", 499, False), ("1,000 events, running", 499, True), ("50,000 events, ended", 24_999, False)):
        handle = await client.start(steps, n, waits, task_queue="q")
        if waits:
            async for event in handle.watch():
                if event.event_type == "signal_wait_started":
                    break
        else:
            await handle.result()
        median, best = await milliseconds(handle.export_execution, REPEATS if n < 1000 else 3)
        print(f"{what:<28} export {median:8.1f} ms, best {best:.1f} ms")
        if n > 1000:
            median, best = await milliseconds(lambda handle=handle: handle.export_execution(limit=1000), 5)
            print(f"{'':<28} its first 1,000 {median:.1f} ms, best {best:.1f} ms")


async def watchers(client: Client, count: int) -> None:
    handles: list[WorkflowHandle] = []
    for first in range(0, count, AT_ONCE):
        handles += await asyncio.gather(*(client.start(steps, 1, True, task_queue="q") for _ in range(first, min(first + AT_ONCE, count))))
    seen = [0] * count

    async def watch(place: int) -> None:
        async for _ in handles[place].watch():
            seen[place] += 1

    names = client.broker.names
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    tasks = [asyncio.create_task(watch(place)) for place in range(count)]
    while not all(events >= 4 for events in seen):
        await asyncio.sleep(0.1)
    ready = time.perf_counter() - began
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / count
    infos = [await client.broker.lane.api(f"STREAM.INFO.{stream}") for stream in (names.timeline_stream, names.state_stream)]
    consumers = sum(info["state"]["consumer_count"] for info in infos)
    print(f"{count:,} watchers: all up to date after {ready:.1f} s, about {memory:.1f} KB each, {consumers} consumers on timeline and state")
    began = time.perf_counter()
    for first in range(0, count, AT_ONCE):
        await asyncio.gather(*(handle.signal("go") for handle in handles[first : first + AT_ONCE]))
    await asyncio.gather(*tasks)
    print(f"{count:,} watchers: all signaled, and all saw the end, within {time.perf_counter() - began:.1f} s")


async def main(count: int) -> None:
    async with jetflow.local() as client, Worker(client, task_queue="q", workflows=[steps], activities=[step]):
        await exports(client)
        await watchers(client, count)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--watchers", type=int, default=1_000)
    asyncio.run(main(parser.parse_args().watchers))
