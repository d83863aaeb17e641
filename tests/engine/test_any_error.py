"""Errors of every kind out of user code, on a real server: the caller is told, and the worker and its other runs go on."""

import asyncio
import builtins
from typing import Any

import pytest

from jetflow import (
    ActivityError,
    Client,
    QueryError,
    RetryPolicy,
    UpdateError,
    Worker,
    activity,
    condition,
    execute_activity,
    set_query_handler,
    set_update_handler,
    workflow,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, waits_for

TWICE = RetryPolicy(maximum_attempts=2, initial_interval="1ms")


class OddError(Exception):
    """Nothing of it can be read."""

    @property
    def code(self) -> int:
        raise SystemExit(5)

    def __str__(self) -> str:
        raise asyncio.CancelledError

    __repr__ = __str__


class CircleError(Exception):
    def __init__(self) -> None:
        super().__init__("round")
        self.__cause__ = KeyError("and")
        self.__cause__.__cause__ = self


def make(kind: str) -> BaseException:
    return {"OddError": OddError, "CircleError": CircleError, "CancelledError": asyncio.CancelledError}.get(kind, getattr(builtins, kind, None))()  # type: ignore[misc, no-any-return]


KINDS = ["CancelledError", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "RecursionError", "OddError", "CircleError"]


@activity(retry=TWICE)
async def fails(kind: str) -> None:
    raise make(kind)


@activity(retry=TWICE)
def fails_in_a_thread(kind: str) -> None:
    raise make(kind)


@activity(retry=TWICE)
async def cancels_itself(how: str) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    if how == "waits":
        await asyncio.sleep(10)
    if how == "raises":
        raise ValueError(how)


@workflow
async def tries(name: str, kind: str, queue: str | None) -> str:
    try:
        await execute_activity(name, kind, task_queue=queue, retry=TWICE)
    except ActivityError as error:
        return f"{error.failure.cause.type}"  # type: ignore[union-attr]
    return "done"


@workflow
async def child(kind: str) -> None:
    raise make(kind)


@workflow
async def answers() -> str:
    def fail(kind: str) -> Any:
        raise make(kind)

    async def fail_later(kind: str) -> Any:
        await asyncio.sleep(0.01)
        raise make(kind)

    async def never() -> None:
        await asyncio.Event().wait()

    cancelled = asyncio.create_task(never())
    cancelled.cancel()
    await asyncio.sleep(0)
    set_query_handler("cancelled", cancelled.result)
    set_query_handler("fail", fail)
    set_update_handler("fail", fail)
    set_update_handler("later", fail_later)
    set_update_handler("refuse", lambda kind: kind, validator=fail)
    return str(await condition("go"))


@pytest.mark.parametrize("where", ["here", "elsewhere"])
async def test_activities_fail_by_type(server: LocalServer, queue: str, where: str) -> None:
    async with (
        Client.connect(server.url) as client,
        Worker(client, task_queue=queue, workflows=[tries], activities=[fails, fails_in_a_thread, cancels_itself]),
        Worker(client, task_queue=f"{queue}-more", activities=[fails, fails_in_a_thread, cancels_itself]),
    ):
        other = f"{queue}-more" if where == "elsewhere" else None
        asked = [(name, kind) for name in ("fails", "fails_in_a_thread") for kind in KINDS]
        asked += [("cancels_itself", "waits"), ("cancels_itself", "raises"), ("cancels_itself", "returns")]
        found = await asyncio.gather(*(client.execute(tries, name, kind, other, task_queue=queue, timeout=WAIT) for name, kind in asked))
        assert found == [*KINDS, *KINDS, "CancelledError", "ValueError", "done"]


async def test_workflows_fail_by_type(server: LocalServer, queue: str) -> None:
    async with Client.connect(server.url) as client, Worker(client, task_queue=queue, workflows=[child]):
        for kind in KINDS:
            error = await (await client.start(child, kind, task_queue=queue)).result(throw_on_error=False, timeout=WAIT)
            assert error.type == ("CancelledFailure" if kind == "CancelledError" else kind)


async def test_callers_of_queries_and_updates_are_told(server: LocalServer, queue: str) -> None:
    async with Client.connect(server.url) as client, Worker(client, task_queue=queue, workflows=[answers]):
        handle = await client.start(answers, task_queue=queue)
        await waits_for(handle, "go")
        with pytest.raises(QueryError) as told:
            await handle.query("cancelled")
        assert told.value.type == "CancelledError"
        for kind in KINDS:
            with pytest.raises(QueryError) as told:
                await handle.query("fail", kind)
            assert told.value.type == kind
            for name in ("fail", "later", "refuse"):
                with pytest.raises(UpdateError) as refused:
                    await handle.update(name, kind)
                assert refused.value.type == kind
        await handle.signal("go", 1)
        assert await handle.result(timeout=WAIT) == "1"
        with pytest.raises(QueryError):
            await handle.query("fail", "SystemExit")


async def test_a_replayed_run_agrees(server: LocalServer, queue: str) -> None:
    async with Client.connect(server.url) as client:
        async with Worker(client, task_queue=queue, workflows=[answers]):
            handle = await client.start(answers, task_queue=queue)
            await waits_for(handle, "go")
            for kind in ("SystemExit", "KeyboardInterrupt", "GeneratorExit"):
                with pytest.raises(UpdateError):
                    await handle.update("later", kind)
        async with Worker(client, task_queue=queue, workflows=[answers]):
            await handle.signal("go", 2)
            assert await handle.result(timeout=WAIT) == "2"
