"""Many schedules in a row, in one process or two, and the story of one that failed."""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from jetflow.testing.trace import story
from tests.simulation.checks import check
from tests.simulation.plan import draw
from tests.simulation.run import Simulation, simulate
from tests.simulation.seen import Problem

SHOWN = 60
SEEDS = Path(__file__).with_name("seeds.txt")


def known_seeds(*, still_open: bool = False) -> list[int]:
    """Seeds that failed once, or those that still do."""
    lines = [line.split() for line in SEEDS.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return [int(line[1]) for line in lines if line[0] == "open"] if still_open else [int(line[0]) for line in lines if line[0] != "open"]


def try_seed(seed: int) -> list[str]:
    """Runs one schedule; gives what is wrong with it."""
    with simulate(seed) as simulation:
        return [str(problem) for problem in check(simulation)]


def digest(seed: int) -> str:
    """Of all that happens in a seed's schedule."""
    with simulate(seed) as simulation:
        return simulation.digest()


def tell(seed: int, folder: Path) -> int:
    """Runs one schedule with its log lines, and writes down what happened to the workflows concerned."""
    with simulate(seed, tell=True) as simulation:
        problems = check(simulation)
        ids = {id for problem in problems for id in problem.ids}
        lines = [f"seed {seed}: {draw(seed)}", *_lines(simulation, ids), *(f"PROBLEM  {problem}" for problem in problems)]
        facts = f"seed {seed}: {simulation.world.now:.1f} virtual seconds, {simulation.world.steps} callbacks, trace {simulation.digest()}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{seed}.txt"
    path.write_text("\n".join(lines) + "\n")
    for line in lines[-SHOWN:] if problems else ():
        print(line[:260])
    print(facts)
    print(f"{len(problems)} problems; the whole story: {path}" if problems else f"nothing is wrong; the story: {path}")
    return 1 if problems else 0


def _lines(simulation: Simulation, ids: Iterable[str]) -> Iterator[str]:
    """The story, of some workflows if any are named; faults always."""
    words = [each for id in ids for each in (f".{id}.", f".{id} ", f"  {id} ", f"{id}/", f"workflow {id} ")]
    for line in story(simulation.trace).splitlines():
        if not words or any(word in f"{line} " for word in words) or " FAULT " in line or " CALM " in line or "registry" in line or "resumed" in line:
            yield line


def _work(seeds: Iterable[int], until: float | None, found: multiprocessing.Queue[tuple[int, list[str], float]]) -> None:
    gc.collect()
    gc.freeze()
    for seed in seeds:
        if until is not None and time.monotonic() > until:
            break
        begun = time.monotonic()
        try:
            problems = try_seed(seed)
        except Exception as error:
            problems = [f"the simulation itself: {error!r}"]
        found.put((seed, problems, time.monotonic() - begun))
    found.put((-1, [], 0.0))


def _run(shares: list[Iterable[int]], until: float | None, folder: Path, most: int) -> int:
    found: multiprocessing.Queue[tuple[int, list[str], float]] = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=_work, args=(share, until, found), daemon=True) for share in shares]
    begun = time.monotonic()
    for process in processes:
        process.start()
    running, done, failed = len(processes), 0, []
    while running and len(failed) < most:
        seed, problems, _ = found.get()
        if seed < 0:
            running -= 1
            continue
        done += 1
        if problems:
            failed.append(seed)
            print(f"seed {seed}: {len(problems)} problems")
            for problem in problems[:4]:
                print(f"    {problem[:300]}", flush=True)
    for process in processes:
        process.terminate()
    spent = time.monotonic() - begun
    print(f"{done} schedules in {spent:.0f} s, {60 * done / spent:.0f} a minute; {len(failed)} failed")
    if failed:
        print("they are:", *sorted(failed))
        print(f"the story of one: python -m tests.simulation --seed {failed[0]} --story {folder}")
    return 1 if failed else 0


def run_seeds(seeds: list[int], processes: int, folder: Path, most: int) -> int:
    """Runs schedules by their seeds."""
    return _run([seeds[share::processes] for share in range(processes)], None, folder, most)


def run_for(minutes: float, first: int | None, processes: int, folder: Path, most: int) -> int:
    """Runs schedules for some time, those that failed once first."""
    begin = int(time.time()) % 1_000_000 * 1000 if first is None else first
    known = known_seeds() if first is None else []
    shares: list[Iterable[int]] = [_Seeds(known[share::processes], range(begin + share, begin + 10_000_000, processes)) for share in range(processes)]
    print(f"schedules from seed {begin} on")
    return _run(shares, time.monotonic() + 60 * minutes, folder, most)


class _Seeds:
    """Seeds in order; can be given to another process."""

    def __init__(self, known: list[int], others: range) -> None:
        self.known, self.others = known, others

    def __iter__(self) -> Iterator[int]:
        yield from self.known
        yield from self.others


def look_for_planted(names: list[str], seconds: float, processes: int) -> int:
    """See ``planted.py``."""
    from tests.simulation import planted

    return planted.look(names, seconds, processes)


__all__ = ["Problem", "digest", "run_for", "run_seeds", "tell", "try_seed"]
