"""Going through a bucket: each key once, from where the last reader was done."""

from collections.abc import Callable

import pytest

from jetflow.broker.transport import scan
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.scan import Scan
from jetflow.errors import BrokerError
from jetflow.protocol.headers import header_block


@pytest.fixture
def keys(broker: Broker, queue: str) -> "Keys":
    return Keys(broker, queue)


class Keys:
    """A part of the signals bucket, and scans of it."""

    def __init__(self, broker: Broker, queue: str) -> None:
        self._lane, self.stream = broker.lane, broker.names.signal_stream
        self._prefix = f"{broker.names.signal_prefix}{queue}."

    async def put(self, *names: str, body: bytes = b"{}", **headers: str) -> list[int]:
        block = header_block(**headers) if headers else None
        return [(await self._lane.publish(f"{self._prefix}{name}", body, block)).seq for name in names]

    def scan(self, start: int = 1, wanted: Callable[[bytes], bool] | None = None) -> Scan:
        return Scan(self._lane, self.stream, f"{self._prefix}*", start=start, wanted=wanted)

    async def batch(self, reader: Scan, size: int = 100) -> list[str]:
        return [seen.subject.removeprefix(self._prefix) for seen in await reader.batch(size)]

    async def consumers(self, reader: Scan) -> list[str]:
        """The reader's own."""
        return [consumer["name"] for consumer in await self._lane.consumers(self.stream) if consumer["name"] == reader._name]


async def test_every_key_comes_once_in_the_order_it_was_written(keys: Keys) -> None:
    *_, c, b = await keys.put("a", "b", "c", "b")
    reader = keys.scan()
    assert reader.place == 0
    await reader.open()
    assert [await keys.batch(reader, 2), reader.place, reader.read] == [["a", "c"], c, 2]
    assert [await keys.batch(reader, 2), reader.place, reader.read] == [["b"], b, 1]
    (again,) = await keys.put("a")
    assert [await keys.batch(reader), reader.place] == [["a"], again]
    await reader.close()


async def test_it_waits_a_little_for_what_comes_and_then_gives_nothing(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "WAIT", 1)
    reader = keys.scan()
    await reader.open()
    assert [await keys.batch(reader), reader.read, reader.place] == [[], 0, 0]
    await keys.put("a")
    assert await keys.batch(reader) == ["a"]
    await reader.close()


async def test_headers_tell_empty_keys(keys: Keys) -> None:
    await keys.put("full")
    await keys.put("empty", body=b"", KV_Operation="PURGE")
    reader = keys.scan()
    await reader.open()
    full, empty = await reader.batch(10)
    assert (b"Nats-Msg-Size: 0\r\n" in full.headers, b"Nats-Msg-Size: 0\r\n" in empty.headers) == (False, True)
    assert empty.position > full.position
    await reader.close()


async def test_what_is_not_wanted_is_passed_over_and_counted(keys: Keys) -> None:
    await keys.put("a", "b")
    await keys.put("c", body=b"", KV_Operation="PURGE")
    (last,) = await keys.put("d")
    reader = keys.scan(wanted=lambda headers: b"Nats-Msg-Size: 0\r\n" in headers)
    await reader.open()
    assert [await keys.batch(reader), reader.read, reader.place] == [["c"], 4, last]
    await reader.close()


async def test_the_next_reader_goes_on_from_what_was_done(keys: Keys) -> None:
    first = keys.scan()
    await first.open()
    await keys.put("a", "b", "c", "a")
    assert await keys.batch(first, 2) == ["b", "c"]
    second = keys.scan(first.place + 1)
    assert second.place == first.place
    await second.open()
    assert await keys.batch(second) == ["a"]
    assert await keys.batch(first) == ["a"], "two at once do not disturb each other"
    await keys.put("b")
    third = keys.scan(second.place + 1)
    await third.open()
    assert await keys.batch(third) == ["b"], "what was written anew since comes again"
    for reader in (first, second, third):
        await reader.close()


async def test_a_reader_leaves_no_consumer(keys: Keys) -> None:
    reader = keys.scan()
    await reader.close()  # never opened
    await reader.open()
    assert await keys.consumers(reader) == [reader._name]
    await reader.close()
    assert await keys.consumers(reader) == []
    await reader.close()
    await reader.open()
    await keys.put("a")
    assert await keys.batch(reader) == ["a"], "it may be opened anew"
    await reader.close()
    assert await keys.consumers(reader) == []


async def test_a_consumer_that_is_gone_is_an_error_and_not_the_end(keys: Keys, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "WAIT", 1)
    reader = keys.scan()
    await reader.open()
    await broker.lane.api(f"CONSUMER.DELETE.{keys.stream}.{reader._name}")
    with pytest.raises(BrokerError):
        await reader.batch(1)
    await reader.close()
