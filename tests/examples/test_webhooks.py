"""``webhooks.py`` run for real, as the first thing a newcomer does: nothing is lost, nothing done twice, whatever happens."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats as nats_client
import pytest

from jetflow.broker.transport.server import LocalServer
from tests.conftest import ROOT
from tests.examples.conftest import EXAMPLES, clean_environment, webhooks_command

BUCKET = "webhook_outcomes"


def run_webhooks(*options: str, **environment: str) -> dict:
    """The summary of a run that must end well."""
    done = subprocess.run(
        webhooks_command("--json", *options), cwd=ROOT, env=clean_environment(**environment), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def assert_complete(summary: dict, count: int) -> None:
    """Every delivery completed once and stored once, every second copy refused."""
    assert summary["deliveries"] == summary["completed"] == summary["outcomes_stored"] == count
    assert summary["failed"] == summary["outcomes_stored_again"] == 0
    assert summary["accepted"] + summary["from_an_earlier_run"] == count
    assert summary["duplicates_refused"] == summary["copies_sent"] - count == count // 5
    assert summary["activity_retries"] > 0
    assert summary["decisions"]["reject"] == count // 50
    assert sum(summary["decisions"].values()) == count


def test_each_delivery_has_one_outcome() -> None:
    summary = run_webhooks("--count", "400")
    assert_complete(summary, 400)
    assert summary["accepted"] == 400
    assert summary["p99_ms"] >= summary["p50_ms"] > 200
    if not summary["payloads"].startswith("@octokit/webhooks-examples"):
        pytest.skip(f"real payloads not to be had: {summary['payloads']}")
    assert {"page", "review", "archive", "ignore"} <= set(summary["decisions"])


def test_offline_it_uses_the_shipped_payloads_and_says_so() -> None:
    summary = run_webhooks("--count", "50", JETFLOW_EXAMPLES_OFFLINE="1")
    assert_complete(summary, 50)
    assert "shipped" in summary["payloads"]
    assert {"page", "review", "archive", "ignore", "reject"} == set(summary["decisions"])


def test_a_finished_run_repeated_on_its_store_does_nothing_again(tmp_path: Path) -> None:
    first = run_webhooks("--count", "50", "--store-dir", str(tmp_path), JETFLOW_EXAMPLES_OFFLINE="1")
    again = run_webhooks("--count", "50", "--store-dir", str(tmp_path), JETFLOW_EXAMPLES_OFFLINE="1")
    assert_complete(again, 50)
    assert (again["accepted"], again["from_an_earlier_run"]) == (0, 50)
    assert (again["decisions"], again["activity_retries"]) == (first["decisions"], first["activity_retries"])


async def test_a_killed_run_goes_on_where_it_was(tmp_path: Path) -> None:
    count, options = 200, ("--count", "200", "--concurrency", "40", "--store-dir", str(tmp_path))
    async with running_webhooks(*options) as killed:
        url = await address_in(killed)
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        await until_stored(url, 30)
        killed.kill()
        assert await killed.wait() == -signal.SIGKILL
    await reader.read()  # its nats-server ends with it, and closes this connection
    writer.close()

    summary = await asyncio.to_thread(run_webhooks, *options)
    assert_complete(summary, count)
    assert 30 <= summary["from_an_earlier_run"] < count
    assert len(await stored_in(tmp_path)) == count


async def test_kept_up_it_can_be_looked_at_as_it_says(nats, tmp_path: Path) -> None:
    async with running_webhooks("--count", "10", "--keep", "--store-dir", str(tmp_path), JETFLOW_EXAMPLES_OFFLINE="1") as kept:
        lines = await lines_until(kept, "Ctrl-C ends")
        [url] = [line.split()[-1] for line in lines if line.startswith("server:")]
        outcome, state = [line for line in lines if line.startswith("nats kv get")]
        assert json.loads(nats(outcome, url))["outcome"]["decision"]
        assert json.loads(nats(state, url))["status"] == "completed"
        [show] = [line for line in lines if line.startswith("jetflow show")]
        command, environment = [sys.executable, "-m", *show.split()], clean_environment(JETFLOW_URL=url)
        shown = await asyncio.to_thread(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60)
        assert "completed" in shown.stdout, shown.stderr
        kept.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(kept.wait(), 30) == 130


def test_without_npm_the_fallback_has_a_clear_word(tmp_path: Path) -> None:
    assert source_of_payloads(tmp_path, path="") == "the few shipped with the examples (npm is not installed)"


def test_a_failing_npm_has_a_clear_word(tmp_path: Path) -> None:
    fake = tmp_path / "npm"
    fake.write_text("#!/bin/sh\nexit 7\n")
    fake.chmod(0o755)
    assert "npm could not fetch @octokit/webhooks-examples" in source_of_payloads(tmp_path, path=str(tmp_path))


def test_real_payloads_are_fetched_once(tmp_path: Path) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    source = source_of_payloads(tmp_path, path=os.environ["PATH"])
    if source.startswith("the few shipped"):
        pytest.skip(source)
    assert source_of_payloads(tmp_path, path="") == source


def source_of_payloads(cache: Path, path: str) -> str:
    """Where the payloads come from with this cache folder and ``PATH``."""
    code = "import pathlib, sys, webhook_deliveries as w; w.CACHE = pathlib.Path(sys.argv[1]); print(w.load_payloads()[1])"
    done = subprocess.run(
        [sys.executable, "-c", code, str(cache)], cwd=EXAMPLES, env=clean_environment(PATH=path), capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@asynccontextmanager
async def running_webhooks(*options: str, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program in the background; killed at the end of the block if it is still there."""
    process = await asyncio.create_subprocess_exec(
        *webhooks_command("--json", *options),
        cwd=ROOT,
        env=clean_environment(**environment),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def lines_until(process: asyncio.subprocess.Process, start: str) -> list[str]:
    """What the program says on standard error, up to the line that starts so."""
    assert process.stderr
    lines: list[str] = []
    async with asyncio.timeout(60):
        while line := (await process.stderr.readline()).decode():
            lines.append(line.strip())
            if lines[-1].startswith(start):
                return lines
    raise AssertionError(f"the program ended before it said {start!r}: {lines}")


async def address_in(process: asyncio.subprocess.Process) -> str:
    """The server's address, once the program says it."""
    return (await lines_until(process, "server:"))[-1].split()[-1]


async def until_stored(url: str, count: int) -> None:
    """Returns once so many outcomes are stored."""
    connection = await nats_client.connect(url)
    try:
        watcher = await (await connection.jetstream().key_value(BUCKET)).watchall()
        seen = 0
        while seen < count:
            seen += await watcher.updates(timeout=60) is not None
    finally:
        await connection.close()


async def stored_in(store_dir: Path) -> set[str]:
    """Who stored an outcome, for every value ever written to the bucket of a store."""
    async with LocalServer(store_dir) as server:
        connection = await nats_client.connect(server.url)
        try:
            jetstream = connection.jetstream()
            values = (await jetstream.stream_info(f"KV_{BUCKET}", subjects_filter=">")).state.subjects or {}
            assert set(values.values()) == {1}
            bucket = await jetstream.key_value(BUCKET)
            return {json.loads((await bucket.get(subject.rpartition(".")[2])).value or b"")["stored_by"] for subject in values}
        finally:
            await connection.close()
