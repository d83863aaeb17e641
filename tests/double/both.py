"""The real nats-server and the double, asked the same."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.server import LocalServer
from jetflow.broker.transport.topology import ensure_topology
from jetflow.errors import BrokerError
from jetflow.protocol.headers import header_block, parse_headers, status_of
from jetflow.protocol.subjects import Names
from jetflow.testing.cluster import open_wire
from jetflow.testing.server import MemoryServer
from jetflow.testing.virtual import World

SECOND = 1_000_000_000
PARTITIONS = 8
Contract = Callable[["Asked"], Awaitable[None]]


class Asked:
    """A server that is asked, real or not.

    Attributes:
        lane: a connection to it.
        names: a namespace of this test's own.
        got: what came to an inbox, as (subject, reply, payload, headers).
    """

    def __init__(self, lane: Lane, names: Names, again: Callable[[], Awaitable[Lane]], restart: Callable[[], Awaitable[None]]) -> None:
        self.lane = lane
        self.names = names
        self.again = again
        self.restart = restart

    def listen(self, subject: str) -> list[tuple[str, str, bytes, dict[str, str]]]:
        """Collects what comes to a subject; the status is under ``status``."""
        got: list[tuple[str, str, bytes, dict[str, str]]] = []

        def take(found: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
            fields = parse_headers(headers)
            if status_of(headers):
                fields["status"] = str(status_of(headers))
            got.append((found.decode(), reply.decode(), data, fields))

        self.lane.wire.listen(subject, take)
        return got

    async def ask(self, subject: str, body: Any = b"", /, many: bool = False, **headers: str) -> Any:
        """One request: the answer as JSON if it is, else its payload and header fields; with ``many`` a list of these."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        answer = await self.lane.submit(subject, raw, header_block(**headers) if headers else None, many=many, retry=False)
        if many:
            return [(data, self._fields(block)) for data, block in answer]
        data, block = answer
        return (data, self._fields(block)) if block is not None or not data else msgspec.json.decode(data)

    @staticmethod
    def _fields(block: bytes | None) -> dict[str, str]:
        fields = parse_headers(block)
        fields.pop("Nats-Time-Stamp", None)
        return fields

    async def put(self, key: str, body: bytes, bucket: str = "timeline", /, **headers: str) -> Any:
        """Publishes to a key of a bucket: its position, or what the server said instead."""
        answer = await self.ask(f"$KV.{self.names.namespace}_{bucket}.{key}", body, **headers)
        if not isinstance(answer, dict):
            return answer
        return answer["error"] if "error" in answer else answer["seq"]

    async def publish(self, subject: str, body: bytes = b"", **headers: str) -> Any:
        """Publishes to a subject of the namespace, which is put before it."""
        answer = await self.ask(f"{self.names.namespace}{subject}", body, **headers)
        return answer["error"] if "error" in answer else answer["seq"]

    async def subjects(self, stream: str, pattern: str = ">") -> dict[str, int]:
        """Subjects that a stream has, without the namespace."""
        info = await self.lane.api(f"STREAM.INFO.{stream}", {"subjects_filter": pattern})
        return {subject.replace(self.names.namespace, "ns", 1): count for subject, count in (info["state"].get("subjects") or {}).items()}

    async def consumer(self, stream: str, name: str, *filters: str, **more: Any) -> dict[str, Any]:
        """Makes a consumer as the pull lane does; the server's answer."""
        config = {
            "name": name, "deliver_policy": "all", "ack_policy": "explicit", "ack_wait": 24 * 3600 * SECOND, "max_deliver": -1, "max_ack_pending": -1,
            "max_waiting": 64, "mem_storage": True, "inactive_threshold": 60 * SECOND, "filter_subjects": list(filters),
        } | more  # fmt: skip
        config = {key: value for key, value in config.items() if value is not None}
        return await self.ask(f"$JS.API.CONSUMER.CREATE.{stream}.{name}", {"stream_name": stream, "config": config, "action": "create"})  # type: ignore[no-any-return]

    def pull(self, stream: str, name: str, inbox: str, **request: Any) -> None:
        """Asks a consumer for messages."""
        self.lane.wire.send(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}", json.dumps(request).encode(), inbox)

    async def soon(self, holds: Callable[[], bool], limit: float = 5.0) -> None:
        """Waits until something holds."""
        deadline = asyncio.get_running_loop().time() + limit
        while not holds():
            assert asyncio.get_running_loop().time() < deadline, "it does not come to hold"
            await asyncio.sleep(0.01)


async def on_real(contract: Contract, server: LocalServer) -> None:
    """Runs a contract with the real server."""
    names = Names(f"c{uuid.uuid4().hex[:8]}")
    broker = await Broker.connect(server.url, namespace=names.namespace, partitions=PARTITIONS)
    others: list[Broker] = []

    async def again() -> Lane:
        others.append(await Broker.connect(server.url, namespace=names.namespace))
        return others[-1].lane

    async def restart() -> None:
        server.kill()
        await asyncio.sleep(0.05)
        await server.start()
        await broker.wire.connected(10)

    try:
        await contract(Asked(broker.lane, names, again, restart))
    finally:
        for each in [broker, *others]:
            await each.close()


def on_double(contract: Contract, seed: int = 1, replicas: int | None = None) -> MemoryServer:
    """Runs a contract with the double; gives the server."""
    with World(seed) as world:
        server = MemoryServer(world)
        process = world.process("asking")

        async def ask() -> None:
            names = Names("c0")
            lane = Lane(await open_wire(server, process))  # type: ignore[arg-type]
            await ensure_topology(lane, names, partitions=PARTITIONS, replicas=replicas)

            async def again() -> Lane:
                return Lane(await open_wire(server, process))  # type: ignore[arg-type]

            async def restart() -> None:
                server.restart(down=0.3)
                await asyncio.sleep(0.1)
                await lane.wire.connected(10)

            await contract(Asked(lane, names, again, restart))

        world.finish(process.spawn(ask()), 300)
        assert not process.errors
        return server


async def refusal(answer: Awaitable[Any]) -> int:
    """The number of the server's refusal."""
    try:
        await answer
    except BrokerError as error:
        return error.err_code
    raise AssertionError("it was not refused")
