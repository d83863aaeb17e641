"""``jetflow dev``: its server, its store, what it prints."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from jetflow.cli.dev import choose_port
from jetflow.errors import BrokerError

from .conftest import APP, Cli, Running, Spawn, until


def address(running: Running) -> str:
    running.wait_for("Ctrl-C")
    found = re.search(r"nats://127\.0\.0\.1:\d+", running.wait_for("NATS"))
    assert found
    return found[0]


def test_a_sleeping_workflow_survives_a_restart(spawn: Spawn, plain: Cli, tmp_path: Path, queue: str) -> None:
    first = spawn("dev", str(APP), "--port", "0")
    url = address(first)
    options = ("-s", url, "-q", queue)
    assert plain("start", "napping", "10", "--id", "sleeper", *options).code == 0
    until(lambda: "timer" in plain("show", "sleeper", *options).out, "it to sleep")
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    assert plain("show", "sleeper", *options).code == 2  # the server is gone
    assert (tmp_path / ".jetflow" / "jetstream").is_dir()
    second = spawn("dev", str(APP), "--port", "0")
    url = address(second)
    assert plain("result", "sleeper", "-s", url, "-q", queue, "--timeout", "30s").json == "rested"
    second.signal(signal.SIGINT)
    assert second.ended() == 0
    assert "Traceback" not in "\n".join(second.err)


def test_what_it_prints_can_be_pasted(spawn: Spawn, plain: Cli, queue: str, nats_cli: str) -> None:
    running = spawn("dev", str(APP), "--port", "0", "--store-dir", "store")
    url = address(running)
    text = "\n".join(running.out)
    assert queue in text
    assert "order, echo, failing" in text
    start = running.wait_for("jetflow start")
    commands = [line.strip() for line in running.out if line.startswith(("  jetflow start", "  nats "))]
    assert commands[0] == start.strip()
    assert len(commands) == 3
    paths = f"{Path(nats_cli).parent}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": paths}
    for command in commands[:2]:
        subprocess.run(["sh", "-c", command], env=env, check=True, capture_output=True, timeout=40)
    for workflow_id in ("order-1", "order-2"):
        done = until(lambda wanted=workflow_id: plain("result", wanted, "-s", url, "-q", queue).out, "its result")
        assert '"total"' in done
    shown = subprocess.run(["sh", "-c", commands[2]], env=env, check=True, capture_output=True, text=True, timeout=40)
    assert '"workflow_id":"order-2"' in shown.stdout


def test_one_store_has_one_server(spawn: Spawn, cli: Cli) -> None:
    running = spawn("dev", str(APP), "--port", "0")
    address(running)
    other = cli("dev", str(APP), "--port", "0")
    assert other.code == 2
    assert "the store folder .jetflow is in use" in other.err


def test_a_store_that_cannot_be_used(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = cli("dev", str(APP), "--port", "0", "--store-dir", "file")
    assert ran.code == 2
    assert "file cannot be used as a store" in ran.err


def test_the_end_of_the_server_is_the_end_of_it_all(spawn: Spawn, tmp_path: Path) -> None:
    running = spawn("dev", str(APP), "--port", "0")
    address(running)
    children = Path(f"/proc/{running.process.pid}/task/{running.process.pid}/children")
    if not children.exists():
        pytest.skip("no /proc here")
    [server] = [int(pid) for pid in children.read_text().split() if "nats-server" in Path(f"/proc/{pid}/cmdline").read_text()]
    os.kill(server, signal.SIGKILL)
    assert running.ended() == 2
    assert any("nats-server has ended by itself" in line for line in running.err)


def test_a_killed_dev_leaves_no_server(spawn: Spawn, plain: Cli) -> None:
    running = spawn("dev", str(APP), "--port", "0")
    url = address(running)
    running.process.kill()
    running.ended()
    port = int(url.rpartition(":")[2])

    def closed() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    if os.uname().sysname == "Linux":
        until(closed, "the server to end")


def test_a_given_server_is_used(spawn: Spawn, cli: Cli, server: object, tmp_path: Path) -> None:
    running = spawn("dev", str(APP), "--server", server.url)  # type: ignore[attr-defined]
    assert address(running) == server.url  # type: ignore[attr-defined]
    assert cli("start", "echo", "1", "--wait").json == [1]
    assert not (tmp_path / ".jetflow").exists()


def test_a_port_that_is_taken(cli: Cli, server: object, tmp_path: Path) -> None:
    ran = cli("dev", str(APP), "--port", server.url.rpartition(":")[2])  # type: ignore[attr-defined]
    assert ran.code == 2
    assert "cannot be used" in ran.err


def test_the_default_port_gives_way() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        assert choose_port(None, default=taken) == 0
        assert choose_port(0, default=taken) == 0
        with pytest.raises(BrokerError, match=str(taken)):
            choose_port(taken)
    assert choose_port(None, default=taken) == taken
