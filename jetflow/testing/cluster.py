"""Clients and workers on the double."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from jetflow import worker
from jetflow.broker.stores import membership
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.topology import Topology, ensure_topology
from jetflow.client import Client
from jetflow.errors import BrokerUnavailableError
from jetflow.protocol.subjects import DEFAULT_NAMESPACE, Names
from jetflow.testing.server import MemoryServer
from jetflow.testing.virtual import Process
from jetflow.testing.wire import MemoryWire

log: logging.Logger = logging.getLogger("jetflow.testing")


async def connect(
    server: MemoryServer, process: Process, *, namespace: str = DEFAULT_NAMESPACE, partitions: int | None = None, replicas: int | None = None
) -> Broker:
    """Return a connection like that of ``Broker.connect``. The first call creates the streams, and later ones do not check them."""
    if worker.Heart is not SimHeart:
        process.world.replace(worker, "Heart", SimHeart)
    wire: Any = await open_wire(server, process)
    lane, names = Lane(wire), Names(namespace)
    topology: Topology | None = server.topologies.get(namespace)
    if topology is None:
        try:
            topology = server.topologies[namespace] = await ensure_topology(lane, names, partitions=partitions, replicas=replicas)
        except BaseException:
            await wire.close()
            raise
    return Broker(wire, lane, names, topology)


async def client_for(
    server: MemoryServer, process: Process, *, namespace: str = DEFAULT_NAMESPACE, partitions: int | None = None, replicas: int | None = None
) -> Client:
    """Return a client, for workers too."""

    async def again(_purpose: str) -> Any:
        return await open_wire(server, process)

    return Client(await connect(server, process, namespace=namespace, partitions=partitions, replicas=replicas), again)


async def open_wire(server: MemoryServer, process: Process) -> MemoryWire:
    """Return a connection for the running event loop.

    Raises:
        BrokerUnavailableError: the server is down.
    """
    await asyncio.sleep(2 * server.latency())
    if not server.up:
        raise BrokerUnavailableError("no nats-server")
    return server.connect(process, asyncio.get_running_loop())


class SimHeart(membership.Heart):
    """A worker's heart on an event loop of its own, as if in a thread of its own."""

    _beating: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._main_loop = asyncio.get_running_loop()
        self._beating = self._main_loop.process.thread().create_task(self._beats())  # type: ignore[attr-defined]

    async def _beats(self) -> None:
        while True:
            try:
                await self._beat()
                return
            except Exception as error:
                if self._stop.is_set():
                    return
                log.warning("heartbeats interrupted: %s", error)
                await asyncio.sleep(membership.BEAT_EVERY)

    async def stop(self) -> None:
        await super().stop()
        while self._beating is not None and not self._beating.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.sleep(0.01)
