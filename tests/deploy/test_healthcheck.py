"""The workers' health check, as the container runs it."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from deploy.healthcheck import verdict
from jetflow import Client, Worker, workflow
from jetflow.broker.stores.membership import Member
from jetflow.broker.transport.server import LocalServer, free_port
from tests.conftest import ROOT


@workflow
async def idle() -> None:
    """Does nothing."""


def _member(host: str, *, leaving: bool = False) -> Member:
    return Member("id", "q", host, 1, 1, ["w"], [], leaving=leaving)


async def _check(url: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(ROOT / "deploy" / "healthcheck.py"),
        env={**os.environ, "JETFLOW_URL": url, "JETFLOW_NAMESPACE": "jetflow"},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode().strip()


async def test_a_host_with_a_worker_is_healthy_and_one_without_is_not(tmp_path: Path) -> None:
    async with LocalServer(tmp_path / "store") as server:
        code, words = await _check(server.url)
        assert code == 1
        assert "has sent a heartbeat lately" in words
        async with Client.connect(server.url) as client, Worker(client, task_queue="q", workflows=[idle]) as worker:
            async with asyncio.timeout(30):
                while not worker.partitions:
                    await asyncio.sleep(0.02)
            assert await _check(server.url) == (0, "healthy")
        code, words = await _check(server.url)
        assert code == 1


async def test_without_a_server_it_is_not_healthy() -> None:
    code, words = await _check(f"nats://127.0.0.1:{free_port()}")
    assert code == 1
    assert "no nats-server at" in words


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([], "no worker on here"),
        ([_member("elsewhere")], "no worker on here"),
        ([_member("here", leaving=True)], "is leaving"),
        ([_member("here", leaving=True), _member("here")], None),
        ([_member("here"), _member("elsewhere", leaving=True)], None),
    ],
)
def test_verdicts(members: list[Member], words: str | None) -> None:
    problem = verdict(members, "here")
    assert (problem is None) if words is None else (problem is not None and words in problem)
