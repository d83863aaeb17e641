"""No loop of a worker dies in silence, and one bad item stops nobody."""

import asyncio
import logging
from typing import Any

import pytest

from jetflow import Client, Worker, WorkerFailedError, WorkflowNotFoundError, workflow
from jetflow.engine.upkeep import supervision
from jetflow.engine.upkeep.janitor import Janitor
from jetflow.engine.upkeep.supervision import MOST, Supervisor
from jetflow.protocol.headers import header_block
from jetflow.reading.overview import overview

from .helpers import WAIT, parked, until


@workflow
async def nothing() -> str:
    return "done"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "PAUSES", (0.001,))


@pytest.mark.usefixtures("impatient")
async def test_a_loop_that_fails_begins_again_and_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    turns = 0

    async def loop() -> None:
        nonlocal turns
        turns += 1
        if turns < MOST:
            raise LookupError(f"turn {turns}")
        await asyncio.Event().wait()

    supervisor = Supervisor()
    with caplog.at_level(logging.ERROR):
        supervisor.start("the loop", loop)
        await until(lambda: turns == MOST)
    assert supervisor.failures == {"the loop": MOST - 1}
    assert not supervisor.failed.done()
    assert sum("the loop failed" in message for message in caplog.messages) == MOST - 1
    await supervisor.stop()


@pytest.mark.usefixtures("impatient")
async def test_a_loop_that_returns_has_failed_too() -> None:
    async def loop() -> None: ...

    supervisor = Supervisor()
    supervisor.start("the loop", loop)
    with pytest.raises(WorkerFailedError, match=f"the loop failed {MOST} times within 60 s, last with RuntimeError: the loop returned"):
        await asyncio.wait_for(asyncio.shield(supervisor.failed), 10)
    await supervisor.stop()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "place",
    ["jetflow.engine.ownership.ownership.Ownership._step", "jetflow.engine.engine.Engine.sweep", "jetflow.engine.upkeep.janitor.Janitor._work"],
)
async def test_a_loop_that_fails_again_and_again_ends_the_worker(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    def broken(*_: Any) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(place, broken)
    with pytest.raises(WorkerFailedError, match="last with LookupError: a bug"):
        await asyncio.wait_for(Worker(client, task_queue=queue, workflows=[nothing]).run(), 20)


async def test_failures_are_shown(client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Janitor._work
    failing = [True]

    async def fails_once(*arguments: Any) -> None:
        if failing:
            failing.clear()
            raise LookupError("a bug")
        await work(*arguments)

    monkeypatch.setattr(Janitor, "_work", fails_once)
    async with Worker(client, task_queue=queue, workflows=[nothing]):

        async def shown() -> bool:
            return any(member.failures == {"the janitor": 1} for member in (await overview(client.broker)).workers if member.task_queue == queue)

        await until(shown)


UNREADABLE = {
    "newer": b'{"run": 1, "cause": 1, "events": [{"type": "of-a-newer-version"}]}',
    "no-json": b"{oops",
    "nested": b'{"run": 1, "cause": 1, "events": ' + b"[" * 3000 + b"]" * 3000 + b"}",
    "empty": b'{"run": 1, "cause": 1, "events": []}',
    "a-number": b"7",
}


async def test_an_unreadable_timeline_does_not_stop_the_expiry_of_others(client: Client, queue: str) -> None:
    lane, names = client.broker.lane, client.broker.names
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        for name, body in UNREADABLE.items():
            await lane.publish(f"{names.timeline_prefix}{queue}.{name}.1", body)
            await lane.publish(f"{names.state_prefix}{queue}.{name}", b"{}", header_block(Nats_TTL="1s"))
        for number in range(20):
            await client.execute(nothing, workflow_id=f"w{number}", task_queue=queue, expire="1s", timeout=WAIT)

        async def keys() -> set[str]:
            found = await lane.read_many(names.timeline_stream, {"multi_last": [f"{names.timeline_prefix}{queue}.*.*"]}, may_lag="a test looks")
            return {message.subject.split(".")[3] for message in found}

        async def only_the_unreadable() -> bool:
            return await keys() == set(UNREADABLE)

        await until(only_the_unreadable)

        async def shown() -> bool:
            return any(set(member.set_aside) == set(UNREADABLE) for member in (await overview(client.broker)).workers if member.task_queue == queue)

        await until(shown)


@pytest.mark.parametrize("name", sorted(UNREADABLE))
async def test_a_workflow_whose_timeline_cannot_be_read_is_parked_and_says_so(client: Client, queue: str, name: str) -> None:
    lane, names = client.broker.lane, client.broker.names
    await lane.publish(f"{names.timeline_prefix}{queue}.{name}.1", UNREADABLE[name])
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        handle = await client.start(nothing, workflow_id=name, task_queue=queue)
        assert (await parked(handle)).reason == "UnreadableTimeline"
        assert await client.execute(nothing, workflow_id=f"{name}-beside", task_queue=queue, timeout=WAIT) == "done"


async def test_no_consumer_of_a_stopped_queue_is_left(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        await client.execute(nothing, workflow_id="w", task_queue=queue, expire="1s", timeout=WAIT)

        async def gone() -> bool:
            try:
                return await client.get_handle("w", task_queue=queue).describe() is None
            except WorkflowNotFoundError:
                return True

        await until(gone)
    names = client.broker.names
    for stream in (names.state_stream, names.timeline_stream, names.inbox_stream):
        left = [each["config"] for each in await client.broker.lane.consumers(stream)]
        assert [config["name"] for config in left if queue in str(config)] == []
