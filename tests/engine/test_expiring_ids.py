"""Starts of ids whose record is about to expire: one that is refused does not run, and one that runs is not refused."""

import asyncio
import time

from jetflow import Client, Worker, WorkflowAlreadyStartedError, activity, workflow

from .helpers import WAIT, until

ran: set[str] = set()

IDS = 30
LONG = 2.2
"""Seconds of trying; the records expire within them."""


@activity
async def note(mark: str) -> str:
    ran.add(mark)
    return mark


@workflow
async def noted(mark: str) -> str:
    return await note(mark)


async def test_refused_means_not_run_and_run_means_not_refused(client: Client, queue: str) -> None:
    ids = [f"id-{number}" for number in range(IDS)]
    refused: list[str] = []
    accepted: list[str] = []

    async def try_until_accepted(workflow_id: str, until_then: float) -> None:
        tries = 0
        while time.monotonic() < until_then:
            tries += 1
            mark = f"{queue} {workflow_id} {tries}"
            try:
                handle = await client.start(noted, mark, workflow_id=workflow_id, task_queue=queue)
            except WorkflowAlreadyStartedError:
                refused.append(mark)
                await asyncio.sleep(0.003)
                continue
            assert await handle.result(timeout=WAIT) == mark
            accepted.append(mark)
            return

    async with Worker(client, task_queue=queue, workflows=[noted], activities=[note]) as worker:
        await until(lambda: worker.partitions)
        await asyncio.gather(*(client.execute(noted, "first", workflow_id=each, task_queue=queue, expire="1s", timeout=WAIT) for each in ids))
        until_then = time.monotonic() + LONG
        await asyncio.gather(*(try_until_accepted(each, until_then) for each in ids))
        await client.execute(noted, "last", task_queue=queue, timeout=WAIT)
    assert len(accepted) == IDS
    assert refused
    assert not ran & set(refused)
    assert set(accepted) <= ran
