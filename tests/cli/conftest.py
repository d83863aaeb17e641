"""The real command as a subprocess, and long-running ones that are waited for by what they print."""

import json
import os
import queue as queues
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jetflow.broker.transport.server import LocalServer

APP = Path(__file__).parent / "app.py"
DEADLINE = 40


class Ran:
    """A command that has ended."""

    def __init__(self, done: "subprocess.CompletedProcess[str]") -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        return json.loads(self.err.splitlines()[-1])


class Running:
    """A command under way, its two outputs read by threads."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        self._new: queues.Queue[None] = queues.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=(process.stdout, self.out), daemon=True),
            threading.Thread(target=self._read, args=(process.stderr, self.err), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, stream: Any, into: list[str]) -> None:
        for line in stream:
            into.append(line.rstrip("\n"))
            self._new.put(None)
        self._new.put(None)

    def wait_for(self, text: str) -> str:
        """The first line of either output with this text."""
        deadline = time.monotonic() + DEADLINE
        while True:
            for line in [*self.out, *self.err]:
                if text in line:
                    return line
            ended = self.process.poll() is not None and not any(reader.is_alive() for reader in self._readers)
            assert not ended, f"it ended with {self.process.returncode} without {text!r}: {self.out} {self.err}"
            assert time.monotonic() < deadline, f"no {text!r} in {self.out} {self.err}"
            try:
                self._new.get(timeout=0.2)
            except queues.Empty:
                continue

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """Its exit code, once it has ended."""
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(5)
        return code


def _environment(extra: dict[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JETFLOW_") or name == "JETFLOW_NATS_SERVER"}
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        kept.pop(name, None)
    return kept | {"PYTHONUNBUFFERED": "", "TERM": "xterm"} | extra


Cli = Callable[..., Ran]
Spawn = Callable[..., Running]


@pytest.fixture
def plain(tmp_path: Path) -> Cli:
    """Runs ``jetflow`` with nothing in its environment; gives what came of it."""

    def run(*args: str, stdin: str = "", cwd: Path | None = None, **env: str) -> Ran:
        command = [sys.executable, "-m", "jetflow", *args]
        done = subprocess.run(
            command, input=stdin, capture_output=True, text=True, cwd=cwd or tmp_path, env=_environment(env), timeout=DEADLINE, check=False
        )
        return Ran(done)

    return run


@pytest.fixture
def cli(plain: Cli, server: LocalServer, queue: str) -> Cli:
    """Runs ``jetflow`` against the test server, on the test's own task queue."""

    def run(*args: str, **options: Any) -> Ran:
        return plain(*args, **{"JETFLOW_URL": server.url, "JETFLOW_TASK_QUEUE": queue, **options})

    return run


@pytest.fixture
def spawn(server: LocalServer, queue: str, tmp_path: Path) -> Iterator[Spawn]:
    """Starts a long-running ``jetflow`` command; whatever still runs at the end of the test is ended."""
    started: list[Running] = []

    def run(*args: str, cwd: Path | None = None, **env: str) -> Running:
        process = subprocess.Popen(
            [sys.executable, "-m", "jetflow", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd or tmp_path,
            env=_environment({"JETFLOW_URL": server.url, "JETFLOW_TASK_QUEUE": queue, **env}),
        )
        started.append(Running(process))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(15)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()
        for reader in running._readers:
            reader.join(5)
        for stream in (running.process.stdout, running.process.stderr):
            if stream is not None:
                stream.close()


@pytest.fixture
def worker(spawn: Spawn) -> Running:
    """A worker of the test app, ready."""
    running = spawn("worker", str(APP))
    running.wait_for("worker ready")
    return running


def until(found: Callable[[], Any], what: str) -> Any:
    """Polls until the function gives something true, and gives that."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited too long for {what}")
