"""How long the record of an ended run is kept: one default, whatever ended it and whichever road its end came by; and one word for no end."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from jetflow import Client, Worker, WorkflowHandle, condition, execute_child, signal, sleep, start_child, workflow
from jetflow.broker.transport.server import LocalServer
from jetflow.core.durations import limit_ms, to_ms
from jetflow.errors import InvalidInputError, WorkflowNotFoundError

from .helpers import WAIT, plain_nats, until, waits_for

KEPT = "41m"
KEPT_MS = 41 * 60_000


@workflow
async def returns() -> int:
    return 1


@workflow
async def fails() -> None:
    raise ValueError("no")


@workflow
async def waits() -> Any:
    return await condition("go", timeout="forever")


@workflow
async def parent(policy: str) -> None:
    await start_child(waits, workflow_id="child", parent_close_policy=policy)  # type: ignore[arg-type]
    await sleep("300ms")


@workflow
async def parent_of(expire: str | None) -> Any:
    return await execute_child(returns, workflow_id="child", expire=expire)


@workflow
async def sends() -> None:
    await signal("w", "go", 5, expire="forever")


@pytest.fixture(autouse=True)
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    workflows = [returns, fails, waits, parent, parent_of, sends]
    async with Worker(client, task_queue=queue, workflows=workflows, default_expire=KEPT) as worker:
        await until(lambda: worker.partitions)
        yield worker


async def kept(handle: WorkflowHandle[Any]) -> int | None:
    """How long the record is kept, once the run has ended."""
    await handle.result(throw_on_error=False, timeout=WAIT)
    record = await handle.describe()
    assert record is not None
    assert record.closed
    return record.expire


ENDS = ["completed", "failed", "cancelled", "terminated by nats pub", "terminated with a reason", "terminated by the handle",
        "ended with its parent", "cancelled with its parent"]  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("road", ["client", "nats pub", "delayed"])
async def test_one_default_whatever_ended_it(server: LocalServer, client: Client, queue: str, end: str, road: str) -> None:
    name = {"completed": "returns", "failed": "fails"}.get(end, "waits")
    handle = client.get_handle("w", task_queue=queue)
    async with plain_nats(server.url) as nats:
        js = nats.jetstream()
        if "parent" in end:
            args = ["cancel" if "cancelled" in end else "terminate"]
            name, handle = "parent", client.get_handle("child", task_queue=queue)
        else:
            args = []
        if road == "client":
            await client.start(name, *args, task_queue=queue, workflow_id="w")
        elif road == "nats pub":
            await js.publish(f"jetflow.{queue}.w.start.{name}", b'"%s"' % args[0].encode() if args else b"")
        else:
            at = (datetime.now(UTC) + timedelta(seconds=1)).isoformat(timespec="seconds").replace("+00:00", "Z")
            headers = {"Nats-Schedule": f"@at {at}", "Nats-Schedule-Target": f"jetflow.{queue}.w.start.{name}"}
            await js.publish(f"jetflow_timer.{queue}.w.start.at", b'"%s"' % args[0].encode() if args else b"", headers=headers)
        if name == "waits":
            await waits_for(handle, "go")
        match end:
            case "cancelled":
                await handle.cancel()
            case "terminated by nats pub":
                await js.publish(f"jetflow.{queue}.w.terminate", b"")
            case "terminated with a reason":
                await js.publish(f"jetflow.{queue}.w.terminate", b'{"reason": "enough"}')
            case "terminated by the handle":
                await handle.terminate(expire="default")

        await until(lambda: _there(handle))
        assert await kept(handle) == KEPT_MS


async def test_what_the_handle_says(client: Client, queue: str) -> None:
    """A second unless it says otherwise, which is a promise of its own."""
    for expire, expected in (("1h", 3_600_000), ("forever", None), (None, None), ("default", KEPT_MS)):
        handle = await client.start(waits, task_queue=queue)
        await waits_for(handle, "go")
        await handle.terminate(expire=expire)  # type: ignore[arg-type]
        assert await kept(handle) == expected, expire
    handle = await client.start(waits, task_queue=queue)
    await waits_for(handle, "go")
    await handle.terminate()

    async def gone() -> bool:
        return await client.broker.lane.last_message(client.broker.names.state_stream, f"$KV.jetflow_state.{queue}.{handle.workflow_id}") is None

    await until(gone)


@pytest.mark.parametrize("body", [b'{"expire": "forever"}', b'{"expire": "90s"}', b'{"expire": 90}'])
async def test_what_a_raw_command_says(server: LocalServer, client: Client, queue: str, body: bytes) -> None:
    handle = await client.start(waits, task_queue=queue, workflow_id="w")
    await waits_for(handle, "go")
    async with plain_nats(server.url) as nats:
        await nats.jetstream().publish(f"jetflow.{queue}.w.terminate", body)
    assert await kept(handle) == (None if b"forever" in body else 90_000)


async def test_forever_everywhere(server: LocalServer, client: Client, queue: str) -> None:
    assert await kept(await client.start(returns, task_queue=queue, expire="forever")) is None
    assert await kept(await client.start(returns, task_queue=queue, expire=None)) is None
    async with plain_nats(server.url) as nats:
        await nats.jetstream().publish(f"jetflow.{queue}.raw.start.returns", b"", headers={"Jetflow-Expire": "forever"})
    raw = client.get_handle("raw", task_queue=queue)
    await until(lambda: _there(raw))
    assert await kept(raw) is None
    for expire, expected in (("forever", None), (None, KEPT_MS), ("5m", 300_000)):
        await client.execute(parent_of, expire, task_queue=queue, timeout="forever")
        assert await kept(client.get_handle("child", task_queue=queue)) == expected
        await _remove(client, queue, "child")
    handle = await client.signal_with_start(waits, signal="go", data=1, signal_expire="forever", workflow_id="v", task_queue=queue)
    assert await handle.result(timeout="forever") == 1
    await client.get_handle("u", task_queue=queue).signal("go", 2, expire="forever")
    assert await client.execute(waits, workflow_id="u", task_queue=queue, timeout=WAIT) == 2
    await client.execute(sends, task_queue=queue, timeout=WAIT)
    assert await client.execute(waits, workflow_id="w", task_queue=queue, timeout=WAIT) == 5
    await client.signal(f"{queue}-id", 3, expire="forever")
    Worker(client, task_queue=queue, workflows=[returns], default_expire="forever")


async def _there(handle: WorkflowHandle[Any]) -> bool:
    try:
        return await handle.describe() is not None
    except WorkflowNotFoundError:
        return False


async def _remove(client: Client, queue: str, workflow_id: str) -> None:
    await client.execute(returns, workflow_id=workflow_id, task_queue=queue, if_exists="replace", expire="1s", timeout=WAIT)

    async def gone() -> bool:
        names = client.broker.names
        return await client.broker.lane.last_message(names.state_stream, f"{names.state_prefix}{queue}.{workflow_id}") is None

    await until(gone)


def test_the_word() -> None:
    assert limit_ms("forever") is None
    assert limit_ms(None) is None
    assert limit_ms("2s") == to_ms("2s") == 2000
    for wrong in ("never", "for ever", "Forever", "soon"):
        with pytest.raises(InvalidInputError):
            limit_ms(wrong)
    with pytest.raises(InvalidInputError):
        to_ms("forever")
