"""kill -9 at the places that each command meets: it takes effect once, whatever was killed."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from jetflow import CancelledFailure, Client, WorkflowAlreadyStartedError
from jetflow.broker.transport.server import LocalServer
from jetflow.core.times import to_iso
from tests.chaos.app import cleans_up, collect, tells, tells_at_last, tree
from tests.chaos.harness import Workers, check_histories, executions, workers
from tests.engine.helpers import commands, dead_letters, until, waits_for

WAIT = "60s"


async def killed_at(started: Workers, point: str, send: Any) -> None:
    """A worker that dies at ``point`` after the command was sent; another one goes on."""
    doomed = await started.start(fault=point)
    await send()
    assert await doomed.dead() == -9, f"never came to {point}: {doomed.errors.read_text()}"
    await started.start()


async def at_rest(started: Workers, ready: Any) -> None:
    """A worker brings workflows to where they wait, and leaves."""
    worker = await started.start()
    await ready()
    await asyncio.to_thread(worker.terminate)


@pytest.mark.parametrize(
    "point", ["before_commit", "after_commit", "after_effects", "before_activity", "after_activity", "after_schedule", "after_state", "before_ack"]
)
async def test_cancel(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        handle = await client.start(cleans_up, task_queue=queue)
        await at_rest(started, lambda: waits_for(handle, "go"))
        await killed_at(started, point, lambda: handle.cancel("enough"))
        assert "cleaned up" in await handle.result(timeout=WAIT)
        await check_histories(client, queue, [handle.workflow_id], log)
        assert executions(log)


@pytest.mark.parametrize(
    "point", ["before_commit:1", "after_commit:1", "after_commit:2", "after_effects:1", "after_notice:1", "after_state:1", "before_ack:2"]
)
async def test_terminate_of_a_tree(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    log = tmp_path / "executions"
    ids = ["t", "ts", "te", "tss", "tse", "tes", "tee"]

    async def all_gone() -> bool:
        records = [await client.states.get(queue, workflow_id) for workflow_id in ids]
        return all(record is None or record.status == "terminated" for record in records)

    async def all_wait() -> None:
        for workflow_id in ids:
            await until(lambda workflow_id=workflow_id: client.states.get(queue, workflow_id))
        for workflow_id in ids[3:]:
            await waits_for(client.get_handle(workflow_id, queue), "go")

    with workers(server.url, queue, log) as started:
        root = await client.start(tree, 2, "t", [queue], workflow_id="t", task_queue=queue)
        await at_rest(started, all_wait)
        await killed_at(started, point, lambda: root.terminate(descend=True))
        await until(all_gone, 60)
        assert await dead_letters(client, queue) == []


@pytest.mark.parametrize(
    ("point", "of"),
    [("before_commit:1", 0), ("after_commit:1", 0), ("after_notice:1", 0), ("after_state:1", 0), ("before_ack:1", 0),
     ("before_commit:2", 1), ("after_commit:1", 1), ("after_notice:2", 1), ("after_state:1", 1), ("before_ack:2", 1)],
)  # fmt: skip
async def test_terminate_of_a_tree_on_two_task_queues(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str, of: int) -> None:
    """Levels on queues in turn; the worker of one of them dies on the way down. What goes down waits in the inbox for the next."""
    queues = [queue, f"{queue}-b"]
    where = {"t": queue, "ts": queues[0], "te": queues[0]} | {f"t{a}{b}": queues[1] for a in "se" for b in "se"}

    async def all_wait() -> None:
        for workflow_id in ("tss", "tse", "tes", "tee"):
            await until(lambda workflow_id=workflow_id: client.states.get(where[workflow_id], workflow_id))
            await waits_for(client.get_handle(workflow_id, where[workflow_id]), "go")

    async def all_gone() -> bool:
        records = [await client.states.get(queue_of, workflow_id) for workflow_id, queue_of in where.items()]
        return all(record is None or record.status == "terminated" for record in records)

    with workers(server.url, queues[0], tmp_path / "a") as ones, workers(server.url, queues[1], tmp_path / "b") as others:
        both = (ones, others)
        first = [await one.start() for one in both]
        root = await client.start(tree, 2, "t", queues, workflow_id="t", task_queue=queue)
        await all_wait()
        await asyncio.to_thread(first[of].terminate)
        await killed_at(both[of], point, lambda: root.terminate(descend=True))
        await until(all_gone, 60)
        for queue_of in queues:
            await until(lambda queue_of=queue_of: _consumed(client, queue_of), 60)
            assert await dead_letters(client, queue_of) == []


async def _consumed(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


@pytest.mark.parametrize("point", ["before_commit:1", "after_commit:1", "after_schedule:1", "after_state:1", "before_ack:1", "after_commit:2"])
async def test_a_delayed_start(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    """It has the id, and its code begins once and not early, whichever step of it a worker died of."""
    with workers(server.url, queue, tmp_path / "executions") as started:
        began = time.time()
        handle = await client.start(collect, 1, workflow_id="d", task_queue=queue, start_delay="6s")

        async def send() -> None:
            await handle.signal("n", "given")

        await killed_at(started, point, send)
        with pytest.raises(WorkflowAlreadyStartedError):
            await client.start(collect, 1, workflow_id="d", task_queue=queue)
        assert await handle.result(timeout=WAIT) == ["given"]
        assert time.time() - began > 6
        await check_histories(client, queue, ["d"], tmp_path / "executions")
        assert await dead_letters(client, queue) == []


@pytest.mark.parametrize("point", ["before_letter:1", "after_letter:1"])
async def test_a_scheduled_start_that_is_refused(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    """It is one dead letter, whichever side of it a worker died on."""
    lane, names = client.broker.lane, client.broker.names
    with workers(server.url, queue, tmp_path / "executions") as started:

        async def send() -> None:
            handle = await client.start(collect, 1, workflow_id="d", task_queue=queue)
            schedule = {
                "Nats_Schedule": f"@at {to_iso(int(time.time() * 1000) + 300)}",
                "Nats_Schedule_Target": names.command(queue, "d", "start.collect"),
            }
            await lane.publish_once(f"{names.timer_prefix}{queue}.d.start.at", b"1", lane.message_id(), **schedule)
            await waits_for(handle, "n")

        await killed_at(started, point, send)
        await until(lambda: _consumed(client, queue), 60)
        assert len(await dead_letters(client, queue)) == 1
        await client.get_handle("d", queue).signal("n", "given")
        assert await client.get_handle("d", queue).result(timeout=WAIT) == ["given"]


@pytest.mark.parametrize("point", ["before_commit:1", "after_commit:1", "after_buffer:1", "after_notice:1", "after_state:1", "before_ack:1"])
async def test_a_cancel_that_comes_before_the_start(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    """It is kept, and the run begins cancelled, whichever of the two commands a worker died of."""
    with workers(server.url, queue, tmp_path / "executions") as started:

        async def send() -> None:
            await client.get_handle("c", queue).cancel("enough")
            await client.start(collect, 1, workflow_id="c", task_queue=queue)

        await killed_at(started, point, send)
        with pytest.raises(CancelledFailure, match="enough"):
            await client.get_handle("c", queue).result(timeout=WAIT)


@pytest.mark.parametrize(
    ("sender", "point"),
    [(tells, point) for point in ("before_commit:1", "after_commit:1", "after_effects:1", "after_buffer:1", "after_state:1", "before_ack:1")]
    + [(tells_at_last, point) for point in ("before_commit:2", "after_commit:2", "after_effects:2")],
)
async def test_signals_from_a_workflow(server: LocalServer, client: Client, queue: str, tmp_path: Path, sender: Any, point: str) -> None:
    """The sender ends with the commit that sends them."""
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:

        async def send() -> None:
            await client.start(sender, "ear", 6, workflow_id="mouth", task_queue=queue)

        await killed_at(started, point, send)
        assert await client.get_handle("mouth", queue).result(timeout=WAIT) == "told"
        heard = await client.execute(collect, 6, workflow_id="ear", task_queue=queue, timeout=WAIT)
        assert heard == list(range(6))


@pytest.mark.parametrize(
    "point",
    ["before_commit:1", "after_commit:1", "after_effects:1", "after_state:1", "before_ack:1"],
)
async def test_signal_with_start(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:

        async def send() -> None:
            for n in range(12):
                await client.signal_with_start(collect, 12, signal="n", data=n, workflow_id="one", task_queue=queue)

        await killed_at(started, point, send)
        assert await client.get_handle("one", queue).result(timeout=WAIT) == list(range(12))
        await check_histories(client, queue, ["one"], log)


@pytest.mark.parametrize("point", ["before_commit:1", "after_commit:1", "after_commit:2", "after_notice:1", "after_state:1", "before_ack:1"])
async def test_a_start_that_replaces(server: LocalServer, client: Client, queue: str, tmp_path: Path, point: str) -> None:
    with workers(server.url, queue, tmp_path / "executions") as started:
        old = await client.start(collect, 1, workflow_id="x", task_queue=queue)
        await at_rest(started, lambda: waits_for(old, "n"))

        async def send() -> None:
            new = await client.start(collect, 2, workflow_id="x", task_queue=queue, if_exists="replace")
            await new.signal("n", 1)

        await killed_at(started, point, send)
        new = client.get_handle("x", queue)
        await new.signal("n", 2)

        async def ended() -> bool:
            record = await client.states.get(queue, "x")
            return record is not None and record.run_id != old.run_id and record.closed

        await until(ended, 60)
        assert await new.result(timeout=WAIT) == [1, 2]


async def test_an_uncaught_cancel_is_the_end(server: LocalServer, client: Client, queue: str, tmp_path: Path) -> None:
    with workers(server.url, queue, tmp_path / "executions") as started:
        handle = await client.start(collect, 1, task_queue=queue)
        await at_rest(started, lambda: waits_for(handle, "n"))
        await killed_at(started, "after_commit", lambda: handle.cancel("enough"))
        with pytest.raises(CancelledFailure, match="enough"):
            await handle.result(timeout=WAIT)
