"""Assertions that fail in a turn stop one workflow and nobody else; a parked workflow keeps so many commands."""

from typing import Any

import pytest

from jetflow import Client, Worker, activity, condition, workflow
from jetflow.broker.stores.timeline import OwnedTimeline
from jetflow.broker.transport.server import LocalServer
from jetflow.core.ids import partition_of
from jetflow.engine.ownership import actors as actors_module

from .helpers import WAIT, another_worker, commands, dead_letters, parked, until, waits_for


@activity
async def double(n: int) -> int:
    return 2 * n


@workflow
async def stands(n: int) -> Any:
    first = await condition("go")
    return [await double(n), first]


SERVED = {"workflows": [stands], "activities": [double]}


async def test_an_assertion_in_a_turn_parks_its_workflow_alone(
    server: LocalServer, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is said why, and counted; those of the same partition go on, and so does it with a worker that is sound."""
    partitions = client.broker.topology.partitions
    bad = "bad"
    neighbours = [name for name in map(str, range(5000)) if partition_of(queue, name, partitions) == partition_of(queue, bad, partitions)][:3]
    append = OwnedTimeline.append

    async def broken(self: OwnedTimeline, queue_token: str, id_token: str, seq: int, body: bytes) -> int:
        position = await append(self, queue_token, id_token, seq, body)
        return 0 if id_token == bad and seq > 1 else position

    async with Client.connect(server.url) as own, Worker(own, task_queue=queue, **SERVED) as worker:
        handles = {name: await client.start(stands, 1, workflow_id=name, task_queue=queue) for name in [bad, *neighbours]}
        for handle in handles.values():
            await waits_for(handle, "go")
        monkeypatch.setattr(OwnedTimeline, "append", broken)
        await handles[bad].signal("go", "x")
        reason = await parked(handles[bad])
        assert reason.reason == "AssertionError"
        assert "is stored at position 0, not after" in reason.message
        for name in neighbours:
            await handles[name].signal("go", "well")
            assert await handles[name].result(timeout=WAIT) == [2, "well"]
        assert worker.partitions == partitions
        assert worker._engine.context.background.failures == {"turn: AssertionError": 1}
        assert "workflow bad cannot go on" in caplog.text
        assert await commands(client, queue, bad), "its signal stays for a worker that can go on"
        monkeypatch.setattr(OwnedTimeline, "append", append)
    async with another_worker(server.url, queue, **SERVED):
        assert await handles[bad].result(timeout=WAIT) == [2, "x"]


async def test_a_parked_workflow_keeps_so_many_commands(server: LocalServer, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors_module, "MAX_PARKED", 5)
    handle = await client.start("nobody_knows", 1, workflow_id="w", task_queue=queue)
    async with another_worker(server.url, queue, **SERVED):
        assert (await parked(handle)).reason == "UnknownWorkflowType"
        for number in range(8):
            await handle.signal("go", number)

        async def letters() -> Any:
            found = await dead_letters(client, queue)
            return found if len(found) == 4 else None

        found = await until(letters)
        assert {letter.data for letter in found} == {b"4", b"5", b"6", b"7"}
        assert all("the workflow is parked (its state record says why), and 5 commands" in letter.headers["Jetflow-Reason"] for letter in found)
        await handle.terminate("enough")
        await until(lambda: _closed(handle))


async def _closed(handle: Any) -> bool:
    record = await handle.describe()
    return record is not None and record.closed
