"""Signals that nobody waits for yet: kept in order, until they expire or are taken."""

import asyncio
import time

import pytest
from msgspec import Raw

from jetflow.broker.connection import Broker
from jetflow.broker.signals import CANCEL, EarlySignal, EarlySignals
from jetflow.core.ids import partition_of

HOUR = 3_600_000
EVERYWHERE = frozenset(range(64))


@pytest.fixture
def signals(broker: Broker) -> EarlySignals:
    return EarlySignals(broker.lane, broker.names)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _signal(seq: int, name: str = "go", expires: int = HOUR) -> EarlySignal:
    return EarlySignal(name, seq, _now() + expires, Raw(b'{"n":%d}' % seq))


async def test_nothing_is_kept_at_first(signals: EarlySignals, queue: str) -> None:
    assert await signals.load(queue, "w") == []
    assert await signals.known(queue, EVERYWHERE, 64) == set()


async def test_signals_come_back_in_inbox_order_whatever_their_name(signals: EarlySignals, queue: str) -> None:
    for seq, name in ((12, "b"), (3, "a"), (7, "two words"), (100, "a"), (20, "b")):
        await signals.put(queue, "w", _signal(seq, name), _now())
    found = await signals.load(queue, "w")
    assert [(token, signal.signal, signal.seq) for token, signal in found] == [
        ("a", "a", 3), ("two=20words", "two words", 7), ("b", "b", 12), ("b", "b", 20), ("a", "a", 100),
    ]  # fmt: skip
    assert bytes(found[0][1].data) == b'{"n":3}'


async def test_putting_one_again_changes_nothing(signals: EarlySignals, queue: str) -> None:
    for _ in range(3):
        await signals.put(queue, "w", _signal(5), _now())
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == [5]


async def test_seven_hundred_are_loaded(signals: EarlySignals, queue: str) -> None:
    now = _now()
    await asyncio.gather(*(signals.put(queue, "w", _signal(seq, f"s{seq % 3}"), now) for seq in range(700, 0, -1)))
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == list(range(1, 701))


async def test_a_removed_one_is_gone_and_the_others_stay(signals: EarlySignals, queue: str) -> None:
    for seq in (1, 2, 3):
        await signals.put(queue, "w", _signal(seq), _now())
    await signals.remove(queue, "w", "go", 2)
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == [1, 3]
    await signals.remove(queue, "w", "go", 2)
    await signals.remove(queue, "w", "go", 99)
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == [1, 3]


async def test_an_expired_one_goes_by_itself(signals: EarlySignals, broker: Broker, queue: str) -> None:
    await signals.put(queue, "w", _signal(1, expires=1), _now())
    await signals.put(queue, "w", _signal(2), _now())
    stored: set[str] = set()

    async def look() -> None:
        prefix = f"{broker.names.signal_prefix}{queue}."
        info = await broker.lane.api(f"STREAM.INFO.{broker.names.signal_stream}", {"subjects_filter": f"{prefix}>"})
        stored.clear()
        stored.update(subject[len(prefix) :] for subject in info["state"]["subjects"])

    await look()
    assert stored == {"w.go.1", "w.go.2"}
    async with asyncio.timeout(20):
        while "w.go.1" in stored:
            await asyncio.sleep(0.05)
            await look()
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == [2]


async def test_an_early_cancel_has_a_token_that_no_signal_has(signals: EarlySignals, queue: str) -> None:
    await signals.put(queue, "w", _signal(4, "=cancel"), _now())
    await signals.put(queue, "w", _signal(5, "reason"), _now(), CANCEL)
    assert [(token, signal.seq) for token, signal in await signals.load(queue, "w")] == [("=3Dcancel", 4), (CANCEL, 5)]
    await signals.remove(queue, "w", CANCEL, 5)
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == [4]


async def test_workflows_with_something_kept_are_known_by_partition(signals: EarlySignals, queue: str) -> None:
    ids = {f"w{number}" for number in range(30)}
    for number, workflow in enumerate(sorted(ids)):
        await signals.put(queue, workflow, _signal(number + 1), _now())
    assert await signals.known(queue, EVERYWHERE, 64) == ids
    some = frozenset({partition_of(queue, "w0", 64), partition_of(queue, "w1", 64)})
    assert await signals.known(queue, some, 64) == {workflow for workflow in ids if partition_of(queue, workflow, 64) in some}
    assert await signals.known(queue, frozenset(), 64) == set()


async def test_workflows_do_not_see_each_others(signals: EarlySignals, queue: str) -> None:
    await signals.put(queue, "w", _signal(1), _now())
    await signals.put(queue, "w2", _signal(2), _now())
    await signals.put(f"{queue}2", "w", _signal(3), _now())
    assert [signal.seq for _, signal in await signals.load(queue, "w")] == [1]
