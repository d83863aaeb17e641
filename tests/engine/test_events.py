"""Lifecycle events: what other services hear of workflows, while the stream for it is there."""

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import CancelledFailure, Client, Worker, WorkflowFailedError, activity, condition, continue_as_new, execute_child, workflow
from jetflow.broker.transport.server import LocalServer
from tests.chaos.app import tells_at_last
from tests.chaos.harness import workers
from tests.engine.helpers import WAIT, until, waits_for


@activity
async def double(number: int) -> int:
    return 2 * number


@workflow
async def doubled(number: int) -> int:
    return await double(number)


@workflow
async def parent(number: int) -> int:
    return await execute_child(doubled, number, workflow_id=f"child-of-{number}")


@workflow
async def fails() -> None:
    raise ValueError("no such thing")


@workflow
async def waits() -> Any:
    return await condition("go")


@workflow
async def twice(left: int) -> str:
    if left:
        continue_as_new(left - 1)
    return "done"


WORKFLOWS = [doubled, parent, fails, waits, twice]


@pytest.fixture
async def apart(server: LocalServer) -> AsyncIterator[Client]:
    """A client of a namespace of its own, whose events are on."""
    async with Client.connect(server.url, namespace=f"ev{uuid.uuid4().hex[:8]}") as client:
        await client.enable_events(keep="1h")
        yield client


async def heard(client: Client, workflow_id: str) -> list[dict[str, Any]]:
    """The events of a workflow that are in the stream, oldest first."""
    names = client.broker.names
    subject = f"{names.events_prefix}*.{workflow_id}.*"
    found = await client.broker.lane.read_many(names.events_stream, {"seq": 1, "next_by_subj": subject, "batch": 100}, may_lag="a test looks")
    for message in found:
        assert message.headers["content-type"] == "application/cloudevents+json"
    events = [json.loads(message.data) for message in found]
    assert [message.subject.rpartition(".")[2] for message in found] == [kind(event) for event in events]
    return events


def kind(event: dict[str, Any]) -> str:
    return event["type"].removeprefix("jetflow.workflow.")


async def test_a_run_is_told_from_its_start_to_its_end(apart: Client) -> None:
    async with Worker(apart, task_queue="q 1", workflows=WORKFLOWS, activities=[double]):
        handle = await apart.start(doubled, 21, workflow_id="one", task_queue="q 1")
        assert await handle.result(timeout=WAIT) == 42
        started, completed = await heard(apart, "one")
    run = handle.run_id
    assert started == {
        "specversion": "1.0",
        "id": f"q=201.one.{run}.1.started",
        "source": f"/jetflow/{apart.namespace}/q=201",
        "type": "jetflow.workflow.started",
        "subject": "one",
        "time": started["time"],
        "datacontenttype": "application/json",
        "data": {"workflow_id": "one", "task_queue": "q 1", "workflow_type": "doubled", "run_id": run, "input": [21]},
    }
    assert (kind(completed), completed["data"]["result"]) == ("completed", 42)
    assert started["time"] <= completed["time"]
    assert completed["time"].endswith("Z")


async def test_each_way_to_end_has_its_event(apart: Client) -> None:
    async with Worker(apart, task_queue="q", workflows=WORKFLOWS, activities=[double]):
        with pytest.raises(WorkflowFailedError):
            await apart.execute(fails, workflow_id="fails", task_queue="q", timeout=WAIT)
        cancelled = await apart.start(waits, workflow_id="cancelled", task_queue="q")
        await cancelled.cancel("enough")
        with pytest.raises(CancelledFailure):
            await cancelled.result(timeout=WAIT)
        ended = await apart.start(waits, workflow_id="ended", task_queue="q")
        await waits_for(ended, "go")
        await ended.terminate("wrong price")
        await until(lambda: gone_or_closed(ended))
        assert await apart.execute(twice, 1, workflow_id="twice", task_queue="q", timeout=WAIT) == "done"
        assert await apart.execute(parent, 3, workflow_id="parent", task_queue="q", timeout=WAIT) == 6
    told = {name: await heard(apart, name) for name in ("fails", "cancelled", "ended", "twice", "child-of-3")}
    kinds = {name: [kind(event) for event in events] for name, events in told.items()}
    assert kinds == {
        "fails": ["started", "failed"],
        "cancelled": ["started", "cancel_requested", "failed"],
        "ended": ["started", "terminated"],
        "twice": ["started", "continued_as_new", "completed"],
        "child-of-3": ["started", "completed"],
    }
    assert told["fails"][1]["data"]["failure"]["message"] == "no such thing"
    assert told["cancelled"][1]["data"]["reason"] == "enough"
    assert told["ended"][1]["data"]["reason"] == "wrong price"
    assert told["twice"][2]["data"]["generation"] == 2
    assert told["child-of-3"][0]["data"]["parent_workflow_id"] == "parent"


async def gone_or_closed(handle: Any) -> bool:
    record = await handle._lookups.states.get(handle.task_queue, handle.workflow_id)
    return record is None or record.closed


async def test_without_the_stream_nothing_is_told_and_with_it_workers_notice(server: LocalServer) -> None:
    connecting = Client.connect(server.url, namespace=f"ev{uuid.uuid4().hex[:8]}")
    async with connecting as client, Worker(client, task_queue="q", workflows=WORKFLOWS, activities=[double]):
        assert await client.execute(doubled, 1, task_queue="q", timeout=WAIT) == 2
        await client.enable_events()

        async def noticed() -> bool:
            name = f"later-{uuid.uuid4().hex[:8]}"
            await client.execute(doubled, 1, workflow_id=name, task_queue="q", timeout=WAIT)
            return len(await heard(client, name)) == 2

        await until(noticed)
        await client.disable_events()
        assert await client.execute(doubled, 2, task_queue="q", timeout=WAIT) == 4
        await client.enable_events(keep=None)
        await until(noticed)


async def test_a_full_stream_holds_up_no_workflow(apart: Client) -> None:
    names = apart.broker.names
    config = (await apart.broker.lane.api(f"STREAM.INFO.{names.events_stream}"))["config"]
    await apart.broker.lane.api(f"STREAM.UPDATE.{names.events_stream}", {**config, "max_msgs": 1, "discard": "new"})
    async with Worker(apart, task_queue="q", workflows=WORKFLOWS, activities=[double]):
        assert await apart.execute(doubled, 4, workflow_id="full", task_queue="q", timeout=WAIT) == 8
        assert [kind(event) for event in await heard(apart, "full")] == ["started"]


@pytest.mark.parametrize("point", ["before_commit:2", "after_commit:1", "after_commit:2", "after_effects:1", "after_state:1", "before_ack:1"])
async def test_a_killed_worker_leaves_no_event_out_and_tells_none_twice(queue: str, tmp_path: Any, point: str) -> None:
    async with LocalServer() as server, Client.connect(server.url) as client:
        await client.enable_events()
        with workers(server.url, queue, tmp_path / "executions") as started:
            doomed = await started.start(fault=point)
            handle = await client.start(tells_at_last, "ear", 1, workflow_id="mouth", task_queue=queue)
            assert await doomed.dead() == -9
            await started.start()
            assert await handle.result(timeout="60s") == "told"
            await until(lambda: both(client))


async def both(client: Client) -> bool:
    kinds = [kind(event) for event in await heard(client, "mouth")]
    assert kinds in ([], ["started"], ["started", "completed"]), kinds
    return len(kinds) == 2
