"""What a client says of a run whose record has expired, or was replaced, while no worker is up, or one is."""

import asyncio
import time

import pytest

from jetflow import Client, InvalidInputError, Worker, WorkflowNotFoundError, WorkflowTerminatedError, condition, workflow
from jetflow.core import events as ev
from jetflow.core.events import encode_commit
from jetflow.core.values import encode

from .helpers import WAIT, until, waits_for


@workflow
async def waits(number: int) -> int:
    await condition("go")
    return number


async def _ended(client: Client, queue: str, workflow_id: str, *, ago: int, expire: int | None, started_apart: bool) -> None:
    """A run that has ended, whose worker died before it acked the start, and whose record has expired or was never written."""
    handle = await client.start(waits, 1, workflow_id=workflow_id, task_queue=queue)
    run, at = int(handle.run_id or 0), int(time.time() * 1000) - ago
    started = ev.Started(at=at, workflow_type="waits", input=encode([1]), expire=expire)
    done = ev.Completed(at=at, result=encode(1))
    commits = [[started], [done]] if started_apart else [[started, done]]
    for seq, events in enumerate(commits, 1):
        body = encode_commit(ev.Commit(run, run, events))  # type: ignore[arg-type]
        await client.broker.lane.publish_once(client.lookups.timeline.key(queue, workflow_id, seq), body, client.broker.lane.message_id())


@pytest.mark.parametrize("started_apart", [False, True])
async def test_an_expired_record_is_not_found_though_its_start_is_un_acked(client: Client, queue: str, started_apart: bool) -> None:
    await _ended(client, queue, "gone", ago=10_000, expire=2_000, started_apart=started_apart)
    handle = client.get_handle("gone", queue)
    for call in (handle.status, handle.result, handle.state, handle.describe):
        with pytest.raises(WorkflowNotFoundError):
            await asyncio.wait_for(call(), 5)
    assert await handle.exists() is False


@pytest.mark.parametrize(("ago", "expire"), [(0, 60_000), (10_000, None)])
async def test_until_then_it_is_pending(client: Client, queue: str, ago: int, expire: int | None) -> None:
    await _ended(client, queue, "kept", ago=ago, expire=expire, started_apart=True)
    assert await client.get_handle("kept", queue).status() == 1


async def test_a_start_that_nobody_has_begun_stays_pending(client: Client, queue: str) -> None:
    handle = await client.start(waits, 1, workflow_id="early", task_queue=queue)
    assert await handle.status() == 1
    assert await client.get_handle("early", queue).status() == 1
    assert await handle.state() is None


async def test_a_handle_without_a_run_waits_for_the_run_that_replaces_it(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[waits]):
        first = await client.start(waits, 1, workflow_id="w", task_queue=queue)
        await waits_for(first, "go")
        latest = asyncio.ensure_future(client.get_handle("w", queue).result(timeout=WAIT))
        pinned = asyncio.ensure_future(first.result(timeout=WAIT))
        await asyncio.sleep(0)
        second = await client.start(waits, 2, workflow_id="w", task_queue=queue, if_exists="replace")
        with pytest.raises(WorkflowTerminatedError, match="replaced by a new start"):
            await pinned
        await until(lambda: second.describe())
        assert not latest.done()
        await second.signal("go")
        assert await latest == 2


@pytest.mark.parametrize("what", ["search", "entity"])
async def test_user_data_that_cannot_be_stored_is_named_as_the_caller_wrote_it(client: Client, queue: str, what: str) -> None:
    for given, said in (({"a": 1, "b": object()}, rf"^{what}\['b'\] cannot be written as JSON"), ([1], rf"^{what} must be a dict, not list")):
        with pytest.raises(InvalidInputError, match=said):
            await client.start(waits, 1, task_queue=queue, **{what: given})  # type: ignore[arg-type]
