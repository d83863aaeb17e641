"""The workflows that are measured: as small as can be, so that what is left is the engine."""

from __future__ import annotations

import asyncio

from jetflow import activity, condition, execute_child, set_update_handler, sleep, workflow


@activity
async def step(number: int) -> int:
    return number + 1


told = asyncio.Event()


@activity
async def until_told() -> None:
    """Lasts until the bench, which shares the process, says so."""
    await told.wait()


@workflow
async def one_step(number: int) -> int:
    return await step(number)


@workflow
async def chain(length: int) -> int:
    number = 0
    for _ in range(length):
        number = await step(number)
    return number


@workflow
async def fan_out(width: int) -> int:
    return sum(await asyncio.gather(*(step(number) for number in range(width))))


@workflow
async def wait_for_signal() -> int:
    return await condition("go")


@workflow
async def sleeper() -> None:
    await sleep("1h")


WORKFLOWS = [one_step, chain, fan_out, wait_for_signal, sleeper]
ACTIVITIES = [step]


# ---- what grows: one workflow with much of something


@workflow
async def long_past(steps: int) -> int:
    """Waits for a signal after so many steps."""
    number = 0
    for _ in range(steps):
        number = await step(number)
    return number + await condition("go")


@workflow
async def nap() -> None:
    """Long enough to rest at the broker."""
    await sleep("1500ms")


@workflow
async def counter(count: int) -> int:
    """Takes so many signals, and ends."""
    for _ in range(count):
        await condition("n")
    return count


@workflow
async def slow_counter(count: int) -> int:
    """Is busy until all its signals lie there, and then takes them one by one, each through an activity."""
    await until_told()
    for _ in range(count):
        await step(await condition("n"))
    return count


@workflow
async def parent(children: int) -> int:
    return sum(await asyncio.gather(*(execute_child(one_step, number) for number in range(children))))


@workflow
async def timers(count: int) -> int:
    """So many timers pending at once, all given up at a signal."""
    sleeping = [asyncio.ensure_future(sleep("1h")) for _ in range(count)]
    await condition("go")
    for each in sleeping:
        each.cancel()
    await asyncio.wait(sleeping)
    return count


@workflow
async def naps(count: int) -> int:
    """So many timers that fire, one after the other."""
    for _ in range(count):
        await sleep("1ms")
    return count


@workflow
async def branches(width: int) -> int:
    """So many chains of ten activities side by side."""

    async def branch() -> int:
        number = 0
        for _ in range(10):
            number = await step(number)
        return number

    return sum(await asyncio.gather(*(branch() for _ in range(width))))


@workflow
async def names(count: int) -> int:
    """Waits for so many signals of different names at once."""
    return sum(await asyncio.gather(*(condition(f"n{number}") for number in range(count))))


@workflow
async def predicates(count: int) -> int:
    """So many tasks that each wait until the count of signals has reached theirs."""
    seen = 0

    async def waits(number: int) -> None:
        await condition(lambda: seen > number)

    waiting = [asyncio.ensure_future(waits(number)) for number in range(count)]
    for _ in range(count):
        await condition("n")
        seen += 1
    await asyncio.gather(*waiting)
    return seen


@workflow
async def updated(count: int) -> int:
    """Answers so many updates, and ends."""
    total = 0

    def add(number: int) -> int:
        nonlocal total
        total += 1
        return number

    set_update_handler("add", add)
    await condition(lambda: total >= count)
    return total


GROWING = [
    long_past,
    nap,
    counter,
    slow_counter,
    parent,
    one_step,
    chain,
    fan_out,
    timers,
    naps,
    branches,
    names,
    predicates,
    updated,
    sleeper,
    wait_for_signal,
]
GROWING_ACTIVITIES = [step, until_told]
