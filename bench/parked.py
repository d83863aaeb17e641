"""Workflows that sleep: how fast they start, what they cost a worker's memory, and that they stay asleep.

Memory is only comparable in a process that has done nothing else, so each measurement has its own:
``python -m bench.parked URL QUEUE SLEEPERS CACHED STAY LOOP`` holds client and worker, and prints JSON.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import subprocess
import sys
import time
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.loops import run
from bench.stage import Stage, in_flight
from bench.workflows import ACTIVITIES, WORKFLOWS, sleeper
from jetflow import Client, Worker

IN_FLIGHT = 256
EVICTING_CACHE = 16
WARM_UP = 32
DEADLINE = 120


class Parked(Struct):
    """What one such process found."""

    seconds: float
    kilobytes: float
    parked: int


async def parked(stage: Stage) -> dict[str, float]:
    """Sleepers that stay in the worker's memory, then as many that do not."""
    counts = stage.counts
    live = await _child(stage, "live", counts.sleepers * 3 + WARM_UP)
    evicted = await _child(stage, "evicted", EVICTING_CACHE)
    return {
        "parked_start": live.seconds,
        "parked_live": live.kilobytes,
        "parked_evicted": evicted.kilobytes,
        "parked_count": min(live.parked, evicted.parked),
    }


async def _child(stage: Stage, queue: str, cached: int) -> Parked:
    counts = stage.counts
    arguments = [stage.client.url, queue, str(counts.sleepers), str(cached), str(counts.stay), stage.loop]
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "bench.parked", *arguments, stdout=subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise RuntimeError(f"the {queue} sleepers' process ended with {process.returncode}")
    return msgspec.json.decode(out, type=Parked)


async def measure(url: str, queue: str, sleepers: int, cached: int, stay: float) -> Parked:
    """Starts the sleepers twice: the first time for the clock, the second time, when what so many need in passing is there, for the memory."""
    async with (
        Client.connect(url) as client,
        Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ACTIVITIES, max_cached_workflows=cached),
    ):
        await _start(client, queue, 0, WARM_UP)
        begin = time.perf_counter()
        await _start(client, queue, WARM_UP, sleepers)
        seconds = time.perf_counter() - begin
        before = resident_kilobytes()
        await _start(client, queue, WARM_UP + sleepers, sleepers)
        kilobytes = max(resident_kilobytes() - before, 0) / sleepers
        await asyncio.sleep(stay)
        await until_quiet(client, queue)
        asleep = min(await timers(client, queue), await _running(client, queue)) - WARM_UP - sleepers
        if asleep != sleepers:
            raise RuntimeError(f"of {sleepers} sleepers {asleep} are still at rest")
        return Parked(seconds, kilobytes, asleep)


async def _start(client: Client, queue: str, first: int, sleepers: int) -> None:
    """Returns when all of them sleep durably: no command is left in the inbox, each has its timer at the broker."""
    await in_flight(IN_FLIGHT, sleepers, lambda number: client.start(sleeper, workflow_id=f"sleeper-{first + number}", task_queue=queue))
    await until_quiet(client, queue)
    expected, found = first + sleepers, await timers(client, queue)
    if found != expected:
        raise RuntimeError(f"{expected} sleepers have {found} timers at the broker")


async def _running(client: Client, queue: str) -> int:
    return len([record async for record in client.list(task_queue=queue, status="running")])


async def until_quiet(client: Client, queue: str) -> None:
    """Waits until no command of a queue is left in the inbox: every workflow has ended or waits for something durable."""
    names = client.broker.names
    async with asyncio.timeout(DEADLINE):
        while await _stored(client, f"{names.namespace}.*.{queue}.>"):
            await asyncio.sleep(0.005)


async def timers(client: Client, queue: str) -> int:
    """Timers of a queue that wait at the broker."""
    return await _stored(client, f"{client.broker.names.timer_prefix}{queue}.>")


async def _stored(client: Client, subjects: str) -> int:
    names = client.broker.names
    answer = await client.broker.lane.api(f"STREAM.INFO.{names.inbox_stream}", {"subjects_filter": subjects})
    return sum((answer["state"].get("subjects") or {}).values())


def resident_kilobytes() -> int:
    """Memory of this process that is in RAM now; its peak where the system does not tell."""
    gc.collect()
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // 1024 if sys.platform == "darwin" else peak


if __name__ == "__main__":
    url, queue, sleepers, cached, stay, loop = sys.argv[1:]
    found = run(measure(url, queue, int(sleepers), int(cached), float(stay)), loop)
    print(msgspec.json.encode(found).decode())
