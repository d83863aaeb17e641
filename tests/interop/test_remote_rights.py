"""A worker of activities whose user may do just what ``docs/remote-activities.md`` says."""

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from jetflow import Client, RetryPolicy, Worker, activity, execute_activity, workflow
from jetflow.broker.transport.server import LocalServer
from tests.conftest import ROOT
from tests.engine.helpers import WAIT, until, waits_for

QUICK = RetryPolicy(initial_interval="10ms")


@activity
async def send(address: str) -> str:
    activity.heartbeat({"address": address})
    if activity.info().attempt == 1:
        raise ConnectionError("not yet")
    return f"sent to {address}"


@workflow
async def letter(address: str) -> str:
    return await execute_activity("send", address, task_queue="mail", heartbeat_timeout="20s", retry=QUICK)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """``everything`` may do all, ``mail`` what the page says."""
    publish, subscribe = re.findall(r"```\n((?:[$_\w].*\n)+)```", (ROOT / "docs" / "remote-activities.md").read_text())
    rights = {"publish": {"allow": publish.split()}, "subscribe": {"allow": subscribe.split()}, "allow_responses": True}
    users = [{"user": "everything", "password": "e"}, {"user": "mail", "password": "m", "permissions": rights}]
    config = tmp_path / "test.conf"
    config.write_text(json.dumps({"jetstream": {}, "authorization": {"users": users}}))
    async with LocalServer(tmp_path / "store", config=config) as server:
        yield server


async def test_it_is_enough(server: LocalServer) -> None:
    everything, mail = (server.url.replace("//", f"//{login}@") for login in ("everything:e", "mail:m"))
    async with Client.connect(everything) as client, Worker(client, task_queue="q", workflows=[letter]):
        handle = await client.start(letter, "Ada", task_queue="q")
        await waits_for(handle, "send")
        async with Client.connect(mail) as mailing, Worker(mailing, task_queue="mail", activities=[send]) as worker:
            await until(lambda: worker.ready)
            assert await handle.result(timeout=WAIT) == "sent to Ada"
            assert await client.execute(letter, "Bob", task_queue="q", timeout=WAIT) == "sent to Bob"
    assert "Violation" not in server.log(500)
