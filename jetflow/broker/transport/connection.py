"""Connects to nats-server: options, checks of the server, and errors that say what to do."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nats.errors

from jetflow.broker.transport.direct import DirectWire, usable
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.outage import Outage, shown
from jetflow.broker.transport.plain import PlainWire
from jetflow.broker.transport.topology import Topology, complaints_of, ensure_topology
from jetflow.broker.transport.wire import Wire
from jetflow.errors import BrokerError, BrokerUnavailableError
from jetflow.protocol import clock
from jetflow.protocol.subjects import DEFAULT_NAMESPACE, Names

log: logging.Logger = logging.getLogger("jetflow.broker")

DEFAULT_URL = "nats://127.0.0.1:4222"
MINIMUM_VERSION = (2, 14)
CLOSE_TIMEOUT = 5
PING_EVERY = 0.65
"""Seconds between two pings."""
MOST_SILENT = 3
"""Pings in a row without an answer, after which a server counts as frozen: within 2.6 seconds."""


class Broker:
    """A connection that is ready for use: the streams exist, and the lane is open.

    Attributes:
        wire: the connection.
        lane: pipelined requests on it.
        names: streams, buckets and subjects of the namespace.
        topology: the streams that were found or created, and the number of partitions.
    """

    def __init__(self, wire: Wire, lane: Lane, names: Names, topology: Topology) -> None:
        self.wire = wire
        self.lane = lane
        self.names = names
        self.topology = topology
        self._complaints: list[str] = list(topology.complaints)
        self._looked_at = float("-inf")
        self._look = asyncio.Lock()

    @classmethod
    async def connect(
        cls,
        servers: str | Sequence[str] | None = None,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        credentials: str | Path | None = None,
        tls: ssl.SSLContext | None = None,
        name: str = "client",
        partitions: int | None = None,
        replicas: int | None = None,
        timeout: float = 5,
        refuse: bool = True,
    ) -> Broker:
        """Connect, check the server, and create the namespace's streams if they are missing.

        Args:
            servers: one address or several. The default is ``JETFLOW_URL`` (comma-separated), or the local server.
            namespace: the set of streams to use.
            credentials: a ``.creds`` file.
            tls: an SSL context.
            name: shown in the server's connection list.
            partitions: the number of partitions of a new namespace. An existing one keeps its number.
            replicas: the number of copies of every stream of a new namespace.
            timeout: seconds to wait for the first connection.
            refuse: whether a namespace that the engine cannot work with raises an error. Otherwise ``topology.complaints`` says what is wrong.

        Raises:
            BrokerError: address, version, JetStream or rights are wrong. The message says which, and what to do.
        """
        names = Names(namespace)
        addresses = _addresses(servers)
        wire = await open_wire(addresses, credentials=credentials, tls=tls, name=name, timeout=timeout)
        try:
            _check_version(wire, addresses)
            lane = Lane(wire)
            await _check_jetstream(lane, addresses)
            topology = await ensure_topology(lane, names, partitions=partitions, replicas=replicas, refuse=refuse)
        except BaseException:
            await _shielded_close(wire)
            raise
        for complaint in topology.complaints:
            log.warning("namespace %s: %s", namespace, complaint)
        return cls(wire, lane, names, topology)

    @property
    def url(self) -> str:
        """The address of the connected server, without user and password."""
        connected = self.wire.connected_url
        return shown([connected.geturl()]) if connected is not None else ""

    @property
    def max_payload(self) -> int:
        """The most bytes that the server accepts in one message."""
        return self.wire.max_payload

    async def complaints(self, *, newer_than: float = 0) -> list[str]:
        """Check the namespace, and return what the engine cannot work with. Log what is new since the last check, and what is mended.

        Args:
            newer_than: the age (s) up to which the result of the last check is good enough.

        Raises:
            BrokerUnavailableError: the server did not answer.
        """
        async with self._look:
            if clock.monotonic() - self._looked_at >= newer_than:
                found = await complaints_of(self.lane, self.names, self.topology)
                for complaint in found:
                    if complaint not in self._complaints:
                        log.error("namespace %s: %s", self.names.namespace, complaint)
                for complaint in self._complaints:
                    if complaint not in found:
                        log.warning("namespace %s: no longer true: %s", self.names.namespace, complaint)
                self._complaints, self._looked_at = found, clock.monotonic()
            return self._complaints

    async def close(self) -> None:
        """Write what is pending and close the connection."""
        await _shielded_close(self.wire)


def _addresses(servers: str | Sequence[str] | None) -> list[str]:
    if servers is None:
        servers = os.environ.get("JETFLOW_URL") or DEFAULT_URL
    if isinstance(servers, str):
        servers = [part.strip() for part in servers.split(",") if part.strip()]
    if not servers:
        raise BrokerError('no server address: pass one, or set JETFLOW_URL, for example to "nats://127.0.0.1:4222"')
    return list(servers)


def _existing(credentials: str | Path) -> str:
    if not Path(credentials).is_file():
        raise BrokerError(f"there is no credentials file {credentials}")
    return str(credentials)


async def open_wire(
    servers: str | Sequence[str] | None,
    *,
    credentials: str | Path | None,
    tls: ssl.SSLContext | None,
    name: str,
    timeout: float,
    secondary: bool = False,
) -> Wire:
    """Open a connection that reconnects forever. The arguments are those of ``Broker.connect``, and ``secondary`` as in ``Outage``.

    Raises:
        BrokerError: the server cannot be reached, or refuses the credentials.
    """
    addresses = _addresses(servers)
    web_socket = any(address.startswith(("ws://", "wss://")) for address in addresses)
    wire = PlainWire() if web_socket or not usable() else DirectWire()

    outage = wire.outage = Outage(secondary=secondary)
    where = shown(addresses)

    async def disconnected() -> None:
        if not wire.is_closed:
            outage.begins(where)
        wire.tell(wire.on_disconnect)

    async def reconnected() -> None:
        outage.ends(where if wire.connected_url is None else shown([wire.connected_url.geturl()]))
        wire.tell(wire.on_reconnect)

    async def error(problem: Exception) -> None:
        outage.failed(problem, where)

    options: dict[str, Any] = {}
    if credentials is not None:
        options["user_credentials"] = _existing(credentials)
    if tls is not None:
        options["tls"] = tls
    try:
        async with asyncio.timeout(timeout):
            await wire.connect(
                addresses,
                name=f"jetflow/{name}/{platform.node()}",
                error_cb=error,
                disconnected_cb=disconnected,
                reconnected_cb=reconnected,
                max_reconnect_attempts=-1,
                reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; fractions work
                ping_interval=PING_EVERY,  # type: ignore[arg-type]
                max_outstanding_pings=MOST_SILENT - 1,
                pending_size=16 * 1024 * 1024,
                connect_timeout=timeout,  # type: ignore[arg-type]
                allow_reconnect=True,
                **options,
            )
    except ImportError as problem:
        raise BrokerError(f"a credentials file needs what `pip install 'nats-py[nkeys]'` brings: {problem}") from problem
    except (OSError, TimeoutError, nats.errors.Error) as problem:
        await _shielded_close(wire)
        cause = wire.last_error if isinstance(problem, TimeoutError) and wire.last_error else problem
        if "authorization" in str(cause).lower():
            raise BrokerError(f"nats-server at {where} refused the credentials: {cause}") from problem
        raise BrokerUnavailableError(
            f"no nats-server at {where} ({cause or type(cause).__name__}). Start one with `jetflow dev`, or name yours with JETFLOW_URL or --server"
        ) from problem
    return wire


def _check_version(wire: Wire, addresses: list[str]) -> None:
    version = wire.connected_server_version
    if (version.major, version.minor) < MINIMUM_VERSION:
        raise BrokerError(
            f"nats-server at {shown(addresses)} is version {version.major}.{version.minor}.{version.patch}; jetflow needs "
            f"{MINIMUM_VERSION[0]}.{MINIMUM_VERSION[1]} or newer (scheduled messages): upgrade it"
        )


async def _check_jetstream(lane: Lane, addresses: list[str]) -> None:
    where = shown(addresses)
    try:
        await lane.api("INFO")
    except BrokerUnavailableError as problem:
        if lane.wire.server_info.get("jetstream"):
            reason = "a cluster that has just started, or has lost most of its servers, has no leader; try again"
            raise BrokerUnavailableError(f"JetStream does not answer at {where}: {reason}") from problem
        raise BrokerError(f"JetStream is off at {where}: start nats-server with --jetstream, or with jetflow's nats.conf") from problem
    except BrokerError as problem:
        if lane.wire.last_violation:
            raise BrokerError(f"this user may not use JetStream at {where}: {lane.wire.last_violation}; nats.conf shows the rights") from problem
        raise BrokerError(f"JetStream cannot be used at {where}: {problem}. Enable it for this account in the server's configuration") from problem


async def _shielded_close(wire: Wire) -> None:
    """Close the connection, shielded from the caller's cancellation: nats-py does not survive a cancelled flush."""
    task = asyncio.ensure_future(wire.close())
    try:
        await _closed(task, wire)
    except asyncio.CancelledError:
        await _closed(task, wire)
        raise


async def _closed(task: asyncio.Future[None], wire: Wire) -> None:
    await asyncio.wait([task], timeout=CLOSE_TIMEOUT)
    if not task.done():
        wire.abort()
        await asyncio.wait([task], timeout=1)
