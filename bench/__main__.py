"""``python -m bench``: measures; ``… compare A.json B.json``: two runs; ``… profile WORKLOAD``: where the time goes; ``… check``: what a
working tree makes slower; ``… growth``: cost by amount; ``… processes``: throughput by worker processes."""

from __future__ import annotations

import argparse
import gc
import logging
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console

from bench import check, growth, processes, profiling, report, results
from bench.figures import FULL, QUICK, SMOKE, Counts
from bench.loops import LOOPS, available, run
from bench.stage import Sync, staged
from bench.workloads import WORKLOADS

SYNCS: tuple[Sync, ...] = ("default", "always")


def main(arguments: list[str]) -> None:
    """The command line."""
    logging.basicConfig(level=logging.WARNING)
    commands = {"compare": _compare, "profile": _profile, "run": _run}
    commands |= {module.__name__.rpartition(".")[2]: partial(_with_console, module.main) for module in (check, growth, processes)}
    command, rest = (arguments[0], arguments[1:]) if arguments and arguments[0] in commands else ("run", arguments)
    commands[command](rest)


def _with_console(command: Callable[[list[str], Console], None], arguments: list[str]) -> None:
    command(arguments, _console())


def _run(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    _add_common(parser)
    parser.add_argument("--rounds", type=int, help="rounds, of which the median counts (3; 1 with --quick)")
    parser.add_argument("--sync", choices=[*SYNCS, "r3", "both"], default="both", help="when the server writes to disk; r3: three servers")
    parser.add_argument("--only", metavar="NAME,…", help=f"of {', '.join(WORKLOADS)}; raw always runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save the figures")
    options = parser.parse_args(arguments)
    wanted = options.only.split(",") if options.only else list(WORKLOADS)
    for name in wanted:
        if name not in WORKLOADS:
            parser.error(f"no workload {name!r}; there are {', '.join(WORKLOADS)}")
    names = [name for name in WORKLOADS if name == "raw" or name in wanted]
    syncs: tuple[Sync, ...] = SYNCS if options.sync == "both" else (options.sync,)
    loop, counts = available(options.loop), _counts(options)
    total = options.rounds or (3 if counts is FULL else 1)
    where = results.machine(loop)
    rounds: dict[str, list[dict[str, float]]] = {sync: [] for sync in syncs}
    progress = Console(stderr=True)
    with progress.status("") as status:
        for number in range(total):
            others = results.Others()
            for sync in syncs:
                found: dict[str, float] = {}
                for name in names:
                    status.update(f"round {number + 1} of {total}, sync {sync}: {name}")
                    found |= run(_one(name, sync, counts, loop), loop)
                rounds[sync].append(found)
            where.others.append(others.share())
    collected = results.collect(rounds, counts, where)
    report.show(collected, _console())
    if options.json:
        results.save(collected, options.json)


async def _one(name: str, sync: Sync, counts: Counts, loop: str) -> dict[str, float]:
    gc.collect()
    workload = WORKLOADS[name]
    async with staged(sync, counts, loop, worker=workload.worker) as stage:
        return await workload.run(stage)


def _compare(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench compare", description="The ratios between two saved runs.")
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    report.compare(results.read(options.before), results.read(options.after), _console())


def _profile(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench profile", description="Where the time of one workload goes, in this process.")
    _add_common(parser)
    parser.add_argument("workload", choices=[name for name in WORKLOADS if name != "parked"])
    parser.add_argument("--sync", choices=[*SYNCS, "r3"], default="default")
    parser.add_argument("--by", choices=("self", "total"), default="self", help="order: time in the function itself, or with what it calls")
    parser.add_argument("--top", type=int, default=40, help="how many functions")
    parser.add_argument("--with", dest="tool", choices=("py-spy", "cprofile", "nothing"), help="py-spy where it is installed, else cProfile")
    options = parser.parse_args(arguments)
    py_spy = profiling.find_py_spy()
    if options.tool == "py-spy" and py_spy is None:
        parser.error("py-spy is not installed: pip install py-spy, or --with cprofile")
    if py_spy is not None and options.tool in (None, "py-spy"):
        profiling.with_py_spy(py_spy, arguments, by=options.by, top=options.top)
        return
    what = (options.workload, options.sync, _counts(options), available(options.loop))
    if options.tool == "nothing":
        profiling.plainly(*what)
    else:
        profiling.with_cprofile(*what, by=options.by, top=options.top)


def _console() -> Console:
    """Wide enough for the tables also where the output is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--loop", choices=LOOPS, default="uvloop", help="event loop")
    parser.add_argument("--quick", action="store_true", help="fewer of everything: about a minute")
    parser.add_argument("--smoke", action="store_true", help="almost nothing: whether the bench works, not how fast")


def _counts(options: argparse.Namespace) -> Counts:
    return SMOKE if options.smoke else QUICK if options.quick else FULL


if __name__ == "__main__":
    main(sys.argv[1:])
