"""Temporal: its server built from the Go module proxy and run with SQLite as its development server runs it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.peers.processes import FailedError, MissingError, Service, free_ports, listening, run, running
from bench.peers.products.product import CACHE, INSTALL_WITHIN, RELAXED, STRICT, Product, Serving, install_packages, installed_versions

REQUIREMENTS = ("temporalio==1.35.0", "uvloop>=0.21")
VERSION = "v1.32.0"
MODULE = f"go.temporal.io/server/cmd/server@{VERSION}"
"""The ``temporal`` command line, which has the development server inside, cannot be built as a module: it replaces a part of itself by a folder."""
FOLDER = CACHE / "temporal-server"
BINARY = FOLDER / "server"
RAISED = 100_000
POLL_LIMITS = tuple(f"history.{queue}Processor{limit}" for queue in ("timer", "transfer", "visibility") for limit in ("MaxPollRPS", "MaxPollHostRPS"))
RATE_LIMITS = tuple(f"{service}.{limit}" for service in ("frontend", "history", "matching") for limit in ("rps", "namespaceRPS", "persistenceMaxQPS"))


class Temporal(Product):
    """Each variant: regular or local activities, raised poll limits or those it is delivered with."""

    rider = "temporal_rider"
    environment = "temporal"

    def __init__(self, name: str, title: str, *, local: bool = False, raised: bool = True) -> None:
        self.name = name
        self.title = title
        self._local = local
        self._raised = raised
        limits = "; rate and poll limits raised, one partition for the task queue" if raised else "; limits and partitions as delivered"
        self.settings = {RELAXED: f"SQLite in memory, as its development server has it: weaker, the end of the server loses all{limits}"}
        if raised:
            self.settings[STRICT] = f"SQLite in a file, write-ahead log, `synchronous = FULL`{limits}"

    def version(self) -> str:
        [sdk] = installed_versions(self.python, "temporalio")
        if not BINARY.exists():
            raise MissingError("its server is not built: add --install")
        return f"server {VERSION[1:]}, SDK {sdk}"

    def install(self) -> None:
        install_packages(self.environment, *REQUIREMENTS)
        if BINARY.exists():
            return
        if not shutil.which("go"):
            raise FailedError("Go is needed to build Temporal's server")
        run(["go", "install", MODULE], environment={"GOBIN": str(FOLDER)}, within=INSTALL_WITHIN)

    @contextmanager
    def serving(self, setting: str, folder: Path) -> Iterator[Serving]:
        ports = free_ports(9)
        config, dynamic = folder / "temporal.yaml", folder / "dynamic.yaml"
        config.write_text(_config(folder, dynamic, ports, in_memory=setting == RELAXED))
        dynamic.write_text(_dynamic(self._raised))
        service = Service([str(BINARY), "--config-file", str(config), "--allow-no-auth", "start"], folder / "temporal.log")
        with running(service):
            service.wait_until(lambda: listening(ports[0]))
            yield Serving(f"127.0.0.1:{ports[0]}", [service.pid], {"local": self._local})


def _dynamic(raised: bool) -> str:
    """What its development server sets, and with ``raised`` what keeps one shard and one client fast: with several partitions
    a step can wait for one to ask another, which it may ten times a second."""
    lines = ["history.hostLevelCacheMaxSize: [{value: 8192}]"]
    lines += [f"matching.numTaskqueue{way}Partitions: [{{value: 1}}]" for way in ("Read", "Write") if raised]
    lines += [f"{limit}: [{{value: {RAISED}}}]" for limit in POLL_LIMITS + RATE_LIMITS if raised]
    return "\n".join([*lines, ""])


def _config(folder: Path, dynamic: Path, ports: list[int], *, in_memory: bool) -> str:
    frontend, http, *others = ports
    services = "".join(
        f"  {name}: {{rpc: {{grpcPort: {grpc}, membershipPort: {member}, bindOnIP: 127.0.0.1{extra}}}}}\n"
        for name, grpc, member, extra in (
            ("frontend", frontend, others[0], f", httpPort: {http}"),
            ("matching", others[1], others[2], ""),
            ("history", others[3], others[4], ""),
            ("worker", others[5], others[6], ""),
        )
    )
    stores = "".join(f"    {store}: {{sql: {_sql(folder, store, in_memory)}}}\n" for store in ("main", "visibility"))
    return f"""\
log: {{stdout: true, level: warn}}
persistence:
  defaultStore: main
  visibilityStore: visibility
  numHistoryShards: 1
  datastores:
{stores}
global:
  membership: {{maxJoinDuration: 30s, broadcastAddress: 127.0.0.1}}
services:
{services}
clusterMetadata:
  enableGlobalNamespace: false
  failoverVersionIncrement: 10
  masterClusterName: active
  currentClusterName: active
  clusterInformation:
    active: {{enabled: true, initialFailoverVersion: 1, rpcName: frontend, rpcAddress: '127.0.0.1:{frontend}', httpAddress: '127.0.0.1:{http}'}}
dcRedirectionPolicy: {{policy: noop}}
archival:
  history: {{state: disabled}}
  visibility: {{state: disabled}}
namespaceDefaults:
  archival:
    history: {{state: disabled}}
    visibility: {{state: disabled}}
publicClient: {{hostPort: '127.0.0.1:{frontend}'}}
dynamicConfigClient: {{filepath: '{dynamic}', pollInterval: 60s}}
"""


def _sql(folder: Path, store: str, in_memory: bool) -> str:
    name = store if in_memory else folder / f"{store}.sqlite"
    attributes = "mode: memory, cache: private" if in_memory else "cache: private, setup: 'true', journal_mode: wal, synchronous: '2'"
    return (
        f"{{pluginName: sqlite, databaseName: '{name}', connectAddr: localhost, connectProtocol: tcp, "
        f"maxConns: 1, maxIdleConns: 1, maxConnLifetime: 1h, connectAttributes: {{{attributes}}}}}"
    )
