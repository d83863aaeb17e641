"""A worker claims its partitions anew when its lease was over, though nothing happened in between that would have shown it."""

import time

import pytest

from jetflow import Client, Worker, workflow
from jetflow.errors import BrokerUnavailableError

from .helpers import WAIT, until


@workflow
async def nothing() -> None: ...


async def test_after_its_lease_was_over_a_worker_claims_its_partitions_again(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        lease, before, term = worker._heart.lease, worker._ownership._consumer, worker._heart.lease.term
        lease.beat_at = time.monotonic() - 60
        await until(lambda: lease.valid)
        assert lease.term == term + 1
        await until(lambda: worker._ownership._consumer not in (None, before))
        await client.execute(nothing, task_queue=queue, timeout=WAIT)


async def test_partitions_claimed_under_an_earlier_lease_are_not_surely_its_own(client: Client, queue: str) -> None:
    """Not even before the worker's event loop hears of the new lease."""
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        ownership, before = worker._ownership, worker._ownership._consumer
        partition = min(ownership.partitions)
        ownership.check(partition)
        worker._heart.lease.term += 1
        with pytest.raises(BrokerUnavailableError, match="lease"):
            ownership.check(partition)
        await until(lambda: ownership._consumer not in (None, before))
        ownership.check(partition)
