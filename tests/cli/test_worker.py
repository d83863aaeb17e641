"""Workers as processes: ready, signals, hand-over."""

import signal
from pathlib import Path

from jetflow.broker.transport.server import LocalServer

from .conftest import APP, Cli, Running, Spawn, until


def test_ready_line(worker: Running, queue: str, server: LocalServer) -> None:
    line = worker.wait_for("worker ready")
    assert line in worker.err
    assert f"task queue {queue}," in line
    assert server.url in line
    assert "64 partitions" in line


def test_idle_workers_end_on_either_signal(spawn: Spawn) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        running = spawn("worker", str(APP))
        running.wait_for("worker ready")
        running.signal(number)
        assert running.ended() == 0
        assert "stopped" in running.err
        assert "Traceback" not in "\n".join(running.err)


def test_a_running_activity_ends_and_another_worker_goes_on(spawn: Spawn, cli: Cli, tmp_path: Path) -> None:
    mark, began = tmp_path / "mark", tmp_path / "began"
    first = spawn("worker", str(APP))
    first.wait_for("worker ready")
    cli("start", "two_steps", str(mark), str(began), "--id", "handed-over")
    until(began.exists, "the activity to begin")
    first.signal(signal.SIGTERM)
    first.wait_for("stopping")
    mark.touch()
    assert first.ended() == 0
    second = spawn("worker", str(APP))
    second.wait_for("worker ready")
    cli("signal", "handed-over", "go")
    assert cli("result", "handed-over", "--timeout", "30s").json == "slow done, then signalled"
    assert len(began.read_text().splitlines()) == 1  # its outcome was recorded: nobody ran it again


def test_a_second_signal_ends_at_once(spawn: Spawn, cli: Cli, tmp_path: Path) -> None:
    began = tmp_path / "began"
    running = spawn("worker", str(APP), "--graceful-timeout", "1h")
    running.wait_for("worker ready")
    cli("start", "two_steps", str(tmp_path / "never"), str(began))
    until(began.exists, "the activity to begin")
    running.signal(signal.SIGINT)
    running.wait_for("stopping")
    running.signal(signal.SIGINT)
    assert running.ended() == 130


def test_an_activity_stuck_in_a_thread_does_not_keep_the_process(spawn: Spawn, cli: Cli, tmp_path: Path) -> None:
    began = tmp_path / "began"
    first = spawn("worker", str(APP), "--graceful-timeout", "100ms")
    first.wait_for("worker ready")
    cli("start", "blocked", str(began), "--id", "b1")
    until(began.exists, "the activity to begin")
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    assert any("another worker will run them again" in line for line in first.err)
    spawn("worker", str(APP)).wait_for("worker ready")
    assert cli("result", "b1", "--timeout", "30s").json == "second time"


def test_activities_only(spawn: Spawn, cli: Cli, queue: str, tmp_path: Path) -> None:
    """The workflow's own worker has no activities here: they wait for one that has."""
    alone = tmp_path / "alone.py"
    alone.write_text(
        "from jetflow import execute_activity, workflow\n@workflow\nasync def priced(item: dict) -> int:\n"
        "    return await execute_activity('price', item)\n"
    )
    spawn("worker", str(alone)).wait_for("worker ready")
    cli("start", "priced", '{"sku": "A", "count": 4}', "--id", "p1")
    activities = spawn("worker", str(APP), "--activities-only")
    line = activities.wait_for("worker ready")
    assert "workflows none; activities price" in line
    assert cli("result", "p1", "--timeout", "30s").json == 40
    activities.signal(signal.SIGTERM)
    assert activities.ended() == 0
    nothing = cli("worker", str(alone), "--activities-only")
    assert nothing.code == 2
    assert "has no activities" in nothing.err


def test_verbose_logs_and_options(spawn: Spawn) -> None:
    running = spawn("worker", str(APP), "-v", "--max-concurrent-activities", "1", "--threads", "2", "--expire", "never")
    running.wait_for("worker ready")
    running.wait_for("INFO")
    running.wait_for("jetflow.worker")


def test_wrong_options(cli: Cli) -> None:
    assert cli("worker", str(APP), "--max-concurrent-activities", "0").code == 2
    wrong = cli("worker", str(APP), "--graceful-timeout", "soon")
    assert wrong.code == 2
    assert "graceful_timeout" in wrong.err
