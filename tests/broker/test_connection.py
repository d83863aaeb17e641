"""Connecting: every way it fails says what is missing and what to do."""

import asyncio
import logging
import os
import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.lane import Lane
from jetflow.broker.transport.server import LocalServer, free_port, server_binary
from jetflow.errors import BrokerError, BrokerUnavailableError, InvalidInputError
from tests.broker.conftest import OLD_VERSION


async def test_nobody_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"nats://127.0.0.1:{free_port()}"
    with pytest.raises(BrokerUnavailableError, match=rf"no nats-server at {url} \(.*Connect call failed.*jetflow dev.*JETFLOW_URL"):
        await Broker.connect(url, timeout=0.5)
    monkeypatch.setenv("JETFLOW_URL", url)
    with pytest.raises(BrokerUnavailableError, match=url):
        await Broker.connect(timeout=0.5)


async def test_the_first_of_several_that_answers_is_used(server: LocalServer) -> None:
    dead = f"nats://127.0.0.1:{free_port()}"
    for servers in ([dead, server.url], f"{dead}, {server.url}"):
        broker = await Broker.connect(servers)
        assert broker.url == server.url
        await broker.close()


async def test_no_address_at_all() -> None:
    for nothing in ("", " , ", []):
        with pytest.raises(BrokerError, match="no server address: pass one"):
            await Broker.connect(nothing)


async def test_an_impossible_namespace() -> None:
    with pytest.raises(InvalidInputError, match="namespace"):
        await Broker.connect(namespace="No Such")


async def test_a_server_too_old(tmp_path: Path, old_server_binary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETFLOW_NATS_SERVER", old_server_binary)
    async with LocalServer(tmp_path / "store") as server:
        with pytest.raises(BrokerError, match=rf"{server.url} is version {OLD_VERSION}; jetflow needs 2\.14 or newer.*upgrade"):
            await Broker.connect(server.url)


async def test_jetstream_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = tmp_path / "nats-server"
    plain.write_text(f'#!/bin/sh\nexec "{server_binary()}" --addr "$2" --port "$4"\n')
    plain.chmod(plain.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("JETFLOW_NATS_SERVER", str(plain))
    async with LocalServer(tmp_path / "store") as server:
        with pytest.raises(BrokerError, match=rf"JetStream is off at {server.url}: start nats-server with --jetstream") as raised:
            await Broker.connect(server.url)
        assert not isinstance(raised.value, BrokerUnavailableError)


async def test_a_cluster_without_a_leader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetflow.broker.transport.connection.Lane", partial(Lane, timeout=1))
    config = tmp_path / "nats.conf"
    routes = ", ".join(f'"nats://127.0.0.1:{free_port()}"' for _ in range(2))
    config.write_text(f'server_name: n1\njetstream {{}}\ncluster {{ name: local, listen: "127.0.0.1:{free_port()}", routes: [{routes}] }}\n')
    async with LocalServer(tmp_path / "store", config=config) as server:
        with pytest.raises(BrokerUnavailableError, match=rf"JetStream does not answer at {server.url}: a cluster .* has no leader; try again"):
            await Broker.connect(server.url)


async def _refused(tmp_path: Path, config: str, userinfo: str) -> BrokerError:
    """What connecting to a server with this configuration raises."""
    path = tmp_path / "nats.conf"
    path.write_text(config)
    async with LocalServer(tmp_path / "store", config=path) as server:
        with pytest.raises(BrokerError) as raised:
            await Broker.connect(server.url.replace("//", f"//{userinfo}@"), timeout=1)
        assert server.url in str(raised.value)  # which is the address without the secret
    return raised.value


async def test_jetstream_off_for_the_account(tmp_path: Path) -> None:
    error = await _refused(tmp_path, "accounts { A { users: [ { user: joe, password: secret } ] } }", "joe:secret")
    assert "JetStream cannot be used" in str(error)
    assert "Enable it for this account" in str(error)


async def test_a_user_without_rights_to_jetstream(tmp_path: Path) -> None:
    config = 'authorization { users: [ { user: joe, password: secret, permissions { publish: "news", subscribe: "_INBOX.>" } } ] }'
    error = await _refused(tmp_path, config, "joe:secret")
    assert "this user may not use JetStream" in str(error)
    assert "$js.api.info" in str(error)
    assert not isinstance(error, BrokerUnavailableError)


async def test_a_wrong_password_is_not_repeated(tmp_path: Path) -> None:
    config = "authorization { users: [ { user: joe, password: right } ] }"
    error = await _refused(tmp_path, config, "joe:hidden-word")
    assert "refused the credentials" in str(error)
    assert "hidden-word" not in str(error)


async def test_a_missing_credentials_file(server: LocalServer, tmp_path: Path) -> None:
    with pytest.raises(BrokerError, match=r"there is no credentials file .*missing\.creds"):
        await Broker.connect(server.url, credentials=tmp_path / "missing.creds", timeout=1)


async def test_a_credentials_file_without_what_reads_it(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nkeys", None)
    (tmp_path / "some.creds").write_text("")
    with pytest.raises(BrokerError, match=r"pip install 'nats-py\[nkeys\]'"):
        await Broker.connect(server.url, credentials=tmp_path / "some.creds", timeout=1)


@pytest.mark.parametrize("address", ["nats://127.0.0.1:port", "nats://", "ftp://127.0.0.1:1"])
async def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(BrokerError, match=address):
        await Broker.connect(address, timeout=0.3)


async def test_the_address_is_shown_without_the_secret(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "nats.conf"
    path.write_text("authorization { users: [ { user: joe, password: hidden-word } ] }")
    caplog.set_level(logging.DEBUG)
    async with LocalServer(tmp_path / "store", config=path) as server:
        broker = await Broker.connect(server.url.replace("//", "//joe:hidden-word@"))
        assert broker.url == server.url
        await broker.close()
    assert "hidden-word" not in caplog.text


async def test_limits_and_name_are_the_servers(broker: Broker) -> None:
    assert broker.max_payload == 1_048_576
    assert broker.topology.partitions == 64


def _open_files() -> int:
    folder = "/proc/self/fd"
    return len(os.listdir(folder)) if os.path.isdir(folder) else 0


async def test_a_cancelled_connect_leaves_nothing_behind(server: LocalServer) -> None:
    before = _open_files()
    for _ in range(20):
        connecting = asyncio.create_task(Broker.connect(server.url))
        await asyncio.sleep(0)
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
    assert len(asyncio.all_tasks()) == 1
    assert _open_files() <= before + 1


async def test_closing_twice_and_after_the_server_died_is_fine(own_server: LocalServer) -> None:
    broker = await Broker.connect(own_server.url)
    own_server.kill()
    await broker.close()
    await broker.close()
    assert broker.wire.is_closed
    assert broker.url == ""
