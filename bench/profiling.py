"""Where the time of a workload goes: by sampling with py-spy where it is installed, else under cProfile.

cProfile counts calls and sees only what is timed, but makes every call dearer; py-spy hardly disturbs, but samples the
whole process, warm-up included.
"""

from __future__ import annotations

import cProfile
import pstats
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from bench.figures import Counts
from bench.loops import run
from bench.stage import Sync, staged
from bench.workloads import WORKLOADS

SAMPLES_A_SECOND = 500
HEART = "membership.py"
"""Names the heartbeat thread in a stack: it only waits, which py-spy takes for work."""


def with_cprofile(name: str, sync: Sync, counts: Counts, loop: str, *, by: str, top: int) -> None:
    """Runs a workload under cProfile and prints its top functions, after its figures as the profiler slowed them down."""
    profiler = cProfile.Profile()
    _print_figures(run(_work(name, sync, counts, loop, profiler), loop))
    stats = pstats.Stats(profiler).strip_dirs()
    stats.sort_stats("tottime" if by == "self" else "cumulative").print_stats(top)


def plainly(name: str, sync: Sync, counts: Counts, loop: str) -> None:
    """Runs a workload and prints its figures: what a profiler from outside looks at."""
    _print_figures(run(_work(name, sync, counts, loop, None), loop))


def with_py_spy(py_spy: str, arguments: list[str], *, by: str, top: int) -> None:
    """Has py-spy sample ``python -m bench profile … --with nothing`` and prints the top functions."""
    with tempfile.TemporaryDirectory() as folder:
        stacks = Path(folder) / "stacks"
        command = [py_spy, "record", "--format", "raw", "--function", "--rate", str(SAMPLES_A_SECOND), "--output", str(stacks), "--"]
        command += [sys.executable, "-m", "bench", "profile", *arguments, "--with", "nothing"]
        subprocess.run(command, check=True)
        _print_samples(stacks.read_text().splitlines(), by, top)


def find_py_spy() -> str | None:
    """Where py-spy is: beside this Python, or on PATH."""
    return shutil.which("py-spy", path=Path(sys.executable).parent) or shutil.which("py-spy")


def _print_samples(lines: list[str], by: str, top: int) -> None:
    """Each line is a stack, outermost first and joined by semicolons, and how often it was seen."""
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    total = 0
    for line in lines:
        stack, _, seen = line.rpartition(" ")
        if HEART in stack:
            continue
        frames = stack.split(";")
        total += int(seen)
        alone[frames[-1]] += int(seen)
        for frame in set(frames):
            within[frame] += int(seen)
    print(f"{total} samples\n   self   total  function")
    for frame, _ in (alone if by == "self" else within).most_common(top):
        print(f"{alone[frame] / total:7.1%} {within[frame] / total:7.1%}  {frame}")


async def _work(name: str, sync: Sync, counts: Counts, loop: str, profiler: cProfile.Profile | None) -> dict[str, float]:
    workload = WORKLOADS[name]
    async with staged(sync, counts, loop, worker=workload.worker, profiler=profiler) as stage:
        return await workload.run(stage)


def _print_figures(figures: dict[str, float]) -> None:
    for figure, value in figures.items():
        print(f"{figure} {value:.3f} (while profiled)")
