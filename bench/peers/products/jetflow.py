"""jetflow: this source tree, run by the interpreter that runs the race."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from bench.peers.processes import MissingError, Service, free_ports, run, running, tail
from bench.peers.products.product import RELAXED, STRICT, Product, Serving
from jetflow.broker.transport.server import server_binary
from jetflow.errors import BrokerError


class Jetflow(Product):
    name = "jetflow"
    title = "jetflow"
    rider = "jetflow_rider"
    settings: ClassVar = {
        RELAXED: "nats-server's default: written before the ack, flushed to the disk every two minutes",
        STRICT: "`sync_interval: always`",
    }

    @property
    def python(self) -> str:
        return sys.executable

    def version(self) -> str:
        try:
            server = run([server_binary(), "--version"]).strip().rpartition(" ")[2]
        except BrokerError as error:
            raise MissingError(str(error)) from error
        return f"this tree, nats-server {server}"

    def install(self) -> None:
        """It is what runs this."""

    @contextmanager
    def serving(self, setting: str, folder: Path) -> Iterator[Serving]:
        [port] = free_ports(1)
        config, log = folder / "nats.conf", folder / "nats.log"
        config.write_text("jetstream { sync_interval: always }\n" if setting == STRICT else "jetstream {}\n")
        command = [
            server_binary(),
            "--addr",
            "127.0.0.1",
            "--port",
            str(port),
            "--jetstream",
            "--store_dir",
            str(folder / "store"),
            "--config",
            str(config),
        ]
        with running(Service(command, log)) as service:
            service.wait_until(lambda: "Server is ready" in tail(log))
            yield Serving(f"nats://127.0.0.1:{port}", [service.pid])
