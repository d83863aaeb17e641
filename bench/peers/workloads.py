"""What is measured, the same for every product. Standard library alone: it runs inside the riders."""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence

from bench.peers.memory import proportional_kilobytes
from bench.peers.riders.rider import Rider
from bench.peers.spec import Spec

STEPS = 100
WIDTHS = (16, 64, 256)
CHAINS = 20
LEAST_SAMPLES = 2
LOOK_EVERY = 0.02
HISTORY_ID = "history"

Figures = dict[str, float]


async def start(rider: Rider, spec: Spec) -> Figures:
    """Start to result of a workflow with one step, one at a time."""
    samples = await _sampled(spec, spec.counts.starts, lambda number: _expect(rider.execute("one_step", number), number + 1))
    return {"start_p50": _median_ms(samples), "start_p99": _percentile(samples, 99) * 1000}


async def throughput(rider: Rider, spec: Spec) -> Figures:
    """Workflows a second: each width for a moment, then the best one for long."""
    counts = spec.counts

    async def one(number: int) -> None:
        await _expect(rider.execute("one_step", number), number + 1)

    rates = {}
    for width in WIDTHS:
        rates[width] = await _rate_within(width, counts.probe_for, one)
    best = max(rates, key=lambda width: rates[width])
    total = int(min(max(rates[best] * counts.workflows_for, counts.least_workflows), counts.most_workflows))
    begin = time.perf_counter()
    await _in_flight(best, total, one)
    return {"workflows": total / (time.perf_counter() - begin), "workflows_width": best, "workflows_count": total}


async def chain(rider: Rider, spec: Spec) -> Figures:
    """A hundred steps one after the other: alone, then twenty such workflows at once."""

    async def one(_: int) -> None:
        await _expect(rider.execute("chain", STEPS), STEPS)

    alone = await _sampled(spec, spec.counts.chains, one)
    together = await _sampled(spec, spec.counts.chain_batches, lambda _: _in_flight(CHAINS, CHAINS, one))
    return {"chain_step": _median_ms(alone) / STEPS, "chain_steps_20": CHAINS * STEPS / statistics.median(together)}


async def fanout(rider: Rider, spec: Spec) -> Figures:
    """A workflow that gathers a hundred steps."""
    wanted = STEPS * (STEPS + 1) // 2
    await _expect(rider.execute("fan_out", STEPS), wanted)
    return {"fanout_100": _median_ms(await _sampled(spec, spec.counts.fanouts, lambda _: _expect(rider.execute("fan_out", STEPS), wanted)))}


async def signal(rider: Rider, spec: Spec) -> Figures:
    """A signal to a workflow that waits for it, until its result is seen; one at a time."""
    ids = [f"signal-{number}" for number in range(spec.counts.signals)]
    await _started(rider, spec, "wait", ids)

    async def one(number: int) -> None:
        await rider.signal(ids[number], number)
        await _expect(rider.result(ids[number]), number)

    samples = await _sampled(spec, len(ids), one)
    for number in range(len(samples), len(ids)):  # none is left for the worker that comes next
        await one(number)
    return {"signal_p50": _median_ms(samples)}


async def warm(rider: Rider, spec: Spec) -> Figures:
    """Every code path of the short workflows once, at width."""
    await _in_flight(16, spec.counts.warm_up, lambda number: _expect(rider.execute("one_step", number), number + 1))
    return {}


async def parked(rider: Rider, spec: Spec) -> Figures:
    """Workflows that sleep an hour: until all sleep, and what they cost in memory.

    As many again are started before the memory is read a second time: the first lot pays for what so many need in passing.
    """
    count = spec.counts.parked
    begin = time.perf_counter()
    await _started(rider, spec, "park", [f"park-{number}" for number in range(count)])
    seconds = time.perf_counter() - begin
    await asyncio.sleep(spec.counts.stay)
    before = _memory(spec)
    await _started(rider, spec, "park", [f"park-{number}" for number in range(count, 2 * count)])
    await asyncio.sleep(spec.counts.stay)
    worker, server = (after - earlier for after, earlier in zip(_memory(spec), before, strict=True))
    return {"parked_start": seconds, "parked_worker": max(worker, 0) / count, "parked_server": max(server, 0) / count, "parked_count": 2 * count}


async def history(rider: Rider, spec: Spec) -> Figures:
    """Starts the workflow with a long history and returns when it waits for its signal."""
    await _started(rider, spec, "history", [HISTORY_ID], spec.counts.history)
    return {}


async def resume(rider: Rider, spec: Spec) -> Figures:
    """The signal that makes this process rebuild the workflow of ``history``, until its result is seen."""
    begin = time.perf_counter()
    await rider.signal(HISTORY_ID, 7)
    await _expect(rider.result(HISTORY_ID), spec.counts.history)
    return {"resume_signal": time.perf_counter() - begin}


async def _started(rider: Rider, spec: Spec, workflow: str, ids: list[str], number: int = 0) -> None:
    """Starts them, and returns when so many more than before rest."""
    expected = await rider.resting() + len(ids)
    await _in_flight(256, len(ids), lambda index: rider.start(workflow, number, ids[index]))
    deadline = time.monotonic() + spec.counts.rider_for
    while (found := await rider.resting()) != expected:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{found} workflows rest, not {expected}, {spec.counts.rider_for:g} s after {len(ids)} were started")
        await asyncio.sleep(LOOK_EVERY)


async def _sampled(spec: Spec, total: int, work: Callable[[int], Awaitable[object]]) -> list[float]:
    """Seconds of each ``work(number)``, one after the other, for as long as a workload may take."""
    samples: list[float] = []
    deadline = time.monotonic() + spec.counts.samples_for
    for number in range(total):
        if time.monotonic() > deadline and len(samples) >= LEAST_SAMPLES:
            break
        begin = time.perf_counter()
        await work(number)
        samples.append(time.perf_counter() - begin)
    return samples


async def _in_flight(width: int, total: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Does ``work(0)`` to ``work(total - 1)`` with so many under way."""
    await _lanes(width, iter(range(total)), work)


async def _rate_within(width: int, seconds: float, work: Callable[[int], Awaitable[object]]) -> float:
    """How many a second, begun within so many seconds and then done to the end."""
    begin, done = time.perf_counter(), 0

    async def counted(number: int) -> None:
        nonlocal done
        await work(number)
        done += 1

    await _lanes(width, itertools.takewhile(lambda _: time.perf_counter() - begin < seconds, itertools.count()), counted)
    return done / (time.perf_counter() - begin)


async def _lanes(width: int, numbers: Iterator[int], work: Callable[[int], Awaitable[object]]) -> None:
    async def lane() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(width):
            group.create_task(lane())


async def _expect(work: Awaitable[int], wanted: int) -> None:
    """A figure of something broken is worse than none."""
    found = await work
    if found != wanted:
        raise RuntimeError(f"a workflow gave {found!r}, not {wanted!r}")


def _memory(spec: Spec) -> tuple[int, int]:
    """Kilobytes of this process, and of the servers."""
    return proportional_kilobytes([os.getpid()]), proportional_kilobytes(spec.servers)


def _median_ms(samples: Sequence[float]) -> float:
    return statistics.median(samples) * 1000


def _percentile(samples: Sequence[float], percent: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


WORKLOADS: dict[str, Callable[[Rider, Spec], Awaitable[Figures]]] = {
    "warm": warm,
    "start": start,
    "throughput": throughput,
    "chain": chain,
    "fanout": fanout,
    "signal": signal,
    "parked": parked,
    "history": history,
    "resume": resume,
}
