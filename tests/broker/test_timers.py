"""Timers: the broker's scheduled messages become commands when they are due."""

import json
import time

import pytest

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.timers import ScheduledStarts, Timers
from jetflow.broker.transport.connection import Broker
from jetflow.core.ids import partition_of
from jetflow.core.times import to_iso
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane, owned_lane, writes_until_revoked
from tests.broker.test_pull import Taker, _clean

HOUR = 3_600_000


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def timers(broker: Broker, owned: OwnedLane) -> Timers:
    return Timers(owned, broker.names)


def _now() -> int:
    return time.time_ns() // 1_000_000


async def _scheduled(broker: Broker, queue: str) -> set[str]:
    """What is scheduled for the workflows of a queue, as <id>.<index>."""
    prefix = f"{broker.names.timer_prefix}{queue}."
    info = await broker.lane.api(f"STREAM.INFO.{broker.names.inbox_stream}", {"subjects_filter": f"{prefix}>"})
    return {subject[len(prefix) :] for subject in info["state"].get("subjects") or {}}


async def test_a_timer_becomes_a_command_of_its_workflow(broker: Broker, timers: Timers, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    due = _now() + 200
    await timers.schedule(queue, "w", 7, 3, due)
    await until(lambda: taker.held, "it fires")
    (delivery,) = taker.held
    assert delivery.subject == f"jetflow.{partition_of(queue, 'w', 64)}.{queue}.w.timer.3"
    assert json.loads(delivery.data) == {"run": 7, "due": due}
    assert delivery.stored_ms >= due
    assert await _scheduled(broker, queue) == set()
    await _clean(taker)


async def test_a_timer_that_is_already_due_fires(broker: Broker, timers: Timers, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    await timers.schedule(queue, "w", 7, 1, _now() - HOUR)
    await until(lambda: taker.held, "it fires")
    assert json.loads(taker.held[0].data)["run"] == 7
    await _clean(taker)


async def test_timers_fire_in_the_order_in_which_they_are_due(broker: Broker, timers: Timers, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    now = _now()
    for index, delay in ((1, 1_200), (2, 100), (3, 650)):
        await timers.schedule(queue, "w", 7, index, now + delay)
    await until(lambda: len(taker.held) == 3, "all fire")
    assert [delivery.subject.rpartition(".")[2] for delivery in taker.held] == ["2", "3", "1"]
    await _clean(taker)


async def test_scheduling_again_replaces(broker: Broker, timers: Timers, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    await timers.schedule(queue, "w", 7, 1, _now() + HOUR)
    await timers.schedule(queue, "w", 8, 1, _now() + 100)
    await until(lambda: taker.held, "the second fires")
    assert json.loads(taker.held[0].data)["run"] == 8
    assert await _scheduled(broker, queue) == set()
    await _clean(taker)


async def test_a_cancelled_timer_is_gone_and_the_others_stay(broker: Broker, timers: Timers, queue: str) -> None:
    for workflow in ("w", "w2"):
        for index in (1, 2):
            position = await timers.schedule(queue, workflow, 7, index, _now() + HOUR)
    await timers.cancel(queue, "w", 1, position + 1)
    assert await _scheduled(broker, queue) == {"w.2", "w2.1", "w2.2"}
    await timers.cancel_all(queue, "w2", position + 1)
    assert await _scheduled(broker, queue) == {"w.2"}
    await timers.cancel(queue, "w", 2, position + 1)
    assert await _scheduled(broker, queue) == set()


async def test_what_a_later_owner_schedules_is_not_cancelled_by_the_one_before(broker: Broker, timers: Timers, queue: str) -> None:
    later = Timers(owned_lane(broker, queue), broker.names)
    known = [await timers.schedule(queue, "w", 7, index, _now() + HOUR) for index in (1, 2)]
    assert await timers.newest(queue, "w") == known[-1]
    newer = await later.schedule(queue, "w", 7, 1, _now() + HOUR)
    assert await timers.newest(queue, "w") == newer
    await timers.cancel(queue, "w", 1, known[-1] + 1)
    await timers.cancel_all(queue, "w", known[-1] + 1)
    assert await _scheduled(broker, queue) == {"w.1"}
    await later.cancel_all(queue, "w", newer + 1)
    assert await _scheduled(broker, queue) == set()
    assert await timers.newest(queue, "w") == 0


async def test_a_start_that_is_yet_to_come_is_taken_back_unless_it_was_scheduled_later(broker: Broker, timers: Timers, queue: str) -> None:
    starts = ScheduledStarts(broker.lane, broker.names)
    assert not await timers.take_start_back(queue, "w", 1 << 40)
    due = _now() + HOUR
    subject, target = f"{broker.names.timer_prefix}{queue}.w.start.at", broker.names.command(queue, "w", "start.kind")
    await broker.lane.publish_once(subject, b"[]", broker.lane.message_id(), Nats_Schedule=f"@at {to_iso(due)}", Nats_Schedule_Target=target)
    there = await broker.lane.last_message(broker.names.inbox_stream, f"{broker.names.timer_prefix}{queue}.w.start.at")
    assert there is not None
    found = await starts.scheduled_start(queue, "w")
    assert found is not None
    assert (found.type_token, found.due) == ("kind", due)
    timer = await timers.schedule(queue, "w", 7, 1, _now() + HOUR)
    await timers.cancel_all(queue, "w", timer + 1)
    assert await starts.start_is_scheduled(queue, "w"), "it is none of a run's timers"
    assert not await timers.take_start_back(queue, "w", there.seq), "it came later than what is known of"
    assert await starts.start_is_scheduled(queue, "w")
    assert await timers.take_start_back(queue, "w", there.seq + 1)
    assert not await starts.start_is_scheduled(queue, "w")
    assert not await timers.take_start_back(queue, "w", there.seq + 1)


async def test_a_cancelled_timer_does_not_fire(broker: Broker, timers: Timers, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    due = _now() + 700
    await timers.schedule(queue, "w", 7, 1, due)
    position = await timers.schedule(queue, "w", 7, 2, due + 600)
    await timers.cancel(queue, "w", 1, position + 1)
    await until(lambda: taker.held, "the later one fires")
    assert [delivery.subject.rpartition(".")[2] for delivery in taker.held] == ["2"]
    await _clean(taker)


async def test_cancelling_what_is_not_there_is_fine(timers: Timers, queue: str) -> None:
    for before in (0, 1, 1 << 40):
        await timers.cancel(queue, "w", 1, before)
        await timers.cancel_all(queue, "w", before)


async def test_nothing_is_scheduled_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, timers: Timers, queue: str) -> None:
    mine = f"{broker.names.timer_prefix}{queue}.>"
    await writes_until_revoked(broker, owned, broker.names.inbox_stream, mine, lambda: timers.schedule(queue, "w", 7, 1, _now() + HOUR))
    await broker.lane.api(f"STREAM.PURGE.{broker.names.inbox_stream}", {"filter": mine})


async def test_a_tenure_that_is_over_cancels_nothing(broker: Broker, owned: OwnedLane, timers: Timers, queue: str) -> None:
    position = await timers.schedule(queue, "w", 7, 1, _now() + HOUR)
    owned.hold.lose("a test says so")
    before = position + 1
    for late in (timers.cancel(queue, "w", 1, before), timers.cancel_all(queue, "w", before), timers.take_start_back(queue, "w", before)):
        with pytest.raises(TenureOverError):
            await late
    assert await _scheduled(broker, queue) == {"w.1"}
    await broker.lane.api(f"STREAM.PURGE.{broker.names.inbox_stream}", {"filter": f"{broker.names.timer_prefix}{queue}.>"})
