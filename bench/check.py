"""``python -m bench check``: what this working tree makes slower than another revision, for people to run before merging.

Both are measured in one run, round by round in turn, by the same bench code, each in processes of its own with a server of its
own. What counts are the ratios within a round: whatever else the machine does hits both. CPU time is what to trust, latency beside it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from bench.figures import FIGURES, QUICK, SMOKE
from bench.growth import Clock
from bench.loops import LOOPS, available, run
from bench.replaying import replay_seconds
from bench.stage import staged
from bench.workloads import WORKLOADS

CHECKED = ("start", "throughput", "chain", "fanout", "signal")
NOTABLE = 1.05
"""A ratio above this, or below its inverse, with its whole band is told as slower or faster."""
TOO_NOISY = {"start_p99"}
REPLAYED = 10_000
ROOT = Path(__file__).resolve().parent.parent


class Compared(Struct):
    """A figure as ratios of this tree to the other one, a round each; above 1 is slower."""

    label: str
    ratios: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.ratios)

    @property
    def band(self) -> tuple[float, float]:
        """The middle half of the rounds: the noise."""
        if len(self.ratios) < 3:
            return min(self.ratios), max(self.ratios)
        low, _, high = statistics.quantiles(self.ratios, n=4, method="inclusive")
        return low, high


def main(arguments: list[str], console: Console) -> None:
    """``python -m bench check``; exits with 1 when something is surely slower than the limit."""
    parser = argparse.ArgumentParser(prog="python -m bench check", description="What this working tree makes slower, as ratios in one run.")
    parser.add_argument("ref", nargs="?", default="main", help="a revision, or the folder of another tree, to compare with (main)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, each with both (5)")
    parser.add_argument("--limit", type=float, default=1.25, help="exit with 1 if the noise band of a figure is above this ratio (1.25)")
    parser.add_argument("--loop", choices=LOOPS, default="uvloop", help="event loop")
    parser.add_argument("--smoke", action="store_true", help="almost nothing: whether the check works, not how fast")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        sys.stdout.buffer.write(msgspec.json.encode(_measure(available(options.loop), smoke=options.smoke)))
        return
    found = _compare(options.ref, options.rounds, ["--loop", options.loop, *(["--smoke"] if options.smoke else [])])
    console.print(_table(found, options.ref, options.limit))
    slower = [each.label for each in found if each.band[0] > options.limit]
    if slower:
        console.print(f"[red]slower than {options.limit:g} times:[/] {', '.join(slower)}")
        raise SystemExit(1)


# ---- one round of one tree, in a process of its own


def _measure(loop: str, *, smoke: bool) -> dict[str, float]:
    """Figures by what a person reads; each is a time, less is better."""
    counts, found = SMOKE if smoke else QUICK, {}
    for name in CHECKED:

        async def work(name: str = name) -> dict[str, float]:
            async with staged("default", counts, loop, worker=True) as stage:
                clock = Clock(stage.server_pid)
                figures = await WORKLOADS[name].run(stage)
                cost = clock.cost(1)
                return figures | {f"{name}, CPU of client and worker": cost.own, f"{name}, CPU of the server": cost.server}

        for label, value in run(work(), loop).items():
            if label in TOO_NOISY:
                continue
            figure = FIGURES.get(label)
            found[figure.label if figure else label] = 1 / value if figure and figure.better == "high" else value
    found["replay of a long history, CPU"] = replay_seconds(REPLAYED // 100 if smoke else REPLAYED)
    found["import of the worker command, CPU"] = _import_seconds()
    return found


def _import_seconds() -> float:
    command = [sys.executable, "-c", "import jetflow.cli.main, jetflow.cli.worker; import time; print(time.process_time())"]
    return min(float(subprocess.run(command, capture_output=True, check=True, text=True).stdout) for _ in range(3))


# ---- both trees, in turn


def _compare(ref: str, rounds: int, options: list[str]) -> list[Compared]:
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory(prefix="jetflow-check-") as folder, _tree(ref, Path(folder) / "ref") as other, console.status("") as status:
        tools = Path(folder) / "tools"  # the same bench for both, without the jetflow beside it
        shutil.copytree(ROOT / "bench", tools / "bench", ignore=shutil.ignore_patterns("__pycache__", "results"))
        pairs = []
        for number in range(rounds):
            pair: dict[str, dict[str, float]] = {}
            for which, tree in (("this tree", ROOT), (ref, other))[:: 1 if number % 2 else -1]:
                status.update(f"round {number + 1} of {rounds}: {which}")
                pair[which] = _round(tree, tools, Path(folder), options)
            pairs.append((pair["this tree"], pair[ref]))
    labels = [label for label in pairs[0][0] if all(mine[label] and before.get(label) for mine, before in pairs)]
    return [Compared(label, [mine[label] / before[label] for mine, before in pairs]) for label in labels]


def _round(tree: Path, tools: Path, folder: Path, options: list[str]) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONPYCACHEPREFIX": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "check", "--measure", *options], cwd=tools, env=environment, stdout=subprocess.PIPE, check=True
    )
    return msgspec.json.decode(done.stdout, type=dict[str, float])


@contextmanager
def _tree(ref: str, folder: Path) -> Iterator[Path]:
    """A checkout of a revision, for as long as the block lasts; or the folder itself if it is one."""
    if Path(ref).is_dir():
        yield Path(ref).resolve()
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    added = subprocess.run([*git, "add", "--detach", "--quiet", str(folder), ref], capture_output=True, text=True, check=False)
    if added.returncode:
        raise SystemExit(f"{ref} cannot be checked out: {added.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def _table(found: list[Compared], ref: str, limit: float) -> Table:
    table = Table(title=f"this tree against {ref}: above 1 is slower", title_justify="left")
    for heading in ("figure", "times as long", "noise band", ""):
        table.add_column(heading, justify="left" if heading in ("figure", "") else "right")
    for each in found:
        low, high = each.band
        verdict = "[red]too slow[/]" if low > limit else "[yellow]slower[/]" if low > NOTABLE else "[green]faster[/]" if high < 1 / NOTABLE else ""
        table.add_row(each.label, f"{each.median:.2f}", f"{low:.2f} to {high:.2f}", verdict)
    return table
