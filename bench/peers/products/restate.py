"""Restate: its server from npm, its SDK from PyPI, whose endpoint hypercorn serves."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from bench.peers.processes import FailedError, MissingError, Service, free_ports, healthy, run, running
from bench.peers.products.product import CACHE, INSTALL_WITHIN, RELAXED, STRICT, Product, Serving, install_packages, installed_versions

REQUIREMENTS = ("restate-sdk[serde]==1.3.0", "hypercorn==0.18.0", "aiohttp>=3.12", "uvloop>=0.21")
SERVER = "@restatedev/restate-server@1.7.12"
NPM = CACHE / "restate-server"
INACTIVE_AFTER = "1s"
"""A waiting invocation is suspended after so long; a minute if not told. Only suspended ones count as at rest, and can change workers at once."""
CONCURRENCY = 100_000
"""Invocations at once, which are a thousand if not told: too few to park more."""


class Restate(Product):
    name = "restate"
    title = "Restate"
    rider = "restate_rider"
    environment = "restate"
    settings: ClassVar = {
        RELAXED: "`log-server.rocksdb-disable-wal-fsync = true`",
        STRICT: "its default: the log's write-ahead log is flushed",
    }

    def version(self) -> str:
        sdk, hypercorn = installed_versions(self.python, "restate-sdk", "hypercorn")
        server = run([_binary(), "--version"]).split()[-1]
        return f"{server}, SDK {sdk} on hypercorn {hypercorn}"

    def install(self) -> None:
        install_packages(self.environment, *REQUIREMENTS)
        if not shutil.which("npm"):
            raise FailedError("npm is needed for Restate's server (Debian: apt-get install npm)")
        NPM.mkdir(parents=True, exist_ok=True)
        run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", str(NPM), SERVER], within=INSTALL_WITHIN)

    @contextmanager
    def serving(self, setting: str, folder: Path) -> Iterator[Serving]:
        node, ingress, admin, endpoint = free_ports(4)
        config = folder / "restate.toml"
        config.write_text(_config(folder / "store", node, ingress, admin, relaxed=setting == RELAXED))
        service = Service([_binary(), "--config-file", str(config), "--no-logo"], folder / "restate.log", environment={"DO_NOT_TRACK": "1"})
        with running(service):
            service.wait_until(lambda: healthy(f"http://127.0.0.1:{admin}/health") and healthy(f"http://127.0.0.1:{ingress}/restate/health"))
            options = {"admin": f"http://127.0.0.1:{admin}", "endpoint_port": endpoint}
            yield Serving(f"http://127.0.0.1:{ingress}", [service.pid], options)


def _config(store: Path, node: int, ingress: int, admin: int, *, relaxed: bool) -> str:
    return f"""\
base-dir = "{store}"
node-name = "peers"
listen-mode = "tcp"
bind-address = "127.0.0.1:{node}"
advertised-address = "http://127.0.0.1:{node}/"
disable-telemetry = true
log-filter = "warn"
log-disable-ansi-codes = true

[ingress]
bind-address = "127.0.0.1:{ingress}"

[admin]
bind-address = "127.0.0.1:{admin}"

[worker.invoker]
inactivity-timeout = "{INACTIVE_AFTER}"
concurrent-invocations-limit = {CONCURRENCY}

[log-server]
rocksdb-disable-wal-fsync = {str(relaxed).lower()}
"""


def _binary() -> str:
    """The server itself rather than the script in front of it, so that a signal reaches it."""
    found = sorted(NPM.glob("node_modules/@restatedev/restate-server-*/**/restate-server"))
    if not found:
        raise MissingError("its server is not installed: add --install")
    return str(found[0])
