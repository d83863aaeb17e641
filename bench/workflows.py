"""The workflows that are measured: as small as can be, so that what is left is the engine."""

from __future__ import annotations

import asyncio

from jetflow import activity, condition, sleep, workflow


@activity
async def step(number: int) -> int:
    return number + 1


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
