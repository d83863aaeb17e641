"""The whole engine from seeds: a fixed set of schedules, those that failed once first, and that a seed repeats in another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.simulation.running import known_seeds, try_seed

ROOT = Path(__file__).resolve().parents[2]
CHUNK = 12
"""Schedules in one test."""
SEEDS = [*known_seeds(), *range(1, 301)]
CHUNKS = [SEEDS[at : at + CHUNK] for at in range(0, len(SEEDS), CHUNK)]


@pytest.mark.parametrize("seeds", CHUNKS, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_schedules(seeds: list[int]) -> None:
    begun = time.monotonic()
    wrong = {seed: problems for seed in seeds if (problems := try_seed(seed))}
    assert not wrong, f"python -m tests.simulation --seed N tells the story of each: {wrong}"
    assert time.monotonic() - begun < 120


def test_a_seed_repeats_in_another_process() -> None:
    code = "from tests.simulation.running import digest; print(digest(3), digest(4), digest(7))"
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "0"}
        )
        runs.append(done.stdout.split())
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 3
