"""Tasks as the owner of their workflows has them: published once, taken back, and fenced."""

import msgspec
import pytest

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.tasks import OwnedTasks, Task, Tasks, operation_tokens
from jetflow.broker.transport.connection import Broker
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane, owned_lane, stored, writes_until_revoked


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def tasks(broker: Broker, owned: OwnedLane) -> OwnedTasks:
    return OwnedTasks(owned, broker.names)


def _task(queue: str, index: int = 1, attempt: int = 1, *, again: bool = False) -> Task:
    return Task("w", queue, 7, index, attempt, "act", msgspec.Raw(b"[1]"), "reply", again=again)


async def _stored(broker: Broker, queue: str) -> list[str]:
    """What there is for a queue: <run>.<index>.<attempt>."""
    prefix = f"{broker.names.task_prefix}{queue}.act.{queue}.w."
    return [subject.removeprefix(prefix) for subject, _, _ in await stored(broker, broker.names.task_stream, f"{prefix}>")]


async def _clean(broker: Broker, queue: str) -> None:
    await broker.lane.api(f"STREAM.PURGE.{broker.names.task_stream}", {"filter": f"{broker.names.task_prefix}{queue}.>"})


async def test_one_that_may_have_been_published_is_looked_for(broker: Broker, tasks: OwnedTasks, queue: str) -> None:
    await tasks.publish(queue, _task(queue))
    await tasks.publish(queue, _task(queue, again=True))
    await tasks.publish(queue, _task(queue, 2, again=True))
    await tasks.publish(queue, _task(queue, attempt=2, again=True))
    assert await _stored(broker, queue) == ["7.1.1", "7.2.1", "7.1.2"]
    assert await Tasks(broker.lane, broker.names).waiting(queue)
    await _clean(broker, queue)


async def test_those_of_an_operation_are_taken_back_or_of_all(broker: Broker, tasks: OwnedTasks, queue: str) -> None:
    for index in (1, 2, 3):
        for attempt in (1, 2):
            await tasks.publish(queue, _task(queue, index, attempt))
    await tasks.withdraw(operation_tokens(queue, "w", 7, 2))
    assert await _stored(broker, queue) == ["7.1.1", "7.1.2", "7.3.1", "7.3.2"]
    await tasks.withdraw(operation_tokens(queue, "w", 8, "*"))
    assert len(await _stored(broker, queue)) == 4, "another run's"
    await tasks.withdraw(operation_tokens(queue, "w", 7, "*"))
    assert await _stored(broker, queue) == []
    assert not await Tasks(broker.lane, broker.names).waiting(queue)


async def test_nothing_is_published_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, tasks: OwnedTasks, queue: str) -> None:
    mine = f"{broker.names.task_prefix}{queue}.>"
    await writes_until_revoked(broker, owned, broker.names.task_stream, mine, lambda: tasks.publish(queue, _task(queue)))
    await _clean(broker, queue)


async def test_a_tenure_that_is_over_takes_nothing_back_and_tells_nobody(broker: Broker, owned: OwnedLane, tasks: OwnedTasks, queue: str) -> None:
    heard: list[bytes] = []
    broker.wire.listen(f"{broker.names.ended_prefix}{queue}.>", lambda subject, *_: heard.append(bytes(subject)))
    operation = operation_tokens(queue, "w", 7, 1)
    await tasks.publish(queue, _task(queue))
    tasks.tell_ended(queue, operation)
    await until(lambda: heard, "whoever runs it is told")
    owned.hold.lose("a test says so")
    with pytest.raises(TenureOverError):
        tasks.tell_ended(queue, operation)
    with pytest.raises(TenureOverError):
        await tasks.withdraw(operation)
    with pytest.raises(TenureOverError):
        await tasks.publish(queue, _task(queue, 1, again=True))
    await broker.lane.api("INFO")
    assert len(heard) == 1
    assert await _stored(broker, queue) == ["7.1.1"]
    await _clean(broker, queue)
