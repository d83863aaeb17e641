"""A client works in its own event loop alone, and never in workflow code. Elsewhere its calls say so at once."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from jetflow import Client, NotAllowedInWorkflowError, Worker, WrongEventLoopError, activity, workflow
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT

CALLS: dict[str, Callable[[Client], Awaitable[Any]]] = {
    "start": lambda client: client.start("w"),
    "start with an id": lambda client: client.start("w", workflow_id="a"),
    "start later": lambda client: client.start("w", start_delay="1h"),
    "execute": lambda client: client.execute("w"),
    "signal": lambda client: client.signal("s"),
    "signal_with_start": lambda client: client.signal_with_start("w", signal="s", workflow_id="a"),
    "list": lambda client: anext(aiter(client.list())),
    "list_page": lambda client: client.list_page(),
    "count": lambda client: client.count(),
    "count_by": lambda client: client.count_by("status"),
    "changes": lambda client: client.changes().__aenter__(),
    "enable_events": lambda client: client.enable_events(),
    "disable_events": lambda client: client.disable_events(),
    "close": lambda client: client.close(),
    "handle.result": lambda client: client.get_handle("a").result(),
    "handle.state": lambda client: client.get_handle("a").state(),
    "handle.query_state": lambda client: client.get_handle("a").query_state(["a"]),
    "handle.status": lambda client: client.get_handle("a").status(),
    "handle.describe": lambda client: client.get_handle("a").describe(),
    "handle.exists": lambda client: client.get_handle("a").exists(),
    "handle.query": lambda client: client.get_handle("a").query("q"),
    "handle.update": lambda client: client.get_handle("a").update("u"),
    "handle.signal": lambda client: client.get_handle("a").signal("s"),
    "handle.cancel": lambda client: client.get_handle("a").cancel(),
    "handle.terminate": lambda client: client.get_handle("a").terminate(),
    "handle.export": lambda client: client.get_handle("a").export(),
    "handle.export_execution": lambda client: client.get_handle("a").export_execution(),
    "handle.watch": lambda client: anext(client.get_handle("a").watch()),
    "Worker": lambda client: Worker(client, workflows=[asks]).__aenter__(),
}
borrowed: list[Client] = []


@activity
async def idle() -> None: ...


@workflow
async def asks() -> list[str]:
    refused = []
    for call in CALLS.values():
        try:
            await call(borrowed[0])
        except NotAllowedInWorkflowError as error:
            refused.append(str(error))
    await idle()
    return refused


async def test_another_thread_and_another_loop_are_told_at_once(client: Client) -> None:
    said: dict[str, str] = {}

    async def all_of_them() -> None:
        for name, call in CALLS.items():
            with pytest.raises(WrongEventLoopError) as caught:
                await call(client)
            said[name] = str(caught.value)

    await asyncio.to_thread(asyncio.run, all_of_them())
    assert set(said) == set(CALLS)
    (sentence,) = set(said.values())
    assert f"belongs to the event loop of thread {threading.current_thread().name!r}, where it was connected" in sentence
    assert "Connect another one here: async with Client.connect(…)" in sentence
    assert await client.count() >= 0, "in its own loop it works on"


def test_a_later_loop_of_the_same_thread_is_told_too(server: LocalServer) -> None:
    async def connect() -> Client:
        return await Client.connect(server.url)

    with asyncio.Runner() as first:
        client = first.run(connect())
        with asyncio.Runner() as second, pytest.raises(WrongEventLoopError, match="belongs to another event loop, where it was connected"):
            second.run(client.count())
        first.run(client.close())


async def test_workflow_code_is_told_at_once(client: Client, queue: str) -> None:
    borrowed[:] = [client]
    async with Worker(client, task_queue=queue, workflows=[asks], activities=[idle]):
        refused = await client.execute(asks, task_queue=queue, timeout=WAIT)
    assert len(refused) == len(CALLS)
    assert all("using a client is not allowed in workflow code, at " in sentence and "use it in an @activity" in sentence for sentence in refused)
