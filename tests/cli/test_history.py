"""history and export: against a real worker."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from jetflow.broker.transport.server import LocalServer

from .conftest import Cli, Running, Spawn, until

APP = Path(__file__).parent / "history_app.py"


@pytest.fixture
def worker(spawn: Spawn) -> Running:
    running = spawn("worker", str(APP))
    running.wait_for("worker ready")
    return running


def kinds(lines: list[dict]) -> list[str]:
    return [event["event_type"].removeprefix("workflow_execution_") for event in lines]


def waits(cli: Cli, workflow_id: str) -> bool:
    ran = cli("history", workflow_id, "--json")
    return ran.code == 0 and kinds(ran.lines)[-1] == "signal_wait_started" and "signal_wait_timed_out" in kinds(ran.lines)


def test_history(cli: Cli, worker: Running) -> None:
    cli("start", "whole", "pear", "--id", "w 1")
    until(lambda: waits(cli, "w 1"), "it to wait")
    shown = cli("history", "w 1")
    assert shown.code == 0
    lines = shown.out.splitlines()
    assert lines[0].startswith("w 1  running  whole")
    assert [line.split()[3] for line in lines[1:]] == [
        "workflow_execution_started",
        "child_workflow_execution_started",
        "child_workflow_execution_completed",
        "signal_wait_started",
        "signal_wait_timed_out",
        "signal_wait_started",
    ]
    assert 'whole  ["pear"]' in lines[1]
    assert "part of pear #1  = 4  after" in lines[3]
    assert "late #2  for 20ms at most" in lines[4]
    assert "\x1b" not in shown.out
    cli("signal", "w 1", "go", "x" * 500)
    assert cli("result", "w 1").code == 0
    done = cli("history", "w 1", "--after", "6").out.splitlines()
    assert done[0].startswith("w 1  completed")
    assert [line.split()[0] for line in done[1:]] == ["7", "8"]
    assert "x" * 500 in done[1]
    events = cli("history", "w 1", "--json").lines
    assert [event["event_id"] for event in events] == list(range(1, 9))
    assert "signal_wait_timed_out" not in kinds(cli("history", "w 1", "--json", "--basic").lines)


def test_times_are_local_or_utc(cli: Cli, worker: Running) -> None:
    cli("start", "part", "a", "--id", "p", "--wait")
    time = cli("history", "p", "--json").lines[0]["event_time"]
    assert f"{time[:10]} {time[11:23]}Z" in cli("history", "p", "--utc").out
    assert f"{time[:10]} {time[11:23]}  " in cli("history", "p", TZ="UTC").out
    elsewhere = cli("history", "p", TZ="Etc/GMT-5").out
    assert f"{(int(time[11:13]) + 5) % 24:02d}{time[13:23]}" in elsewhere


def test_follow(cli: Cli, spawn: Spawn, worker: Running) -> None:
    cli("start", "whole", "plum", "--id", "f")
    following = spawn("history", "f", "--follow")
    following.wait_for("signal_wait_timed_out")
    cli("signal", "f", "go", "1")
    following.wait_for("workflow_execution_completed")
    assert following.process.wait(30) == 0
    again = cli("history", "f", "--follow", "--json", "--after", "2")
    assert [event["event_id"] for event in again.lines] == list(range(3, 9))
    assert again.lines == cli("history", "f", "--json").lines[2:]


def test_a_tree_with_children(cli: Cli, worker: Running) -> None:
    cli("start", "whole", "fig", "--id", "t")
    cli("signal", "t", "go")
    assert cli("result", "t").code == 0
    tree = cli("history", "t", "--verbose").out
    lines = tree.splitlines()
    inner = next(place for place, line in enumerate(lines) if "part of fig  completed" in line)
    assert "child_workflow_execution_started" in lines[inner - 1]
    assert "│" in lines[inner + 1]
    assert "price #1" in "".join(lines[inner:])
    assert "part of fig  completed" not in cli("history", "t", "--verbose", "--max-depth", "1").out
    [nested] = cli("history", "t", "--verbose", "--json").lines
    assert nested["children"][0]["workflow_id"] == "part of fig"
    assert cli("history", "t", "--verbose", "--follow").code == 2


def test_failures_are_shown_as_text(cli: Cli, worker: Running) -> None:
    cli("start", "refused", "A", "--id", "r", "--wait")
    shown = cli("history", "r")
    assert "r  failed" in shown.out
    assert "LookupError: no A in [bold]stock[/bold]" in shown.out
    assert "\x1b" not in shown.out


def test_unknown_workflows(cli: Cli, server: LocalServer, tmp_path: Path) -> None:
    for arguments in (("history", "nobody"), ("history", "nobody", "--follow"), ("export", "nobody"), ("export", "nobody", "-o", "x.json")):
        ran = cli(*arguments)
        assert ran.code == 3, arguments
        assert "no workflow 'nobody'" in ran.err
        assert ran.out == ""


def test_a_start_that_waits_for_a_worker(cli: Cli, server: LocalServer) -> None:
    cli("start", "whole", "x", "--id", "early")
    shown = cli("history", "early")
    assert shown.code == 0
    assert "early  running  whole" in shown.out
    assert "no worker has applied its start yet" in shown.err
    exported = cli("export", "early", "--include-stream-history").json
    assert exported["events"] == []
    assert exported["stream_history"][0]["data"] == "x"


def test_export(cli: Cli, worker: Running, tmp_path: Path) -> None:
    cli("start", "whole", "kiwi", "--id", "e")
    cli("signal", "e", "go", "7")
    assert cli("result", "e").code == 0
    exported = cli("export", "e")
    assert exported.json["status"] == "completed"
    assert exported.json["summary"]["total_events"] == len(exported.json["events"]) == 7
    assert "\n  " in exported.out
    assert len(cli("export", "e", "--json").out.splitlines()) == 1
    options = [
        "--mode",
        "verbose",
        "--extended",
        "--omit-results",
        "--enrich-inputs",
        "--include-lineage",
        "--exclude-system",
        "--allow-direct-query",
    ]
    full = cli("export", "e", *options).json
    assert full["children"][0]["parent_workflow_id"] == "e"
    assert full["parent_workflow_id"] is None
    assert full["result"] is None
    assert "signal_wait_timed_out" in kinds(full["events"])
    page = cli("export", "e", "--first-event", "2", "--limit", "3").json
    assert [event["event_id"] for event in page["events"]] == [2, 3, 4]
    assert page["next_event"] == 5
    file = tmp_path / "e.json"
    written = cli("export", "e", "-o", str(file))
    assert written.code == 0
    assert written.out == ""
    assert "7 events written" in written.err
    assert json.loads(file.read_text()) == exported.json
    assert [path.name for path in tmp_path.iterdir() if "e.json" in path.name] == ["e.json"]
    assert cli("export", "e", "-o", str(tmp_path / "no" / "e.json")).code == 2
    assert cli("export", "e", "--mode", "dense").code == 2


def on_a_terminal(server: LocalServer, queue: str, *arguments: str) -> str:
    """What a command writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "JETFLOW_URL": server.url, "JETFLOW_TASK_QUEUE": queue, "COLUMNS": "100", "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, "-m", "jetflow", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other side is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    assert process.wait(30) == 0
    return written.decode()


def test_on_a_terminal(cli: Cli, server: LocalServer, queue: str, worker: Running, tmp_path: Path) -> None:
    cli("start", "long", "2100", "--id", "l", "--wait")
    exported = on_a_terminal(server, queue, "export", "l", "-o", str(tmp_path / "l.json"))
    assert "reading l" in exported
    assert "100%" in exported
    assert len(json.loads((tmp_path / "l.json").read_text())["events"]) == 4202
    cli("start", "part", "sku" * 200, "--id", "wide", "--wait")
    table = on_a_terminal(server, queue, "history", "wide")
    assert "EVENT" in table
    assert "\x1b[" in table
    assert "…" in table
