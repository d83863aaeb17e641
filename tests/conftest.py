"""What every test shares: one real nats-server for each test process, and the real ``nats`` CLI."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from jetflow import Client
from jetflow.broker.transport.server import LocalServer

ROOT = Path(__file__).resolve().parent.parent
NATS_CLI = "github.com/nats-io/natscli/nats@v0.5.1"


def pytest_configure() -> None:
    """A shell's background jobs ignore Ctrl-C, and what nohup starts ignores SIGHUP: so would the programs that tests start and end with them."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)
    settings.register_profile("jetflow", deadline=None)  # how long an example takes is up to the machine
    settings.load_profile("jetflow")


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    """A nats-server that all tests of this process share; tests keep apart by task queue."""
    server = LocalServer()
    asyncio.run(server.start())
    yield server
    asyncio.run(server.stop())


@pytest.fixture
async def client(server: LocalServer) -> AsyncIterator[Client]:
    async with Client.connect(server.url) as client:
        yield client


@pytest.fixture
def queue() -> str:
    """A task queue of this test's own."""
    return f"q{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="session")
def nats_cli() -> str:
    """Path of the real ``nats`` CLI: ``JETFLOW_NATS_CLI``, the one on PATH, or built once into ``.cache/bin``."""
    given = os.environ.get("JETFLOW_NATS_CLI") or shutil.which("nats")
    if given:
        return given
    cached = ROOT / ".cache" / "bin" / "nats"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with (cached.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test process builds it, the others wait
        if not cached.exists():
            go = shutil.which("go")
            assert go, f"the nats CLI is missing and Go is not installed to build it: go install {NATS_CLI}, or set JETFLOW_NATS_CLI"
            staging = cached.parent / f"build-{os.getpid()}"
            subprocess.run([go, "install", NATS_CLI], check=True, env={**os.environ, "GOBIN": str(staging)}, timeout=900)
            os.replace(staging / "nats", cached)
            staging.rmdir()
    return str(cached)
