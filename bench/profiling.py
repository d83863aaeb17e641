"""Where the time of a workload goes."""

from __future__ import annotations

import cProfile
import pstats

from bench.figures import Counts
from bench.loops import run
from bench.stage import Sync, staged
from bench.workloads import WORKLOADS


def profile(name: str, sync: Sync, counts: Counts, loop: str, *, by: str, top: int) -> None:
    """Runs a workload under cProfile and prints its top functions; its figures, slowed down by the profiler, come first."""
    profiler = cProfile.Profile()

    async def work() -> dict[str, float]:
        workload = WORKLOADS[name]
        async with staged(sync, counts, loop, worker=workload.worker, profiler=profiler) as stage:
            return await workload.run(stage)

    for figure, value in run(work(), loop).items():
        print(f"{figure} {value:.3f} (under the profiler)")
    stats = pstats.Stats(profiler).strip_dirs()
    stats.sort_stats("tottime" if by == "self" else "cumulative").print_stats(top)
