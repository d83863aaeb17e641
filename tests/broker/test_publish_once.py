"""A message whose ack got lost is sent again, and is stored once, also where it has a condition that its own first copy breaks."""

from typing import Any

import pytest

from jetflow import Client
from jetflow.broker.transport.lane import Lane
from jetflow.errors import BrokerUnavailableError, ConflictError


@pytest.fixture
def acks_lost(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Subjects whose next ack gets lost."""
    lost: list[str] = []
    publish = Lane.publish

    async def loses(lane: Lane, subject: str, body: bytes, headers: bytes | None = None) -> Any:
        ack = await publish(lane, subject, body, headers)
        if subject in lost:
            lost.remove(subject)
            raise BrokerUnavailableError("its ack got lost")
        return ack

    monkeypatch.setattr(Lane, "publish", loses)
    return lost


async def test_a_start_sent_again_is_not_refused_by_its_own_first_copy(client: Client, queue: str, acks_lost: list[str]) -> None:
    acks_lost.append(f"jetflow.{queue}.w.start.order")
    handle = await client.start("order", 1, workflow_id="w", task_queue=queue)
    assert not acks_lost
    lane, names = client.broker.lane, client.broker.names
    start = await lane.last_message(names.inbox_stream, f"jetflow.*.{queue}.w.start.>")
    assert start is not None
    assert handle.run_id == str(start.seq)


async def test_somebody_elses_is_a_conflict(client: Client, queue: str, acks_lost: list[str]) -> None:
    lane, names = client.broker.lane, client.broker.names
    key = f"{names.state_prefix}{queue}.w"
    await lane.publish(key, b"{}")
    with pytest.raises(ConflictError) as conflict:
        await lane.publish_once(key, b"{}", "mine", Nats_Expected_Last_Subject_Sequence="0")
    assert conflict.value.stream == names.state_stream
    acks_lost.append(f"{key}x")
    first = await lane.publish_once(f"{key}x", b"{}", "twice", Nats_Expected_Last_Subject_Sequence="0")
    assert first.duplicate
    stored = await lane.last_message(names.state_stream, f"{key}x")
    assert stored is not None
    assert stored.seq == first.seq


async def test_a_delayed_start_sent_again_is_not_refused_by_its_own_first_copy(client: Client, queue: str, acks_lost: list[str]) -> None:
    acks_lost.append(f"jetflow.{queue}.w.start.order")
    await client.start("order", 1, workflow_id="w", task_queue=queue, start_delay="1h")
    assert not acks_lost
