"""The whole engine from seeds: a fixed set of schedules, those that failed once first, and that a seed repeats in another process.

They run as ``python -m tests.simulation`` does, so that a seed that fails here repeats there.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.running import known_seeds

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 20
"""Schedules in one test."""
SEEDS = [*known_seeds(), *(seed for seed in range(1, 401) if seed not in known_seeds(still_open=True))]
CHUNKS = [SEEDS[at : at + CHUNK] for at in range(0, len(SEEDS), CHUNK)]


def run(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *args], capture_output=True, text=True, timeout=150, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"})


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_schedules(seeds: list[int]) -> None:
    done = run("-m", "tests.simulation", "--seeds", ",".join(map(str, seeds)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_seed_repeats_in_another_process() -> None:
    code = "from tests.simulation.running import digest; print(digest(3), digest(4), digest(7))"
    runs = [run("-c", code).stdout.split() for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3


def test_what_ran_before_changes_nothing() -> None:
    order = "from tests.simulation.running import digest; seeds = range(12_002_590, 12_002_640)"
    code = f"{order}\nprint([digest(s) for s in seeds] == [digest(s) for s in reversed(seeds)][::-1])"
    assert run("-c", code).stdout.split() == ["True"]
