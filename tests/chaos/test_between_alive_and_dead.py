"""Owners that are neither alive nor dead: paused, cut off, giving up partitions, or with a server that was gone for a moment.

Whatever an owner still has in hand when others have taken over must change nothing.
"""

import asyncio
import json
import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from bench.cluster import LocalCluster
from jetflow import Client
from jetflow.broker.transport.pull import claimed_partitions
from jetflow.broker.transport.server import LocalServer
from jetflow.core.ids import partition_of, to_token
from jetflow.errors import WorkflowAlreadyStartedError, WorkflowNotFoundError, WorkflowTerminatedError

from . import app
from .harness import WorkerProcess, Workers, check_histories, executions, workers
from .proxy import proxy

COMPLETED = 0
NO_COMPLAINT = ("ERROR", "Traceback", "never retrieved")


@pytest.fixture
async def own_server(tmp_path: Path) -> AsyncIterator[LocalServer]:
    """A server that the test may kill, and that nobody else has written to."""
    async with LocalServer(tmp_path / "store") as server:
        yield server


async def until(ask: Callable[[], Any], seconds: float = 60) -> Any:
    """What it gives, or what it gives when awaited, once that is true."""
    async with asyncio.timeout(seconds):
        while True:
            found = ask()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.05)


def options(**given: Any) -> str:
    """For ``Workers.start``."""
    return json.dumps(given)


async def start(started: Workers, fault: str | None = None, **given: Any) -> WorkerProcess:
    return await started.start(fault, "tests.chaos.app", options(**given))


async def subjects(client: Client, stream: str, of: str = ">") -> dict[str, int]:
    """Subjects of a stream that have a message."""
    answer = await client.broker.lane.api(f"STREAM.INFO.{stream}", {"subjects_filter": of})
    return answer["state"].get("subjects") or {}


async def unacked(client: Client, queue: str) -> dict[str, int]:
    return await subjects(client, client.broker.names.inbox_stream, f"jetflow.*.{queue}.>")


async def keys(client: Client, queue: str) -> dict[str, list[int]]:
    """Timeline keys by workflow."""
    found: dict[str, list[int]] = {}
    for subject in await subjects(client, client.broker.names.timeline_stream, f"{client.broker.names.timeline_prefix}{queue}.>"):
        found.setdefault(subject.split(".")[3], []).append(int(subject.split(".")[4]))
    return found


async def owners(client: Client, queue: str) -> dict[str, frozenset[int]]:
    """Partitions by the worker that has claimed them."""
    claimed = await claimed_partitions(client.broker.lane, client.broker.names, to_token(queue))
    return {name.split("-")[1]: partitions for name, partitions in claimed.items()}


async def owner_of_all(client: Client, queue: str) -> str:
    """The worker that has every partition."""

    async def look() -> str | None:
        return next((name for name, partitions in (await owners(client, queue)).items() if len(partitions) == 64), None)

    return await until(look)


async def shared_by(client: Client, queue: str, count: int) -> dict[str, frozenset[int]]:
    """What each owns once all partitions are owned by so many."""

    async def look() -> dict[str, frozenset[int]] | None:
        found = await owners(client, queue)
        return found if len(found) == count and sum(map(len, found.values())) == 64 else None

    return await until(look)


async def standing_still(worker: WorkerProcess) -> None:
    """It has come to the place where it pauses."""
    stat = Path(f"/proc/{worker.process.pid}/stat")
    await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T")


async def in_lots(calls: Iterable[Awaitable[Any]], at_once: int = 100) -> list[Any]:
    places = asyncio.Semaphore(at_once)

    async def one(call: Awaitable[Any]) -> Any:
        async with places:
            return await call

    return await asyncio.gather(*map(one, calls))


async def outcomes(client: Client, queue: str, ids: Iterable[str], timeout: str = "60s") -> dict[str, Any]:
    """Each result, or what came instead of it."""
    every = list(ids)
    got = await asyncio.gather(*(client.get_handle(each, queue).result(timeout=timeout) for each in every), return_exceptions=True)
    return dict(zip(every, got, strict=True))


async def forgotten(client: Client, queue: str, workflow_id: str) -> bool:
    try:
        await client.get_handle(workflow_id, queue).status()
    except WorkflowNotFoundError:
        return True
    return False


def complaints(started: Workers) -> list[str]:
    """What workers have logged that none should."""
    lines = [line for worker in started.all for line in worker.errors.read_text().splitlines()]
    return [line for line in lines if any(word in line for word in NO_COMPLAINT)]


# ---- partitions that change hands while turns are under way


async def test_activities_that_outlast_the_grace(tmp_path: Path, queue: str) -> None:
    """Partitions come and go while many workflows wait for activities that the grace is too short for."""
    config, log, count = tmp_path / "nats.conf", tmp_path / "executions", 500
    config.write_text("jetstream { sync_interval: always }\n")  # a commit takes a while
    rng = random.Random(1)
    async with LocalServer(tmp_path / "store", config=config) as server, Client.connect(server.url) as client:
        given = {"graceful_timeout": "0.2s", "max_concurrent_activities": 5000}
        with workers(server.url, queue, log) as started:
            await start(started, **given)
            ids = [f"w{n}" for n in range(count)]
            steps = [[rng.uniform(0.2, 0.9) for _ in range(4)] for _ in ids]
            begun = asyncio.gather(in_lots(client.start(app.slow_steps, n, steps[n], workflow_id=ids[n], task_queue=queue) for n in range(count)))
            for _ in range(4):
                joins = await start(started, **given)
                await shared_by(client, queue, 2)
                await asyncio.to_thread(joins.terminate)
            await begun
            assert await outcomes(client, queue, ids) == {each: n + 4 for n, each in enumerate(ids)}
            await until(lambda: _nothing_left(client, queue))
            assert complaints(started) == []
        await check_histories(client, queue, ids, log)


async def _nothing_left(client: Client, queue: str) -> bool:
    return not await unacked(client, queue)


async def test_commands_that_are_applied_while_partitions_go(tmp_path: Path, queue: str) -> None:
    """Starts with early signals, cancels and terminates, none of which may vanish or become a dead letter."""
    config = tmp_path / "nats.conf"
    config.write_text("jetstream { sync_interval: always }\n")
    rng = random.Random(1)
    wanted: dict[str, Any] = {}
    async with LocalServer(tmp_path / "store", config=config) as server, Client.connect(server.url, timeout=30) as client:
        stop = False

        async def feed(k: int) -> None:
            n = 0
            while not stop:
                n += 1
                await asyncio.sleep(rng.uniform(0, 0.2))  # for the disk to keep up
                each, what = f"{k}-{n}", rng.choice(["early", "early", "cancel", "terminate"])
                handle = client.get_handle(each, queue)
                if what == "early":
                    await handle.signal("go", n)
                    await client.start(app.gate, workflow_id=each, task_queue=queue)
                    wanted[each] = n
                elif what == "cancel":
                    await client.start(app.cleans_up, workflow_id=each, task_queue=queue)
                    await handle.cancel("enough")
                    wanted[each] = "cleaned up: Workflow cancelled: enough"
                else:
                    await client.start(app.gate, workflow_id=each, task_queue=queue)
                    await handle.terminate("enough", expire="10m")
                    wanted[each] = WorkflowTerminatedError

        with workers(server.url, queue, tmp_path / "executions") as started:
            await start(started, graceful_timeout="0ms")
            feeds = [asyncio.create_task(feed(k)) for k in range(12)]
            for _ in range(4):
                joins = await start(started, graceful_timeout="0ms")
                await shared_by(client, queue, 2)
                await asyncio.to_thread(joins.terminate)
            stop = True
            await asyncio.gather(*feeds)
            got = await outcomes(client, queue, wanted)
            assert {each: type(end) if wanted[each] is WorkflowTerminatedError else end for each, end in got.items()} == wanted
            await until(lambda: _nothing_left(client, queue))
            assert complaints(started) == []
        assert [each for each in await subjects(client, client.broker.names.dead_stream) if each.startswith(client.broker.names.dead_prefix)] == []


async def test_a_death_is_noticed_while_partitions_drain(client: Client, server: LocalServer, queue: str, tmp_path: Path) -> None:
    """One waits up to a minute for activities in what a newcomer is to have, another dies: what was its goes on, and so do the activities."""
    log = tmp_path / "executions"
    with workers(server.url, queue, log) as started:
        drains = await start(started, graceful_timeout="60s")
        first = await owner_of_all(client, queue)
        third = await start(started, graceful_timeout="60s")
        (of_third,) = [each for name, each in (await shared_by(client, queue, 2)).items() if name != first]
        busy = [f"w{n}" for n in range(400) if partition_of(queue, f"w{n}", 64) not in of_third]
        brief = busy[::2]
        await in_lots(client.start(app.one_slow_step, 6 if each in brief else 50, workflow_id=each, task_queue=queue) for each in busy)
        await until(lambda: len(executions(log)) >= len(busy))
        started.all.append(WorkerProcess(server.url, queue, log, more=(options(graceful_timeout="60s"),)))
        await shared_by(client, queue, 3)  # the third one is idle, and lets go at once what is to be the newcomer's
        third.kill()
        rest = frozenset(range(64)) - (await owners(client, queue))[first]

        async def taken_over() -> bool:
            found = await owners(client, queue)
            return len(found) == 2 and sum(map(len, found.values())) == 64

        await until(taken_over, 15)
        fresh = [f"f{n}" for n in range(400) if partition_of(queue, f"f{n}", 64) in rest]
        await in_lots(client.start(app.five_steps, 1, workflow_id=each, task_queue=queue) for each in fresh)
        assert set((await outcomes(client, queue, fresh)).values()) == {16}
        assert set((await outcomes(client, queue, brief)).values()) == {2}
        if "another worker was faster" not in drains.errors.read_text():  # between two claims of the one that drains, the newcomer may be
            assert len(executions(log)) == len(busy) + 5 * len(fresh)  # what was drained has gone on where it was


# ---- owners that stood still, or were cut off


async def test_paused_between_commit_and_record(client: Client, server: LocalServer, queue: str, tmp_path: Path) -> None:
    """What it knows of its workflows is old when it wakes up: their ends have been told by another."""
    count = 60
    with workers(server.url, queue, tmp_path / "executions") as started:
        first = await start(started, "after_commit:40", pauses=True)
        lasting, brief = [f"l{n}" for n in range(count)], [f"b{n}" for n in range(count)]
        await in_lots(
            client.start(app.gate, workflow_id=each, task_queue=queue, expire="1h" if each in lasting else "2s") for each in lasting + brief
        )
        await standing_still(first)
        await start(started)
        await owner_of_all(client, queue)
        every = lasting + brief
        results = asyncio.create_task(outcomes(client, queue, every))
        await asyncio.gather(*(client.get_handle(each, queue).signal("go", each) for each in every))
        assert await results == {each: each for each in every}
        first.go_on()
        await shared_by(client, queue, 2)
        assert await outcomes(client, queue, lasting, "5s") == {each: each for each in lasting}
        assert [await client.get_handle(each, queue).status() for each in lasting] == [COMPLETED] * count
        again = await asyncio.gather(*(client.start(app.five_steps, 1, workflow_id=each, task_queue=queue, if_exists="replace") for each in lasting))
        assert [await handle.result(timeout="10s") for handle in again] == [16] * count

        async def once_it_is_free(each: str) -> int:
            async with asyncio.timeout(15):
                while True:
                    try:
                        return await (await client.start(app.five_steps, 1, workflow_id=each, task_queue=queue)).result(timeout="10s")
                    except WorkflowAlreadyStartedError:
                        await asyncio.sleep(0.1)

        assert await asyncio.gather(*map(once_it_is_free, brief)) == [16] * count


async def test_what_was_on_its_way_while_a_successor_compacted(own_server: LocalServer, queue: str, tmp_path: Path) -> None:
    """Commits that arrive when the run has ended, and its keys have become one."""
    count, log = 100, tmp_path / "executions"
    ids = [f"w{n}" for n in range(count)]
    async with Client.connect(own_server.url) as client, proxy(own_server.port) as between:
        with workers(between.url, queue, log) as cut_off, workers(own_server.url, queue, log) as started:
            await start(cut_off)
            steps = [[0.02 + 0.001 * (n % 20)] * 30 for n in range(count)]
            await in_lots(client.start(app.slow_steps, n, steps[n], workflow_id=ids[n], task_queue=queue, expire="3s") for n in range(count))
            await until(lambda: len(executions(log)) > 5 * count)
            between.keep()
            await start(started)
            assert await outcomes(client, queue, ids) == {each: n + 30 for n, each in enumerate(ids)}

            async def compacted() -> bool:
                return all(len(each) == 1 for each in (await keys(client, queue)).values())

            await until(compacted)
            between.release()
            await shared_by(client, queue, 2)
            assert {each: found for each, found in (await keys(client, queue)).items() if len(found) > 1} == {}

            async def expired() -> bool:
                return all(await asyncio.gather(*(forgotten(client, queue, each) for each in ids)))

            async def removed() -> bool:
                left = await subjects(client, client.broker.names.timeline_stream)
                return all(each.startswith(("jetflow_tenure.", "jetflow_guard.")) for each in left)

            await until(expired)
            await until(removed, 10)
            again = await in_lots(client.start(app.five_steps, 1, workflow_id=each, task_queue=queue) for each in ids)
            assert [await handle.result(timeout="10s") for handle in again] == [16] * count
            await until(lambda: _nothing_left(client, queue))
            assert complaints(started) == []


async def test_first_commits_that_arrive_when_all_is_over(own_server: LocalServer, queue: str, tmp_path: Path) -> None:
    """The starts that an owner had taken have run elsewhere, and nothing is left of them, when its first commits come."""
    count, log = 60, tmp_path / "executions"
    async with Client.connect(own_server.url) as client, proxy(own_server.port) as between:
        names = client.broker.names
        with workers(between.url, queue, log) as cut_off, workers(own_server.url, queue, log) as started:
            first = await start(cut_off)
            between.keep(answers=False)
            ids = [f"w{n}" for n in range(count)]
            await in_lots(client.start(app.five_steps, n, workflow_id=ids[n], task_queue=queue, expire="1s") for n in range(count))
            await until(lambda: all(f"PUB {names.timeline_prefix}{queue}.{each}.1 ".encode() in between.kept for each in ids))
            first.pause()
            between.keep()
            await start(started)
            await _over_and_gone(client, queue, ids)
            ran = len(executions(log))
            between.release()
            first.go_on()
            await _is_over(client, queue, ids, ran, log)
            assert complaints(started) == []


@pytest.mark.parametrize("at", [20, 30])
async def test_paused_before_its_commit_until_all_is_over(at: int, own_server: LocalServer, queue: str, tmp_path: Path) -> None:
    """An owner goes to sleep on its way to write, amid parents' and children's first commits; all of them are terminated meanwhile."""
    count, log = 15, tmp_path / "executions"
    async with Client.connect(own_server.url) as client:
        with workers(own_server.url, queue, log) as started:
            first = await start(started, f"before_commit:{at}", pauses=True)
            parents = [f"p{n}" for n in range(count)]
            await asyncio.gather(
                *(client.start(app.with_a_child, f"c{n}", workflow_id=parents[n], task_queue=queue, expire="1s") for n in range(count))
            )
            await standing_still(first)
            await start(started)
            await owner_of_all(client, queue)
            await asyncio.gather(*(client.get_handle(each, queue).signal("go") for each in parents))
            ids = parents + [f"c{n}" for n in range(count)]
            await _over_and_gone(client, queue, ids)
            ran = len(executions(log))
            first.go_on()
            await _is_over(client, queue, ids, ran, log)
            assert complaints(started) == []


async def _over_and_gone(client: Client, queue: str, ids: list[str]) -> None:
    async def gone() -> bool:
        return not await keys(client, queue) and not await unacked(client, queue) and all([await forgotten(client, queue, each) for each in ids])

    await until(gone)


async def _is_over(client: Client, queue: str, ids: list[str], ran: int, log: Path) -> None:
    """Nothing has come of what an owner had in hand, once it owns partitions again and has served others."""
    await shared_by(client, queue, 2)
    fresh = await asyncio.gather(*(client.start(app.five_steps, 1, workflow_id=f"fresh{n}", task_queue=queue) for n in range(200)))
    assert [await handle.result(timeout="20s") for handle in fresh] == [16] * 200
    assert [line for line in executions(log)[ran:] if line["workflow_id"] in ids] == []
    assert [each for each in ids if not await forgotten(client, queue, each)] == []
    assert [each for each in ids if each in await keys(client, queue)] == []
    again = await asyncio.gather(*(client.start(app.five_steps, 1, workflow_id=each, task_queue=queue) for each in ids))
    assert [await handle.result(timeout="20s") for handle in again] == [16] * len(ids)
    await until(lambda: _nothing_left(client, queue))


async def test_every_caller_gets_a_result_that_is_kept_for_a_second(client: Client, server: LocalServer, queue: str, tmp_path: Path) -> None:
    """Owners die and pause all the time."""
    with workers(server.url, queue, tmp_path / "executions") as started:
        for _ in range(2):
            await start(started)
        stop, wrong = False, []

        async def call(k: int) -> None:
            n = 0
            while not stop:
                n += 1
                try:
                    got = await client.execute(app.five_steps, n, workflow_id=f"{k}-{n}", task_queue=queue, expire="1s", timeout="30s")
                except Exception as error:
                    got = error
                if got != n + 15:
                    wrong.append((f"{k}-{n}", got))

        calls = [asyncio.create_task(call(k)) for k in range(30)]
        for _ in range(1):
            dies, pauses = started.all[-2:]
            pauses.pause()
            await asyncio.sleep(0.3)
            dies.kill()
            await start(started)
            await owner_of_all(client, queue)  # those that are dead or paused have lost what they had
            pauses.go_on()
            started.all.remove(pauses)
            started.all.append(pauses)
            await shared_by(client, queue, 2)
        stop = True
        await asyncio.gather(*calls)
        assert wrong == []


# ---- servers that were away


async def test_replacing_while_the_server_is_away(own_server: LocalServer, queue: str, tmp_path: Path) -> None:
    """Runs are replaced while the server dies and comes back on its store; every start that it had acked ends."""
    rng = random.Random(1)
    async with Client.connect(own_server.url, timeout=30) as client:
        with workers(own_server.url, queue, tmp_path / "executions") as started:
            await start(started)
            wanted: dict[str, tuple[Any, int]] = {}
            stop = False

            async def feed(k: int) -> None:
                n = 0
                while not stop:
                    n += 1
                    each = f"w{k}-{n}"
                    try:
                        await client.start(app.gate, workflow_id=each, task_queue=queue)
                        await asyncio.sleep(rng.uniform(0.05, 0.2))
                        handle = await client.start(app.five_steps, n, workflow_id=each, task_queue=queue, if_exists="replace")
                        wanted[each] = handle, n + 15
                    except Exception:
                        await asyncio.sleep(0.1)

            feeds = [asyncio.create_task(feed(k)) for k in range(100)]
            for _ in range(4):
                await asyncio.sleep(rng.uniform(0.3, 0.8))
                own_server.kill()
                await asyncio.sleep(rng.uniform(0.1, 0.3))
                await own_server.start()
            stop = True
            await asyncio.gather(*feeds)
            got = await asyncio.gather(*(handle.result(timeout="20s") for handle, _ in wanted.values()), return_exceptions=True)
            assert {each: end for each, end in zip(wanted, got, strict=True) if end != wanted[each][1]} == {}
            records = await in_lots(handle.describe() for handle, _ in wanted.values())
            assert [record.workflow_id for record in records if record.parked] == []
            await start(started)
            await shared_by(client, queue, 2)
            assert complaints(started) == []


async def test_early_signals_that_were_taken_do_not_come_back(own_server: LocalServer, queue: str, tmp_path: Path) -> None:
    """The server is killed soon after a run has consumed what waited for it; the next run of the id gets what comes for it."""
    count = 60
    async with Client.connect(own_server.url, timeout=30) as client:
        with workers(own_server.url, queue, tmp_path / "executions") as started:
            await start(started)
            lasting, brief = [f"l{n}" for n in range(count)], [f"b{n}" for n in range(count)]
            every = lasting + brief
            await in_lots(client.get_handle(each, queue).signal("go", "early") for each in every)
            await client.get_handle("to come", queue).signal("go", "kept")  # what is kept meanwhile is in the same file
            names = client.broker.names

            async def kept(number: int) -> bool:
                return len(await subjects(client, names.signal_stream, f"{names.signal_prefix}>")) == number

            await until(lambda: kept(len(every) + 1))
            await in_lots(client.start(app.gate, workflow_id=each, task_queue=queue, expire="1h" if each in lasting else "1s") for each in every)
            assert await outcomes(client, queue, every) == dict.fromkeys(every, "early")
            await until(lambda: kept(1))
            own_server.kill()
            await own_server.start()
            await owner_of_all(client, queue)
            await until(lambda: _all_forgotten(client, queue, brief))
            again = await in_lots(
                client.start(app.gate, workflow_id=each, task_queue=queue, if_exists="replace" if each in lasting else "fail") for each in every
            )
            await in_lots(handle.signal("go", "late") for handle in again)
            assert await asyncio.gather(*(handle.result(timeout="10s") for handle in again)) == ["late"] * len(every)


async def _all_forgotten(client: Client, queue: str, ids: list[str]) -> bool:
    return all(await asyncio.gather(*(forgotten(client, queue, each) for each in ids)))


async def test_early_signals_with_a_slow_follower(queue: str, tmp_path: Path) -> None:
    """One of three servers lags behind, and is asked for what waits for a workflow that starts."""
    rng = random.Random(1)
    async with LocalCluster(tmp_path) as cluster, Client.connect(cluster.urls, timeout=30) as client:
        with workers(cluster.urls, queue, tmp_path / "executions") as started:
            await start(started)
            leader = await until(lambda: cluster.leader_of(client, client.broker.names.signal_stream))
            slow = next(server for name, server in cluster.servers.items() if name != leader and server.url != client.url)
            stop = False

            async def starve() -> None:
                assert slow.pid is not None
                while not stop:
                    os.kill(slow.pid, signal.SIGSTOP)
                    await asyncio.sleep(rng.uniform(0.02, 0.2))
                    os.kill(slow.pid, signal.SIGCONT)
                    await asyncio.sleep(rng.uniform(0.005, 0.03))

            async def one(each: str) -> None:
                handle = client.get_handle(each, queue)
                for k in range(5):
                    await handle.signal("n", k)
                await client.start(app.collect, 5, workflow_id=each, task_queue=queue)

            ids = [f"w{n}" for n in range(150)]
            starving = asyncio.create_task(starve())
            try:
                await in_lots(map(one, ids), 20)
            finally:
                stop = True
                await starving
            assert await outcomes(client, queue, ids) == {each: [0, 1, 2, 3, 4] for each in ids}


# ---- what workers leave behind


async def consumers(client: Client, queue: str) -> list[dict[str, Any]]:
    """Of a task queue, on any stream."""
    listed = await client.broker.lane.api("STREAM.NAMES")
    every = [await client.broker.lane.consumers(stream) for stream in listed["streams"]]
    return [each for found in every for each in found if queue in json.dumps(each["config"]) or queue in each["name"]]


async def test_what_a_worker_leaves_behind(client: Client, server: LocalServer, queue: str, tmp_path: Path) -> None:
    """No consumer and no tenure after it has stopped in peace; after its death only what the server itself removes within a minute."""
    with workers(server.url, queue, tmp_path / "executions") as started:
        first, second = await start(started), await start(started)
        await shared_by(client, queue, 2)
        assert await client.execute(app.five_steps, 1, task_queue=queue, timeout="10s") == 16
        assert first.terminate() == second.terminate() == 0
        assert await consumers(client, queue) == []
        names = client.broker.names
        assert await client.broker.lane.last_message(names.timeline_stream, names.registry(to_token(queue))) is None
        third = await start(started)
        third.kill()
        left = await consumers(client, queue)
        assert left
        assert [each["name"] for each in left if not 0 < each["config"].get("inactive_threshold", 0) <= 60_000_000_000] == []
