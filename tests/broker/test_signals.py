"""Signals that nobody waits for yet: kept in order, until they expire or are taken."""

import asyncio
import time

import pytest
from msgspec import Raw

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.signals import CANCEL, EarlySignal, EarlySignals, OwnedSignals
from jetflow.broker.transport.connection import Broker
from jetflow.core.ids import partition_of
from tests.broker.owning import OwnedLane, owned_lane, stored, writes_until_revoked

HOUR = 3_600_000
EVERYWHERE = frozenset(range(64))


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def signals(broker: Broker, owned: OwnedLane) -> OwnedSignals:
    return OwnedSignals(owned, broker.names)


def _now() -> int:
    return time.time_ns() // 1_000_000


def _signal(seq: int, name: str = "go", expires: int = HOUR) -> EarlySignal:
    return EarlySignal(name, seq, _now() + expires, Raw(b'{"n":%d}' % seq))


async def test_nothing_is_kept_at_first(signals: OwnedSignals, queue: str) -> None:
    assert await signals.load(queue, "w") == []
    assert await signals.known(queue, EVERYWHERE, 64) == set()


async def test_signals_come_back_in_inbox_order_whatever_their_name(signals: OwnedSignals, queue: str) -> None:
    positions: dict[int, int] = {}
    for seq, name in ((12, "b"), (3, "a"), (7, "two words"), (100, "a"), (20, "b")):
        positions[seq] = await signals.put(queue, "w", _signal(seq, name), _now())
    found = await signals.load(queue, "w")
    assert {signal.seq: position for _, signal, position in found} == positions
    assert [(token, signal.signal, signal.seq) for token, signal, _ in found] == [
        ("a", "a", 3), ("two=20words", "two words", 7), ("b", "b", 12), ("b", "b", 20), ("a", "a", 100),
    ]  # fmt: skip
    assert bytes(found[0][1].data) == b'{"n":3}'


async def test_putting_one_again_changes_nothing(signals: OwnedSignals, queue: str) -> None:
    signal = _signal(5)
    for _ in range(3):
        position = await signals.put(queue, "w", signal, _now())
    assert await signals.load(queue, "w") == [("go", signal, position)]


async def test_seven_hundred_are_loaded(signals: OwnedSignals, queue: str) -> None:
    now = _now()
    await asyncio.gather(*(signals.put(queue, "w", _signal(seq, f"s{seq % 3}"), now) for seq in range(700, 0, -1)))
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == list(range(1, 701))


async def test_a_removed_one_is_gone_and_the_others_stay(signals: OwnedSignals, queue: str) -> None:
    positions = {seq: await signals.put(queue, "w", _signal(seq), _now()) for seq in (1, 2, 3)}
    await signals.remove(queue, "w", "go", 2, positions[2])
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [1, 3]
    await signals.remove(queue, "w", "go", 2, positions[2])
    await signals.remove(queue, "w", "go", 99, positions[3])
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [1, 3]


async def test_one_that_was_put_anew_is_not_removed_by_who_knows_the_first(signals: OwnedSignals, queue: str) -> None:
    first = await signals.put(queue, "w", _signal(2), _now())
    again = await signals.put(queue, "w", _signal(2), _now())
    await signals.remove(queue, "w", "go", 2, first)
    assert [stored.position for stored in await signals.load(queue, "w")] == [again]
    await signals.remove(queue, "w", "go", 2, again)
    assert await signals.load(queue, "w") == []


async def test_what_was_kept_up_to_a_time_is_removed_and_what_came_later_stays(broker: Broker, signals: OwnedSignals, queue: str) -> None:
    for seq in (1, 2, 3):
        await signals.put(queue, "w", _signal(seq), _now())
    times = {}
    for message in await broker.lane.read_many(
        broker.names.signal_stream, {"multi_last": [f"{broker.names.signal_prefix}{queue}.w.>"]}, may_lag="a test looks"
    ):
        times[int(message.subject.rpartition(".")[2])] = message.time
    await signals.put(queue, "w2", _signal(4), _now())
    await signals.remove_before(queue, "w", "2020-01-01T00:00:00Z")
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [1, 2, 3]
    await signals.remove_before(queue, "w", times[2])
    left = [signal.seq for _, signal, _ in await signals.load(queue, "w")]
    assert left == [seq for seq, time in times.items() if time[:23] > times[2][:23]], "to the millisecond"
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w2")] == [4]


async def test_an_expired_cancel_goes_by_itself_and_an_expired_signal_waits_for_its_owner(signals: OwnedSignals, broker: Broker, queue: str) -> None:
    await signals.put(queue, "w", _signal(1, expires=1), _now(), CANCEL)
    await signals.put(queue, "w", _signal(2), _now())
    await signals.put(queue, "w", _signal(3, expires=1), _now())
    await signals.put(queue, "w", _signal(4, expires=-60_000), _now())
    stored: set[str] = set()

    async def look() -> None:
        prefix = f"{broker.names.signal_prefix}{queue}."
        info = await broker.lane.api(f"STREAM.INFO.{broker.names.signal_stream}", {"subjects_filter": f"{prefix}>"})
        stored.clear()
        stored.update(subject[len(prefix) :] for subject in info["state"]["subjects"])

    await look()
    assert stored == {"w.=cancel.1", "w.go.2", "w.go.3", "w.go.4"}
    async with asyncio.timeout(20):
        while "w.=cancel.1" in stored:
            await asyncio.sleep(0.05)
            await look()
    await asyncio.sleep(1.1)  # a signal without more time would be gone too
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [2, 3, 4]


async def test_an_early_cancel_has_a_token_that_no_signal_has(signals: OwnedSignals, queue: str) -> None:
    await signals.put(queue, "w", _signal(4, "=cancel"), _now())
    position = await signals.put(queue, "w", _signal(5, "reason"), _now(), CANCEL)
    assert [(token, signal.seq) for token, signal, _ in await signals.load(queue, "w")] == [("=3Dcancel", 4), (CANCEL, 5)]
    await signals.remove(queue, "w", CANCEL, 5, position)
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [4]


async def test_workflows_with_something_kept_are_known_by_partition(signals: OwnedSignals, queue: str) -> None:
    ids = {f"w{number}" for number in range(30)}
    for number, workflow in enumerate(sorted(ids)):
        await signals.put(queue, workflow, _signal(number + 1), _now())
    assert await signals.known(queue, EVERYWHERE, 64) == ids
    some = frozenset({partition_of(queue, "w0", 64), partition_of(queue, "w1", 64)})
    assert await signals.known(queue, some, 64) == {workflow for workflow in ids if partition_of(queue, workflow, 64) in some}
    assert await signals.known(queue, frozenset(), 64) == set()


async def test_workflows_do_not_see_each_others(signals: OwnedSignals, queue: str) -> None:
    await signals.put(queue, "w", _signal(1), _now())
    await signals.put(queue, "w2", _signal(2), _now())
    await signals.put(f"{queue}2", "w", _signal(3), _now())
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [1]


async def test_clients_read_the_same(broker: Broker, signals: OwnedSignals, queue: str) -> None:
    for seq in (2, 1):
        await signals.put(queue, "w", _signal(seq), _now())
    for replicated in (False, True):
        assert await EarlySignals(broker.lane, broker.names, replicated=replicated).load(queue, "w") == await signals.load(queue, "w")


async def test_one_that_no_worker_wrote_is_left_out(broker: Broker, signals: OwnedSignals, queue: str, caplog: pytest.LogCaptureFixture) -> None:
    await broker.lane.publish(f"{broker.names.signal_prefix}{queue}.w.go.1", b"rubbish")
    await signals.put(queue, "w", _signal(2), _now())
    assert [signal.seq for _, signal, _ in await signals.load(queue, "w")] == [2]
    assert "cannot be read" in caplog.text


async def test_nothing_is_kept_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, signals: OwnedSignals, queue: str) -> None:
    mine = f"{broker.names.signal_prefix}{queue}.>"
    await writes_until_revoked(broker, owned, broker.names.signal_stream, mine, lambda: signals.put(queue, "w", _signal(1), _now()))


async def test_a_tenure_that_is_over_removes_nothing(broker: Broker, owned: OwnedLane, signals: OwnedSignals, queue: str) -> None:
    position = await signals.put(queue, "w", _signal(1), _now())
    owned.hold.lose("a test says so")
    for late in (signals.remove(queue, "w", "go", 1, position), signals.remove_before(queue, "w", "2100-01-01T00:00:00Z"), signals.load(queue, "w")):
        with pytest.raises(TenureOverError):
            await late
    assert len(await stored(broker, broker.names.signal_stream, f"{broker.names.signal_prefix}{queue}.>")) == 1
