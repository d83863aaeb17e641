"""A few thousand generated workflow shapes; ``python -m tests.replay.generator --runs 100000`` does many more."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from jetflow.core import events as ev
from jetflow.errors import NondeterminismError
from tests.replay import generator, shapes

ROOT = Path(__file__).parent.parent.parent
SHAPES, CHUNK = 3000, 500


@pytest.mark.parametrize("first", range(0, SHAPES, CHUNK))
def test_a_replay_decides_what_the_run_decided(first: int, capfd: pytest.CaptureFixture[str]) -> None:
    count, events, commits, bad = generator.run_many((first, CHUNK, 1))
    assert bad == []
    assert (count, commits > 2 * count, events > 8 * count) == (CHUNK, True, True)
    assert "Exception ignored" not in capfd.readouterr().err


def kinds_in(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        if node and isinstance(node[0], str) and node[0] in shapes.KINDS:
            yield node[0]
        for part in node:
            yield from kinds_in(part)


def test_the_generator_reaches_everything() -> None:
    kinds: set[str] = set()
    events: set[type] = set()
    generations = 0
    for seed in range(400):
        kinds.update(kinds_in(shapes.draw(random.Random(seed), 4)))
        run = generator.original(seed)
        events.update(type(event) for generation in [*run.generations, run.commits] for commit in generation for event in commit)
        generations += len(run.generations)
        run.dispose()
    assert kinds == set(shapes.KINDS)
    assert {ev.Completed, ev.Failed, ev.Terminated, ev.ContinuedAsNew, ev.CancelRequested, ev.WaitTimedOut, ev.Patched, ev.SideEffect} <= events
    assert {ev.ActivityRetrying, ev.ActivityFailed, ev.ChildAccepted, ev.ChildCompleted, ev.ChildFailed, ev.OperationCancelled} <= events
    assert generations > 10


def in_another_process(hash_seed: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.replay.generator", *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def test_every_process_decides_the_same() -> None:
    here = generator.digest(range(5000, 5200))
    assert in_another_process("1", "--digest", "--seed", "5000", "--runs", "200") == here
    assert in_another_process("31337", "--digest", "--seed", "5000", "--runs", "200") == here


def test_a_history_replays_in_another_process(tmp_path: Path) -> None:
    generator.record(range(6000, 6200), str(tmp_path / "histories"))
    assert generator.replay_recorded(str(tmp_path / "histories")) == 0
    assert in_another_process("77", "--replay", str(tmp_path / "histories")) == "0"


def test_a_difference_would_be_noticed() -> None:
    noticed = 0
    for seed in range(50):
        run = generator.original(seed)
        last = run.commits[-1]
        run.commits[-1] = [*last[:-1], ev.Completed(at=last[-1].at, result=msgspec.Raw(b'"something else"'))]
        try:
            generator.check_prefix(run, len(run.commits))
        except (AssertionError, NondeterminismError):
            noticed += 1
        run.dispose()
    assert noticed == 50
