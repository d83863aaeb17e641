"""kill -9 at every step that an update goes through: its handler runs once, and its caller hears of it."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from tests.chaos.app import counts
from tests.chaos.harness import timeline_events, workers


@pytest.mark.parametrize(
    "point",
    ["before_commit", "after_commit", "after_commit:2", "after_effects", "before_activity", "after_activity", "after_state",
     "before_ack"],
)  # fmt: skip
async def test_updates_of_a_killed_worker(point: str, server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    with workers(server.url, queue, tmp_path / "executions") as started:
        handle = await client.start(counts, workflow_id="c", task_queue=queue)
        asked = [asyncio.create_task(handle.update("count", n, timeout="90s")) for n in range(3)]
        doomed = await started.start(fault=point)
        assert await doomed.dead() == -9, f"never came to {point}: {doomed.errors.read_text()}"
        await started.start()
        assert sorted(await asyncio.gather(*asked)) == [1, 2, 3]
        assert sorted(await handle.query("given", timeout="30s")) == [0, 1, 2]
        await handle.update("end", timeout="90s")
        assert sorted(await handle.result(timeout="60s")) == [0, 1, 2]
        assert await handle.query_state(["given"]) == {"given": 3}
        events = await timeline_events(client, queue, "c")
        for kind in (ev.Updated, ev.UpdateCompleted):
            ids = [event.id for event in events if isinstance(event, kind)]
            assert len(ids) == len(set(ids)) == 4
