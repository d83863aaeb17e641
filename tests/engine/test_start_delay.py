"""``start_delay``: the run has the id at once, and its code begins when its time has come. Also starts that other programs schedule."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jetflow import Client, Worker, condition, entity, search, set_query_handler, set_update_handler, workflow
from jetflow.errors import QueryError, WorkflowAlreadyStartedError, WorkflowNotFoundError, WorkflowTerminatedError
from jetflow.protocol.record import StateRecord
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.why import why

from .helpers import WAIT, another_worker, cli, commands, dead_letters, plain_nats, until, waits_for


@workflow
async def begun(what: Any) -> Any:
    return [what, time.time_ns() // 1_000_000, search().get("a"), entity().get()]


@workflow
async def waits() -> Any:
    return await condition("go")


def put(value: Any) -> Any:
    search().set({"put": value})
    return value


@workflow
async def answers() -> Any:
    set_update_handler("put", put)
    set_query_handler("place", lambda: "here")
    return [await condition("go"), search().get("put")]


KNOWING = {"workflows": [begun, waits, answers]}


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **KNOWING) as worker:
        yield worker


async def test_it_begins_when_its_time_has_come(client: Client, queue: str, worker: Worker) -> None:
    before = time.time_ns() // 1_000_000
    handle = await client.start(begun, ["one", "list"], task_queue=queue, start_delay="700ms", expire="1h", search={"a": 1}, entity={"b": 2})
    assert await handle.status() == 1
    what, at, a, document = await handle.result(timeout=WAIT)
    assert (what, a, document) == (["one", "list"], 1, {"b": 2})
    assert at >= before + 700
    record = await handle.describe()
    assert record is not None
    assert record.expire == 3_600_000


async def test_nobody_need_be_up_meanwhile(client: Client, queue: str) -> None:
    handle = await client.start(begun, 1, task_queue=queue, start_delay="300ms")

    async def stored() -> Any:
        return await commands(client, queue)

    await until(stored)
    async with another_worker(client.url, queue, **KNOWING):
        assert (await handle.result(timeout=WAIT))[0] == 1


async def test_the_id_is_taken_meanwhile(client: Client, queue: str, worker: Worker) -> None:
    first = await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1500ms")
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start(begun, 2, workflow_id="x", task_queue=queue, start_delay="1ms")
    attached = await client.start(begun, 3, workflow_id="x", task_queue=queue, start_delay="1ms", if_exists="attach")
    assert (await attached.result(timeout=WAIT))[0] == 1
    assert (await first.result(timeout=WAIT))[0] == 1
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start(begun, 4, workflow_id="x", task_queue=queue, start_delay="1h")


async def test_another_one_replaces_it(client: Client, queue: str, worker: Worker) -> None:
    await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1h")
    handle = await client.start(begun, 2, workflow_id="x", task_queue=queue, start_delay="100ms", if_exists="replace")
    assert (await handle.result(timeout=WAIT))[0] == 2


async def test_it_replaces_what_runs(client: Client, queue: str, worker: Worker) -> None:
    old = await client.start(waits, workflow_id="x", task_queue=queue)
    await waits_for(old, "go")
    new = await client.start(begun, "new", workflow_id="x", task_queue=queue, start_delay="300ms", if_exists="replace")
    assert new.run_id != old.run_id
    assert (await new.result(timeout=WAIT))[0] == "new"


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_it_can_be_taken_back(client: Client, queue: str, worker: Worker, how: str) -> None:
    handle = await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1h")
    await (handle.cancel() if how == "cancel" else handle.terminate())

    async def gone() -> bool:
        return not await handle.exists()

    await until(gone)
    with pytest.raises(WorkflowNotFoundError):
        await handle.result(timeout=WAIT)
    assert await dead_letters(client, queue) == []
    again = await client.start(begun, 2, workflow_id="x", task_queue=queue)
    assert (await again.result(timeout=WAIT))[0] == 2


async def shown(client: Client, queue: str) -> StateRecord:
    """The record of x, once it has one."""
    return await until(lambda: client.states.get(queue, "x"))


async def schedule(client: Client, queue: str, argument: Any, seconds: int = 2, **headers: str) -> None:
    """Schedule a start of x as a program does that speaks only NATS."""
    at = (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds").replace("+00:00", "Z")
    headers = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": f"jetflow.{queue}.x.start.begun", **headers}
    async with plain_nats(client.url) as nats:
        await nats.jetstream().publish(f"jetflow_timer.{queue}.x.start.at", json.dumps(argument).encode(), headers=headers)


@pytest.mark.parametrize("served", [True, False], ids=["a worker is up", "no worker yet"])
@pytest.mark.parametrize("how", ["fail", "attach", "replace", "nats pub"])
async def test_a_second_start_before_it_begins(client: Client, queue: str, nats_cli: str, served: bool, how: str) -> None:
    async with AsyncExitStack() as stack:
        if served:
            await stack.enter_async_context(another_worker(client.url, queue, **KNOWING))
        first = await client.start(begun, 3, workflow_id="x", task_queue=queue, start_delay="1200ms")
        assert first.run_id is not None
        latest, expected = first, 3
        match how:
            case "fail":
                with pytest.raises(WorkflowAlreadyStartedError):
                    await client.start(begun, 4, workflow_id="x", task_queue=queue)
            case "attach":
                latest = await client.start(begun, 4, workflow_id="x", task_queue=queue, if_exists="attach")
            case "replace":
                latest, expected = await client.start(begun, 4, workflow_id="x", task_queue=queue, if_exists="replace"), 4
                assert latest.run_id != first.run_id
            case _:
                await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow.{queue}.x.start.begun", "4")
        if not served:
            await stack.enter_async_context(another_worker(client.url, queue, **KNOWING))
        assert (await latest.result(timeout=WAIT))[0] == expected
        if how != "replace":
            assert (await first.result(timeout=WAIT))[0] == 3
        assert await dead_letters(client, queue) == []


@pytest.mark.parametrize("served", [True, False], ids=["a worker is up", "no worker yet"])
async def test_signal_with_start_before_it_begins(client: Client, queue: str, served: bool) -> None:
    async with AsyncExitStack() as stack:
        if served:
            await stack.enter_async_context(another_worker(client.url, queue, **KNOWING))
        first = await client.start(waits, workflow_id="x", task_queue=queue, start_delay="800ms")
        second = await client.signal_with_start(waits, signal="go", data="sent", workflow_id="x", task_queue=queue)
        if not served:
            await stack.enter_async_context(another_worker(client.url, queue, **KNOWING))
        assert await second.result(timeout=WAIT) == await first.result(timeout=WAIT) == "sent"
        assert (await shown(client, queue)).run_id == first.run_id


async def test_what_people_see_before_it_begins(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(answers, workflow_id="x", task_queue=queue, start_delay="1h")
    await until(lambda: client.states.get(queue, "x"))
    record = await shown(client, queue)
    assert (record.status, record.run_id, [wait.kind for wait in record.waiting]) == ("running", handle.run_id, ["delay"])
    assert 3_590_000 < (record.waiting[0].due or 0) - record.started_at <= 3_600_000
    assert [each.workflow_id async for each in client.list(task_queue=queue)] == ["x"]
    found = await why(client.lookups, WorkflowRef.of("x", queue))
    assert (found.status, found.waits[0].kind, found.waits[0].due) == ("running", "delay", record.waiting[0].due)
    with pytest.raises(QueryError, match="place"):
        await handle.query("place")


async def test_commands_before_it_begins_reach_its_code(client: Client, queue: str) -> None:
    """Also when another worker takes over meanwhile."""
    async with another_worker(client.url, queue, **KNOWING):
        handle = await client.start(answers, workflow_id="x", task_queue=queue, start_delay="1500ms")
        update = asyncio.create_task(handle.update("put", 7))

        async def sent() -> bool:
            return any(".update.put" in command for command in await commands(client, queue))

        await until(sent)
        await handle.signal("go", "early")
        await until(lambda: client.states.get(queue, "x"))
        assert not update.done()
    async with another_worker(client.url, queue, **KNOWING):
        assert await update == 7
        assert await handle.result(timeout=WAIT) == ["early", 7]


@pytest.mark.parametrize("how", ["cancel", "terminate", "nats pub"])
async def test_its_end_before_it_begins(client: Client, queue: str, nats_cli: str, worker: Worker, how: str) -> None:
    handle = await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1h", expire="1h")
    await shown(client, queue)
    match how:
        case "cancel":
            await handle.cancel("enough")
        case "terminate":
            await handle.terminate("enough", expire="default")
        case _:
            await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow.{queue}.x.terminate", '"enough"')
    with pytest.raises(WorkflowTerminatedError, match="enough"):
        await handle.result(timeout=WAIT)
    assert (await shown(client, queue)).expire == 1000


async def test_a_cancel_that_was_there_before(client: Client, queue: str, worker: Worker) -> None:
    await client.get_handle("x", queue).cancel("early")
    await until(lambda: _none(client, queue))
    handle = await client.start(begun, 1, workflow_id="x", task_queue=queue, start_delay="1h")
    with pytest.raises(WorkflowTerminatedError, match="early"):
        await handle.result(timeout=WAIT)


async def test_any_publisher_can_delay_a_start(client: Client, queue: str, nats_cli: str, worker: Worker) -> None:
    before = time.time_ns() // 1_000_000
    await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow.{queue}.x.start.begun", "5", "-H", "Jetflow-Start-Delay:600ms")
    what, at, *_ = await client.get_handle("x", queue).result(timeout=WAIT)
    assert what == 5
    assert at >= before + 600
    await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow.{queue}.y.start.begun", "5", "-H", "Jetflow-Start-Delay:soon")
    letters = await until(lambda: dead_letters(client, queue))
    assert "Jetflow-Start-Delay 'soon' is not a duration" in letters[0].headers["Jetflow-Reason"]


async def test_a_scheduled_start_begins_when_it_is_due(client: Client, queue: str, worker: Worker) -> None:
    await schedule(client, queue, 1, 1)
    handle = client.get_handle("x", queue)
    assert await handle.exists()
    assert (await handle.result(timeout=WAIT))[0] == 1


async def test_a_scheduled_start_whose_id_is_taken_by_then_is_a_dead_letter(client: Client, queue: str, worker: Worker) -> None:
    await schedule(client, queue, "scheduled", 1)
    handle = await client.start(waits, workflow_id="x", task_queue=queue)
    letters = await until(lambda: dead_letters(client, queue))
    assert [letter.data for letter in letters] == [b'"scheduled"']
    assert letters[0].headers["Jetflow-Subject"] == f"jetflow.{queue}.x.start.begun"
    assert letters[0].headers["Jetflow-Reason"] == f"run {handle.run_id} has the id, so the scheduled start is refused"
    await handle.signal("go", "on")
    assert await handle.result(timeout=WAIT) == "on"


async def test_a_scheduled_start_can_replace(client: Client, queue: str, worker: Worker) -> None:
    await client.start(waits, workflow_id="x", task_queue=queue)
    await schedule(client, queue, "scheduled", 1, **{"Jetflow-Replace": "1"})

    async def ended() -> bool:
        return (await shown(client, queue)).closed

    await until(ended)
    assert (await client.get_handle("x", queue).result(timeout=WAIT))[0] == "scheduled"
    assert await dead_letters(client, queue) == []


async def _none(client: Client, queue: str) -> bool:
    return not await commands(client, queue)
