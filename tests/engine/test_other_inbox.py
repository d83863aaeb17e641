"""The inbox is removed, made anew, restored or purged under running workflows: what is acknowledged counts, or is refused with what to do."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from jetflow import Client, TopologyError, Worker, activity, condition, set_query_handler, set_update_handler, sleep, workflow
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.topology import stream_configs

from .helpers import WAIT, cli, until, waits_for

BEFORE = 40
"""Workflows that run before, so that the inbox has positions to be taken again."""


@activity
async def echo(n: int) -> int:
    return n


@activity(task_queue="elsewhere")
async def far(n: int) -> int:
    return n


@workflow
async def stands() -> Any:
    given: list[Any] = []

    def add(item: Any) -> int:
        given.append(item)
        return len(given)

    set_update_handler("add", add)
    set_query_handler("given", lambda: given)
    return [await condition("go"), given, await echo(1)]


@workflow
async def naps() -> str:
    await sleep("6s")
    return "rested"


@workflow
async def asks_far() -> int:
    return await far(7)


@workflow
async def quick(n: int) -> int:
    return await echo(n)


SERVED: dict[str, Any] = {"workflows": [stands, naps, quick, asks_far], "activities": [echo]}


@pytest.fixture
async def own(tmp_path: Path) -> AsyncIterator[LocalServer]:
    async with LocalServer(tmp_path / "store") as server:
        yield server


async def every_kind_counts(client: Client, ids: list[str]) -> None:
    """Signal, cancel, terminate, update, query, a replacing start and a new one."""
    handles = [client.get_handle(name, "q") for name in ids]
    assert await handles[0].update("add", "x", timeout=WAIT) == 1
    assert await handles[0].query("given", timeout=WAIT) == ["x"]
    await handles[0].signal("go", "on")
    assert await handles[0].result(timeout=WAIT) == ["on", ["x"], 1]
    await handles[1].cancel("enough")
    with pytest.raises(Exception, match="enough"):
        await handles[1].result(timeout=WAIT)
    await handles[2].terminate(reason="at once")
    with pytest.raises(Exception, match="at once"):
        await handles[2].result(timeout=WAIT)
    again = await client.start(quick, 5, workflow_id=ids[3], task_queue="q", if_exists="replace")
    assert await again.result(timeout=WAIT) == 5
    assert await client.execute(quick, 6, task_queue="q", timeout=WAIT) == 6


async def begun(client: Client) -> list[str]:
    await asyncio.gather(*(client.execute(quick, n, task_queue="q", timeout=WAIT) for n in range(BEFORE)))
    for number in range(4):
        await waits_for(await client.start(stands, workflow_id=f"stands-{number}", task_queue="q"), "go")
    return [f"stands-{number}" for number in range(4)]


async def test_commands_count_after_the_inbox_was_removed_and_made_anew_by_a_client(own: LocalServer, nats_cli: str) -> None:
    async with Client.connect(own.url) as client, Worker(client, task_queue="q", **SERVED) as worker:
        ids = await begun(client)
        nap = await client.start(naps, workflow_id="nap", task_queue="q")
        await until(nap.status)
        await until(lambda: worker.partitions)
        before = (await client.broker.lane.api("STREAM.INFO.JETFLOW"))["state"]["last_seq"]
        await cli(nats_cli, own.url, "stream", "rm", "JETFLOW", "-f")
        async with Client.connect(own.url) as other:
            assert (await other.broker.lane.api("STREAM.INFO.JETFLOW"))["state"]["first_seq"] > before
            await every_kind_counts(other, ids)
            assert await nap.result(timeout=WAIT) == "rested"


async def test_sleeps_tasks_and_waits_of_workflows_that_nobody_has_in_memory_go_on_with_another_inbox(own: LocalServer, nats_cli: str) -> None:
    async with Client.connect(own.url) as client:
        async with Worker(client, task_queue="q", **SERVED):
            nap = await client.start(naps, workflow_id="nap", task_queue="q")
            asked = await client.start(asks_far, workflow_id="asks", task_queue="q")
            await waits_for(asked, "far")
            await until(nap.status)
        async with Worker(client, task_queue="elsewhere", activities=[far]):  # its outcome goes with the inbox
            await until(lambda: _tasks_are_done(client))
        await cli(nats_cli, own.url, "stream", "rm", "JETFLOW", "-f")
        async with (
            Client.connect(own.url) as other,
            Worker(other, task_queue="q", **SERVED),
            Worker(other, task_queue="elsewhere", activities=[far]),
        ):
            assert await nap.result(timeout=WAIT) == "rested"
            assert await asked.result(timeout=WAIT) == 7


async def _tasks_are_done(client: Client) -> bool:
    return not (await client.broker.lane.read_many("JETFLOW_TASKS", {"seq": 1, "next_by_subj": "jetflow_task.>", "batch": 10}, may_lag="a test"))


async def test_an_inbox_that_somebody_else_made_anew_is_refused(own: LocalServer, caplog: pytest.LogCaptureFixture) -> None:
    async with Client.connect(own.url) as client, Worker(client, task_queue="q", **SERVED) as worker:
        await begun(client)
        config = stream_configs(client.broker.names, 64, 1)["JETFLOW"]
        await client.broker.lane.api("STREAM.DELETE.JETFLOW")
        await client.broker.lane.api("STREAM.CREATE.JETFLOW", config)
        kept = [await client.start(quick, n, workflow_id=f"new-{n}", task_queue="q") for n in range(3)]
        await until(lambda: "jetflow mend" in caplog.text)
        await asyncio.sleep(1)
        assert worker.partitions == 0
        assert caplog.text.count("Run `jetflow mend`") == 1, "once, not once a second"
        with pytest.raises(TopologyError, match=r"stream JETFLOW, created at .* is not the one .* Run `jetflow mend`"):
            await Client.connect(own.url)
        assert (await client.broker.lane.api("STREAM.INFO.JETFLOW"))["state"]["messages"] >= len(kept)
