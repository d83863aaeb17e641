"""A run that is killed and rebuilt again and again has the history of one that nobody disturbed, times aside."""

import asyncio
import re
from pathlib import Path
from typing import Any

import msgspec

from jetflow import Client, Worker, WorkflowHandle, condition, execute_child, workflow
from jetflow.broker.transport.server import LocalServer
from jetflow.engine.turn.actor import Actor
from jetflow.history.execution import WorkflowExecution
from tests.chaos.app import ACTIVITIES, WORKFLOWS, add, everything, expected_everything, five_steps
from tests.chaos.harness import workers
from tests.engine.helpers import until, waits_for
from tests.history.checks import check_execution

KILLS = 10


def timeless(execution: WorkflowExecution) -> Any:
    """An execution as plain data, without times, runs, and the ids made from them."""

    def strip(part: Any) -> Any:
        if isinstance(part, dict):
            kept = {key: value for key, value in part.items() if key not in _TIMES}
            return {key: strip(value) for key, value in kept.items()}
        if isinstance(part, list):
            return [strip(item) for item in part]
        return re.sub(r"^w\d?-\d+-(\d+)$", r"child-\1", part) if isinstance(part, str) else part

    return strip(msgspec.to_builtins(execution))


_TIMES = {"event_time", "duration_ms", "start_time", "close_time", "next_attempt_time"} | {
    "run_id", "workflow_id", "parent_workflow_id", "origin_id", "stack"
}  # fmt: skip


async def begin(client: Client, queue: str, workflow_id: str) -> WorkflowHandle:
    """A workflow with one of each kind of operation, one after the other, and a signal that comes before it."""
    handle = client.get_handle(workflow_id, task_queue=queue)
    await handle.signal("early", {"n": 0})
    return await client.start(everything, 0, True, workflow_id=workflow_id, task_queue=queue)


async def finished(handle: WorkflowHandle) -> list[Any]:
    """What the workflow and its children went through, basic and extended."""
    result = await handle.result(timeout=90)
    assert result == {**expected_everything(0), "other": result["other"]}
    found = []
    for extended in (False, True):
        execution = await handle.export_execution(mode="verbose", enrich_inputs=True, extended=extended, allow_direct_query=True)
        check_execution(execution)
        assert [child.status for child in execution.children] == ["completed", "completed"]  # type: ignore[union-attr]
        found.append(timeless(execution))
    return found


async def undisturbed(client: Client, queue: str) -> list[Any]:
    queue = f"{queue}-undisturbed"
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ACTIVITIES):
        handle = await begin(client, queue, "w")
        await waits_for(handle, "live")
        await handle.signal("live", {"live": 0})
        return await finished(handle)


def for_comparison(found: list[Any], queue: str) -> str:
    return msgspec.json.encode(found).decode().replace(f"{queue}-undisturbed", queue)


async def test_killed_ten_times(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    expected = await undisturbed(client, queue)
    kills = 0
    with workers(server.url, queue, tmp_path / "executions") as started:
        handle = await begin(client, queue, "w")
        watched = asyncio.create_task(_watch(handle))

        async def keep_killing() -> None:
            nonlocal kills
            while kills < KILLS:
                worker = await started.start(fault="after_commit:1" if kills % 2 else "after_effects:1")
                await worker.dead()
                kills += 1
            await started.start()

        killer = asyncio.create_task(keep_killing())
        await waits_for(handle, "live")
        await handle.signal("live", {"live": 0})
        found = await finished(handle)
        killer.cancel()
        events = await watched
    assert kills == KILLS
    assert for_comparison(found, queue) == for_comparison(expected, queue)
    assert events == (await handle.export_execution()).events


async def _watch(handle: WorkflowHandle) -> list[Any]:
    return [event async for event in handle.watch()]


@workflow
async def mixed(count: int) -> list[Any]:
    """Rests for every signal, with an activity and a child in between."""
    given = []
    for n in range(count):
        given.append([await condition("n"), await add(n, 1), await execute_child(five_steps, n) if n % 5 == 0 else None])
    return given


async def test_dropped_from_memory_at_every_rest(client: Client, queue: str) -> None:
    executions = []
    for disturbed in (False, True):
        drops = 0
        served = f"{queue}-{disturbed}"
        async with Worker(client, task_queue=served, workflows=[mixed, five_steps], activities=ACTIVITIES) as worker:
            handle = await client.start(mixed, KILLS, workflow_id="w", task_queue=served)
            for n in range(KILLS):
                await until(lambda: (actor := _actor(worker)) is not None and actor.evictable)
                if disturbed:
                    dropped = _actor(worker)
                    assert dropped is not None
                    dropped.drop()
                    assert _actor(worker) is None
                    drops += 1
                await handle.signal("n", n)
                await until(lambda n=n, handle=handle: _has_taken(handle, n + 1))
            assert len(await handle.result(timeout="30s")) == KILLS
            execution = await handle.export_execution(mode="verbose", extended=True, enrich_inputs=True)
        check_execution(execution)
        assert drops == (KILLS if disturbed else 0)
        executions.append(for_comparison([timeless(execution)], queue).replace(served, queue))
    assert executions[0] == executions[1]


def _actor(worker: Worker) -> Actor | None:
    """The workflow ``w``, if it is in memory."""
    actors = worker._engine.actors
    return None if actors is None else actors._all.get("w")


async def _has_taken(handle: WorkflowHandle, signals: int) -> bool:
    return (await handle.export_execution()).summary.signals >= signals
