"""What a request to cancel does to workflow code."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from jetflow import (
    CancellationScope,
    CancelledFailure,
    activity,
    condition,
    continue_as_new,
    execute_child,
    is_cancellation,
    sleep,
    start_child,
    workflow,
)
from jetflow.core import events as ev
from tests.replay.driver import Run, check_replay


@activity
async def step(name: str = "") -> int:
    raise AssertionError("resolved by the driver")


def never() -> bool:
    return False


async def gather_two() -> None:
    await asyncio.gather(step("a"), sleep(5))


async def in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(step("a"))
        group.create_task(sleep(5))


async def in_an_anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(step, "a")
        group.start_soon(sleep, 5)


async def within_a_timeout() -> None:
    async with asyncio.timeout(60):
        await step("a")


WAITS: dict[str, Callable[[], Awaitable[Any]]] = {
    "sleep": lambda: sleep("1h"),
    "asyncio.sleep": lambda: asyncio.sleep(5),
    "asyncio.sleep(inf)": lambda: asyncio.sleep(float("inf")),
    "anyio.sleep": lambda: anyio.sleep(5),
    "activity": step,
    "condition": lambda: condition("signal"),
    "condition with timeout": lambda: condition("signal", timeout="1h"),
    "predicate": lambda: condition(never),
    "predicate with timeout": lambda: condition(never, timeout="1h"),
    "child": lambda: execute_child("kid"),
    "child's start": lambda: start_child("kid"),
    "gather": gather_two,
    "TaskGroup": in_a_group,
    "anyio group": in_an_anyio_group,
    "timeout": within_a_timeout,
}


@pytest.mark.parametrize("kind", WAITS)
def test_whatever_is_waited_for_is_woken_and_fails_the_workflow(kind: str) -> None:
    @workflow
    async def flow() -> None:
        await WAITS[kind]()

    run = Run(flow)
    assert not run.closed
    assert run.cancel("too late")
    check_replay(run)
    assert (run.failure.type, run.failure.message) == ("CancelledFailure", "Workflow cancelled: too late")
    assert run.machine.pending == {}


@pytest.mark.parametrize("kind", WAITS)
def test_it_can_be_caught_and_comes_again_at_the_next_operation(kind: str) -> None:
    @workflow
    async def flow() -> list[str]:
        log = []
        for _ in range(3):
            try:
                await WAITS[kind]()
            except (CancelledFailure, ExceptionGroup) as error:
                log.append("cancelled" if is_cancellation(error) else "something else")
        return log

    run = Run(flow)
    run.cancel()
    check_replay(run)
    assert run.result == ["cancelled"] * 3


@pytest.mark.parametrize("kind", [kind for kind in WAITS if kind not in ("asyncio.sleep(inf)", "predicate")])
def test_inside_a_non_cancellable_scope_nothing_is_woken(kind: str) -> None:
    @workflow
    async def flow() -> str:
        async with CancellationScope.non_cancellable():
            await WAITS[kind]()
        try:
            await step("afterwards")
        except CancelledFailure:
            return "cancelled afterwards"
        return "no"

    run = Run(flow)
    before = run.pending
    run.cancel()
    assert run.pending == before
    while not run.closed:
        match run.pending:
            case [first, *_] if first.startswith("timer") and len(run.pending) > 1:
                run.complete("activity")
            case [first, *_] if first.startswith("timer"):
                run.fire()
            case [first, *_] if first.startswith("wait"):
                run.signal("signal")
            case [first, *_] if "not awaited" in first:
                run.accept()
            case [first, *_]:
                run.complete(run.find(first.split(" (")[0]).index)
    check_replay(run)
    assert run.result == "cancelled afterwards"


def test_cleanup_after_the_request_runs_durably_and_then_the_workflow_ends() -> None:
    @workflow
    async def flow() -> None:
        try:
            await step("work")
        finally:
            async with CancellationScope.non_cancellable():
                await asyncio.gather(step("undo"), sleep(1))

    run = Run(flow)
    run.cancel()
    assert run.pending == ["activity 'step' (operation 2)", "timer (operation 3)"]
    run.complete()
    run.fire()
    check_replay(run)
    assert run.failure.type == "CancelledFailure"


def test_a_request_before_the_first_wait_is_met_there() -> None:
    @workflow
    async def flow() -> int:
        await condition(lambda: ready)
        return await step()

    ready: list[int] = []
    run = Run(flow)
    run.cancel("early")
    check_replay(run)
    assert run.failure.message == "Workflow cancelled: early"


def test_a_second_request_changes_nothing() -> None:
    @workflow
    async def flow() -> None:
        async with CancellationScope.non_cancellable():
            await step()
        await step()

    run = Run(flow)
    assert run.cancel("first")
    assert not run.cancel("second")
    run.complete()
    check_replay(run)
    assert run.failure.message == "Workflow cancelled: first"


def test_operations_that_were_given_up_are_ended_for_the_owner() -> None:
    @workflow
    async def flow() -> None:
        await asyncio.gather(step("a"), execute_child("kid"), sleep(5))

    run = Run(flow)
    assert run.machine.feed(ev.CancelRequested(at=run.tick(), reason=""))
    _, _, ended = run.machine.take()
    assert sorted(operation.index for operation in ended) == [1, 2, 3]


def test_a_result_that_comes_after_the_request_is_too_late() -> None:
    @workflow
    async def flow() -> str:
        try:
            await step()
        except CancelledFailure:
            async with CancellationScope.non_cancellable():
                await sleep(5)
        return "done"

    run = Run(flow)
    run.cancel()
    assert not run.feed(ev.ActivityCompleted(index=1, at=run.tick()))
    run.fire()
    check_replay(run)
    assert run.result == "done"


def test_the_code_cancelling_itself_ends_as_cancelled_too() -> None:
    @workflow
    async def flow() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await step()

    run = Run(flow)
    check_replay(run)
    assert run.failure.type == "CancelledFailure"


def test_an_error_of_cleanup_is_not_taken_for_cancellation() -> None:
    @workflow
    async def flow() -> None:
        try:
            await step()
        finally:
            raise ValueError("cleanup failed")

    run = Run(flow)
    run.cancel()
    assert (run.failure.type, run.failure.cause.type if run.failure.cause else "") == ("ValueError", "CancelledFailure")


def test_a_mixed_group_is_a_failure_of_its_own() -> None:
    @workflow
    async def flow() -> None:
        async def broken() -> None:
            try:
                await step("b")
            finally:
                raise ValueError("broken")

        async with asyncio.TaskGroup() as group:
            group.create_task(step("a"))
            group.create_task(broken())

    run = Run(flow)
    run.cancel()
    check_replay(run)
    assert run.failure.type == "ExceptionGroup"
    assert "ValueError: broken" in run.failure.message


def test_the_request_is_carried_into_the_next_generation() -> None:
    @workflow
    async def flow(generation: int = 1) -> str:
        if generation == 1:
            try:
                await step()
            except CancelledFailure:
                async with CancellationScope.non_cancellable():
                    continue_as_new(2)
        await step()
        return "never"

    run = Run(flow)
    run.cancel("on and on")
    assert len(run.generations) == 1
    check_replay(run)
    assert run.failure.message == "Workflow cancelled: on and on"
