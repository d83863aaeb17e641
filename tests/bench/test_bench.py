"""The bench works: every figure is there and makes sense. How fast anything is, is not asserted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import profiling
from bench.__main__ import main
from bench.figures import FIGURES
from bench.growth import GROWING

ROOT = Path(__file__).resolve().parent.parent.parent
MEMORY = {"parked_live", "parked_evicted"}
"""A few workflows may fit in memory that the process had already."""


def bench(*arguments: str) -> str:
    command = [sys.executable, "-m", "bench", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "run.json"
    bench("--smoke", "--rounds", "1", "--json", str(path))
    return path


def test_every_figure_is_measured_with_both_sync_settings(saved: Path) -> None:
    figures = json.loads(saved.read_text())["figures"]
    assert set(figures) == {"default", "always"}
    for found in figures.values():
        assert list(found) == list(FIGURES)
        for name, measured in found.items():
            assert len(measured["rounds"]) == 1
            least = 0 if name in MEMORY else 1e-9
            assert all(value >= least for value in [*measured["rounds"], measured["median"]]), name


def test_all_sleepers_stay_parked(saved: Path) -> None:
    run = json.loads(saved.read_text())
    for found in run["figures"].values():
        assert found["parked_count"]["rounds"] == [run["counts"]["sleepers"]]


def test_a_run_compared_with_itself_is_neither_better_nor_worse(saved: Path) -> None:
    lines = [line for line in bench("compare", str(saved), str(saved)).splitlines() if "fan-out" in line]
    assert len(lines) == 2
    assert all("1.00" in line for line in lines)


def test_profile_prints_the_top_functions() -> None:
    out = bench("profile", "start", "--smoke", "--with", "cprofile", "--top", "5")
    assert "start_p50" in out
    assert "tottime" in out


def test_a_profiler_that_is_not_there_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(profiling, "find_py_spy", lambda: None)
    with pytest.raises(SystemExit):
        main(["profile", "start", "--with", "py-spy"])
    assert "pip install py-spy" in capsys.readouterr().err


def test_growth_prints_the_cost_of_a_unit_at_each_size() -> None:
    out = bench("growth", "--times", "1")
    for name in [*GROWING, "replay"]:
        assert f"{name}: " in out
    assert "x 1 " in out


def test_a_tree_is_checked_against_another() -> None:
    command = [sys.executable, "-m", "bench", "check", str(ROOT), "--smoke", "--rounds", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode in (0, 1), done.stderr  # how fast anything is, one round cannot tell
    assert ("slower than" in done.stdout) == (done.returncode == 1)
    for label in ("CPU a step", "start, CPU of client and worker", "import of the worker command"):
        assert label in done.stdout


def test_a_revision_that_there_is_not_is_refused() -> None:
    command = [sys.executable, "-m", "bench", "check", "no-such-revision"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot be checked out" in done.stderr


def test_an_unknown_workload_is_refused() -> None:
    done = subprocess.run([sys.executable, "-m", "bench", "--only", "nonsense"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "no workload 'nonsense'" in done.stderr


def test_the_listing_bench_finds_what_it_wrote() -> None:
    done = subprocess.run([sys.executable, "-m", "bench.listing", "400"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = {line[:45].strip(): line.split()[-2] for line in done.stdout.splitlines() if line.endswith(" found")}
    assert (found["count()"], found["list(), all"], found['count(status="failed")']) == ("400", "400", "4")
    assert found["ten pages of 50"] == "400"
