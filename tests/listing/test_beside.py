"""What owners write down of each other lies in the same streams, and is no workflow, letter or command."""

import asyncio
import uuid

import pytest

from jetflow import Client, Worker, workflow
from jetflow.broker.fencing.fence import revoke
from jetflow.broker.fencing.registry import Registry
from jetflow.broker.stores.dead_letters import DeadLetters
from jetflow.reading.overview import overview
from jetflow.reading.stats import stats
from tests.engine.helpers import WAIT, until
from tests.listing.conftest import Shelf, ids


async def _beside(client: Client) -> None:
    """All that there may be: revocations, guards, a registry, and the janitor's place."""
    lane, names = client.broker.lane, client.broker.names
    for number in range(5):
        await revoke(lane, names, "q", f"t{number}-0", replicated=False)
    await Registry(lane, names, "q", replicated=False).take("t9-0", frozenset({1, 2}), 0)
    for number in range(3):
        await lane.publish(names.guard("q", f"w{number}"), b"")
    await lane.publish(f"{names.tenure_prefix}state.janitor.q", b"17")


async def test_it_is_neither_listed_nor_counted(shelf: Shelf) -> None:
    client = shelf.client
    await _beside(client)
    assert await ids(client.list()) == []
    assert await client.count() == 0
    await shelf.put("a", "b", "c", status="completed")
    await _beside(client)
    for filters in ({}, {"task_queue": "q"}):
        assert await ids(client.list(**filters)) == ["c", "b", "a"]
        assert await client.count(**filters) == 3
        page = await client.list_page(limit=2, **filters)
        rest = await client.list_page(limit=2, cursor=page.cursor, **filters)
        assert [record.workflow_id for record in (*page.workflows, *rest.workflows)] == ["c", "b", "a"]
    assert await client.count_by("status") == {"completed": 3}


async def test_it_is_no_change(shelf: Shelf) -> None:
    async with shelf.client.changes() as changes:
        await _beside(shelf.client)
        changes._missed()  # as after a reconnect: the stream is read, and not only what was told
        await _beside(shelf.client)
        await shelf.put("a")
        async with asyncio.timeout(20):
            async for record in changes:
                assert record.workflow_id == "a"
                break


async def test_it_is_no_dead_letter_command_or_timer(shelf: Shelf) -> None:
    client, names = shelf.client, shelf.client.broker.names
    await _beside(client)
    for counted in (await stats(client.broker), await stats(client.broker, interval=0.05)):
        assert (counted.workflows, counted.commands, counted.timers, counted.dead_letters) == ({}, 0, 0, 0)
    sizes = {size.name: size.messages for size in (await overview(client.broker)).streams}
    assert len(sizes) == 6
    assert not any(sizes.values()), sizes
    letters = DeadLetters(client.broker.lane, names)
    assert [letter async for letter in letters.list()] == []
    await client.broker.lane.publish(f"{names.dead_prefix}q.w", b"x")
    await _beside(client)
    (letter,) = [letter async for letter in letters.list()]
    assert letter.body == b"x"
    assert (await stats(client.broker)).dead_letters == 1


@workflow
async def nothing() -> None: ...


async def test_with_a_real_worker_that_was_revoked(shelf: Shelf) -> None:
    client, queue = shelf.client, f"q{uuid.uuid4().hex[:8]}"
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        for number in range(3):
            before = worker._engine.tenure
            assert before is not None
            await client.execute(nothing, workflow_id=f"w{number}", task_queue=queue, timeout=WAIT)
            before.lose("a test says so")
            await until(lambda before=before: worker._engine.tenure not in (None, before) and worker.partitions)
        assert await client.count() == await client.count(task_queue=queue) == 3
        assert sorted(await ids(client.list())) == ["w0", "w1", "w2"]
        assert (await stats(client.broker)).dead_letters == 0


@pytest.mark.parametrize("number", [1, 2, 3])
async def test_a_revocation_is_no_letter_to_get_or_drop(shelf: Shelf, number: int) -> None:
    await _beside(shelf.client)
    letters = DeadLetters(shelf.client.broker.lane, shelf.client.broker.names)
    for act in (letters.get(number), letters.drop(number), letters.requeue(number)):
        with pytest.raises(ValueError, match=f"there is no dead letter {number}"):
            await act
    assert await shelf.client.broker.lane.message(shelf.client.broker.names.dead_stream, number) is not None
