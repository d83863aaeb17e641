"""kill -9 while runs are made one key, and while expired ones are removed: never less than a whole history, and in the end nothing."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from tests.chaos.app import five_steps, sleeper
from tests.chaos.harness import check_histories, timeline_events, workers
from tests.engine.helpers import until

COUNT = 4


async def start_all(client: Client, queue: str, expire: str | None) -> list[str]:
    """Some that are one key from the end on, and some whose history is read back."""
    for n in range(COUNT):
        await client.start(five_steps, n, workflow_id=f"steps-{n}", task_queue=queue, expire=expire)
        await client.start(sleeper, 1200, workflow_id=f"sleeper-{n}", task_queue=queue, expire=expire)
    return [f"{kind}-{n}" for n in range(COUNT) for kind in ("steps", "sleeper")]


async def keys(client: Client, queue: str) -> list[str]:
    """Subjects of the queue's timeline."""
    names = client.broker.names
    subject = f"{names.timeline_prefix}{queue}.>"
    info = await client.broker.lane.api(f"STREAM.INFO.{names.timeline_stream}", {"subjects_filter": subject})
    return list(info["state"].get("subjects") or {})


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("point", ["before_compaction", "after_compaction"])
async def test_killed_while_runs_become_one_key(point: str, count: int, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        ids = await start_all(client, queue, None)
        doomed = await started.start(fault=f"{point}:{count}")
        assert await doomed.dead() == -9, f"never came to {point} {count} times: {doomed.errors.read_text()}"
        for workflow_id in ids:
            events = await timeline_events(client, queue, workflow_id)
            assert isinstance(events[0], ev.Started)
            assert sum(isinstance(event, ev.Started) for event in events) == 1
        await started.start()
        for n in range(COUNT):
            assert await client.get_handle(f"steps-{n}", queue).result(timeout="60s") == n + 15
            assert await client.get_handle(f"sleeper-{n}", queue).result(timeout="60s") == "slept"
        await check_histories(client, queue, ids, log)
        for workflow_id in ids:
            record = await client.get_handle(workflow_id, queue).describe()
            assert record is not None
            assert record.status == "completed"


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("point", ["after_compaction", "before_purge"])
async def test_killed_and_yet_nothing_is_left(point: str, count: int, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        ids = await start_all(client, queue, "1s")
        doomed = await started.start(fault=f"{point}:{count}")
        assert await doomed.dead() == -9, f"never came to {point} {count} times: {doomed.errors.read_text()}"
        await started.start()

        async def nothing() -> bool:
            states = await asyncio.gather(*(client.states.newest(queue, workflow_id) for workflow_id in ids))
            return not any(states) and not await keys(client, queue)

        await until(nothing, 60)
        again = await client.start(five_steps, 1, workflow_id=ids[0], task_queue=queue)
        assert await again.result(timeout="60s") == 16


async def test_killed_by_the_janitor_again_and_again(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    """Each worker removes two runs and dies at the third."""
    with workers(server.url, queue, tmp_path / "executions") as started:
        await start_all(client, queue, "1s")

        async def keep_starting() -> None:
            while True:
                worker = await started.start(fault="before_purge:3")
                await worker.dead()

        keeper = asyncio.create_task(keep_starting())

        async def nothing() -> bool:
            return not keeper.done() and not await keys(client, queue)

        await until(lambda: keys(client, queue))
        await until(nothing, 120)
        keeper.cancel()


async def test_a_run_whose_record_was_never_written_is_told_of_though_one_before_it_has_expired(
    server: LocalServer, client: Client, queue: str, tmp_path: Path
) -> None:
    """The marker that stands where the record should is of the run before."""
    with workers(server.url, queue, tmp_path / "executions") as started:
        doomed = await started.start(fault="after_notice:2")
        first = await client.start(five_steps, 1, workflow_id="one", task_queue=queue, expire="3s")
        assert await first.result(timeout="60s") == 16
        second = await client.start(five_steps, 2, workflow_id="one", task_queue=queue, expire="1s", if_exists="replace")
        assert await doomed.dead() == -9, doomed.errors.read_text()
        waiting = asyncio.create_task(second.result(timeout="60s"))

        async def marked() -> bool:
            newest = await client.states.newest(queue, "one")
            return newest is not None and not newest.data

        await until(marked, 60)
        await started.start()
        assert await waiting == 17
