"""``python -m bench processes``: throughput by worker processes and namespaces, and whose CPU time a workflow costs.

The client is this process, the server and each worker one of their own. The sum of the CPU times is what a workflow costs, and
the largest of them, on enough cores, what limits it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.cluster import LocalCluster
from bench.growth import cpu_of
from bench.loops import LOOPS, available, run
from bench.results import Others
from bench.stage import in_flight
from bench.workflows import chain, one_step
from bench.workloads import STEPS, expect
from jetflow import Client
from jetflow.broker.transport.server import LocalServer

QUEUE = "bench"
WORKFLOWS = 6_000
CHAINS = 128
IN_FLIGHT = 256
WARM_UP = 6_000
"""Workflows before anything is timed, most of a second of them: workers that have just started try group commit once, and then not for 20 s."""


class Shape(Struct, frozen=True):
    """How many worker processes serve each of how many namespaces."""

    processes: int
    namespaces: int


class Load(Struct):
    """What a load came to: units a second, and milliseconds of CPU a unit."""

    rate: float
    client: float
    server: float
    workers: float


def main(arguments: list[str], console: Console) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench processes", description="Throughput by worker processes and namespaces.")
    parser.add_argument("--shapes", default="1x1,2x1,1x2", metavar="PxN,…", help="worker processes a namespace x namespaces")
    parser.add_argument("--r3", action="store_true", help="three servers, each stream on all of them; the server's CPU is their sum")
    parser.add_argument("--workflows", type=int, default=WORKFLOWS, help="of one step, in each measurement")
    parser.add_argument("--loop", choices=LOOPS, default="uvloop", help="event loop of the client")
    options = parser.parse_args(arguments)
    table = Table(title="workers in processes of their own, client apart", title_justify="left")
    for heading in ("processes", "namespaces", "load", "a second", "CPU each: client", "server", "workers"):
        table.add_column(heading, justify="left" if heading == "load" else "right")
    others = Others()
    for text in options.shapes.split(","):
        processes, _, namespaces = text.partition("x")
        shape = Shape(int(processes), int(namespaces or 1))
        for load, found in run(measure(shape, options.workflows, r3=options.r3), available(options.loop)).items():
            cpu = (f"{each:.3f} ms" for each in (found.client, found.server, found.workers))
            table.add_row(str(shape.processes), str(shape.namespaces), load, f"{found.rate:,.0f}", *cpu)
    console.print(table)
    console.print(f"{os.cpu_count()} CPUs, of which other processes took {others.share():.0%}")


async def measure(shape: Shape, workflows: int, *, r3: bool = False) -> dict[str, Load]:
    """Both loads on one shape."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="jetflow-bench-"))
        servers = await stack.enter_async_context(LocalCluster(Path(folder)) if r3 else LocalServer(Path(folder) / "store"))
        url = servers.urls if isinstance(servers, LocalCluster) else servers.url
        clients, workers = [], []
        for number in range(shape.namespaces):
            namespace = f"bench{number}"
            clients.append(await stack.enter_async_context(Client.connect(url, namespace=namespace, replicas=3 if r3 else 1)))
            workers.append(await stack.enter_async_context(_workers(url, namespace, shape.processes)))
        pids = ([each.pid or 0 for each in (servers.servers.values() if isinstance(servers, LocalCluster) else [servers])], workers)

        async def short(number: int) -> None:
            client = clients[number % len(clients)]
            expect(await client.execute(one_step, number, task_queue=QUEUE), number + 1)

        async def long(number: int) -> None:
            expect(await clients[number % len(clients)].execute(chain, STEPS, task_queue=QUEUE), STEPS)

        await in_flight(IN_FLIGHT, WARM_UP, short)
        found = {}
        for name, work, width, total, units in (("workflows", short, IN_FLIGHT, workflows, 1), ("steps of chains", long, CHAINS, CHAINS, STEPS)):
            before, begin = _cpu(*pids), time.perf_counter()
            await in_flight(width, total, work)
            seconds, after = time.perf_counter() - begin, _cpu(*pids)
            found[name] = Load(total * units / seconds, *((b - a) * 1000 / (total * units) for a, b in zip(before, after, strict=True)))
        return found


@asynccontextmanager
async def _workers(url: str, namespace: str, processes: int) -> AsyncIterator[int]:
    """``jetflow worker`` with so many processes, ready; its process id."""
    command = [sys.executable, "-m", "jetflow", "worker", "bench.workflows", "-q", QUEUE, "--processes", str(processes), "-s", url]
    process = await asyncio.create_subprocess_exec(*command, "--namespace", namespace, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        ready = f"{processes} worker processes ready" if processes > 1 else "worker ready"
        while ready not in (line := (await process.stderr.readline()).decode()):
            if not line:
                raise RuntimeError("the workers did not start")
        yield process.pid
    finally:
        process.terminate()
        await process.communicate()


def _cpu(servers: list[int], workers: list[int]) -> tuple[float, float, float]:
    """CPU seconds of client, servers and workers so far."""
    return time.process_time(), sum(map(cpu_of, servers)), sum(cpu_of(pid) for worker in workers for pid in (worker, *_children(worker)))


def _children(parent: int) -> list[int]:
    """Processes that another one has started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[1] == str(parent):
            found.append(int(stat.parent.name))
    return found
