"""jetflow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.parked import until_quiet
from bench.peers.riders.rider import HOUR, STEPS_AT_ONCE, Rider, Waits, number_of, payload, step_of
from bench.peers.spec import Spec
from jetflow import Client, Worker, activity, condition, sleep, workflow

QUEUE = "peers"
LOOK_EVERY = 0.002
waits = Waits()


@activity
async def step(given: dict) -> dict:
    return step_of(given)


@workflow
async def one_step(given: dict) -> dict:
    return await step(given)


@workflow
async def chain(given: dict) -> dict:
    found = payload(0)
    for _ in range(number_of(given)):
        found = await step(found)
    return found


@workflow
async def fan_out(given: dict) -> dict:
    found = await asyncio.gather(*(step(payload(number)) for number in range(number_of(given))))
    return payload(sum(map(number_of, found)))


@workflow
async def wait(given: dict) -> dict:
    waits.begun += 1
    value = await condition("go")
    waits.ended += 1
    return value


@workflow
async def park(given: dict) -> dict:
    waits.begun += 1
    await sleep(HOUR)
    return given


@workflow
async def history(given: dict) -> dict:
    done = 0
    while done < number_of(given):
        done += len(await asyncio.gather(*(step(payload(number)) for number in range(STEPS_AT_ONCE))))
    waits.begun += 1
    await condition("go")
    waits.ended += 1
    return payload(done)


WORKFLOWS = {each.__name__: each for each in (one_step, chain, fan_out, wait, park, history)}


class JetflowRider(Rider):
    """Worker with its defaults."""

    @asynccontextmanager
    async def riding(self, spec: Spec) -> AsyncIterator[None]:
        async with (
            Client.connect(spec.address) as self.client,
            Worker(self.client, task_queue=QUEUE, workflows=list(WORKFLOWS.values()), activities=[step]) as worker,
        ):
            while not worker.ready:
                await asyncio.sleep(LOOK_EVERY)
            yield

    async def execute(self, workflow: str, number: int) -> int:
        return number_of(await self.client.execute(WORKFLOWS[workflow], payload(number), task_queue=QUEUE))

    async def start(self, workflow: str, number: int, workflow_id: str) -> None:
        await self.client.start(WORKFLOWS[workflow], payload(number), workflow_id=workflow_id, task_queue=QUEUE)

    async def signal(self, workflow_id: str, number: int) -> None:
        await self.client.get_handle(workflow_id, QUEUE).signal("go", payload(number))

    async def result(self, workflow_id: str) -> int:
        return number_of(await self.client.get_handle(workflow_id, QUEUE).result())

    async def resting(self) -> int:
        """Those that came to their wait, once no command is left in the inbox: an actor with work in flight always has one."""
        await until_quiet(self.client, QUEUE)
        return waits.begun - waits.ended


def rider() -> Rider:
    return JetflowRider()
