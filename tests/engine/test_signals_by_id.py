"""Signals by id alone: to whoever waits longest, kept while nobody does, exactly once."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow import CancelledFailure, Client, InvalidInputError, Worker, WorkflowHandle, activity, condition, continue_as_new, workflow
from jetflow.broker.stores.dead_letters import DeadLetters
from jetflow.errors import WorkflowTerminatedError

from .helpers import WAIT, another_worker, cli, plain_nats, until, waits_for

GATES: dict[str, asyncio.Event] = {}


@activity
async def gated(gate: str) -> str:
    await GATES.setdefault(gate, asyncio.Event()).wait()
    return "open"


@workflow
async def waits(name: str, timeout: str | None = None) -> Any:
    return await condition(name, timeout=timeout)


@workflow
async def collects(name: str, count: int) -> list[Any]:
    return [await condition(name) for _ in range(count)]


@workflow
async def waits_twice_at_once(name: str) -> list[Any]:
    return list(await asyncio.gather(condition(name), condition(name)))


@workflow
async def waits_beside_an_activity(name: str, gate: str) -> Any:
    async with asyncio.TaskGroup() as group:
        group.create_task(gated(gate))
        got = await condition(name)
        return got, await gated(gate)


@workflow
async def generations(name: str, left: int, seen: list[Any]) -> list[Any]:
    seen.append(await condition(name))
    if left > 1:
        continue_as_new(name, left - 1, seen)
    return seen


@workflow
async def ends(*_: Any) -> str:
    return "over"


KNOWING: dict[str, Any] = {
    "workflows": [waits, collects, waits_twice_at_once, waits_beside_an_activity, generations, ends],
    "activities": [gated],
}


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, **KNOWING) as worker:
        yield worker


async def resting(client: Client, queue: str, *args: Any, kind: Any = waits, **options: Any) -> WorkflowHandle:
    """A workflow that waits for ``args[0]``."""
    handle = await client.start(kind, *args, task_queue=queue, **options)
    await waits_for(handle, args[0])
    return handle


async def stored(client: Client, name: str) -> int:
    """Signals of an id that nobody has got yet."""
    names = client.broker.names
    asked = {"seq": 1, "next_by_subj": f"{names.by_id_prefix}{name}", "batch": 1000}
    return len(await client.broker.lane.read_many(names.by_id_stream, asked, may_lag="a test looks"))


async def nothing_is_left(client: Client, name: str) -> None:
    """Neither signals nor waits of an id."""
    names = client.broker.names

    async def gone() -> bool:
        asked = {"seq": 1, "next_by_subj": f"{names.wait_prefix}{name}.>", "batch": 1000}
        found = await client.broker.lane.read_many(names.wait_stream, asked, may_lag="a test looks")
        return not await stored(client, name) and not [message for message in found if message.data]

    await until(gone)


async def test_a_workflow_that_waits_gets_it(client: Client, queue: str, worker: Worker) -> None:
    handle = await resting(client, queue, queue)
    await client.signal(queue, {"ok": True})
    assert await handle.result(timeout=WAIT) == {"ok": True}
    await nothing_is_left(client, queue)


async def test_by_nats_pub(client: Client, queue: str, worker: Worker, nats_cli: str) -> None:
    handle = await resting(client, queue, queue)
    answer = await cli(nats_cli, client.url, "req", f"jetflow_signal.{queue}", '{"by": "pub"}')
    assert "JETFLOW_BY_ID" in answer, "the ack of the stream"
    assert await handle.result(timeout=WAIT) == {"by": "pub"}
    await nothing_is_left(client, queue)


async def test_an_id_of_any_characters(client: Client, queue: str, worker: Worker) -> None:
    name = f"{queue} paid: 4.50 €"
    handle = await resting(client, queue, name)
    await client.signal(name, 1)
    assert await handle.result(timeout=WAIT) == 1


async def test_kept_while_nobody_waits_and_given_to_the_first_who_does(client: Client, queue: str, worker: Worker) -> None:
    await client.signal(queue, "early", expire="1h")
    first = await client.start(waits, queue, task_queue=queue)
    assert await first.result(timeout=WAIT) == "early"
    second = await resting(client, queue, queue, "5m")
    await client.signal(queue, "second")
    assert await second.result(timeout=WAIT) == "second"
    await nothing_is_left(client, queue)


async def test_gone_when_its_time_is_over(client: Client, queue: str, worker: Worker, nats_cli: str) -> None:
    await client.signal(queue, "short", expire="1s")
    await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow_signal.{queue}", '"short too"', "-H", "Jetflow-Expire:1s")
    await client.signal(queue, "long", expire="1h")
    await until(lambda: _are(client, queue, 1))
    handle = await client.start(waits, queue, task_queue=queue)
    assert await handle.result(timeout=WAIT) == "long"
    await nothing_is_left(client, queue)


async def _are(client: Client, name: str, count: int) -> bool:
    return await stored(client, name) == count


async def test_stored_while_no_worker_is_up(client: Client, queue: str) -> None:
    await client.signal(queue, "stored")
    handle = await client.start(waits, queue, task_queue=queue)
    async with another_worker(client.url, queue, **KNOWING):
        assert await handle.result(timeout=WAIT) == "stored"


async def test_whoever_waits_longest_gets_the_next_on_any_task_queue(client: Client, queue: str, worker: Worker) -> None:
    async with another_worker(client.url, f"{queue}-b", **KNOWING):
        handles = [await resting(client, where, queue) for where in (queue, f"{queue}-b", queue, f"{queue}-b")]
        for number in range(4):
            await client.signal(queue, number)
        assert [await handle.result(timeout=WAIT) for handle in handles] == [0, 1, 2, 3]
    await nothing_is_left(client, queue)


async def test_each_of_many_goes_to_one_of_many_that_begin_to_wait_meanwhile(client: Client, queue: str, worker: Worker) -> None:
    async def send(number: int) -> None:
        await client.signal(queue, number)

    starts = [client.start(waits, queue, task_queue=queue, workflow_id=f"w{number}") for number in range(60)]
    handles = (await asyncio.gather(*starts, *(send(number) for number in range(60))))[:60]
    got = await asyncio.gather(*(handle.result(timeout=WAIT) for handle in handles if handle is not None))
    assert sorted(got) == list(range(60))
    await nothing_is_left(client, queue)


async def test_many_of_one_id_arrive_in_order(client: Client, queue: str, worker: Worker) -> None:
    for number in range(15):
        await client.signal(queue, number)
    handle = await client.start(collects, queue, 30, task_queue=queue)
    for number in range(15, 30):
        await client.signal(queue, number)
    assert await handle.result(timeout=WAIT) == list(range(30))
    await nothing_is_left(client, queue)


async def test_two_waits_at_once_in_one_workflow(client: Client, queue: str, worker: Worker) -> None:
    handle = await resting(client, queue, queue, kind=waits_twice_at_once)
    await client.signal(queue, 1)
    await client.signal(queue, 2)
    assert sorted(await handle.result(timeout=WAIT)) == [1, 2]
    await nothing_is_left(client, queue)


async def test_through_generations(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(generations, queue, 5, [], task_queue=queue)
    for number in range(5):
        await client.signal(queue, number)
    assert await handle.result(timeout=WAIT) == [0, 1, 2, 3, 4]
    await nothing_is_left(client, queue)


async def test_while_an_activity_runs_beside_the_wait(client: Client, queue: str, worker: Worker) -> None:
    handle = await resting(client, queue, queue, queue, kind=waits_beside_an_activity)
    await client.signal(queue, "beside")
    await until(lambda: _are(client, queue, 0))
    GATES.setdefault(queue, asyncio.Event()).set()
    assert await handle.result(timeout=WAIT) == ["beside", "open"]


async def test_workflows_that_are_in_no_memory(client: Client, queue: str) -> None:
    async with another_worker(client.url, queue, max_cached_workflows=1, **KNOWING):
        handles = [await resting(client, queue, f"{queue}{number}") for number in range(5)]
        await asyncio.gather(*(client.signal(f"{queue}{number}", number) for number in range(5)))
        assert [await handle.result(timeout=WAIT) for handle in handles] == [0, 1, 2, 3, 4]


async def test_a_signal_of_its_own_and_one_by_id(client: Client, queue: str, worker: Worker) -> None:
    """Its own takes the first wait; the other one goes to the next."""
    handle = await resting(client, queue, queue, 2, kind=collects)
    await handle.signal(queue, "own")
    await client.signal(queue, "by id")
    assert sorted(await handle.result(timeout=WAIT)) == ["by id", "own"]
    await nothing_is_left(client, queue)


async def test_a_wait_that_timed_out_gets_nothing_more(client: Client, queue: str, worker: Worker) -> None:
    first = await client.start(waits, queue, "100ms", task_queue=queue)
    assert await first.result(timeout=WAIT) is False
    await nothing_is_left(client, queue)
    await client.signal(queue, "kept")
    second = await client.start(waits, queue, task_queue=queue)
    assert await second.result(timeout=WAIT) == "kept"


async def asleep(client: Client, queue: str, name: str) -> WorkflowHandle:
    """A workflow that waits longest, on a task queue that has no worker any more."""
    async with another_worker(client.url, queue, **KNOWING):
        return await resting(client, queue, name)


async def claimed(client: Client, queue: str) -> bool:
    """Whether a signal by id is on its way to a workflow of this queue."""
    names = client.broker.names
    asked = {"seq": 1, "next_by_subj": f"{names.namespace}.*.{queue}.*.routed.*", "batch": 10}
    return bool(await client.broker.lane.read_many(names.inbox_stream, asked, may_lag="a test looks"))


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_one_whose_wait_ends_before_it_comes_goes_to_the_next(client: Client, queue: str, worker: Worker, how: str) -> None:
    other = f"{queue}-b"
    gone = await asleep(client, other, queue)
    await (gone.cancel("enough") if how == "cancel" else gone.terminate("enough", expire="1h"))
    await client.signal(queue, "passed on")
    await until(lambda: claimed(client, other))
    next_one = await resting(client, queue, queue)
    async with another_worker(client.url, other, **KNOWING):
        assert await next_one.result(timeout=WAIT) == "passed on"
        with pytest.raises(CancelledFailure if how == "cancel" else WorkflowTerminatedError):
            await gone.result(timeout=WAIT)
    await nothing_is_left(client, queue)


async def test_one_whose_wait_ends_before_it_comes_is_kept(client: Client, queue: str, worker: Worker) -> None:
    other = f"{queue}-b"
    gone = await asleep(client, other, queue)
    await gone.cancel()
    await client.signal(queue, "kept", expire="1h")
    await until(lambda: claimed(client, other))
    async with another_worker(client.url, other, **KNOWING):
        with pytest.raises(CancelledFailure):
            await gone.result(timeout=WAIT)
    handle = await client.start(waits, queue, task_queue=queue)
    assert await handle.result(timeout=WAIT) == "kept"
    await nothing_is_left(client, queue)


async def test_it_waits_for_the_worker_of_the_workflow_that_waits_longest(client: Client, queue: str, worker: Worker) -> None:
    other = f"{queue}-b"
    first = await asleep(client, other, queue)
    second = await resting(client, queue, queue)
    await client.signal(queue, 1)
    await client.signal(queue, 2)
    assert await second.result(timeout=WAIT) == 2
    async with another_worker(client.url, other, **KNOWING):
        assert await first.result(timeout=WAIT) == 1


async def test_a_repeat_of_one_message_id_is_dropped(client: Client, queue: str, worker: Worker) -> None:
    async with plain_nats(client.url) as plain:
        for _ in range(2):
            await plain.request(f"jetflow_signal.{queue}", b'"once"', headers={"Nats-Msg-Id": queue})
    handle = await client.start(collects, queue, 2, task_queue=queue)
    await client.signal(queue, "next")
    assert await handle.result(timeout=WAIT) == ["once", "next"]


@pytest.mark.parametrize(
    ("tail", "body", "headers", "reason"),
    [
        ("", "{oops", [], "body of a signal"),
        (".b", "1", [], "with one id"),
        ("=2", "1", [], "escape"),
        ("", "1", ["-H", "Jetflow-Expire:soon"], "Jetflow-Expire"),
    ],
)
async def test_rubbish_becomes_a_dead_letter(
    client: Client, queue: str, worker: Worker, nats_cli: str, tail: str, body: str, headers: list[str], reason: str
) -> None:
    subject = f"jetflow_signal.{queue}{tail}"
    await cli(nats_cli, client.url, "pub", "--jetstream", subject, body, *headers)
    letters = DeadLetters(client.broker.lane, client.broker.names)

    async def found() -> Any:
        return [letter async for letter in letters.list() if letter.subject == subject]

    letter = (await until(found))[0]
    assert reason in letter.reason
    await nothing_is_left(client, queue)
    await client.signal(queue, "goes on")
    handle = await client.start(waits, queue, task_queue=queue)
    assert await handle.result(timeout=WAIT) == "goes on"
    if not tail and not headers:
        await letters.requeue(letter.number, body=b'"fixed"')
        again = await client.start(waits, queue, task_queue=queue)
        assert await again.result(timeout=WAIT) == "fixed"


async def test_what_cannot_be_sent(client: Client, queue: str) -> None:
    with pytest.raises(InvalidInputError):
        await client.signal(queue, object())
    with pytest.raises(InvalidInputError):
        await client.signal("", 1)
    with pytest.raises(InvalidInputError, match="bytes"):
        await client.signal(queue, "x" * client.broker.max_payload)


async def test_large_data(client: Client, queue: str, worker: Worker) -> None:
    data = "x" * (client.broker.max_payload - 20_000)
    handle = await resting(client, queue, queue)
    await client.signal(queue, data)
    assert await handle.result(timeout=WAIT) == data


async def test_a_stale_wait_is_harmless(client: Client, queue: str, worker: Worker) -> None:
    """Registrations that a crash left behind: of a workflow that never was, and of one that has ended."""
    ended = await client.start(ends, task_queue=queue)
    assert await ended.result(timeout=WAIT) == "over"
    names, lane = client.broker.names, client.broker.lane
    for workflow_id, run in (("nobody", 1), (ended.workflow_id, int(str(ended.run_id)))):
        await lane.publish(f"{names.wait_prefix}{queue}.{queue}.{workflow_id}.{run}.1", b'{"since":%d}' % (time.time_ns() // 1_000_000))
    await client.signal(queue, "real")
    handle = await client.start(waits, queue, task_queue=queue)
    assert await handle.result(timeout=WAIT) == "real"
    await nothing_is_left(client, queue)


async def test_keys_of_somebody_else_in_the_bucket_are_harmless(client: Client, queue: str, worker: Worker) -> None:
    names, lane = client.broker.names, client.broker.lane
    keys = [f"{queue}.a", f"{queue}.a.b.c.d", f"{queue}.{queue}.b.1.1"]
    for key in keys:
        await lane.publish(f"{names.wait_prefix}{key}", b"whatever")
    handle = await resting(client, queue, queue)
    await client.signal(queue, "real")
    assert await handle.result(timeout=WAIT) == "real"


async def test_another_worker_routes_when_the_router_leaves(client: Client, queue: str) -> None:
    """Several come and go; signals of all the time arrive in order."""
    handle = await client.start(collects, queue, 12, task_queue=queue)
    for round_ in range(3):
        async with another_worker(client.url, queue, **KNOWING):
            for number in range(4):
                await client.signal(queue, round_ * 4 + number)
    async with another_worker(client.url, queue, **KNOWING):
        assert await handle.result(timeout=WAIT) == list(range(12))
    await nothing_is_left(client, queue)
