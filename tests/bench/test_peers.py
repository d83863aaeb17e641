"""The race works: jetflow's laps always, the peers' where they are installed. How fast anything is, is not asserted."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.peers import docs, results
from bench.peers.figures import FIGURES, RAW
from bench.peers.processes import MissingError
from bench.peers.products import PRODUCTS
from bench.peers.products.jetflow import Jetflow
from bench.peers.products.product import RELAXED, SETTINGS, Serving
from bench.peers.race import Laps
from bench.peers.spec import SMOKE

ROOT = Path(__file__).resolve().parent.parent.parent
PEERS = ["dbos-postgres", "dbos-sqlite", "restate", "temporal"]
"""One of each; the others differ from them in settings alone."""
ZERO_IS_FINE = {"parked_worker", "parked_server"}
"""A few sleepers may fit in memory that was there already."""


def race(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench.peers", "--smoke", "--rounds", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=170, check=False, env={**os.environ, **environment})


def running(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("peers") / "race.json"
    done = race("--products", "jetflow", "--json", str(path))
    assert done.returncode == 0, done.stderr + done.stdout
    return path


def test_jetflow_has_every_figure_at_both_settings(saved: Path) -> None:
    found = results.read(saved)
    assert [lap.setting for lap in found.laps] == [lap.setting for lap in found.raw] == list(SETTINGS)
    for lap in found.laps:
        assert lap.failure is None
        assert set(lap.figures) == set(FIGURES)
        assert all(value > 0 for name, value in lap.figures.items() if name not in ZERO_IS_FINE), lap.figures
        assert lap.extra["parked_count"] == 2 * SMOKE.parked
    for lap in found.raw:
        assert {figure.name for figure in RAW} <= set(lap.figures)


def test_a_product_that_is_not_installed_is_named_and_the_others_race(tmp_path: Path) -> None:
    path = tmp_path / "race.json"
    products = ["--products", "jetflow,restate", "--workloads", "start", "--settings", "relaxed", "--json", str(path)]
    done = race(*products, JETFLOW_PEERS=str(tmp_path / "empty"))
    assert done.returncode == 0, done.stderr
    assert "restate takes no part" in done.stderr
    assert "restate took no part" in done.stdout
    assert list(json.loads(path.read_text())["missing"]) == ["restate"]
    assert [lap.product for lap in results.read(path).laps] == ["jetflow"]


@pytest.mark.parametrize("name", PEERS)
def test_an_installed_peer_gives_its_results(name: str, tmp_path: Path) -> None:
    try:
        PRODUCTS[name].version()
    except MissingError as reason:
        pytest.skip(f"{name} is not installed here: {reason}")
    path = tmp_path / "race.json"
    done = race("--products", name, "--workloads", "start", "--settings", "relaxed", "--json", str(path))
    assert done.returncode == 0, done.stderr + done.stdout
    [lap] = results.read(path).laps
    assert {"start_p50", "start_p99", "cold_all", "cold_worker"} == set(lap.figures)


def test_a_failed_lap_says_why_and_leaves_no_server_behind() -> None:
    pids: list[int] = []

    class Broken(Jetflow):
        python = "/bin/false"

        @contextmanager
        def serving(self, setting: str, folder: Path) -> Iterator[Serving]:
            with super().serving(setting, folder) as serving:
                pids.extend(serving.pids)
                yield serving

    lap = Laps(SMOKE, ["start"], lambda _: None).lap(Broken(), RELAXED, 0)
    assert lap.failure is not None
    assert "not warm, start when its rider ended" in lap.failure
    assert len(pids) == 1
    assert not running(pids[0])


def test_a_race_that_is_ended_ends_what_it_started(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.peers", "--smoke", "--products", "jetflow", "--json", str(tmp_path / "race.json")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[int] = []
    deadline = time.monotonic() + 60
    while len(children) < 2:  # a server and a rider
        assert time.monotonic() < deadline
        assert process.poll() is None
        children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert not any(running(pid) for pid in children)


def test_the_docs_get_table_plots_and_file_between_their_markers(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{docs.BEGIN}\nan earlier race\n{docs.END}\nafter\n")
    found = results.read(saved)
    docs.write(found, page)
    once = page.read_text()
    docs.write(found, page)
    assert page.read_text() == once
    assert once.startswith(f"before\n{docs.BEGIN}\n")
    assert once.endswith(f"{docs.END}\nafter\n")
    assert "an earlier race" not in once
    assert all(figure.label in once for figure in FIGURES.values())
    assert results.read(tmp_path / "peers.json") == found
    for setting in SETTINGS:
        drawn = ElementTree.parse(tmp_path / f"peers-{setting}.svg").getroot()
        assert [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")].count("jetflow") == 6


def test_a_page_without_markers_is_left_alone(saved: Path, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text("no markers")
    with pytest.raises(ValueError, match="peers: begin"):
        docs.write(results.read(saved), page)
    assert page.read_text() == "no markers"
    assert os.listdir(tmp_path) == ["performance.md"]
