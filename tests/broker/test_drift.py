"""What others do to the streams of a namespace is named, with the command that mends it."""

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.mending import mend
from jetflow.broker.transport.server import LocalServer
from jetflow.errors import TopologyError
from jetflow.reading.overview import overview
from tests.broker.conftest import until

STREAMS = ("inbox_stream", "task_stream", "by_id_stream", "dead_stream", "state_stream", "timeline_stream", "signal_stream", "wait_stream")


@pytest.mark.parametrize("stream", STREAMS)
async def test_each_limit_of_each_stream_is_refused_by_name(own_server: LocalServer, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    broker = await Broker.connect(own_server.url)
    name, api = getattr(broker.names, stream), broker.lane.api
    config = (await api(f"STREAM.INFO.{name}"))["config"]
    limits: dict[str, Any] = {"max_msgs": 10, "max_bytes": 5000, "max_msg_size": 100, "duplicate_window": 1_000_000_000, "max_age": 60_000_000_000}
    for field, value in limits.items():
        await api(f"STREAM.UPDATE.{name}", config | {"duplicate_window": 1_000_000_000} | {field: value})
        if field == "duplicate_window" and stream in STREAMS[3:]:
            continue  # nothing that is written there rests on it
        with pytest.raises(TopologyError, match=rf"stream {name} exists with .*{field} = .*run `nats stream edit {name} "):
            await Broker.connect(own_server.url)
        assert any(field in complaint for complaint in await broker.complaints())
    assert f"stream {name} exists with" in caplog.text
    await api(f"STREAM.UPDATE.{name}", config)
    assert await broker.complaints() == []
    await (await Broker.connect(own_server.url)).close()
    await broker.close()


@pytest.mark.parametrize("does", ["sources", "mirror"])
async def test_a_stream_that_takes_messages_away_is_named(own_server: LocalServer, does: str) -> None:
    broker = await Broker.connect(own_server.url)
    origin = {"name": "JETFLOW_TASKS"}
    await broker.lane.api("STREAM.CREATE.COPY", {"name": "COPY", "storage": "file", does: [origin] if does == "sources" else origin})
    with pytest.raises(TopologyError, match=r"stream COPY (sources|mirrors) JETFLOW_TASKS.*nats stream rm COPY"):
        await Broker.connect(own_server.url)
    looking = await Broker.connect(own_server.url, refuse=False)
    assert any("stream COPY" in complaint for complaint in (await overview(looking)).complaints)
    await looking.close()
    await broker.close()


async def test_a_consumer_that_is_nobodys_is_named(own_server: LocalServer) -> None:
    broker = await Broker.connect(own_server.url)
    config = {"name": "curious", "ack_policy": "explicit"}
    await broker.lane.api("CONSUMER.CREATE.JETFLOW.curious", {"stream_name": "JETFLOW", "config": config})
    assert any("consumer curious of stream JETFLOW" in complaint for complaint in await broker.complaints())
    await broker.close()


async def test_an_inbox_that_stands_behind_is_mended_and_what_waits_in_it_stays(own_server: LocalServer) -> None:
    broker = await Broker.connect(own_server.url)
    lane, names = broker.lane, broker.names
    assert await mend(lane, names) is None
    await lane.publish(names.epoch, b'{"created":"2026-01-01T00:00:00Z","position":500}')
    await lane.publish(f"{names.timeline_prefix}q.w.1", b'{"run":490,"cause":499,"events":[]}')
    for number in range(3):
        await lane.publish(names.command("q", f"w{number}", "signal.go"), b"%d" % number)
    with pytest.raises(TopologyError, match="Run `jetflow mend`"):
        await Broker.connect(own_server.url)
    assert await mend(lane, names) == 3
    state = (await lane.api("STREAM.INFO.JETFLOW"))["state"]
    assert state["messages"] == 3
    assert state["first_seq"] > 500
    found = await lane.read_many("JETFLOW", {"seq": 1, "next_by_subj": "jetflow.*.q.>", "batch": 10}, may_lag="a test")
    assert [(message.subject.split(".")[3:], message.data) for message in found] == [([f"w{n}", "signal", "go"], b"%d" % n) for n in range(3)]
    await (await Broker.connect(own_server.url)).close()
    assert await mend(lane, names) is None
    await broker.close()


async def test_a_server_that_is_away_frozen_or_refuses_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "jetflow")
    config = tmp_path / "nats.conf"

    def takes(password: str) -> None:
        config.write_text(f"authorization {{ users: [ {{ user: joe, password: {password} }} ] }}")

    takes("right")
    server = LocalServer(tmp_path / "store", config=config)
    await server.start()
    broker = await Broker.connect(server.url.replace("//", "//joe:right@"))
    await server.stop(keep_store=True)
    takes("another")
    await server.start()
    await until(lambda: "refuses the credentials" in caplog.text, "the reason is told")
    await asyncio.sleep(2)
    await server.stop(keep_store=True)
    takes("right")
    await server.start()
    await until(lambda: broker.wire.is_connected, "it is back")
    await until(lambda: "Reconnected" in caplog.text, "and says so")
    assert caplog.text.count(f"Lost connection to {server.url}; reconnecting") == 1
    assert caplog.text.count("refuses the credentials: Authorization Violation") == 1
    assert caplog.text.count("Reconnected to") == 1
    assert "right@" not in caplog.text
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(5):  # 2.6 s, on a machine that has time
            while broker.wire.is_connected:
                await asyncio.sleep(0.02)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await until(lambda: broker.wire.is_connected, "it is back")
    await broker.close()
    await server.stop()
