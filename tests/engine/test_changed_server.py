"""A server that comes back with other limits, a consumer that somebody pauses, and what no client of jetflow would publish."""

import asyncio
from pathlib import Path

import pytest

from jetflow import Client, Worker, activity, condition, workflow
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, cli, dead_letters, until, waits_for


@activity
async def fill(size: int) -> str:
    return "x" * size


@workflow
async def fills(size: int) -> int:
    await condition("go")
    return len(await fill(size))


@workflow
async def paid() -> str:
    return str(await condition("paid"))


async def test_a_smaller_max_payload_fails_by_name_what_no_longer_fits(tmp_path: Path) -> None:
    config = tmp_path / "nats.conf"
    config.write_text("max_payload: 1MB\n")
    server = LocalServer(tmp_path / "store", config=config)
    await server.start()
    try:
        async with Client.connect(server.url) as client, Worker(client, task_queue="q", workflows=[fills], activities=[fill]):
            handles = [await client.start(fills, size, workflow_id=f"w-{size}", task_queue="q") for size in (100, 300_000)]
            for handle in handles:
                await waits_for(handle, "go")
            await server.stop(keep_store=True)
            config.write_text("max_payload: 128KB\n")
            await server.start()
            for handle in handles:
                await handle.signal("go")
            assert await handles[0].result(timeout=WAIT) == 100
            with pytest.raises(Exception, match=r"result of activity 'fill'"):
                await handles[1].result(timeout=WAIT)
    finally:
        await server.stop()


async def test_a_paused_consumer_is_noticed_at_once(tmp_path: Path, nats_cli: str, caplog: pytest.LogCaptureFixture) -> None:
    async with (
        LocalServer(tmp_path / "store") as server,
        Client.connect(server.url) as client,
        Worker(client, task_queue="q", workflows=[fills], activities=[fill]) as worker,
    ):
        await until(lambda: worker.partitions)
        (consumer,) = [each["name"] for each in await client.broker.lane.consumers("JETFLOW")]
        await cli(nats_cli, server.url, "consumer", "pause", "JETFLOW", consumer, "10m", "-f")
        handle = await client.start(fills, 5, task_queue="q")
        await handle.signal("go")
        assert await handle.result(timeout=WAIT) == 5
        assert f"consumer {consumer} of stream JETFLOW was paused, so this worker replaces it" in caplog.text


@pytest.mark.parametrize("command", [b"w\xff.signal.go", b"w.signal.\xfe", b"w.st\xffart.fills"])
async def test_a_subject_that_is_not_utf_8_is_a_dead_letter(client: Client, queue: str, command: bytes) -> None:
    async with Worker(client, task_queue=queue, workflows=[fills], activities=[fill]):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(client.url.rpartition(":")[2]))
        writer.write(b'CONNECT {"verbose":false}\r\nPUB jetflow.' + queue.encode() + b"." + command + b" 2\r\n{}\r\nPING\r\n")
        await writer.drain()
        await reader.readline()
        letter = (await until(lambda: dead_letters(client, queue)))[0]
        assert letter.headers["Jetflow-Reason"]

        async def consumed() -> bool:
            found = await client.broker.lane.read_many("JETFLOW", {"seq": 1, "next_by_subj": f"jetflow.*.{queue}.>", "batch": 10}, may_lag="a test")
            return not found

        await until(consumed)
        writer.close()


@pytest.mark.parametrize("claim", ["nonsense", "a.b.*.1.2", "a.b.c.x.y", "\udcff"])
async def test_a_forged_claim_keeps_no_signal_from_its_workflow(tmp_path: Path, claim: str, caplog: pytest.LogCaptureFixture) -> None:
    async with LocalServer(tmp_path / "store") as server, Client.connect(server.url) as client:
        names, lane = client.broker.names, client.broker.lane
        for number in ("1", "²", "9" * 30):
            await lane.publish(f"{names.wait_prefix}=claim.{number}", claim.encode(errors="surrogateescape"))
        async with Worker(client, task_queue="q", workflows=[paid]):
            handle = await client.start(paid, task_queue="q")
            await client.signal("paid", "yes")
            assert await handle.result(timeout=WAIT) == "yes"
        assert "was not written by a worker, and is removed" in caplog.text
