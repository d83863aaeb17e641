"""Runs schedules: ``python -m tests.simulation --seed N``, ``--seeds A..B``, or ``--minutes M``; ``planted`` looks for planted bugs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run one schedule, and print its story")
    parser.add_argument("--seeds", help="run the schedules A..B, B left out, or A,B,C")
    parser.add_argument("--minutes", type=float, help="run schedules for so long")
    parser.add_argument("--first", type=int, help="the first seed of --minutes; taken from the clock when not given")
    parser.add_argument("--processes", type=int, default=1, help="processes that share the work")
    parser.add_argument("--story", type=Path, default=Path("/tmp/jetflow-simulation"), help="folder for the stories of seeds that fail")
    parser.add_argument("--most", type=int, default=10, help="stop after so many seeds that fail")
    commands = parser.add_subparsers(dest="command")
    planted = commands.add_parser("planted", help="plant bugs, one at a time, until the simulation finds each")
    planted.add_argument("names", nargs="*", help="which; all when none is named")
    planted.add_argument("--processes", type=int, default=2, help="processes that share the work")
    planted.add_argument("--seconds", type=float, default=120, help="how long to look for each")
    args = parser.parse_args()
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of text iterate by hash
        os.execve(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]], {**os.environ, "PYTHONHASHSEED": "0"})
    from tests.simulation import running

    if args.command == "planted":
        return running.look_for_planted(args.names, args.seconds, args.processes)
    if args.seed is not None:
        return running.tell(args.seed, args.story)
    if args.seeds:
        first, dots, last = args.seeds.partition("..")
        seeds = list(range(int(first), int(last))) if dots else [int(seed) for seed in args.seeds.split(",")]
        return running.run_seeds(seeds, args.processes, args.story, args.most)
    return running.run_for(args.minutes or 1, args.first, args.processes, args.story, args.most)


if __name__ == "__main__":
    sys.exit(main())
