"""``examples/remote_activity``: activities in Node, which knows nothing of jetflow but its JSON."""

import asyncio
import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from jetflow import ActivityError, Client, RetryPolicy, Worker, execute_activity, workflow
from jetflow.broker.transport.server import LocalServer
from tests.chaos.harness import timeline_events
from tests.conftest import ROOT
from tests.engine.helpers import WAIT, waits_for

EXAMPLE = ROOT / "examples" / "remote_activity"


@pytest.fixture(scope="session")
def node_worker() -> list[str]:
    """The command of the example's worker, its packages installed once into ``.cache``."""
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node, "Node is missing: the example in examples/remote_activity needs it, 20 or newer"
    assert npm, "npm is missing: the example in examples/remote_activity installs its packages with it"
    manifest = (EXAMPLE / "package.json").read_bytes()
    installed = ROOT / ".cache" / f"remote-activity-{hashlib.sha256(manifest).hexdigest()[:12]}"
    if not installed.exists():
        staging = installed.with_name(f"{installed.name}-{secrets.token_hex(4)}")
        staging.mkdir(parents=True)
        (staging / "package.json").write_bytes(manifest)
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]
        subprocess.run(command, cwd=staging, check=True, timeout=150)
        try:
            staging.rename(installed)
        except OSError:  # another process was faster
            shutil.rmtree(staging)
    return [node, str(installed)]


def start(command: list[str], folder: Path, url: str, queue: str, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    node, installed = command
    if not (folder / "node_modules").exists():
        (folder / "node_modules").symlink_to(Path(installed) / "node_modules")
    for name in ("worker.mjs", "package.json"):
        shutil.copy(EXAMPLE / name, folder / name)
    environment = {**os.environ, "JETFLOW_URL": url, **environment}
    return subprocess.Popen([node, "worker.mjs", queue], cwd=folder, env=environment, stdout=subprocess.PIPE)


@asynccontextmanager
async def serving(command: list[str], folder: Path, url: str, queue: str, **environment: str) -> AsyncIterator["subprocess.Popen[bytes]"]:
    """The Node worker as a process of its own, ready."""
    process = start(command, folder, url, queue, environment)
    try:
        assert process.stdout is not None
        assert b"serving" in await asyncio.to_thread(process.stdout.readline)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            await asyncio.to_thread(process.wait, 20)
        if process.stdout is not None:
            process.stdout.close()


@workflow
async def call(queue: str, name: str, args: list[Any]) -> Any:
    retry = RetryPolicy(maximum_attempts=5, initial_interval="50ms", backoff_coefficient=1)
    try:
        return await execute_activity(name, *args, task_queue=queue, retry=retry)
    except ActivityError as error:
        return [error.code, error.cause.type, error.cause.message]  # type: ignore[union-attr]


async def test_the_example(server: LocalServer, client: Client, queue: str, node_worker: list[str], tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("example_remote_activity", EXAMPLE / "workflow.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    texts = ["a", "b", "ü ☃"]
    async with Worker(client, task_queue=queue, workflows=[module.fingerprints]), serving(node_worker, tmp_path, server.url, "node"):
        found = await client.execute(module.fingerprints, texts, task_queue=queue, timeout=WAIT)
    assert found == {text: hashlib.sha256(text.encode()).hexdigest() for text in texts}


async def test_retries_failures_and_leases(server: LocalServer, client: Client, queue: str, node_worker: list[str], tmp_path: Path) -> None:
    far = f"{queue}-far"

    async def run(name: str, *args: Any) -> Any:
        return await client.execute(call, far, name, list(args), task_queue=queue, timeout=WAIT)

    async with Worker(client, task_queue=queue, workflows=[call]), serving(node_worker, tmp_path, server.url, far, LEASE_MS="900"):
        assert await run("flaky", "x") == 3
        assert await run("refuse", "x") == [598, "TypeError", "never: x"]
        assert await run("slow", 2500) == 2500  # longer than its lease, which the worker extends


async def test_a_node_worker_dies(server: LocalServer, client: Client, queue: str, node_worker: list[str], tmp_path: Path) -> None:
    far = f"{queue}-far"
    async with Worker(client, task_queue=queue, workflows=[call]):
        async with serving(node_worker, tmp_path, server.url, far, LEASE_MS="1000") as process:
            handle = await client.start(call, far, "slow", [500], task_queue=queue, workflow_id="w")
            await waits_for(handle, "slow")
            process.kill()
            process.wait()
        async with serving(node_worker, tmp_path, server.url, far, LEASE_MS="1000"):
            assert await handle.result(timeout=WAIT) == 500
    assert [type(event).__name__ for event in await timeline_events(client, queue, "w")].count("ActivityCompleted") == 1
