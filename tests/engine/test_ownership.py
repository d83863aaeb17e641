"""A worker claims its partitions anew when its lease was over, though nothing happened in between that would have shown it."""

import time
import uuid
from typing import Any

import pytest

from jetflow import Client, Worker, workflow
from jetflow.broker.fencing.fence import TenureOverError
from jetflow.engine.ownership import claiming
from jetflow.errors import BrokerUnavailableError

from .helpers import WAIT, until


@workflow
async def nothing() -> None: ...


async def test_after_its_lease_was_over_a_worker_claims_its_partitions_again(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        lease, before, term = worker._heart.lease, worker._engine.tenure, worker._heart.lease.term
        lease.beat_at = time.monotonic() - 60
        await until(lambda: lease.valid)
        assert lease.term == term + 1
        await until(lambda: worker._engine.tenure not in (None, before) and worker.partitions)
        assert before is not None
        assert before.over
        await client.execute(nothing, task_queue=queue, timeout=WAIT)


async def test_partitions_claimed_under_an_earlier_lease_are_not_surely_its_own(client: Client, queue: str) -> None:
    """Not even before the worker's event loop hears of the new lease."""
    async with Worker(client, task_queue=queue, workflows=[nothing]) as worker:
        await until(lambda: worker.partitions)
        before = worker._engine.tenure
        assert before is not None
        partition = min(worker._ownership.partitions)
        before.check()
        worker._heart.lease.term += 1
        with pytest.raises(TenureOverError, match="heartbeat"):
            before.check()
        assert not before.owns(partition)
        await until(lambda: worker._engine.tenure not in (None, before) and worker._engine.tenure.owns(partition))
        with pytest.raises(TenureOverError):
            before.check()


async def test_a_consumer_that_could_not_be_deleted_is_deleted_later(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever it belonged to may own nothing now, and so look at nobody's consumers."""
    delete, refused = claiming.delete_consumer, list[str]()

    async def not_at_once(lane: Any, stream: str, name: str) -> None:
        if not refused:
            refused.append(name)
            raise BrokerUnavailableError("no answer")
        await delete(lane, stream, name)

    async with (
        Client.connect(client.url, namespace=f"n{uuid.uuid4().hex[:8]}", partitions=1) as own,
        Worker(own, task_queue="q", workflows=[nothing]) as first,
    ):
        await until(lambda: first.partitions)
        consumer = first._engine.tenure and first._engine.tenure.consumer_name
        monkeypatch.setattr(claiming, "delete_consumer", not_at_once)
        await first._ownership._claiming.claim(frozenset(), frozenset)
        assert refused == [consumer]
        first._ownership._changed()

        async def gone() -> bool:
            return consumer not in [each["name"] for each in await own.broker.lane.consumers(own.broker.names.inbox_stream)]

        await until(gone)
        await own.execute(nothing, task_queue="q", timeout=WAIT)
