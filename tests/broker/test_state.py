"""State records: put, read, told, and gone when their time is over."""

import asyncio

import pytest
from msgspec import Raw

from jetflow.broker.fencing.group_commit import Choice
from jetflow.broker.stores.state import OwnedStates, StateStore
from jetflow.broker.transport.connection import Broker
from jetflow.protocol.record import COMPLETED, RUNNING, StateRecord, decode_state, summary
from tests.broker.conftest import until
from tests.broker.owning import OwnedLane, owned_lane, writes_until_revoked


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def states(broker: Broker, owned: OwnedLane) -> OwnedStates:
    return OwnedStates(owned, broker.names, Choice())


def _record(queue: str, workflow_id: str = "w", status: str = RUNNING, expire: int | None = None) -> StateRecord:
    return StateRecord(workflow_id, queue, "kind", "1", status, 0, 1_000, 2_000, expire=expire)


async def test_an_unknown_workflow_has_no_record(states: OwnedStates, queue: str) -> None:
    assert await states.get(queue, "w") is None
    assert await states.get(queue, "w", fresh=True) is None


async def test_the_last_record_put_is_read(broker: Broker, states: OwnedStates, queue: str) -> None:
    anybody = StateStore(broker.lane, broker.names)
    for status in (RUNNING, COMPLETED):
        await states.put(_record(queue, status=status))
        for fresh in (False, True):
            for reader in (states, anybody):
                record = await reader.get(queue, "w", fresh=fresh)
                assert record == _record(queue, status=status)
                assert record.closed == (status == COMPLETED)


async def test_any_text_may_be_an_id(states: OwnedStates, queue: str) -> None:
    await states.put(_record(queue, "order 4.5/ä"))
    record = await states.get(queue, "order=204=2E5=2F=C3=A4")
    assert record is not None
    assert record.workflow_id == "order 4.5/ä"


async def test_a_closed_record_goes_when_its_time_is_over(states: OwnedStates, broker: Broker, queue: str) -> None:
    gone: list[bytes] = []
    broker.wire.listen(f"jetflow_changed.{queue}.w", lambda _s, _r, data, headers: gone.append(data) if b"Marker" in (headers or b"") else None)
    await states.put(_record(queue, status=COMPLETED, expire=1))
    assert await states.get(queue, "w") is not None
    await until(lambda: gone, "the end of the record is told")
    assert await states.get(queue, "w") is None
    assert await states.get(queue, "w", fresh=True) is None


async def test_a_marker_is_removed_and_a_record_in_its_place_stays(states: OwnedStates, broker: Broker, queue: str) -> None:
    gone: list[bytes] = []
    broker.wire.listen(f"jetflow_changed.{queue}.*", lambda _s, _r, data, headers: gone.append(data) if b"Marker" in (headers or b"") else None)
    assert await states.newest(queue, "w") is None
    for workflow_id in ("w", "w2"):
        await states.put(_record(queue, workflow_id, status=COMPLETED, expire=1))
    await until(lambda: len(gone) == 2, "both have expired")
    marker, other = await states.newest(queue, "w"), await states.newest(queue, "w2")
    assert marker is not None
    assert other is not None
    assert (marker.data, other.data) == (b"", b"")
    await states.put(_record(queue))
    await states.remove_marker(queue, "w", marker.seq)
    await states.remove_marker(queue, "w2", other.seq)
    assert await states.get(queue, "w", fresh=True) == _record(queue)
    assert await states.newest(queue, "w2") is None


async def test_nothing_is_put_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, states: OwnedStates, queue: str) -> None:
    await writes_until_revoked(broker, owned, broker.names.state_stream, states.subject(queue, "w"), lambda: states.put(_record(queue)))


async def test_nothing_that_expires_is_put_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, states: OwnedStates, queue: str) -> None:
    record = _record(queue, status=COMPLETED, expire=3_600_000)
    await writes_until_revoked(broker, owned, broker.names.state_stream, states.subject(queue, "w"), lambda: states.put(record))


async def test_a_running_record_does_not_expire(states: OwnedStates, broker: Broker, queue: str) -> None:
    await states.put(_record(queue, expire=1))
    message = await broker.lane.last_message(broker.names.state_stream, states.subject(queue, "w"))
    assert message is not None
    assert "Nats-TTL" not in message.headers


@pytest.mark.parametrize(("expire", "seconds"), [(1, "1s"), (1_000, "1s"), (1_001, "2s"), (0, "1s"), (3_600_000, "3600s")])
async def test_the_time_to_live_is_rounded_up_to_seconds(states: OwnedStates, broker: Broker, queue: str, expire: int, seconds: str) -> None:
    await states.put(_record(queue, status=COMPLETED, expire=expire))
    message = await broker.lane.last_message(broker.names.state_stream, states.subject(queue, "w"))
    assert message is not None
    assert message.headers["Nats-TTL"] == seconds


async def test_every_put_is_told(states: OwnedStates, broker: Broker, queue: str) -> None:
    heard: list[StateRecord | None] = []
    broker.wire.listen(f"jetflow_changed.{queue}.*", lambda _s, _r, data, _h: heard.append(decode_state(data)))
    await asyncio.gather(*(states.put(_record(queue, f"w{number}")) for number in range(20)))
    await until(lambda: len(heard) == 20, "all notices come")
    assert sorted(record.workflow_id for record in heard if record) == sorted(f"w{number}" for number in range(20))


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"{}", b"no json", b'{"workflow_id":1}'])
def test_what_is_no_record_is_none(body: bytes) -> None:
    assert decode_state(body) is None


def test_a_record_of_a_newer_version_is_read() -> None:
    assert decode_state(
        b'{"workflow_id":"w","task_queue":"q","workflow_type":"t","run_id":"1","status":"running","code":1,"started_at":1,"updated_at":1,"new":1}'
    )


def test_a_summary_is_plain_json() -> None:
    record = _record("q", status=COMPLETED)
    record.result = Raw(b'{"a":[1]}')
    shown = summary(record)
    assert shown["result"] == {"a": [1]}
    assert shown["workflow_id"] == "w"
    assert "failure" not in shown
