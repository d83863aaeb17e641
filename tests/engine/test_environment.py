"""A client reads the environment variables of the command line; what is given as an argument comes first."""

import re
from pathlib import Path

import pytest

from jetflow import BrokerError, Client, local
from jetflow.broker.transport.server import LocalServer
from tests.conftest import ROOT

TABLE = (ROOT / "docs" / "environment.md").read_text()


async def test_a_client_reads_the_same_variables(server: LocalServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JETFLOW_URL", server.url)
    monkeypatch.setenv("JETFLOW_NAMESPACE", "elsewhere")
    monkeypatch.setenv("JETFLOW_TASK_QUEUE", "orders")
    async with Client.connect(partitions=4) as client:
        assert (client.namespace, client.task_queue) == ("elsewhere", "orders")
    async with Client.connect(namespace="given", task_queue="mail", partitions=4) as client:
        assert (client.namespace, client.task_queue) == ("given", "mail")
    monkeypatch.setenv("JETFLOW_CREDS", str(tmp_path / "absent.creds"))
    with pytest.raises(BrokerError, match=r"no credentials file .*absent\.creds"):
        await Client.connect()
    with pytest.raises(BrokerError, match=r"no credentials file .*other\.creds"):
        await Client.connect(credentials=tmp_path / "other.creds")
    for name in ("JETFLOW_NAMESPACE", "JETFLOW_CREDS", "JETFLOW_TASK_QUEUE"):
        monkeypatch.setenv(name, "")
    async with Client.connect() as client:
        assert (client.namespace, client.task_queue) == ("jetflow", "default")


async def test_a_server_of_ones_own_needs_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JETFLOW_URL", "nats://127.0.0.1:1")
    monkeypatch.setenv("JETFLOW_CREDS", "absent.creds")
    monkeypatch.setenv("JETFLOW_NAMESPACE", "elsewhere")
    async with local(partitions=4) as client:
        assert client.namespace == "jetflow"


def test_the_page_names_every_variable_that_is_read() -> None:
    text = "".join(path.read_text() for path in (ROOT / "jetflow").rglob("*.py"))
    read = {word for word in _variables(text) if f'"{word}"' in text}
    assert read - {"JETFLOW_FAULT", "JETFLOW_PROCESSES_TIE"} == _variables(TABLE)


def _variables(text: str) -> set[str]:
    names = r"URL|NAMESPACE|TASK_QUEUE|CREDS|PROCESSES|PROCESSES_TIE|UI_TOKEN|NATS_SERVER|PLAIN|FAULT"
    return set(re.findall(rf"JETFLOW_(?:{names})\b", text))
