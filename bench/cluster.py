"""Three nats-servers on loopback that form one JetStream cluster, for benches and tests of replicated streams."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from jetflow import Client
from jetflow.broker.transport.server import LocalServer, free_port
from jetflow.errors import BrokerError

REPLICAS = 3
READY_TIMEOUT = 30
LEADER = "metadata leader"


class LocalCluster:
    """See the module.

    Args:
        folder: where their stores and configurations are; it stays.
        sync_interval: as in ``nats.conf``; the server's default when None.
    """

    def __init__(self, folder: Path, sync_interval: str | None = None) -> None:
        routes = [free_port() for _ in range(REPLICAS)]
        sync = f"jetstream {{ sync_interval: {sync_interval} }}" if sync_interval else "jetstream {}"
        self.servers: dict[str, LocalServer] = {}
        for number, route in enumerate(routes, 1):
            name, config = f"n{number}", folder / f"n{number}.conf"
            others = ", ".join(f'"nats://127.0.0.1:{other}"' for other in routes if other != route)
            config.write_text(f'server_name: {name}\n{sync}\ncluster {{ name: local, listen: "127.0.0.1:{route}", routes: [{others}] }}\n')
            self.servers[name] = LocalServer(folder / name, port=free_port(), config=config)

    @property
    def urls(self) -> str:
        """Every server's address, as ``Client.connect`` and ``JETFLOW_URL`` take them."""
        return ",".join(server.url for server in self.servers.values())

    async def start(self) -> None:
        """Starts them, and returns when they have agreed on a leader and the streams of the default namespace are there."""
        await asyncio.gather(*(server.start() for server in self.servers.values()))
        async with asyncio.timeout(READY_TIMEOUT):
            # asked before there is a leader, JetStream does not answer, and the client waits for long
            while not all(LEADER in server.log(1000) for server in self.servers.values()):
                await asyncio.sleep(0.02)
            while True:
                try:
                    async with Client.connect(self.urls, replicas=REPLICAS):
                        return
                except BrokerError:
                    await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """Ends them."""
        await asyncio.gather(*(server.stop() for server in self.servers.values()))

    async def leader_of(self, client: Client, stream: str) -> str | None:
        """Name of the server that leads a stream, if there is one now."""
        answer = await client.broker.lane.api(f"STREAM.INFO.{stream}")
        return (answer.get("cluster") or {}).get("leader")

    async def lead(self, client: Client, stream: str, server: str) -> None:
        """Returns when a stream is led by that server."""
        async with asyncio.timeout(READY_TIMEOUT):
            while await self.leader_of(client, stream) != server:
                with contextlib.suppress(BrokerError):
                    await client.broker.lane.api(f"STREAM.LEADER.STEPDOWN.{stream}", {"placement": {"preferred": server}})
                await asyncio.sleep(0.1)

    async def until_in_step(self, client: Client, stream: str) -> None:
        """Returns when all copies of a stream are up to date."""
        async with asyncio.timeout(READY_TIMEOUT):
            while True:
                with contextlib.suppress(BrokerError):
                    cluster = (await client.broker.lane.api(f"STREAM.INFO.{stream}")).get("cluster") or {}
                    if cluster.get("leader") and all(copy.get("current") for copy in cluster["replicas"]):
                        return
                await asyncio.sleep(0.05)

    async def __aenter__(self) -> LocalCluster:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
