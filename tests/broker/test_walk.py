"""Reading a bucket by position: windows over dense and sparse streams, one key's part of it, and replicas that lag."""

import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from jetflow.broker.transport import walk
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.topology import stream_configs
from jetflow.broker.transport.walk import Row, Walk
from jetflow.errors import BrokerError
from jetflow.protocol import clock
from jetflow.protocol.headers import header_block


class Shelf:
    """The signals bucket of a namespace of its own, with anything in it."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.lane = broker, broker.lane
        self.stream, self.prefix = broker.names.signal_stream, broker.names.signal_prefix

    async def put(self, *keys: str, body: bytes = b"{}", **headers: str) -> None:
        for key in keys:
            await self.lane.publish(f"{self.prefix}{key}", body, header_block(**headers) if headers else None)

    def walk(self, subject_filter: str | None = None, *, replicated: bool = False) -> Walk:
        return Walk(self.lane, self.stream, subject_filter and f"{self.prefix}{subject_filter}", replicated=replicated)

    async def down(self, walked: Walk, wanted: int = 1) -> tuple[list[int], list[int]]:
        """Positions in the order they came, and where each window began."""
        shape = await walked.shape()
        positions, windows = [], []
        async for low, rows in walked.downwards(shape, shape.last + 1, wanted):
            positions += [row.position for row in rows]
            windows.append(low)
        return positions, windows


@pytest.fixture
async def shelf(server: LocalServer) -> AsyncIterator[Shelf]:
    broker = await Broker.connect(server.url, namespace=f"t{secrets.token_hex(6)}")
    yield Shelf(broker)
    for stream in stream_configs(broker.names, 1, 1):
        await broker.lane.api(f"STREAM.DELETE.{stream}")
    await broker.close()


async def test_windows_grow_and_cover_all(shelf: Shelf) -> None:
    await shelf.put(*(f"k{number}" for number in range(500)))
    positions, windows = await shelf.down(shelf.walk())
    assert positions == list(range(500, 0, -1))
    sizes = [above - low for above, low in zip([501, *windows], windows, strict=False)]
    assert sizes[:3] == [65, 129, 257]


async def test_few_keys_in_a_sparse_stream_take_few_windows(shelf: Shelf) -> None:
    await shelf.put("first", *["busy"] * 2000, "last")
    positions, windows = await shelf.down(shelf.walk())
    assert positions == [2002, 2001, 1]
    assert len(windows) <= 3


async def test_dense_after_sparse(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window for a sparse part that reaches into a dense one is made narrower instead of read whole."""
    monkeypatch.setattr(walk, "MOST_ROWS", 64)
    await shelf.put(*(f"k{number}" for number in range(800)), *["busy"] * 3000)
    positions, windows = await shelf.down(shelf.walk())
    assert positions == [3800, *range(800, 0, -1)]
    rows = [len([position for position in positions if low <= position < above]) for above, low in zip([3801, *windows], windows, strict=False)]
    assert max(rows) <= 5 * 64


async def test_one_filter(shelf: Shelf) -> None:
    await shelf.put("a.1", "b.1", "a.2", "b.2")
    walked = shelf.walk("a.*")
    assert (await walked.shape()).taken == await walked.taken() == 2
    assert (await shelf.down(walked))[0] == [3, 1]
    assert [row.position async for rows in walked.upwards(2) for row in rows] == [3]
    assert await shelf.walk("nothing.*").taken() == 0


async def test_headers_of_a_message_do_not_disturb(shelf: Shelf) -> None:
    await shelf.put("a", Nats_Sequence="99", Other="Nats-Sequence: 98")
    (rows,) = [rows async for rows in shelf.walk().upwards(1)]
    assert rows[0].position == 1
    assert abs(rows[0].stored_ms - clock.now_ms()) < 60_000


async def test_upwards_waits_for_a_replica_that_lags(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.put("a", "b", "c")
    walked = shelf.walk(replicated=True)
    real, asked = walked._ask, []

    async def lagging(request: dict[str, Any]) -> tuple[list[Row], int]:
        asked.append(request)
        rows, pending = await real(request)
        return ([row for row in rows if row.position == 1], 0) if len(asked) < 3 else (rows, pending)

    monkeypatch.setattr(walked, "_ask", lagging)
    assert [row.position async for rows in walked.upwards(1) for row in rows] == [1, 2, 3]


async def test_where_the_tail_of_a_replicated_walk_begins(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    await shelf.put("a", "b")
    assert await shelf.walk().tail_from(2) == 3
    assert await shelf.walk(replicated=True).tail_from(2) == 1
    monkeypatch.setattr(walk, "SETTLE", -60)
    assert await shelf.walk(replicated=True).tail_from(2) == 3


async def test_a_request_that_cannot_be_is_an_error(shelf: Shelf) -> None:
    with pytest.raises(BrokerError):
        await shelf.walk()._ask({"seq": 1, "batch": -1, "next_by_subj": "a b", "last_by_subj": "x"})
