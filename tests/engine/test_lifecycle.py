"""Starting, finding, waiting for and reading workflows, and how their ids are theirs alone."""

import asyncio
import json
from typing import Any

import pytest

from jetflow import (
    Client,
    InvalidInputError,
    ResultTimeoutError,
    Worker,
    WorkflowAlreadyStartedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    activity,
    condition,
    workflow,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, another_worker, cli, commands, plain_nats, until, waits_for

NAMES = ["plain-1_A", "with.dots.in it", "*", ">", "a.>", "ünï/çødé \U0001f600", "$SYS", "=20", "%20", " ", "a\tb\n", "start", "'\"", "x" * 256]
RAN: list[str] = []


@activity
async def note(key: str) -> str:
    RAN.append(key)
    return key


@workflow
async def noted(key: str) -> str:
    return await note(key)


@workflow
async def other_type(key: str) -> str:
    return await note(key)


@workflow
async def waits(key: str = "") -> Any:
    await note(key)
    return await condition("go")


@workflow
async def breaks() -> None:
    raise ValueError("broken")


@workflow
async def unannotated(given=None):  # type: ignore[no-untyped-def]
    return {"given": given, "list": (1, 2)}


SERVED = {"workflows": [noted, other_type, waits, breaks, unannotated], "activities": [note]}


async def test_a_life_seen_through_its_handle(client: Client, queue: str) -> None:
    handle = await client.start(waits, "life", workflow_id="life", task_queue=queue)
    assert (handle.workflow_id, handle.task_queue, handle.workflow_type) == ("life", queue, "waits")
    assert await handle.status() > 0, "stored, and no worker is up"
    assert await handle.state() is None
    found = client.get_handle("life", task_queue=queue)
    assert (await found.state(metadata=True))["metadata"]["status"] == "running"
    with pytest.raises(ResultTimeoutError):
        await found.result(timeout="1ms")
    async with Worker(client, task_queue=queue, **SERVED):
        await waits_for(handle, "go")
        assert await handle.status() == 1
        envelope = await handle.state(metadata=True)
        assert (envelope["data"], envelope["metadata"]["run_id"]) == (None, handle.run_id)
        await found.signal("go", {"answer": 42})
        assert await handle.result(timeout=WAIT) == await found.result(state=True, timeout=WAIT) == {"answer": 42}
        assert (await handle.status(), await handle.state()) == (0, {"answer": 42})
        assert (await found.state(metadata=True))["metadata"]["status"] == "completed"
    assert await client.get_handle("life", queue).result() == {"answer": 42}, "also when no worker is up"


async def test_a_failure_has_its_type_message_and_stack(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(breaks, task_queue=queue)
        with pytest.raises(WorkflowFailedError, match="ValueError: broken") as caught:
            await handle.result(timeout=WAIT)
        assert (caught.value.type, caught.value.message) == ("ValueError", "broken")
        assert "in breaks" in caught.value.stack
        returned = await handle.result(throw_on_error=False)
        assert isinstance(returned, WorkflowFailedError)
        assert returned.type == "ValueError"
        assert await handle.status() < 0
        assert await handle.state() is None


async def test_unknown_workflows_are_not_found(client: Client, queue: str) -> None:
    handle = client.get_handle("nobody", queue)
    for read in (handle.result, handle.state, handle.status, handle.describe, handle.terminate):
        with pytest.raises(WorkflowNotFoundError) as caught:
            await read()
        assert caught.value.code == 404
    for run_id in ("1", "999999999", "no-run-id", ""):
        with pytest.raises(WorkflowNotFoundError):
            await client.get_handle("nobody", queue, run_id=run_id).status()


@pytest.mark.parametrize("served", [True, False], ids=["a worker is up", "no worker yet"])
async def test_of_many_starts_of_an_id_exactly_one_wins(server: LocalServer, client: Client, queue: str, served: bool) -> None:
    keys = [f"{queue}-{n}" for n in range(200)]

    async def start(starter: Client, n: int) -> Any:
        try:
            return await starter.start((noted, other_type)[n % 2], keys[n], workflow_id="one", task_queue=queue)
        except WorkflowAlreadyStartedError:
            return None

    async with Client.connect(server.url) as second, Client.connect(server.url) as third:
        starters = [client, second, third]
        async with Worker(client, task_queue=queue, **SERVED) as worker:
            if served:
                await until(lambda: worker.partitions)
            else:
                await worker.stop()
            handles = await asyncio.gather(*(start(starters[n % 3], n) for n in range(200)))
            winners = [(n, handle) for n, handle in enumerate(handles) if handle is not None]
            assert len(winners) == 1
            if not served:
                async with Worker(second, task_queue=queue, **SERVED):
                    assert await winners[0][1].result(timeout=WAIT) == keys[winners[0][0]]
            assert await winners[0][1].result(timeout=WAIT) == keys[winners[0][0]]
            assert await client.get_handle("one", queue).result(timeout=WAIT) == keys[winners[0][0]]
            if served:
                await until(lambda: _none_left(client, queue))
    assert [key for key in RAN if key in keys] == [keys[winners[0][0]]]


async def _none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def test_an_id_is_taken_while_it_runs_and_until_its_record_expires(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        running = await client.start(waits, workflow_id="taken", task_queue=queue, expire="1s")
        await waits_for(running, "go")
        for again in (waits, noted):
            with pytest.raises(WorkflowAlreadyStartedError, match="taken"):
                await client.start(again, "x", workflow_id="taken", task_queue=queue)
        await running.signal("go")
        await running.result(timeout=WAIT)
        with pytest.raises(WorkflowAlreadyStartedError):
            await client.start(waits, workflow_id="taken", task_queue=queue)

        async def expired() -> bool:
            return await client.states.get(queue, "taken") is None

        await until(expired)
        with pytest.raises(WorkflowNotFoundError):
            await running.result()
        assert await client.execute(noted, f"{queue}-again", workflow_id="taken", task_queue=queue, timeout=WAIT) == f"{queue}-again"
        with pytest.raises(WorkflowNotFoundError):
            await running.status()


async def test_a_start_that_was_refused_never_runs(client: Client, queue: str) -> None:
    """Also when the record that refused it has expired by the time that a worker sees it."""
    async with Worker(client, task_queue=queue, **SERVED):
        await client.execute(noted, f"{queue}-first", workflow_id="id", task_queue=queue, expire="3s", timeout=WAIT)
        await until(lambda: _none_left(client, queue))
    with pytest.raises(WorkflowAlreadyStartedError):
        await client.start(noted, f"{queue}-refused", workflow_id="id", task_queue=queue)

    async def expired() -> bool:
        return await client.states.get(queue, "id") is None

    await until(expired)
    async with Worker(client, task_queue=queue, **SERVED):
        await until(lambda: _none_left(client, queue))
        await client.execute(noted, f"{queue}-later", task_queue=queue, timeout=WAIT)
    assert f"{queue}-refused" not in RAN


async def test_attach_gives_the_workflow_that_is_there(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        first = await client.start(waits, workflow_id="shared", task_queue=queue, if_exists="attach")
        second = await client.start(waits, workflow_id="shared", task_queue=queue, if_exists="attach")
        await second.signal("go", 1)
        assert await first.result(timeout=WAIT) == await second.result(timeout=WAIT) == 1
        assert await client.execute(waits, workflow_id="shared", task_queue=queue, if_exists="attach", timeout=WAIT) == 1
    with pytest.raises(InvalidInputError, match="if_exists"):
        await client.start(waits, task_queue=queue, if_exists="perhaps")  # type: ignore[arg-type]


async def test_a_handle_with_a_run_id_sees_and_commands_that_run_only(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        old = await client.start(waits, workflow_id="runs", task_queue=queue, expire="1s")
        await old.signal("go", "old")
        assert await old.result(timeout=WAIT) == "old"

        async def expired() -> bool:
            return await client.states.get(queue, "runs") is None

        await until(expired)
        new = await client.start(waits, workflow_id="runs", task_queue=queue)
        await waits_for(new, "go")
        assert old.run_id != new.run_id
        await old.cancel("only the old one")
        with pytest.raises(WorkflowNotFoundError):
            await old.terminate()
        pinned = client.get_handle("runs", queue, run_id=new.run_id)
        await pinned.signal("go", "new")
        assert await pinned.result(timeout=WAIT) == await client.get_handle("runs", queue).result(timeout=WAIT) == "new"


async def test_any_text_is_an_id_a_queue_and_a_signal(client: Client, queue: str) -> None:
    strange = f"{queue} ü.*>"
    async with Worker(client, task_queue=strange, **SERVED):
        for name in NAMES:
            handle = await client.start(waits, workflow_id=name, task_queue=strange)
            await handle.signal("go", name)
            assert await client.get_handle(name, strange).result(timeout=WAIT) == name
            record = await handle.describe()
            assert record is not None
            assert (record.workflow_id, record.task_queue) == (name, strange)
    for wrong in ("", "x" * 257, "ü" * 100, "\ud800", None):
        with pytest.raises(InvalidInputError):
            client.get_handle(wrong, queue)  # type: ignore[arg-type]
        if wrong is not None:
            with pytest.raises(InvalidInputError):
                await client.start(waits, workflow_id=wrong, task_queue=queue)


async def test_a_workflow_by_the_nats_command_alone(server: LocalServer, client: Client, queue: str, nats_cli: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.by-cli.start.waits", '"body"')
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.no-body.start.unannotated", "")
        handle = client.get_handle("by-cli", queue)
        await until(lambda: client.states.get(queue, "by-cli"))
        await waits_for(handle, "go")
        shown = json.loads(await cli(nats_cli, server.url, "kv", "get", "jetflow_state", f"{queue}.by-cli", "--raw"))
        assert (shown["workflow_id"], shown["status"], shown["waiting"][0]["name"]) == ("by-cli", "running", "go")
        timeline = json.loads(await cli(nats_cli, server.url, "kv", "get", "jetflow_timeline", f"{queue}.by-cli.1", "--raw"))
        assert [event["type"] for event in timeline["events"]] == ["started", "activity_scheduled"]
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.by-cli.signal.go", '{"by": "cli"}')
        assert await handle.result(timeout=WAIT) == {"by": "cli"}
        assert await client.get_handle("no-body", queue).result(timeout=WAIT) == {"given": None, "list": [1, 2]}
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.by-cli-2.start.waits", "")
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.by-cli-2.cancel", "")
        await until(lambda: client.states.get(queue, "by-cli-2"))
        await client.get_handle("by-cli-2", queue).result(throw_on_error=False, timeout=WAIT)
        shown = json.loads(await cli(nats_cli, server.url, "kv", "get", "jetflow_state", f"{queue}.by-cli-2", "--raw"))
        assert (shown["status"], shown["failure"]["type"]) == ("cancelled", "CancelledFailure")


async def test_a_start_by_nats_pub_of_an_id_that_runs_is_ignored(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        handle = await client.start(waits, workflow_id="id", task_queue=queue)
        await waits_for(handle, "go")
        await raw.publish(f"jetflow.{queue}.id.start.noted", b'"second"')
        await raw.flush()
        await handle.signal("go", 1)
        assert await handle.result(timeout=WAIT) == 1
        await until(lambda: _none_left(client, queue))
        assert (await client.get_handle("id", queue).describe()).run_id == handle.run_id  # type: ignore[union-attr]


async def test_results_outlive_workers_and_are_found_by_list(server: LocalServer, client: Client, queue: str) -> None:
    async with another_worker(server.url, queue, **SERVED):
        ids = {(await client.start(noted, f"{queue}-{n}", task_queue=queue)).workflow_id for n in range(5)}
        failed = await client.start(breaks, task_queue=queue)
        for workflow_id in [*ids, failed.workflow_id]:
            await client.get_handle(workflow_id, queue).result(throw_on_error=False, timeout=WAIT)
    found = [record async for record in client.list(task_queue=queue, status="completed")]
    assert {record.workflow_id for record in found} == ids
    assert [record.workflow_id async for record in client.list(task_queue=queue, workflow_type="breaks")] == [failed.workflow_id]
