"""Random workflow code, run with random outcomes, against the replay of its own history.

A shape is a tree drawn from a seed: sequences, gathers, task groups, timeouts, handlers, loops, waits, children, patches,
clean-up. One workflow function interprets it, so the shape is its code. ``check(seed)`` runs it to its end and then
replays the history, whole and from a random prefix; every event and the outcome must be the same.

    python -m tests.replay.generator --runs 100000 --processes 2
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import random
import sys
import time
import traceback
from typing import Any

import msgspec

from jetflow.core import events as ev
from jetflow.core.machine import Machine
from jetflow.core.operation import RunInfo
from jetflow.errors import Failure
from tests.replay import shapes
from tests.replay.driver import Run, check_prefix, check_unfinished, comparable, recorded, state

MAX_TURNS = 60


def drive(run: Run, dice: random.Random) -> None:
    """Resolves what is pending in random order with random outcomes, sometimes cancelling, until the run ends."""
    cancel_at = dice.randrange(12) if dice.random() < 0.35 else -1
    for turn in range(MAX_TURNS):
        for _ in range(dice.choice((1, 1, 1, 2, 3))):
            machine = run.machine
            if machine.closing is not None:
                break
            if turn == cancel_at:
                cancel_at = -1
                machine.feed(ev.CancelRequested(at=run.tick(), reason="random"))
            elif machine.pending:
                machine.feed(outcome(run, dice))
        run.commit()
        if run.closed:
            return
        if not run.machine.pending and cancel_at < turn:
            break
    run.terminate()


def outcome(run: Run, dice: random.Random) -> Any:
    operation = run.machine.pending[dice.choice(list(run.machine.pending))]
    index, event = operation.index, operation.event
    at = run.tick(dice.choice((0, 1, 7, 400)))
    lucky = dice.random()
    match event:
        case ev.ActivityScheduled():
            if lucky < 0.12:
                return ev.ActivityRetrying(index=index, at=at, attempt=operation.attempt + 1, due=at + 1000, failure=Failure("ValueError", "again"))
            if lucky < 0.3:
                return ev.ActivityFailed(index=index, at=at, failure=Failure("ValueError", f"bad {index}"), attempt=operation.attempt + 1)
            return ev.ActivityCompleted(index=index, at=at, result=msgspec.Raw(str(dice.randrange(100)).encode()))
        case ev.TimerStarted():
            run.now = at = max(at, event.due)
            return ev.TimerFired(index=index, at=at)
        case ev.WaitStarted():
            operation = run.machine.waiter(event.signal) or operation
            if event.due is not None and lucky < 0.4:
                run.now = at = max(at, event.due)
                return ev.WaitTimedOut(index=index, at=at)
            run._signal_seq += 1
            data = msgspec.Raw(str(dice.randrange(100)).encode())
            return ev.Signaled(index=operation.index, at=at, signal=event.signal, seq=run._signal_seq, data=data)
        case _:
            if lucky < 0.3:
                return ev.ChildAccepted(index=index, at=at, run=900 + index)
            if lucky < 0.5:
                return ev.ChildFailed(index=index, at=at, failure=Failure("ValueError", "child"))
            return ev.ChildCompleted(index=index, at=at, result=msgspec.Raw(b'"grown"'))


def original(seed: int) -> Run:
    """The run of one seed, to its end."""
    dice = random.Random(seed)
    run = Run(shapes.interpreted, shapes.draw(dice, 4), workflow_id=f"shape-{seed}")
    drive(run, dice)
    return run


def check(seed: int) -> Run:
    """Raises an error if the replay of a seed's run differs from the run."""
    run = original(seed)
    dice = random.Random(seed + 1)
    check_prefix(run, len(run.commits))
    check_prefix(run, dice.randint(1, len(run.commits)))
    number = dice.randrange(len(run.commits))
    if len(run.commits[number]) > 1:
        check_unfinished(run, number, dice.randrange(1, len(run.commits[number])))
    run.dispose()
    return run


def digest(seeds: range) -> str:
    """One hash over the histories of many seeds: the same in every process."""
    whole = hashlib.sha256()
    for seed in seeds:
        run = original(seed)
        whole.update(json.dumps([[comparable(event) for event in commit] for commit in run.commits]).encode())
    return whole.hexdigest()


def record(seeds: range, path: str) -> None:
    """Writes histories and the states they lead to, for ``replay_recorded`` in another process."""
    kept = []
    for seed in seeds:
        run = original(seed)
        kept.append([seed, [msgspec.Raw(msgspec.json.encode(commit)) for commit in run.commits], json.dumps(_known(run.machine))])
    with open(path, "wb") as file:
        file.write(msgspec.json.encode(kept))


def replay_recorded(path: str) -> int:
    """Replays what another process has recorded; the number of histories that lead elsewhere."""
    with open(path, "rb") as file:
        kept = msgspec.json.decode(file.read())
    mismatches = 0
    for seed, commits, wanted in kept:
        history = [recorded(commit) for commit in commits]
        begun = history[0][0]
        info = RunInfo(f"shape-{seed}", "q", "shape", 7, generation=begun.generation, started_at=begun.at)
        machine = Machine(shapes.interpreted, info)
        try:
            machine.replay(history)
            mismatches += json.loads(json.dumps(_known(machine))) != json.loads(wanted)
        except Exception:
            traceback.print_exc()
            mismatches += 1
        finally:
            machine.dispose()
    return mismatches


def _known(machine: Any) -> dict[str, Any]:
    return {key: value for key, value in state(machine).items() if key != "random"} | {"next random": machine.random.random()}


def run_many(task: tuple[int, int, int]) -> tuple[int, int, int, list[tuple[int, str]]]:
    """Checks ``count`` seeds from ``first`` in ``stride``; how many were run, events and commits in all, and the bad ones."""
    first, count, stride = task
    events = commits = 0
    bad: list[tuple[int, str]] = []
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        for seed in range(first, first + count * stride, stride):
            try:
                run = check(seed)
                events += len(run.events)
                commits += len(run.commits)
            except Exception:
                bad.append((seed, traceback.format_exc()))
    finally:
        logging.disable(before)
    return count, events, commits, bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--digest", action="store_true", help="print one hash over all histories")
    parser.add_argument("--replay", metavar="FILE", help="replay the histories of a file and print the number of mismatches")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    if args.digest:
        print(digest(range(args.seed, args.seed + args.runs)))
        return 0
    if args.replay:
        print(replay_recorded(args.replay))
        return 0
    begun = time.perf_counter()
    chunk = max(1, min(500, args.runs // args.processes))
    tasks = [(first, min(chunk, args.seed + args.runs - first), 1) for first in range(args.seed, args.seed + args.runs, chunk)]
    done = events = commits = 0
    bad: list[tuple[int, str]] = []
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        for count, more_events, more_commits, more_bad in pool.imap_unordered(run_many, tasks):
            done, events, commits = done + count, events + more_events, commits + more_commits
            bad += more_bad
    for seed, trace in bad[:5]:
        print(f"seed {seed}:\n{trace}", file=sys.stderr)
    seconds = time.perf_counter() - begun
    print(f"{done} shapes, {commits} commits, {events} events, {len(bad)} mismatches, {seconds:.1f} s")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
