"""Dead letters as owners write them and people read them: whole where they fit, once, and fenced."""

import pytest

from jetflow.broker.stores.dead_letters import DeadLetters, OwnedDeadLetters
from jetflow.broker.transport.connection import Broker
from jetflow.protocol.headers import header_block
from tests.broker.owning import OwnedLane, owned_lane, stored, writes_until_revoked


@pytest.fixture
def owned(broker: Broker, queue: str) -> OwnedLane:
    return owned_lane(broker, queue)


@pytest.fixture
def letters(broker: Broker, owned: OwnedLane) -> OwnedDeadLetters:
    return OwnedDeadLetters(owned, broker.names, broker.max_payload)


async def _numbers(broker: Broker, queue: str) -> list[int]:
    return [seq for _, seq, _ in await stored(broker, broker.names.dead_stream, f"{broker.names.dead_prefix}{queue}.>")]


async def test_what_is_kept_is_read_and_a_repeat_is_dropped(broker: Broker, letters: OwnedDeadLetters, queue: str) -> None:
    subject = broker.names.command(queue, "w", "pause")
    headers = header_block(Jetflow_Expire="1h", Other="x", Jetflow_Reason="forged")
    for _ in range(2):
        await letters.write(subject, b"body", headers, "not a\r\ncommand: ä", origin=f"{queue}-1")
    await letters.write(subject, b"body", None, "another", origin=f"{queue}-2")
    first, second = await _numbers(broker, queue)
    kept = await DeadLetters(broker.lane, broker.names).get(first)
    assert (kept.subject, kept.body, kept.headers, kept.size) == (subject, b"body", {"Jetflow-Expire": "1h"}, None)
    assert kept.reason == "not a  command: \\xe4"
    assert (await DeadLetters(broker.lane, broker.names).get(second)).reason == "another"


async def test_one_that_does_not_fit_is_cut_and_says_so(broker: Broker, letters: OwnedDeadLetters, queue: str) -> None:
    """Also with the longest fence beside it."""
    body = b"x" * broker.max_payload
    long_name = owned_lane(broker, "q" * 200, "t" * 100, replicated=True)
    for number, one in enumerate((letters, OwnedDeadLetters(long_name, broker.names, broker.max_payload))):
        await one.write(broker.names.command(queue, "w", "pause"), body, None, "r" * 5000, origin=f"{queue}-{number}")
    for number in await _numbers(broker, queue):
        kept = await DeadLetters(broker.lane, broker.names).get(number)
        assert kept.size == len(body)
        assert len(body) - 4096 < len(kept.body) < len(body)
        assert kept.reason == "r" * 900
    assert len(await _numbers(broker, queue)) == 2


async def test_nothing_is_kept_once_the_tenure_is_revoked(broker: Broker, owned: OwnedLane, letters: OwnedDeadLetters, queue: str) -> None:
    mine, subject = f"{broker.names.dead_prefix}{queue}.>", broker.names.command(queue, "w", "pause")
    await writes_until_revoked(broker, owned, broker.names.dead_stream, mine, lambda: letters.write(subject, b"x", None, "why", origin=f"{queue}-1"))
