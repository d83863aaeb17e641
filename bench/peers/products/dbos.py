"""DBOS: a library whose state is in PostgreSQL or SQLite."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from bench.peers.processes import FailedError, MissingError, Service, free_ports, run, running
from bench.peers.products.product import INSTALL_WITHIN, RELAXED, STRICT, Product, Serving, install_packages, installed_versions

REQUIREMENTS = ("dbos==3.4.0", "uvloop>=0.21")
USER = "postgres"
CONNECTIONS = 300
POOL = 50
"""Connections of the library, which takes 20 if not told: with 256 workflows at once more help it."""
POLL_EVERY = 0.005
"""Seconds between two looks for messages where the database cannot notify; a second if not told."""


class DbosOnPostgres(Product):
    name = "dbos-postgres"
    title = "DBOS, PostgreSQL"
    rider = "dbos_rider"
    environment = "dbos"
    settings: ClassVar = {
        RELAXED: "`fsync = off`, `full_page_writes = off`: the log is written before the ack, never flushed",
        STRICT: "PostgreSQL's defaults: `fsync = on`, `synchronous_commit = on`",
    }

    def version(self) -> str:
        [library] = installed_versions(self.python, "dbos")
        server = run([str(_postgres("postgres")), "--version"]).split()[2]
        return f"{library}, PostgreSQL {server}"

    def install(self) -> None:
        install_packages(self.environment, *REQUIREMENTS)
        try:
            _postgres("postgres")
        except MissingError:
            if os.geteuid() != 0 or not shutil.which("apt-get"):
                raise FailedError("install PostgreSQL with the system's packages (Debian: apt-get install postgresql)") from None
            run(["apt-get", "install", "-y", "-q", "--no-install-recommends", "postgresql"], within=INSTALL_WITHIN)

    def prepare(self, setting: str, folder: Path) -> None:
        data = folder / "data"
        data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(data, USER, USER)
            for each in (folder, folder.parent):  # so that the other user comes through
                each.chmod(0o711)
        run([str(_postgres("initdb")), "-D", str(data), "-A", "trust", "-U", USER, "-E", "UTF8", "--no-sync"], user=USER, cwd=data)

    @contextmanager
    def serving(self, setting: str, folder: Path) -> Iterator[Serving]:
        [port] = free_ports(1)
        options = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": CONNECTIONS,
            "shared_buffers": "256MB",
        }
        if setting == RELAXED:
            options |= {"fsync": "off", "full_page_writes": "off"}
        command = [str(_postgres("postgres")), "-D", str(folder / "data")]
        for key, value in options.items():
            command += ["-c", f"{key}={value}"]
        ready = [str(_postgres("pg_isready")), "-q", "-h", "127.0.0.1", "-p", str(port)]
        with running(Service(command, folder / "postgres.log", user=USER, stop=signal.SIGINT)) as service:
            service.wait_until(lambda: _succeeds(ready))
            config = {"sys_db_pool_size": POOL}
            yield Serving(f"postgresql+psycopg://{USER}@127.0.0.1:{port}/peers", [service.pid], {"config": config})


class DbosOnSqlite(Product):
    name = "dbos-sqlite"
    title = "DBOS, SQLite"
    rider = "dbos_rider"
    environment = "dbos"
    settings: ClassVar = {
        RELAXED: "write-ahead log, `synchronous = OFF`",
        STRICT: "write-ahead log, `synchronous = FULL`",
    }

    def version(self) -> str:
        return installed_versions(self.python, "dbos")[0]

    def install(self) -> None:
        install_packages(self.environment, *REQUIREMENTS)

    @contextmanager
    def serving(self, setting: str, folder: Path) -> Iterator[Serving]:
        pragmas = ["journal_mode = WAL", "synchronous = " + ("OFF" if setting == RELAXED else "FULL")]
        config = {"notification_listener_polling_interval_sec": POLL_EVERY}
        yield Serving(f"sqlite:///{folder / 'dbos.sqlite'}", [], {"config": config, "pragmas": pragmas})


def _postgres(program: str) -> Path:
    """One of PostgreSQL's programs: Debian keeps the servers' off PATH."""
    found = [*sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{program}"), key=lambda path: int(path.parts[4]))]
    on_path = shutil.which(program)
    if found:
        return found[-1]
    if on_path:
        return Path(on_path)
    raise MissingError("PostgreSQL is not installed: add --install")


def _succeeds(command: list[str]) -> bool:
    try:
        run(command)
    except FailedError:
        return False
    return True
