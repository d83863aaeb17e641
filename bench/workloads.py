"""What is measured of the engine. Each workload gets a fresh stage and gives figures by name."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

from msgspec import Struct

from bench import parked
from bench.raw import raw
from bench.stage import QUEUE, Stage, in_flight, median_ms, percentile
from bench.workflows import chain, fan_out, one_step, wait_for_signal

STEPS = 100


async def start(stage: Stage) -> dict[str, float]:
    """Start to result of a workflow with one activity, one at a time."""
    await _warm_up(stage)
    samples = []
    with stage.measured():
        for number in range(stage.counts.starts):
            begin = time.perf_counter()
            result = await stage.client.execute(one_step, number, task_queue=QUEUE)
            samples.append(time.perf_counter() - begin)
            expect(result, number + 1)
    return {"start_p50": median_ms(samples), "start_p99": percentile(samples, 99) * 1000}


async def throughput(stage: Stage) -> dict[str, float]:
    """Workflows a second, each with one activity, at two widths."""
    await _warm_up(stage)

    async def one(number: int) -> None:
        expect(await stage.client.execute(one_step, number, task_queue=QUEUE), number + 1)

    found = {}
    for width in (64, 256):
        begin, cpu = time.perf_counter(), time.process_time()
        with stage.measured():
            await in_flight(width, stage.counts.workflows, one)
        found[f"workflows_{width}"] = stage.counts.workflows / (time.perf_counter() - begin)
        found["workflow_cpu"] = (time.process_time() - cpu) * 1000 / stage.counts.workflows
    return found


async def chains(stage: Stage) -> dict[str, float]:
    """A workflow of 100 activities one after the other: alone, and 20 of them."""
    await _warm_up(stage)

    async def one(_: int = 0) -> None:
        expect(await stage.client.execute(chain, STEPS, task_queue=QUEUE), STEPS)

    alone, together = [], []
    with stage.measured():
        for _ in range(stage.counts.chains):
            begin = time.perf_counter()
            await one()
            alone.append((time.perf_counter() - begin) / STEPS)
        cpu = time.process_time()
        for _ in range(stage.counts.chain_batches):
            begin = time.perf_counter()
            await in_flight(20, 20, one)
            together.append(20 * STEPS / (time.perf_counter() - begin))
        cpu = (time.process_time() - cpu) * 1000 / (20 * STEPS * stage.counts.chain_batches)
    return {"chain_step": median_ms(alone), "chain_steps_20": statistics.median(together), "step_cpu": cpu}


async def fanout(stage: Stage) -> dict[str, float]:
    """A workflow that gathers 100 activities: start to result."""
    await _warm_up(stage)
    await stage.client.execute(fan_out, STEPS, task_queue=QUEUE)
    samples = []
    with stage.measured():
        for _ in range(stage.counts.fanouts):
            begin = time.perf_counter()
            result = await stage.client.execute(fan_out, STEPS, task_queue=QUEUE)
            samples.append(time.perf_counter() - begin)
            expect(result, STEPS * (STEPS + 1) // 2)
    return {"fanout_100": median_ms(samples)}


async def signal(stage: Stage) -> dict[str, float]:
    """A signal to a workflow that waits for it, until its result is seen; one at a time."""
    await _warm_up(stage)
    client, total = stage.client, stage.counts.signals + 1
    handles = await asyncio.gather(*(client.start(wait_for_signal, workflow_id=f"signal-{number}", task_queue=QUEUE) for number in range(total)))
    await parked.until_quiet(client, QUEUE)
    samples = []
    with stage.measured():
        for number, handle in enumerate(handles):
            begin = time.perf_counter()
            await handle.signal("go", number)
            result = await handle.result()
            samples.append(time.perf_counter() - begin)
            expect(result, number)
    return {"signal_p50": median_ms(samples[1:])}


async def _warm_up(stage: Stage) -> None:
    """Until the worker owns its partitions and every code path has run."""
    await in_flight(16, stage.counts.warm_up, lambda number: stage.client.execute(one_step, number, task_queue=QUEUE, timeout="60s"))


def expect(found: object, wanted: object) -> None:
    """Stops the bench when a workflow gives a wrong result: a figure of something broken is worse than none."""
    if found != wanted:
        raise RuntimeError(f"a workflow gave {found!r}, not {wanted!r}")


class Workload(Struct, frozen=True):
    """Something that can be asked for by name.

    Attributes:
        run: does it and gives its figures.
        worker: whether it needs the stage's worker.
    """

    run: Callable[[Stage], Awaitable[dict[str, float]]]
    worker: bool = True


WORKLOADS = {
    "raw": Workload(raw, worker=False),
    "start": Workload(start),
    "throughput": Workload(throughput),
    "chain": Workload(chains),
    "fanout": Workload(fanout),
    "signal": Workload(signal),
    "parked": Workload(parked.parked, worker=False),
}
