"""A signal that expires before anyone waits for it becomes a dead letter, once, with its data; one that is taken, or goes with its run, does not."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import Client, Worker, activity, condition, sleep, workflow
from jetflow.broker.stores.dead_letters import DeadLetters
from jetflow.broker.transport.server import LocalServer
from jetflow.engine.signals.lapses import Lapses
from jetflow.reading.stats import stats

from .helpers import WAIT, dead_letters, plain_nats, until, waits_for

GATES: dict[str, asyncio.Event] = {}


@activity
async def holds(key: str) -> None:
    await GATES.setdefault(key, asyncio.Event()).wait()


@workflow
async def sleeps(duration: str) -> Any:
    await sleep(duration)
    return await condition("go", timeout="50ms")


@workflow
async def is_busy(key: str) -> Any:
    await holds(key)
    return await condition("go", timeout="50ms")


@workflow
async def waits() -> Any:
    return [await condition("go"), await condition("go", timeout="50ms")]


@workflow
async def hears(name: str) -> Any:
    return await condition(name, timeout="50ms")


WORKFLOWS = [sleeps, is_busy, waits, hears]


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[holds]) as worker:
        await until(lambda: worker.partitions)
        yield worker


async def letters(client: Client, queue: str, count: int = 1) -> list[Any]:
    """The dead letters of a queue, once there are so many."""

    async def there() -> list[Any]:
        found = await dead_letters(client, queue)
        return found if len(found) >= count else []

    found: list[Any] = await until(there)
    assert len(found) == count
    return found


async def kept(client: Client, queue: str) -> list[str]:
    """Subjects of the signals that the bucket has."""
    names = client.broker.names
    asked = {"multi_last": [f"{names.signal_prefix}{queue}.>"]}
    return [message.subject for message in await client.broker.lane.read_many(names.signal_stream, asked, may_lag="a test looks") if message.data]


async def nothing_kept(client: Client, queue: str) -> None:
    async def none() -> bool:
        return not await kept(client, queue)

    await until(none)


async def test_for_a_workflow_that_there_is_not(server: LocalServer, client: Client, queue: str, worker: Worker) -> None:
    before = (await stats(client.broker, counted=False)).expired_signals
    async with plain_nats(server.url) as nats:
        headers = {"Jetflow-Expire": "300ms", "Jetflow-Sender": "shop/7"}
        await nats.jetstream().publish(f"jetflow.{queue}.w.signal.go", b'{"n": 1}', headers=headers)
    await until(lambda: kept(client, queue))
    assert not await dead_letters(client, queue)
    (letter,) = await letters(client, queue)
    assert json.loads(letter.data) == {"n": 1}
    assert letter.headers["Jetflow-Subject"] == f"jetflow.{queue}.w.signal.go"
    assert letter.headers["Jetflow-Reason"].startswith("the signal expired at 20")
    assert (letter.headers["Jetflow-Expire"], letter.headers["Jetflow-Sender"]) == ("300ms", "shop/7")
    await nothing_kept(client, queue)
    assert (await stats(client.broker, counted=False)).expired_signals == before + 1


async def test_a_letter_that_is_requeued_is_the_signal_again(client: Client, queue: str, worker: Worker) -> None:
    await client.get_handle("w", task_queue=queue).signal("go", 5, expire="100ms")
    (letter,) = await letters(client, queue)
    await DeadLetters(client.broker.lane, client.broker.names).requeue(letter.seq)
    assert not await dead_letters(client, queue)
    await client.get_handle("w", task_queue=queue).signal("go", 6)
    got = await client.execute(waits, task_queue=queue, workflow_id="w", timeout=WAIT)
    assert got in ([5, 6], [6, False])  # it was kept for its 100 ms anew


async def test_while_the_workflow_sleeps(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(sleeps, "3s", task_queue=queue, workflow_id="w")
    await waits_for(handle, "")
    await handle.signal("go", 1, expire="200ms")
    await handle.signal("go", 2, expire="1h")
    (letter,) = await letters(client, queue)
    assert letter.data == b"1"
    record = await handle.describe()
    assert record is not None
    assert not record.closed, "it is told when it expires, not when the workflow ends"
    assert await handle.result(timeout=WAIT) == 2
    await letters(client, queue)
    await nothing_kept(client, queue)


async def test_while_an_activity_runs(client: Client, queue: str, worker: Worker) -> None:
    """The signal is in memory alone, its command un-acked."""
    handle = await client.start(is_busy, queue, task_queue=queue, workflow_id="w")
    await until(lambda: queue in GATES)
    await handle.signal("go", 1, expire="200ms")
    await handle.signal("other", 3, expire="150ms")
    await handle.signal("go", 2, expire="1h")
    found = await letters(client, queue, 2)
    assert sorted(letter.data for letter in found) == [b"1", b"3"]
    assert not await kept(client, queue)
    GATES[queue].set()
    assert await handle.result(timeout=WAIT) == 2


async def test_that_no_worker_had_seen(client: Client, queue: str) -> None:
    for n in range(3):
        await client.get_handle("w", task_queue=queue).signal("go", n, expire="50ms")
    await client.start(sleeps, "10ms", task_queue=queue, workflow_id="v")
    await client.get_handle("v", task_queue=queue).signal("go", 3, expire="50ms")
    await asyncio.sleep(0.3)
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[holds]):
        found = await letters(client, queue, 4)
    assert sorted(letter.data for letter in found) == [b"0", b"1", b"2", b"3"]


@pytest.mark.parametrize("to", ["a sleeper", "nobody"])
async def test_that_an_earlier_owner_kept(server: LocalServer, client: Client, queue: str, to: str) -> None:
    async with Client.connect(server.url) as other, Worker(other, task_queue=queue, workflows=WORKFLOWS) as first:
        await until(lambda: first.partitions)
        handle = client.get_handle("w", task_queue=queue)
        if to == "a sleeper":
            await waits_for(await client.start(sleeps, "1h", task_queue=queue, workflow_id="w"), "")
        await handle.signal("go", 1, expire="1500ms")
        await handle.signal("go", 2, expire="1h")

        async def both() -> bool:
            return len(await kept(client, queue)) == 2

        await until(both)
    assert not await dead_letters(client, queue)
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        (letter,) = await letters(client, queue)
        assert letter.data == b"1"

        async def one() -> bool:
            return len(await kept(client, queue)) == 1

        await until(one)


async def test_one_that_is_taken_leaves_nothing(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(waits, task_queue=queue, workflow_id="w")
    await waits_for(handle, "go")
    await handle.signal("go", 1, expire="1ms")
    assert await handle.result(timeout=WAIT) == [1, False]
    await client.get_handle("v", task_queue=queue).signal("go", 2, expire="500ms")
    await until(lambda: kept(client, queue))
    assert await client.execute(hears, "go", task_queue=queue, workflow_id="v", timeout=WAIT) == 2
    await client.get_handle("u", task_queue=queue).signal("go", 3, expire="500ms")
    (letter,) = await letters(client, queue)
    assert letter.data == b"3", "and the ones before would have expired by now"


@pytest.mark.parametrize("how", ["returns", "is terminated"])
async def test_one_that_goes_with_its_run_leaves_nothing(client: Client, queue: str, worker: Worker, how: str) -> None:
    handle = await client.start(sleeps, "200ms" if how == "returns" else "1h", task_queue=queue, workflow_id="w")
    await waits_for(handle, "")
    await handle.signal("other", 1, expire="1s")
    if how == "is terminated":
        await handle.terminate("enough", expire="1h")
    await handle.result(throw_on_error=False, timeout=WAIT)
    await handle.signal("other", 2, expire="100ms")  # nobody will ever wait for it
    await client.get_handle("v", task_queue=queue).signal("go", 3, expire="1200ms")
    (letter,) = await letters(client, queue)
    assert letter.data == b"3"
    await nothing_kept(client, queue)


async def test_one_by_id(client: Client, queue: str, worker: Worker) -> None:
    await client.signal(queue, {"n": 1}, expire="200ms")
    (letter,) = await letters(client, queue)
    assert json.loads(letter.data) == {"n": 1}
    assert letter.headers["Jetflow-Subject"] == f"jetflow_signal.{queue}"
    assert letter.headers["Jetflow-Reason"].endswith("before any workflow waited for it")
    assert letter.headers["Jetflow-Expire"] == "200ms"
    await DeadLetters(client.broker.lane, client.broker.names).requeue(letter.seq)
    await letters(client, queue)
    names = client.broker.names

    async def gone() -> bool:
        waits_left = await client.broker.lane.last_message(names.by_id_stream, f"{names.by_id_prefix}{queue}")
        return waits_left is None

    await until(gone)


async def test_many_at_once(client: Client, queue: str) -> None:
    """More than are looked at together, of workflows that are not in memory."""
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, max_cached_workflows=2):
        handles = [await client.start(sleeps, "1h", task_queue=queue, workflow_id=f"w{n}") for n in range(150)]
        for handle in handles:
            await waits_for(handle, "")
        await asyncio.gather(*(handle.signal("go", n, expire="1s") for n, handle in enumerate(handles)))
        found = await letters(client, queue, 150)
    assert sorted(int(letter.data) for letter in found) == list(range(150))


@pytest.mark.parametrize("busy", [False, True])
async def test_one_that_had_expired_when_its_run_ended(
    client: Client, queue: str, worker: Worker, monkeypatch: pytest.MonkeyPatch, busy: bool
) -> None:
    """Whoever ends the run before an owner has looked at its signals: the one that had expired leaves a trace, the other goes with the run."""
    monkeypatch.setattr(Lapses, "pop_due", lambda *_: [])
    key = f"{queue}-gate"
    handle = await (client.start(is_busy, key, task_queue=queue) if busy else client.start(sleeps, "1h", task_queue=queue))
    await handle.signal("other", "expires", expire="300ms")
    await handle.signal("other", "is kept", expire="1h")
    if not busy:
        await until(lambda: kept(client, queue))
    await asyncio.sleep(0.6)
    assert not await dead_letters(client, queue)
    await handle.terminate(expire="1h")
    (letter,) = await letters(client, queue)
    assert json.loads(letter.data) == "expires"
    await nothing_kept(client, queue)
    assert len(await dead_letters(client, queue)) == 1
