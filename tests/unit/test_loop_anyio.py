"""anyio in workflow code."""

import asyncio
import gc
import math
from typing import Any

import anyio
import pytest
from anyio._backends._asyncio import CancelScope

from jetflow import CancellationScope, activity, sleep, workflow
from jetflow.core import anyio_internals
from jetflow.core.loop import WorkflowTask
from tests.replay.driver import START, Run, check_replay, rebuild


@activity
async def fetch(name: str) -> int:
    raise AssertionError("resolved by the driver")


def test_a_task_group_waits_for_all() -> None:
    @workflow
    async def flow() -> list[str]:
        log: list[str] = []

        async def step(name: str) -> None:
            await fetch(name)
            log.append(name)

        async with anyio.create_task_group() as group:
            for name in "abc":
                group.start_soon(step, name)
        return log

    run = Run(flow)
    for index in (3, 1, 2):
        run.complete(index)
    check_replay(run)
    assert run.result == ["c", "a", "b"]


def test_a_failure_cancels_the_group() -> None:
    @workflow
    async def flow() -> str:
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(fetch, "a")
                group.start_soon(fetch, "b")
        except ExceptionGroup as error:
            return type(error.exceptions[0]).__name__
        return "no"

    run = Run(flow)
    run.fail(1)
    check_replay(run)
    assert run.result == "ActivityError"
    assert "giving up operation 2" in run.outputs


@pytest.mark.parametrize("seconds", [5, 0.0004, 1.23456789])
@pytest.mark.parametrize("how", ["fail_after", "move_on_after"])
def test_deadlines_are_one_durable_timer_each(how: str, seconds: float) -> None:
    @workflow
    async def flow() -> str:
        if how == "move_on_after":
            with anyio.move_on_after(seconds) as scope:
                await fetch("a")
            return "late" if scope.cancelled_caught else "in time"
        try:
            with anyio.fail_after(seconds):
                await fetch("a")
        except TimeoutError:
            return "late"
        return "in time"

    run = Run(flow)
    assert run.find("timer").due == START + math.ceil(seconds * 1000)
    run.fire()
    check_replay(run)
    assert run.result == "late"
    assert len([output for output in run.outputs if output.startswith("timer")]) == 1
    run = Run(flow)
    run.complete()
    check_replay(run)
    assert run.result == "in time"


def test_sleep_event_and_streams() -> None:
    @workflow
    async def flow() -> list[Any]:
        ready, got = anyio.Event(), []
        send, receive = anyio.create_memory_object_stream[int](1)

        async def produce() -> None:
            await ready.wait()
            async with send:
                for number in range(3):
                    await send.send(await fetch(str(number)))

        async with anyio.create_task_group() as group:
            group.start_soon(produce)
            await anyio.sleep(2)
            ready.set()
            async with receive:
                got = [item async for item in receive]
        return [anyio.current_time() - START / 1000, got]

    run = Run(flow)
    assert run.find("timer").due == START + 2000
    run.fire()
    for number in range(3):
        run.complete("activity", number)
    check_replay(run)
    assert run.result == [pytest.approx(2.003), [0, 1, 2]]


def test_nested_scopes_are_cancelled_in_the_order_they_were_entered() -> None:
    @workflow
    async def flow() -> list[int]:
        order: list[int] = []

        async def step(number: int) -> None:
            with anyio.CancelScope():
                try:
                    await fetch(str(number))
                finally:
                    order.append(number)

        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(step, number)
            await sleep(1)
            group.cancel_scope.cancel()
        return order

    run = Run(flow)
    run.fire()
    assert sorted(run.result) == list(range(12))
    kept: list[Any] = []
    for _ in range(20):  # the memory of scopes differs each time
        kept.append([CancelScope() for _ in range(7)])
        rebuild(run).dispose()
    gc.collect()
    check_replay(run)


def test_a_shielded_scope_cleans_up_durably() -> None:
    @workflow
    async def flow() -> str:
        with anyio.move_on_after(1):
            try:
                await fetch("a")
            finally:
                with anyio.CancelScope(shield=True):
                    await fetch("cleanup")
        return "done"

    run = Run(flow)
    run.fire()
    assert run.pending == ["activity 'fetch' (operation 3)"]
    run.complete()
    check_replay(run)
    assert run.result == "done"


def test_a_cancelled_scope_waits_patiently_for_clean_up_that_does_not_give_way() -> None:
    @workflow
    async def flow() -> str:
        async def step() -> None:
            try:
                await fetch("a")
            finally:
                await fetch("cleanup")  # in asyncio's group, which anyio cancels once and then only its host, for ever

        with anyio.move_on_after(1):
            async with asyncio.TaskGroup() as group:
                group.create_task(step())
        return "done"

    run = Run(flow)
    run.fire()
    assert run.pending == ["activity 'fetch' (operation 3)"]
    run.retrying()
    run.complete()
    check_replay(run)
    assert run.result == "done"


def test_sleeping_for_ever_ends_with_the_workflows_cancellation() -> None:
    @workflow
    async def flow() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            async with CancellationScope.non_cancellable():
                await fetch("cleanup")

    run = Run(flow)
    assert run.pending == []
    run.cancel()
    run.complete()
    check_replay(run)
    assert run.failure.type == "CancelledFailure"


async def test_scopes_that_were_open_before_the_first_workflow_can_still_be_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """anyio keeps nested scopes in sets: preparing it for workflows must not change what the process's own scopes hash to."""
    monkeypatch.setattr(CancelScope, "__hash__", object.__hash__)
    monkeypatch.setattr(anyio_internals, "_ready", False)
    with CancelScope(), CancelScope():
        anyio_internals.prepare(WorkflowTask)
