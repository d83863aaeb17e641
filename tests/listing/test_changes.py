"""Following workflows live: each change, in order, and nothing missed over a gap."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.protocol.record import StateRecord
from jetflow.reading import changes as module
from jetflow.reading.changes import Changes
from tests.records import put_record

from .conftest import Shelf


async def _next(changes: Changes, count: int) -> list[tuple[str, str]]:
    found: list[StateRecord] = []
    async with asyncio.timeout(20):
        async for record in changes:
            found.append(record)
            if len(found) == count:
                break
    return [(record.workflow_id, record.status) for record in found]


async def test_each_change_comes_as_it_is_made(shelf: Shelf) -> None:
    await shelf.put("before")
    async with shelf.client.changes() as changes:
        await shelf.put("a")
        await shelf.put("b")
        await shelf.put("a", status="completed")
        assert await _next(changes, 3) == [("a", "running"), ("b", "running"), ("a", "completed")]


async def test_only_what_is_wanted(shelf: Shelf) -> None:
    async with shelf.client.changes(task_queue="mine", status=["failed"]) as changes:
        await shelf.put("a", queue="mine")
        await shelf.put("b", status="failed")
        await shelf.put("c", queue="mine", status="failed")
        assert await _next(changes, 1) == [("c", "failed")]


async def test_after_a_gap_the_last_change_of_each_comes(shelf: Shelf) -> None:
    """A reconnect: what is told meanwhile is lost, and read from the stream."""
    async with shelf.client.changes() as changes:
        await shelf.put("a")
        assert await _next(changes, 1) == [("a", "running")]
        wire = shelf.client.broker.wire
        wire.tell(wire.on_reconnect)  # whatever was told before this may have been lost
        await shelf.put("a", "b")
        await shelf.put("a", status="completed")
        found = await _next(changes, 2)
        assert found == [("b", "running"), ("a", "completed")]


async def test_a_slow_reader_gets_the_last_change_of_each(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 5)
    async with shelf.client.changes() as changes:
        await shelf.put(*["a", "b"] * 10, "c")
        assert (await _next(changes, 3))[-1] == ("c", "running")


async def test_a_lost_notice_is_made_good_in_a_while(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_EVERY", 0.05)
    async with shelf.client.changes() as changes:
        shelf.client.broker.wire.unlisten(changes._sid or 0)
        changes._sid = None
        await shelf.put("a")
        assert await _next(changes, 1) == [("a", "running")]


async def test_a_server_that_was_away(tmp_path: Path) -> None:
    """What changes while nobody hears it comes once the connection is back."""
    first = LocalServer(tmp_path / "store")
    await first.start()
    port = int(first.url.rpartition(":")[2])
    async with Client.connect(first.url) as client:
        shelf = Shelf(client)
        await shelf.put("a", "b")
        async with client.changes() as changes:
            await shelf.put("a")
            assert await _next(changes, 1) == [("a", "running")]
            await first.stop()
            async with LocalServer(tmp_path / "store", port) as again, Client.connect(again.url) as other:
                await Shelf(other).put("c")
                await put_record(other, await _record(other, "b"))
                assert sorted(await _next(changes, 2)) == [("b", "completed"), ("c", "running")]
                await client.broker.wire.connected(20)


async def _record(client: Client, workflow_id: str) -> StateRecord:
    record = await client.states.get("q", workflow_id)
    assert record is not None
    record.status = "completed"
    return record
