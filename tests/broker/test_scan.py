"""Going through a bucket: each key once, from where the last reader was done."""

import pytest

from jetflow.broker import scan
from jetflow.broker.connection import Broker
from jetflow.broker.scan import Scan
from jetflow.broker.wire import header_block
from jetflow.errors import BrokerError


@pytest.fixture
def keys(broker: Broker, queue: str) -> "Keys":
    return Keys(broker, queue)


class Keys:
    """A part of the signals bucket, and scans of it."""

    def __init__(self, broker: Broker, queue: str) -> None:
        self._lane, self._stream = broker.lane, broker.names.signal_stream
        self._prefix = f"{broker.names.signal_prefix}{queue}."
        self._purpose = f"reader=2D{queue}"

    async def put(self, *names: str, body: bytes = b"{}", **headers: str) -> None:
        for name in names:
            await self._lane.publish(f"{self._prefix}{name}", body, header_block(**headers) if headers else None)

    def scan(self, *, lasting: bool = True) -> Scan:
        return Scan(self._lane, self._stream, f"{self._prefix}*", self._purpose if lasting else None)

    async def batch(self, reader: Scan, size: int = 100) -> list[str]:
        return [seen.subject.removeprefix(self._prefix) for seen in await reader.batch(size)]


@pytest.mark.parametrize("lasting", [True, False])
async def test_every_key_comes_once_in_the_order_it_was_written(keys: Keys, lasting: bool) -> None:
    await keys.put("a", "b", "c", "b")
    reader = keys.scan(lasting=lasting)
    await reader.open()
    assert [await keys.batch(reader, 2), await keys.batch(reader, 2)] == [["a", "c"], ["b"]]
    await keys.put("a")
    assert await keys.batch(reader) == ["a"]
    reader.close()


async def test_headers_tell_empty_keys(keys: Keys) -> None:
    await keys.put("full")
    await keys.put("empty", body=b"", KV_Operation="PURGE")
    reader = keys.scan(lasting=False)
    await reader.open()
    full, empty = await reader.batch(10)
    assert (b"Nats-Msg-Size: 0\r\n" in full.headers, b"Nats-Msg-Size: 0\r\n" in empty.headers) == (False, True)
    assert empty.position > full.position
    reader.close()


async def test_the_next_reader_goes_on_from_what_was_done_and_ends_the_one_before(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "REMEMBER_EVERY", 2)
    first, second = keys.scan(), keys.scan()
    assert not await first.known()
    await first.open()
    await keys.put("a", "b", "c")
    assert await keys.batch(first, 2) == ["a", "b"]
    await first.done()
    assert await keys.batch(first, 2) == ["c"]  # told, not done
    assert await second.known()
    await second.open()
    assert await keys.batch(second) == ["c"]
    with pytest.raises(BrokerError):
        await first.batch(1)
    first.close()
    second.close()
