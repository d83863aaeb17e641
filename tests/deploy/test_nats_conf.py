"""nats.conf at the top of the repository: the server takes it, a workflow runs through it, and its roles hold."""

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import nats
import pytest

from deploy.app.hello import greet, hello
from jetflow import Client, Worker, condition, workflow
from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.pull import PullConsumer
from jetflow.broker.transport.server import LocalServer, free_port, server_binary
from jetflow.broker.transport.topology import stream_configs
from jetflow.errors import BrokerError
from jetflow.protocol.reference import WorkflowRef
from jetflow.protocol.subjects import Names
from jetflow.reading.stats import stats
from jetflow.reading.why import why
from tests.conftest import ROOT

CONFIG = ROOT / "nats.conf"
ROLES = ("worker", "client", "operator", "system")
PASSWORDS = {f"JETFLOW_{role.upper()}_PASSWORD": f"{role}-pass_1" for role in ROLES}


class Secured:
    """A server that runs nats.conf, and its addresses by role."""

    def __init__(self, server: LocalServer, monitoring: int) -> None:
        self.server = server
        self.monitoring = monitoring

    def url(self, role: str, password: str | None = None) -> str:
        return self.server.url.replace("//", f"//{role}:{password or PASSWORDS[f'JETFLOW_{role.upper()}_PASSWORD']}@")


@pytest.fixture
async def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Secured]:
    """nats.conf itself, but for the monitoring port, of which there is one on a machine."""
    for name, value in PASSWORDS.items():
        monkeypatch.setenv(name, value)
    monitoring = free_port()
    config = tmp_path / "test.conf"
    text = CONFIG.read_text()
    assert text.count('"127.0.0.1:8222"') == 1
    config.write_text(text.replace('"127.0.0.1:8222"', f'"127.0.0.1:{monitoring}"'))
    async with LocalServer(tmp_path / "store", config=config) as server:
        yield Secured(server, monitoring)


@pytest.fixture
async def worker(secured: Secured) -> AsyncIterator[Worker]:
    async with Client.connect(secured.url("worker")) as client, Worker(client, task_queue="q", workflows=[hello], activities=[greet]) as worker:
        yield worker


def test_the_server_takes_it() -> None:
    checked = subprocess.run([server_binary(), "-t", "-c", str(CONFIG)], env=PASSWORDS, capture_output=True, text=True, timeout=30)
    assert checked.returncode == 0, checked.stderr
    assert "is valid" in checked.stdout + checked.stderr


@pytest.mark.parametrize("missing", PASSWORDS)
def test_it_does_not_start_without_its_secrets(missing: str) -> None:
    environment = {name: value for name, value in PASSWORDS.items() if name != missing}
    checked = subprocess.run([server_binary(), "-t", "-c", str(CONFIG)], env=environment, capture_output=True, text=True, timeout=30)
    assert checked.returncode != 0
    assert missing in checked.stdout + checked.stderr


def test_it_has_no_secret_of_its_own() -> None:
    passwords = re.findall(r"^[^#\n]*password:\s*(\S+)", CONFIG.read_text(), re.MULTILINE)
    assert sorted(value.rstrip("},") for value in passwords) == sorted(f"${name}" for name in PASSWORDS)


async def test_a_workflow_runs_through_it(secured: Secured, worker: Worker) -> None:
    async with Client.connect(secured.url("client")) as client:
        handle = await client.start(hello, "Ada", workflow_id="hello-1", task_queue="q")
        assert await handle.result(timeout=30) == "Hello, Ada!"
        assert await handle.status() == 0
        await client.start(hello, "Bob", workflow_id="hello-2", task_queue="q")
        await client.get_handle("hello-2", task_queue="q").result(timeout=30)
    log = secured.server.log(500)
    assert "Permissions Violation" not in log
    assert "Violation" not in log


async def test_activities_run_on_other_workers_through_it(secured: Secured) -> None:
    async with (
        Client.connect(secured.url("worker")) as client,
        Client.connect(secured.url("worker")) as other,
        Client.connect(secured.url("client")) as starter,
        Worker(client, task_queue="q", workflows=[hello]),
        Worker(other, task_queue="q", activities=[greet]),
    ):
        assert await starter.execute(hello, "Eve", task_queue="q", timeout=30) == "Hello, Eve!"
    assert "_task" not in secured.server.log(500)
    assert "JETFLOW_TASKS" not in secured.server.log(500)


@workflow
async def waits(name: str) -> Any:
    return await condition(name)


async def test_signals_by_id_go_through_it(secured: Secured) -> None:
    async with Client.connect(secured.url("worker")) as client, Client.connect(secured.url("client")) as starter:
        await starter.signal("paid", {"early": True})
        async with Worker(client, task_queue="q", workflows=[waits]):
            for data in ({"early": True}, {"later": True}):
                handle = await starter.start(waits, "paid", task_queue="q")
                if "later" in data:
                    await starter.signal("paid", data)
                assert await handle.result(timeout=30) == data
    assert "Violation" not in secured.server.log(500)


async def test_two_workers_share_a_queue_and_one_takes_over(secured: Secured, worker: Worker) -> None:
    async with Client.connect(secured.url("worker")) as client, Client.connect(secured.url("client")) as starter:
        async with Worker(client, task_queue="q", workflows=[hello], activities=[greet]) as other:
            async with asyncio.timeout(30):
                while not (worker.partitions and other.partitions and worker.partitions + other.partitions == 64):
                    await asyncio.sleep(0.02)
        assert await starter.execute(hello, "Eve", task_queue="q") == "Hello, Eve!"
    assert "Violation" not in secured.server.log(500)


async def _empty(client: Client) -> None:
    """Returns once no workflow has left anything."""
    names = client.broker.names
    async with asyncio.timeout(30):
        while True:
            found = [
                await client.broker.lane.last_message(stream, f"{prefix}>")
                for stream, prefix in ((names.state_stream, names.state_prefix), (names.timeline_stream, names.timeline_prefix),
                                       (names.signal_stream, names.signal_prefix), (names.wait_stream, names.wait_prefix))
            ]  # fmt: skip
            if found == [None] * 4:
                return
            await asyncio.sleep(0.05)


@workflow
async def waits_long(name: str) -> Any:
    return [await condition(name, timeout="1h"), await condition("never", timeout="10ms")]


async def test_what_has_expired_goes_through_it(secured: Secured) -> None:
    """Timelines, records, timers, signals that nobody waited for, and waits; while a worker is there, and what it has left to the next one."""
    async with Client.connect(secured.url("worker")) as client, Client.connect(secured.url("client")) as starter:
        for expire in ("1s", "3s"):
            async with Worker(client, task_queue="q", workflows=[waits_long]):
                for number in range(3):
                    handle = await starter.start(waits_long, f"go-{number}", workflow_id=f"w{number}", task_queue="q", expire=expire)
                    await handle.signal("unused", 1)
                    await handle.signal(f"go-{number}", number)
                    assert await handle.result(timeout=30) == [number, False]
                if expire == "1s":
                    await _empty(starter)
        async with Worker(client, task_queue="q", workflows=[waits_long]):
            await _empty(starter)
    assert "Violation" not in secured.server.log(500)


async def test_a_namespace_of_the_version_before_is_taken_over_by_a_worker(secured: Secured) -> None:
    """Its streams get the subjects of tenures; until then a client is told that it may not give them."""
    names = Names()
    async with Client.connect(secured.url("worker")) as client:
        for stream, config in stream_configs(names, 64, 1).items():
            before = [subject for subject in config["subjects"] if not subject.startswith((names.tenure_prefix, names.guard_prefix))]
            if before != config["subjects"]:
                await client.broker.lane.api(f"STREAM.UPDATE.{stream}", config | {"subjects": before})
    with pytest.raises(BrokerError, match=r"of an earlier version .*nats stream edit JETFLOW "):
        await Broker.connect(secured.url("client"))
    async with (
        Client.connect(secured.url("worker")) as client,
        Client.connect(secured.url("client")) as starter,
        Worker(client, task_queue="q", workflows=[hello], activities=[greet]),
    ):
        assert await starter.execute(hello, "Ada", task_queue="q", timeout=30) == "Hello, Ada!"


async def test_what_the_image_runs_serves_through_it_and_stops_at_sigterm(secured: Secured) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "jetflow", "worker", "hello", "--task-queue", "hello",
        cwd=ROOT / "deploy" / "app",
        env={**os.environ, "JETFLOW_URL": secured.url("worker"), "PYTHONPATH": str(ROOT / "deploy" / "app")},
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stderr
        async with asyncio.timeout(60):
            async for line in process.stderr:
                if b"worker ready" in line:
                    break
        async with Client.connect(secured.url("client")) as client:
            assert await client.execute(hello, "Ada", task_queue="hello") == "Hello, Ada!"
        process.terminate()
        _, words = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, words
    assert PASSWORDS["JETFLOW_WORKER_PASSWORD"].encode() not in words


async def test_a_client_commands_and_cannot_do_what_the_engine_does(secured: Secured, worker: Worker) -> None:
    broker = await Broker.connect(secured.url("client"))
    names, lane = broker.names, broker.lane
    await lane.publish(names.command("q", "w", "signal.go"), b"1")
    await lane.publish(names.command("q", "w", "cancel"), b"")
    for subject in (
        *(names.revocation(kind, "q", "t.0") for kind in names.owned_streams),
        names.registry("q"),
        names.guard("q", "w"),
        f"{names.tenure_prefix}state.janitor.q",
        f"{names.waiting_prefix}go.q.w.1.1",
        *(f"$JS.API.STREAM.UPDATE.{stream}" for stream in names.owned_streams.values()),
        *(f"$JS.API.STREAM.PURGE.{stream}" for stream in names.owned_streams.values()),
        *(f"$JS.API.CONSUMER.{operation}.{names.state_stream}.scan" for operation in ("CREATE", "DELETE", "MSG.NEXT")),
        names.command("q", "w", "timer.1"),
        names.command("q", "w", "child.1"),
        names.command("q", "w", "routed.1"),
        f"{names.wait_prefix}go.q.w.1.1",
        f"{names.timeline_prefix}q.w.1",
        f"{names.state_prefix}q.w",
        f"{names.worker_prefix}q.fake",
        f"$JS.API.STREAM.DELETE.{names.inbox_stream}",
        f"$JS.API.STREAM.PURGE.{names.inbox_stream}",
        f"$JS.API.STREAM.CREATE.{names.inbox_stream}",
    ):
        with pytest.raises(BrokerError, match="this user may not use"):
            await lane.request(subject, b"{}")
    consumer = PullConsumer(lane, names, "q-thief", room=lambda: 1)
    with pytest.raises(BrokerError, match="this user may not use"):
        await consumer.create([1], "other")
    await broker.close()


async def test_an_operator_looks_and_commands_nothing(secured: Secured, worker: Worker) -> None:
    async with Client.connect(secured.url("client")) as client:
        await client.execute(hello, "Ada", workflow_id="hello-1", task_queue="q")
    async with Client.connect(secured.url("operator")) as looking:
        handle = looking.get_handle("hello-1", "q")
        execution = await handle.export_execution(mode="verbose", include_stream_history=True)
        assert [event async for event in handle.watch()] == execution.events != []
    broker = await Broker.connect(secured.url("operator"))
    names, lane = broker.names, broker.lane
    assert await lane.read_last(names.state_stream, f"{names.state_prefix}q.hello-1", may_lag="a test looks") is not None
    assert await lane.last_message(names.timeline_stream, f"{names.timeline_prefix}q.hello-1.*") is not None
    assert (await lane.api("STREAM.NAMES"))["total"] == 10
    for command in ("start.hello", "signal.go", "cancel", "terminate"):
        with pytest.raises(BrokerError, match="this user may not use"):
            await lane.publish(names.command("q", "hello-1", command), b"")
    for subject in (*(names.revocation(kind, "q", "t.0") for kind in names.owned_streams), names.registry("q"), names.guard("q", "w")):
        with pytest.raises(BrokerError, match="this user may not use"):
            await lane.publish(subject, b"")
    with pytest.raises(BrokerError, match="this user may not use"):
        await lane.api(f"CONSUMER.CREATE.{names.inbox_stream}.thief", {})
    await broker.close()
    connection = await nats.connect(secured.url("operator"))
    watcher = await (await connection.jetstream().key_value(names.state_bucket)).watch("q.*")
    entry = await watcher.updates(timeout=10)
    assert entry is not None
    assert entry.key == "q.hello-1"
    await watcher.stop()
    await connection.close()


@pytest.mark.parametrize("role", ["client", "operator", "worker"])
async def test_workflows_are_found_by_every_role(secured: Secured, worker: Worker, role: str) -> None:
    async with Client.connect(secured.url("client")) as starter, Client.connect(secured.url(role)) as client, client.changes() as changes:
        await starter.execute(hello, "Ada", workflow_id="hello-1", task_queue="q")
        handle = await starter.start("newer", workflow_id="newer-1", task_queue="q")
        async with asyncio.timeout(20):
            async for record in changes:
                if record.parked is not None:
                    break
        assert [record.workflow_id async for record in client.list()] == ["newer-1", "hello-1"]
        assert await client.count() == await client.count(task_queue="q") == 2
        assert (await why(client.lookups, WorkflowRef.of("newer-1", "q"))).owner is not None
        assert (await stats(client.broker)).workflows == {"completed": 1, "parked": 1}
        await handle.terminate()


async def whole_history(client: Client, workflow: str) -> str:
    """The one timeline key of a run that has ended, once it has been made."""
    names = client.broker.names
    async with asyncio.timeout(20):
        while True:
            found = await client.broker.lane.last_message(names.timeline_stream, f"{names.timeline_prefix}{workflow}.*")
            if found is not None and b'"started"' in found.data:
                return found.subject.removeprefix(names.timeline_prefix)
            await asyncio.sleep(0.05)


async def test_an_operators_own_tools_work(secured: Secured, worker: Worker, nats_cli: str) -> None:
    async with Client.connect(secured.url("client")) as client:
        await client.execute(hello, "Ada", workflow_id="hello-1", task_queue="q")
        key = await whole_history(client, "q.hello-1")
    for command, words in (
        ("kv get jetflow_state q.hello-1 --raw", "Hello, Ada!"),
        (f"kv get jetflow_timeline {key} --raw", "started"),
        ("kv ls jetflow_state", "q.hello-1"),
        ("stream ls --all", "JETFLOW"),
        ("stream info JETFLOW", "workqueue"),
        ("consumer ls JETFLOW", worker.worker_id),
    ):
        process = await asyncio.create_subprocess_exec(
            nats_cli, "--server", secured.url("operator"), *command.split(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, (command, output)
        assert words.lower() in output.decode().lower(), command


async def test_strangers_are_refused(secured: Secured) -> None:
    for url in (secured.server.url, secured.url("worker", "wrong"), secured.url("stranger", "x")):
        with pytest.raises(BrokerError, match="refused the credentials"):
            await Broker.connect(url, timeout=0.5)


async def test_a_client_before_the_first_worker_is_told_what_it_may_not(secured: Secured) -> None:
    with pytest.raises(BrokerError, match=r"may not use .*STREAM\.CREATE"):
        await Broker.connect(secured.url("client"))


async def test_the_system_account_is_apart(secured: Secured, worker: Worker) -> None:
    connection = await nats.connect(secured.url("system"))
    answer = await connection.request("$SYS.REQ.SERVER.PING.IDZ", b"", timeout=10)
    assert b"jetflow-1" in answer.data
    answer = await connection.request("$JS.API.STREAM.INFO.JETFLOW", b"", timeout=10)
    assert "error" in json.loads(answer.data), "it sees no stream of jetflow's account"
    await connection.close()


async def test_health_is_told_on_loopback_and_writes_are_synced(secured: Secured) -> None:
    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{secured.monitoring}/{path}", timeout=10) as answer:
            return answer.read().decode()  # type: ignore[no-any-return]

    assert '"status":"ok"' in (await asyncio.to_thread(get, "healthz"))
    assert '"sync_always": true' in (await asyncio.to_thread(get, "jsz?config=1"))
    assert "0.0.0.0" not in secured.server.log(500)
