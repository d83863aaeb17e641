"""``jetflow worker --processes``: a parent and its worker processes, with real signals."""

import os
import re
import signal
from pathlib import Path

import pytest

from jetflow.broker.transport.server import LocalServer

from .conftest import APP, Cli, Running, Spawn, until

READY = re.compile(r"worker ready: .*, pid (\d+)")


def ready_pids(running: Running) -> list[int]:
    """Process ids of the workers that have ever been ready, in order."""
    return [int(found[1]) for line in running.err if (found := READY.search(line))]


def lives(pid: int) -> bool:
    """Whether there is a process of that id that has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def pair(spawn: Spawn) -> Running:
    running = spawn("worker", str(APP), "--processes", "2")
    running.wait_for("2 worker processes ready")
    return running


def test_they_share_the_work_and_stop_together(pair: Running, cli: Cli) -> None:
    pids = ready_pids(pair)
    assert len(set(pids)) == 2
    assert pair.process.pid not in pids
    for number in range(3):
        cli("start", "echo", str(number), "--id", f"e{number}")
    assert [cli("result", f"e{number}", "--timeout", "30s").json for number in range(3)] == [[0], [1], [2]]
    pair.signal(signal.SIGTERM)
    assert pair.ended() == 0
    assert not any(lives(pid) for pid in pids)
    assert "Traceback" not in "\n".join(pair.err)


def test_one_that_dies_is_started_anew(pair: Running, cli: Cli) -> None:
    killed, other = ready_pids(pair)
    os.kill(killed, signal.SIGKILL)
    line = pair.wait_for("was ended by SIGKILL")
    assert f"(pid {killed})" in line
    until(lambda: len(ready_pids(pair)) == 3, "a third worker to be ready")
    assert lives(other)
    assert lives(ready_pids(pair)[2])
    cli("start", "echo", "1", "--id", "after")
    assert cli("result", "after", "--timeout", "30s").json == [1]


def test_a_running_activity_ends_first(pair: Running, cli: Cli, tmp_path: Path) -> None:
    """The signal of a terminal, which is passed on once however many get it."""
    mark, began = tmp_path / "mark", tmp_path / "began"
    cli("start", "two_steps", str(mark), str(began), "--id", "handed-over")
    until(began.exists, "the activity to begin")
    pair.signal(signal.SIGINT)
    pair.wait_for("stopping")
    mark.touch()
    assert pair.ended() == 0
    assert len(began.read_text().splitlines()) == 1


def test_a_second_signal_ends_all_at_once(spawn: Spawn, cli: Cli, tmp_path: Path) -> None:
    began = tmp_path / "began"
    running = spawn("worker", str(APP), "--processes", "2", "--graceful-timeout", "1h")
    running.wait_for("2 worker processes ready")
    cli("start", "two_steps", str(tmp_path / "never"), str(began))
    until(began.exists, "the activity to begin")
    running.signal(signal.SIGTERM)
    until(lambda: sum("stopping" in line for line in running.err) == 3, "the parent and both workers to stop")
    running.signal(signal.SIGTERM)
    assert running.ended() == 128 + signal.SIGTERM
    until(lambda: not any(lives(pid) for pid in ready_pids(running)), "the workers to end")


def test_they_stop_when_the_parent_is_killed(pair: Running) -> None:
    pids = ready_pids(pair)
    pair.signal(signal.SIGKILL)
    pair.process.wait(10)
    until(lambda: not any(lives(pid) for pid in pids), "the workers to stop")


def test_an_app_that_cannot_be_loaded(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import nowhere_to_be_found\n")
    ran = cli("worker", "broken.py", "--processes", "3")
    assert ran.code == 2
    assert ran.err.count("importing broken.py failed") == 1


def test_no_server(plain: Cli, server: LocalServer) -> None:
    ran = plain("worker", str(APP), "--processes", "2", "-s", "nats://127.0.0.1:1")
    assert ran.code == 2
    assert ran.err.count("no nats-server at nats://127.0.0.1:1") == 1
