"""Sleeping and waiting: timers, signals in every order, buffered signals, predicates."""

import asyncio
from typing import Any

import msgspec
import pytest

from jetflow import Client, InvalidInputError, Worker, activity, condition, now, sleep, workflow
from jetflow.broker.stores.signals import EarlySignals
from jetflow.broker.transport.server import LocalServer
from jetflow.engine.ownership.tenure import Tenure

from .helpers import WAIT, another_worker, cli, commands, plain_nats, until, waits_for


class Approval(msgspec.Struct):
    ok: bool
    by: str | None = None


@activity
async def step(value: Any = None) -> Any:
    return value


@workflow
async def sleeps(durations: list[str | float]) -> list[float]:
    """How long each took by the workflow's own clock, less what was asked for."""
    late = []
    for duration in durations:
        before = now().timestamp()
        asked = await sleep(duration)
        late.append(round(now().timestamp() - before - asked, 3))
    return late


@workflow
async def sleeps_at_once(count: int, ms: int) -> int:
    await asyncio.gather(*(sleep((ms + n) / 1000) for n in range(count)))
    return count


@workflow
async def collect(name: str, count: int) -> list[Any]:
    return [await condition(name) for _ in range(count)]


@workflow
async def step_then_collect(count: int) -> list[Any]:
    await step()
    found = [await condition("n") for _ in range(count)]
    return [await step(found), await condition("n", timeout="50ms")][0]


@workflow
async def races(count: int) -> list[int]:
    return sorted(await asyncio.gather(*(condition("n") for _ in range(count))))


@workflow
async def two_names() -> list[Any]:
    return list(await asyncio.gather(condition("a"), condition("b"), condition("never", timeout="100ms")))


@workflow
async def typed() -> str:
    approval = await condition("approval", model=Approval)
    assert isinstance(approval, Approval)
    try:
        await condition("approval", model=Approval)
    except InvalidInputError as error:
        return f"{approval.by}: {error}"
    return "accepted"


@workflow
async def times_out(timeout: str) -> list[Any]:
    first = await condition("late", timeout=timeout)
    return [first, await condition("late")]


@workflow
async def by_predicate() -> list[Any]:
    """A background reader fills a list; the main task waits for what is in it."""
    seen: list[Any] = []

    async def read() -> None:
        while True:
            seen.append(await condition("item"))

    reader = asyncio.create_task(read())
    assert await condition(lambda: len(seen) >= 3) is True
    early = await condition(lambda: len(seen) >= 99, timeout="50ms")
    never = await condition(lambda: False, timeout=0)
    at_once = await condition(lambda: True, timeout="1h")
    reader.cancel()
    return [len(seen), early, never, at_once]


@workflow
async def waits_after(before: str) -> Any:
    await condition(before)
    return await condition("wanted", timeout="20ms")


SERVED = {
    "workflows": [sleeps, sleeps_at_once, collect, step_then_collect, races, two_names, typed, times_out, by_predicate, waits_after],
    "activities": [step],
}


async def buffered(client: Client, queue: str) -> set[str]:
    """Ids with something in the signals bucket."""
    names = client.broker.names
    found = await client.broker.lane.read_many(
        names.signal_stream, {"seq": 1, "next_by_subj": f"{names.signal_prefix}{queue}.>", "batch": 1000}, may_lag="a test looks"
    )
    return {message.subject.split(".")[3] for message in found if message.data}


async def none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def test_sleeps_are_never_short(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        late = await client.execute(sleeps, [0, "0s", "1ms", 0.02, "250ms", "1100ms"], task_queue=queue, timeout=WAIT)
    assert all(by >= 0 for by in late)


async def test_many_sleeps_at_once(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        short, long = await asyncio.gather(
            client.execute(sleeps_at_once, 300, 1, task_queue=queue, timeout=WAIT),
            client.execute(sleeps_at_once, 300, 1001, task_queue=queue, timeout=WAIT),
        )
        assert (short, long) == (300, 300)


async def test_a_sleep_goes_on_with_another_worker(server: LocalServer, client: Client, queue: str) -> None:
    handle = await client.start(sleeps, ["1500ms"], task_queue=queue)
    async with another_worker(server.url, queue, **SERVED):
        await until(lambda: client.states.get(queue, handle.workflow_id))
    async with another_worker(server.url, queue, **SERVED):
        assert (await handle.result(timeout=WAIT))[0] >= 0


async def test_a_signal_may_be_kept_for_ever(client: Client, queue: str, nats_cli: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        await client.get_handle("early", queue).signal("late", 1, expire=None)
        await cli(nats_cli, client.url, "pub", "--jetstream", f"jetflow.{queue}.early.signal.late", "2", "-H", "Jetflow-Expire:forever")
        await until(lambda: none_left(client, queue))
        signals = EarlySignals(client.broker.lane, client.broker.names, replicated=False)
        kept = [signal for _, signal, _ in await signals.load(queue, "early")]
        assert [signal.expires > 4_000_000_000_000 for signal in kept] == [True, True]
        await client.start(collect, "late", 2, workflow_id="early", task_queue=queue)
        assert await client.get_handle("early", queue).result(timeout=WAIT) == [1, 2]


@pytest.mark.parametrize("duration", ["101w", "36500d", "40000d", "9000w", "1000000d"])
async def test_a_wait_of_a_lifetime_is_a_wait(client: Client, queue: str, duration: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        early = client.get_handle("early", queue)
        await early.signal("late", 1, expire=duration)
        await until(lambda: none_left(client, queue))
        await client.start(collect, "late", 1, workflow_id="early", task_queue=queue, expire=duration)
        assert await early.result(timeout=WAIT) == [1]
        sleeper = await client.start(sleeps, [duration], task_queue=queue)
        waiter = await client.start(times_out, duration, task_queue=queue)
        await waits_for(waiter, "late")
        await waiter.signal("late", 1, expire=duration)
        await waiter.signal("late", 2, expire=duration)
        assert await waiter.result(timeout=WAIT) == [1, 2]
        await until(lambda: client.states.get(queue, sleeper.workflow_id))
        assert (await sleeper.describe()).parked is None  # type: ignore[union-attr]
        await sleeper.cancel()
        assert (await sleeper.result(throw_on_error=False, timeout=WAIT)).type == "CancelledFailure"


async def test_signals_before_the_start_and_before_the_wait_come_in_order(client: Client, queue: str) -> None:
    handle = client.get_handle("early", queue)
    for n in range(12):
        await handle.signal("n", n)
    async with Worker(client, task_queue=queue, **SERVED):
        await until(lambda: none_left(client, queue))
        assert await buffered(client, queue) == {"early"}
        for n in range(12, 20):
            await handle.signal("n", n)
        await client.start(step_then_collect, 25, workflow_id="early", task_queue=queue)
        for n in range(20, 25):
            await handle.signal("n", n)
        assert await handle.result(timeout=WAIT) == list(range(25))
        await until(lambda: _empty(client, queue))


async def _empty(client: Client, queue: str) -> bool:
    return not await buffered(client, queue)


async def test_a_hundred_racing_signals_are_all_delivered_once(server: LocalServer, client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), Client.connect(server.url) as second:
        waiting = await client.start(races, 100, task_queue=queue)
        collecting = await client.start(collect, "n", 100, task_queue=queue)
        handles = [waiting, collecting, second.get_handle(waiting.workflow_id, queue), second.get_handle(collecting.workflow_id, queue)]
        await asyncio.gather(
            *(handles[(n % 2) * 2].signal("n", n) for n in range(100)), *(handles[(n % 2) * 2 + 1].signal("n", n) for n in range(100))
        )
        assert await waiting.result(timeout=WAIT) == list(range(100))
        assert sorted(await collecting.result(timeout=WAIT)) == list(range(100))


async def test_a_signal_reaches_a_waiter_that_was_evicted(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED, max_cached_workflows=1) as worker:
        handles = [await client.start(collect, "n", 2, task_queue=queue) for _ in range(10)]
        for handle in handles:
            await waits_for(handle, "n")
        await until(lambda: (actors := worker._engine.actors) is not None and len(list(actors)) <= 1)
        for value in ("a", "b"):
            for handle in handles:
                await handle.signal("n", value)
        for handle in handles:
            assert await handle.result(timeout=WAIT) == ["a", "b"]


async def test_a_timeout_gives_false_and_the_next_wait_its_signal(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        for timeout in ("0s", "10ms", "1100ms"):
            handle = await client.start(times_out, timeout, task_queue=queue)

            async def second_wait(handle: Any = handle) -> bool:
                record = await handle.describe()
                return record is not None and any(waiting.index == 2 for waiting in record.waiting)

            await until(second_wait)
            await handle.signal("late", "now")
            assert await handle.result(timeout=WAIT) == [False, "now"]


async def test_payloads_have_their_model(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(typed, task_queue=queue)
        await handle.signal("approval", Approval(True, "me"))
        await handle.signal("approval", {"ok": "perhaps"})
        assert "me: signal 'approval'" in await handle.result(timeout=WAIT)
        with pytest.raises(InvalidInputError, match="signal data"):
            await handle.signal("approval", object())
        plain = await client.start(collect, "n", 4, task_queue=queue)
        for value in (None, False, 0, {"a": [1]}):
            await plain.signal("n", value)
        assert await plain.result(timeout=WAIT) == [None, False, 0, {"a": [1]}]


async def test_several_names_at_once(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(two_names, task_queue=queue)
        await handle.signal("b", 2)
        await handle.signal("unwanted", 3)
        await handle.signal("a", 1)
        assert await handle.result(timeout=WAIT) == [1, 2, False]


async def test_predicates_are_looked_at_after_every_input(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(by_predicate, task_queue=queue)
        for n in range(3):
            await handle.signal("item", n)
        assert await handle.result(timeout=WAIT) == [3, False, False, True]


async def test_a_buffered_signal_is_gone_once_it_has_expired(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(waits_after, "go", task_queue=queue)
        await handle.signal("wanted", "too early", expire="1s")
        early = client.get_handle("not-started", queue)
        await early.signal("wanted", "too early", expire="1s")
        await until(lambda: _both(client, queue, {"not-started", handle.workflow_id}))
        await until(lambda: _empty(client, queue))
        await handle.signal("go")
        assert await handle.result(timeout=WAIT) is False
        await client.start(waits_after, "go", workflow_id="not-started", task_queue=queue)
        await early.signal("go")
        assert await early.result(timeout=WAIT) is False


async def _both(client: Client, queue: str, ids: set[str]) -> bool:
    return await buffered(client, queue) == ids


async def test_a_waiting_workflow_gets_its_signal_whatever_the_delay(server: LocalServer, client: Client, queue: str) -> None:
    """``expire`` is for signals that nobody waits for; this one comes when no worker is up for longer than that."""
    handle = await client.start(collect, "n", 1, task_queue=queue)
    async with another_worker(server.url, queue, **SERVED):
        await waits_for(handle, "n")
    await handle.signal("n", "slow", expire="50ms")
    marker = asyncio.get_running_loop().time() + 0.1
    await until(lambda: asyncio.get_running_loop().time() > marker)
    async with another_worker(server.url, queue, **SERVED):
        assert await handle.result(timeout=WAIT) == ["slow"]


async def test_a_start_that_comes_again_costs_no_signal(server: LocalServer, client: Client, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second worker takes the start for a new one, whose wait begins after the signal has expired, until it sees the timeline."""
    handle = await client.start(collect, "n", 1, task_queue=queue)
    with monkeypatch.context() as patched:
        patched.setattr(Tenure, "send_ack", lambda tenure, delivery: None)  # the start's ack is lost
        async with another_worker(server.url, queue, **SERVED):
            await waits_for(handle, "n")
    await handle.signal("n", "slow", expire="50ms")
    marker = asyncio.get_running_loop().time() + 0.1
    await until(lambda: asyncio.get_running_loop().time() > marker)
    async with another_worker(server.url, queue, **SERVED):
        assert await handle.result(timeout=WAIT) == ["slow"]


async def test_signals_by_nats_pub(server: LocalServer, client: Client, queue: str, nats_cli: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(server.url) as raw:
        handle = await client.start(collect, "a b", 3, workflow_id="x.y", task_queue=queue)
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.x=2Ey.signal.a=20b", '{"by": "cli"}', "-H", "Jetflow-Expire:5m")
        await raw.publish(f"jetflow.{queue}.x=2Ey.signal.a=20b", b"")
        await raw.publish(f"jetflow.{queue}.x=2Ey.signal.a=20b", b" [1, 2] ")
        assert await handle.result(timeout=WAIT) == [{"by": "cli"}, None, [1, 2]]


async def test_a_signal_for_an_id_whose_record_has_expired_waits_for_the_next_start(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        first = await client.start(collect, "n", 1, workflow_id="id", task_queue=queue, expire="1s")
        await first.signal("n", 1)
        await first.result(timeout=WAIT)

        async def expired() -> bool:
            return await client.states.get(queue, "id") is None

        await until(expired)
        handle = client.get_handle("id", queue)
        await handle.signal("n", 2)
        await until(lambda: none_left(client, queue))
        await client.start(collect, "n", 1, workflow_id="id", task_queue=queue)
        assert await handle.result(timeout=WAIT) == [2]
