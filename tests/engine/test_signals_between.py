"""Signals from one workflow to another: sent once with their commit, in order, and a repeat is recognised."""

from typing import Any

import pytest

from jetflow import Client, InvalidInputError, Worker, condition, continue_as_new, signal, sleep, workflow

from .helpers import WAIT, commands, dead_letters, plain_nats, until, waits_for


@workflow
async def tells(receiver: str, count: int, queue: str | None = None) -> str:
    for n in range(count):
        await signal(receiver, "n", n, task_queue=queue)
    return "told"


@workflow
async def tells_and_goes_on(receiver: str, rounds: int) -> None:
    await signal(receiver, "n", rounds)
    if rounds:
        continue_as_new(receiver, rounds - 1)


@workflow
async def hears(names: list[str]) -> list[Any]:
    return [await condition(name) for name in names]


@workflow
async def hears_by_generation(left: int, heard: list[Any]) -> list[Any]:
    heard.append(await condition("n"))
    if left > 1:
        continue_as_new(left - 1, heard)
    return heard


@workflow
async def crosses(other: str, first: bool) -> Any:
    """Two workflows that call each other back."""
    if first:
        await signal(other, "ball", "ping")
        return await condition("ball")
    ball = await condition("ball")
    await signal(other, "ball", f"{ball}-pong")
    return ball


@workflow
async def says_it_wrong(which: int) -> str:
    wrong: list[Any] = [("", "n", 1), ("w", "", 1), ("w", "n", object()), ("w", "n", 1)]
    try:
        await signal(*wrong[which], expire="soon" if which == 3 else "1m")
    except InvalidInputError as error:
        await sleep("1ms")
        return str(error)
    return "accepted"


SERVED = {"workflows": [tells, tells_and_goes_on, hears, hears_by_generation, crosses, says_it_wrong]}


async def _none_left(client: Client, queue: str) -> bool:
    return not await commands(client, queue)


async def test_signals_arrive_in_order_also_before_the_receiver_begins(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(tells, "later", 20, task_queue=queue, timeout=WAIT) == "told"
        heard = await client.execute(hears, ["n"] * 20, workflow_id="later", task_queue=queue, timeout=WAIT)
        assert heard == list(range(20))


async def test_signals_to_another_task_queue_and_an_odd_id(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), Worker(client, task_queue=f"{queue}.b", **SERVED):
        there = await client.start(hears, ["n"] * 3, workflow_id="a b.*", task_queue=f"{queue}.b")
        await client.execute(tells, "a b.*", 3, f"{queue}.b", task_queue=queue, timeout=WAIT)
        assert await there.result(timeout=WAIT) == [0, 1, 2]


async def test_generations_of_a_sender_and_of_a_receiver(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(hears_by_generation, 6, [], workflow_id="ear", task_queue=queue)
        await client.execute(tells_and_goes_on, "ear", 5, task_queue=queue, timeout=WAIT)
        assert await handle.result(timeout=WAIT) == [5, 4, 3, 2, 1, 0]


async def test_two_workflows_call_each_other(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        one = await client.start(crosses, "two", True, workflow_id="one", task_queue=queue)
        two = await client.start(crosses, "one", False, workflow_id="two", task_queue=queue)
        assert (await one.result(timeout=WAIT), await two.result(timeout=WAIT)) == ("ping-pong", "ping")


async def test_what_cannot_be_sent(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        errors = [await client.execute(says_it_wrong, n, task_queue=queue, timeout=WAIT) for n in range(4)]
    assert ["workflow id" in errors[0], "signal name" in errors[1], "signal data" in errors[2], "soon" in errors[3]] == [True] * 4


@pytest.mark.parametrize("early", [True, False], ids=["buffered", "waiting"])
async def test_a_repeat_of_a_numbered_signal_is_dropped_by_its_receiver(client: Client, queue: str, early: bool) -> None:
    """By raw publishers: the header that workflows number their signals with is for everybody."""
    subject = f"jetflow.{queue}.ear.signal."
    first = [("n", "a/1", 1), ("n", "a/2", 2), ("n", "a/1", 1), ("n", "b/1", 3), ("n", "a/2", 2)]
    numbered = [*first, ("m", "a/1", 4), ("n", "a/3", 5), ("n", None, 6), ("n", None, 6)]
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        handle = client.get_handle("ear", queue)
        if not early:
            await client.start(hears_by_generation, 6, [], workflow_id="ear", task_queue=queue)
            await waits_for(handle, "n")
        for name, sender, value in numbered:
            await raw.publish(f"{subject}{name}", str(value).encode(), headers={"Jetflow-Sender": sender} if sender else None)
        await raw.flush()
        if early:
            await until(lambda: _none_left(client, queue))
            await client.start(hears_by_generation, 6, [], workflow_id="ear", task_queue=queue)
        assert await handle.result(timeout=WAIT) == [1, 2, 3, 5, 6, 6]
        await until(lambda: _none_left(client, queue))


async def test_a_sender_without_a_number_is_a_dead_letter(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED), plain_nats(client.url) as raw:
        for sender in ("a", "a/", "a/x", "a/-1", f"{'x' * 2000}/1"):
            await raw.publish(f"jetflow.{queue}.ear.signal.n", b"1", headers={"Jetflow-Sender": sender})

        async def all_refused() -> bool:
            return len(await dead_letters(client, queue)) == 5

        await until(all_refused)
