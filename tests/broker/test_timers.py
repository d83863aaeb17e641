"""Timers: the broker's scheduled messages become commands when they are due."""

import json
import time

import pytest

from jetflow.broker.connection import Broker
from jetflow.broker.timers import Timers
from jetflow.core.ids import partition_of
from tests.broker.conftest import until
from tests.broker.test_pull import Taker, _clean

HOUR = 3_600_000


@pytest.fixture
def timers(broker: Broker) -> Timers:
    return Timers(broker.lane, broker.names)


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
            await timers.schedule(queue, workflow, 7, index, _now() + HOUR)
    await timers.cancel(queue, "w", 1)
    assert await _scheduled(broker, queue) == {"w.2", "w2.1", "w2.2"}
    await timers.cancel_all(queue, "w2")
    assert await _scheduled(broker, queue) == {"w.2"}
    await timers.cancel(queue, "w", 2)
    assert await _scheduled(broker, queue) == set()


async def test_a_cancelled_timer_does_not_fire(broker: Broker, timers: Timers, queue: str) -> None:
    taker = Taker(broker, queue)
    await taker.open()
    due = _now() + 700
    await timers.schedule(queue, "w", 7, 1, due)
    await timers.schedule(queue, "w", 7, 2, due + 600)
    await timers.cancel(queue, "w", 1)
    await until(lambda: taker.held, "the later one fires")
    assert [delivery.subject.rpartition(".")[2] for delivery in taker.held] == ["2"]
    await _clean(taker)


async def test_cancelling_what_is_not_there_is_fine(timers: Timers, queue: str) -> None:
    await timers.cancel(queue, "w", 1)
    await timers.cancel_all(queue, "w")
