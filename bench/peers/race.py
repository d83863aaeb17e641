"""Rounds and laps: each product has its fresh servers and riders in turn, so that what disturbs the machine disturbs all alike."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench.figures import QUICK as RAW_QUICK
from bench.figures import SMOKE as RAW_SMOKE
from bench.figures import Counts as RawCounts
from bench.loops import run as run_on_loop
from bench.peers.figures import FIGURES
from bench.peers.processes import FailedError, Service, running, tail
from bench.peers.products.product import ROOT, STRICT, Product, Serving
from bench.peers.results import Lap
from bench.peers.spec import Counts, Spec
from bench.raw import raw
from bench.results import Others
from bench.stage import Sync, staged

SPEED = ("start", "throughput", "chain", "fanout", "signal")
TAKEOVER, PARKED = "history", "parked"
WORKLOADS = (*SPEED, TAKEOVER, PARKED)
"""What can be asked for by name."""
LOOK_EVERY = 0.005
LEAVES_WITHIN = 20
"""Seconds that a rider has for a clean end once it is done."""
Say = Callable[[str], None]


def raw_lap(setting: str, number: int, counts: Counts, loop: str) -> Lap:
    """The broker alone, as ``python -m bench`` measures it."""
    others, begin = Others(), time.monotonic()
    sync: Sync = "always" if setting == STRICT else "default"
    figures = run_on_loop(_raw(sync, _raw_counts(counts), loop), loop)
    return Lap("raw", setting, number, figures, others.share(), round(time.monotonic() - begin, 1))


async def _raw(sync: Sync, counts: RawCounts, loop: str) -> dict[str, float]:
    async with staged(sync, counts, loop, worker=False) as stage:
        return await raw(stage)


def _raw_counts(counts: Counts) -> RawCounts:
    return RAW_SMOKE if counts.starts < 10 else msgspec.structs.replace(RAW_QUICK, puts_in_flight=counts.most_workflows)


class Laps:
    """Runs laps.

    Args:
        counts: how much of each thing.
        wanted: workloads, of ``WORKLOADS``.
        say: told of each step.
    """

    def __init__(self, counts: Counts, wanted: list[str], say: Say) -> None:
        self._counts = counts
        self._wanted = wanted
        self._say = say

    def lap(self, product: Product, setting: str, number: int) -> Lap:
        """One product at one setting: every ride it takes. A failure ends the lap, not the race."""
        lap = Lap(product.name, setting, number, {})
        others, begin = Others(), time.monotonic()
        try:
            with _prepared(product, setting) as folder:
                self._from_nothing(lap, product, setting, folder)
            if PARKED in self._wanted:
                with _prepared(product, setting) as folder, product.serving(setting, folder) as serving:
                    self._ride(lap, product, serving, folder, ["warm", PARKED])
        except (FailedError, OSError, subprocess.SubprocessError) as failure:
            lap.failure = str(failure)
        lap.others, lap.seconds = others.share(), round(time.monotonic() - begin, 1)
        return lap

    def _from_nothing(self, lap: Lap, product: Product, setting: str, folder: Path) -> None:
        """To the first result, the workloads of speed, then a long history that another worker takes over."""
        begin = time.monotonic()
        with product.serving(setting, folder) as serving:
            speed = [name for name in SPEED if name in self._wanted]
            lap.figures["cold_all"] = self._ride(lap, product, serving, folder, ["warm", *speed])["first"] - begin
            begin = time.monotonic()
            lap.figures["cold_worker"] = self._ride(lap, product, serving, folder, [])["first"] - begin
            if TAKEOVER not in self._wanted:
                return
            self._ride(lap, product, serving, folder, [TAKEOVER])
            begin = time.monotonic()
            lap.figures["resume"] = self._ride(lap, product, serving, folder, ["resume"], first=False)["done"] - begin
            lap.figures["replay"] = self._counts.history / lap.extra.pop("resume_signal")

    def _ride(self, lap: Lap, product: Product, serving: Serving, folder: Path, workloads: list[str], *, first: bool = True) -> dict[str, float]:
        """Runs one rider to its end; gives the moments of its first result and of its end on the monotonic clock, which all processes share."""
        spec = Spec(product.rider, workloads, self._counts, serving.address, serving.pids, serving.options, first)
        log, out = folder / "rider.log", folder / "rider.out"
        for each in (log, out):
            each.unlink(missing_ok=True)
        command = [product.python, "-m", "bench.peers.riders", spec.written()]
        told, moments = 0, {}
        with running(Service(command, log, output=out, folder=ROOT, environment={"PYTHONPATH": str(ROOT)})) as rider:
            deadline = time.monotonic() + self._counts.rider_for
            while True:
                ended = rider.ended()
                lines = _whole_lines(out)
                for each in lines[told:]:
                    moments |= {name: each[name] for name in ("first", "done") if name in each}
                    if "workload" in each:
                        self._take(lap, each)
                told = len(lines)
                if ended or time.monotonic() > moments.get("done", deadline) + LEAVES_WITHIN:
                    break
                if "done" not in moments and time.monotonic() > deadline:
                    raise FailedError(f"{_progress(lines, workloads)} after {self._counts.rider_for:g} s: {tail(log)}")
                time.sleep(LOOK_EVERY)
        if "done" not in moments:
            raise FailedError(f"{_progress(lines, workloads)} when its rider ended: {tail(log)}")
        return moments

    def _take(self, lap: Lap, told: dict) -> None:
        self._say(f"{told['workload']} {told['seconds']:.1f} s")
        for name, value in told["figures"].items():
            (lap.figures if name in FIGURES else lap.extra)[name] = value


@contextmanager
def _prepared(product: Product, setting: str) -> Iterator[Path]:
    """A folder for servers and riders, that goes with the block."""
    folder = Path(tempfile.mkdtemp(prefix="jetflow-peers-"))
    try:
        product.prepare(setting, folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _whole_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def _progress(lines: list[dict], workloads: list[str]) -> str:
    done = [line["workload"] for line in lines if "workload" in line]
    missing = [name for name in workloads if name not in done]
    return f"{', '.join(done) or 'nothing'} done, not {', '.join(missing) or 'its end'}"
