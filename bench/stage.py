"""Where a workload runs: a fresh nats-server beside this process, a client and a worker inside it."""

from __future__ import annotations

import asyncio
import cProfile
import statistics
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Literal

from bench.cluster import LocalCluster
from bench.figures import Counts
from bench.workflows import ACTIVITIES, WORKFLOWS
from jetflow import Client, Worker
from jetflow.broker.transport.server import LocalServer

Sync = Literal["default", "always", "r3"]
QUEUE = "bench"


class Stage:
    """What a workload is given.

    Attributes:
        client: connected to this stage's own server; a worker in this process serves the queue ``bench``.
        counts: how much to do.
        loop: name of the event loop, for workloads that need a process of their own.
        server_pid: the server's process.
    """

    def __init__(self, client: Client, counts: Counts, loop: str, profiler: cProfile.Profile | None, server_pid: int) -> None:
        self.client = client
        self.counts = counts
        self.loop = loop
        self.server_pid = server_pid
        self._profiler = profiler

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Around what is timed: only this is profiled, warm-up and set-up are not."""
        if self._profiler is None:
            yield
            return
        self._profiler.enable()
        try:
            yield
        finally:
            self._profiler.disable()


@asynccontextmanager
async def staged(sync: Sync, counts: Counts, loop: str, *, worker: bool, profiler: cProfile.Profile | None = None) -> AsyncIterator[Stage]:
    """A stage whose server, store and worker go with the block.

    Args:
        sync: ``always`` makes the server wait for the disk before each ack; ``r3`` is three servers at default sync, with each stream on all.
        counts: passed on.
        loop: passed on.
        worker: False for workloads that bring their own, or need none.
        profiler: runs during ``Stage.measured``.
    """
    async with _server(sync) as (urls, pid), Client.connect(urls) as client:
        stage = Stage(client, counts, loop, profiler, pid)
        if worker:
            async with Worker(client, task_queue=QUEUE, workflows=WORKFLOWS, activities=ACTIVITIES):
                yield stage
        else:
            yield stage


@asynccontextmanager
async def _server(sync: Sync) -> AsyncIterator[tuple[str, int]]:
    """Addresses, and the process id if it is one server."""
    with tempfile.TemporaryDirectory(prefix="jetflow-bench-") as folder:
        if sync == "r3":
            async with LocalCluster(Path(folder)) as cluster:
                yield cluster.urls, 0
            return
        config = Path(folder) / "nats.conf"
        config.write_text("jetstream { sync_interval: always }\n" if sync == "always" else "jetstream {}\n")
        async with LocalServer(Path(folder) / "store", config=config) as server:
            yield server.url, server.pid or 0


async def in_flight(concurrency: int, total: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Does ``work(0)`` to ``work(total - 1)`` with so many under way at once."""
    numbers = iter(range(total))

    async def lane() -> None:
        for number in numbers:
            await work(number)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, total)):
            group.create_task(lane())


def percentile(samples: Sequence[float], percent: float) -> float:
    """The sample that so many percent do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median_ms(samples: Sequence[float]) -> float:
    """The median of seconds, in milliseconds."""
    return statistics.median(samples) * 1000
