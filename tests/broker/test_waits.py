"""Waits, claims and the stream of signals by id: what the broker keeps of them."""

import asyncio

import pytest

from jetflow.broker.fencing.fence import TenureOverError
from jetflow.broker.stores.waits import Claim, Wait, Waits
from jetflow.broker.transport.connection import Broker
from jetflow.core.values import json_list
from jetflow.errors import ConflictError
from jetflow.protocol.commands import RoutedSignal
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane, owned_lane, stored, writes_until_revoked


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def waits(broker: Broker, owned: OwnedLane) -> Waits:
    return Waits(owned, broker.names, broker.topology.partitions)


async def _register(waits: Waits, *wanted: Wait) -> None:
    await waits.registered(waits.register((wait, number) for number, wait in enumerate(wanted)))


async def _stored(broker: Broker, name: str) -> int:
    return (await broker.lane.publish(f"{broker.names.by_id_prefix}{name}", b"1")).seq


async def test_who_waits_longest_is_first(waits: Waits, broker: Broker, queue: str) -> None:
    heard: list[str] = []
    broker.wire.listen(f"{broker.names.waiting_prefix}{queue}.>", lambda subject, _r, data, _h: heard.append(f"{subject.decode()} {len(data) > 0}"))
    one, two, three = (Wait(queue, queue, workflow, 5, 1) for workflow in "cab")
    for wait, since in ((one, 1), (three, 2), (two, 1), (one, 1), (three, 2), (two, 1)):  # once more changes nothing
        await waits.registered(waits.register([(wait, since)]))
    assert [registered.wait for registered in await waits.waiting_for(queue)] == [one, two, three]
    waits.remove(two)
    async with asyncio.timeout(10):
        while (found := [registered.wait for registered in await waits.waiting_for(queue)]) == [one, two, three]:
            await asyncio.sleep(0.01)
    assert found == [one, three]
    waiting = [f"{broker.names.waiting_prefix}{wait.key}" for wait in (one, three, two)]
    await until(lambda: len(heard) == 7, "routers are told when a wait begins, and when it ends")
    assert heard == [*(f"{subject} True" for subject in waiting * 2), f"{waiting[2]} False"]
    assert await waits.waiting_for(f"{queue}-other") == []


async def test_more_than_fit_into_one_answer(waits: Waits, queue: str) -> None:
    many = [Wait(queue, queue, "w", 5, index) for index in range(2500)]
    await _register(waits, *many)
    assert [registered.wait for registered in await waits.waiting_for(queue)] == many


async def test_a_signal_has_one_claim(waits: Waits, broker: Broker, queue: str) -> None:
    number = await _stored(broker, queue)
    wait, other = Wait(queue, queue, "a", 5, 1), Wait(queue, queue, "b", 6, 2)
    claims = await asyncio.gather(waits.claim(number, wait), waits.claim(number, wait), waits.claim(number, wait), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in claims) == ["ConflictError", "ConflictError", "NoneType"]
    assert (await waits.claim_of(number)).wait == wait.key
    with pytest.raises(ConflictError):
        await waits.claim(number, other)
    await waits.discard(number)


async def test_one_that_was_given_back_is_claimed_again(waits: Waits, broker: Broker, queue: str) -> None:
    number = await _stored(broker, queue)
    wait, other = Wait(queue, queue, "a", 5, 1), Wait(queue, queue, "b", 6, 2)
    await waits.claim(number, wait)
    await waits.give_back(other, number)
    assert (await waits.claim_of(number)).wait == wait.key, "only the wait it is for can give it back"
    await waits.give_back(wait, number)
    free = await waits.claim_of(number)
    assert free.wait is None
    await waits.claim(number, other, free.revision)
    assert (await waits.claim_of(number)).wait == other.key
    await waits.taken(number)


async def test_a_taken_one_is_gone_before_its_claim(waits: Waits, broker: Broker, queue: str) -> None:
    number = await _stored(broker, queue)
    await waits.claim(number, Wait(queue, queue, "a", 5, 1))
    for _ in range(2):
        await waits.taken(number)
        assert await waits.signal(number) is None
        async with asyncio.timeout(10):
            while (await waits.claim_of(number)).wait is not None:
                await asyncio.sleep(0.01)
    assert await waits.claim_of(1 << 40) == Claim(0, None)


async def test_it_is_forwarded_once_while_it_is_under_way(waits: Waits, broker: Broker, queue: str) -> None:
    wait = Wait(queue, queue, "a", 5, 1)
    for _ in range(3):
        await waits.forward(wait, RoutedSignal(5, queue, 7, json_list([])))
    asked = {"seq": 1, "next_by_subj": f"{broker.names.namespace}.*.{queue}.a.>", "batch": 10}
    found = await broker.lane.read_many(broker.names.inbox_stream, asked, may_lag="a test looks")
    assert [message.data for message in found] == [b'{"run":5,"signal":"%b","number":7,"data":[]}' % queue.encode()]
    await broker.lane.api(f"STREAM.MSG.DELETE.{broker.names.inbox_stream}", {"seq": found[0].seq})


async def test_nothing_is_registered_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, waits: Waits, queue: str) -> None:
    mine, many = f"{broker.names.wait_prefix}{queue}.>", [Wait(queue, queue, "a", 5, index) for index in (1, 2, 3)]
    await writes_until_revoked(broker, owned, broker.names.wait_stream, mine, lambda: _register(waits, *many))


async def test_a_router_whose_tenure_is_over_changes_nothing(broker: Broker, owned: OwnedLane, waits: Waits, queue: str) -> None:
    number, wait = await _stored(broker, queue), Wait(queue, queue, "a", 5, 1)
    await _register(waits, wait)
    await waits.claim(number, wait)
    owned.hold.lose("a test says so")
    claim = await broker.lane.last_message(broker.names.wait_stream, f"{broker.names.wait_prefix}=claim.{number}")
    with pytest.raises(TenureOverError):
        waits.remove(wait)
    for late in (
        waits.taken(number), waits.give_back(wait, number), waits.claim(number, wait, 1), waits.withdraw(number),
        waits.discard(number), waits.forward(wait, RoutedSignal(5, queue, number, json_list([]))), waits.waiting_for(queue), waits.claims(),
    ):  # fmt: skip
        with pytest.raises(TenureOverError):
            await late
    assert len(await stored(broker, broker.names.wait_stream, f"{broker.names.wait_prefix}{queue}.>")) == 1
    assert claim == await broker.lane.last_message(broker.names.wait_stream, f"{broker.names.wait_prefix}=claim.{number}")
    assert await broker.lane.message(broker.names.by_id_stream, number) is not None
    assert await stored(broker, broker.names.inbox_stream, f"{broker.names.namespace}.*.{queue}.>") == []
    await broker.lane.api(f"STREAM.MSG.DELETE.{broker.names.by_id_stream}", {"seq": number, "no_erase": True})


async def test_a_wait_is_not_removed_under_a_tenure_that_is_revoked(broker: Broker, owned: OwnedLane, waits: Waits, queue: str) -> None:
    """It was there again by then, or was written by the later owner."""
    wait = Wait(queue, queue, "a", 5, 1)
    await _register(waits, wait)
    await owned.revoke()
    waits.remove(wait)
    await broker.lane.api("INFO")
    await asyncio.sleep(0.1)
    assert [registered.wait for registered in await waits.waiting_for(queue)] == [wait]


async def test_every_answer_of_those_that_register_is_heard(broker: Broker, owned: OwnedLane, waits: Waits, queue: str) -> None:
    """So that the tenure knows that nothing is under way."""
    many = [(Wait(queue, queue, "a", 5, index), 0) for index in range(5)]
    await owned.revoke()
    answers = waits.register(many)
    assert owned.under_way == 5
    with pytest.raises(TenureOverError):
        await waits.registered(answers)
    assert owned.under_way == 0
    assert await stored(broker, broker.names.wait_stream, f"{broker.names.wait_prefix}{queue}.>") == []
