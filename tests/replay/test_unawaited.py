"""A call that workflow code does not await fails the run when it would end, with the name and the line; in every replay too."""

import asyncio
import gc
import inspect
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from jetflow import (
    activity,
    condition,
    continue_as_new,
    execute_activity,
    execute_child,
    proxy_activities,
    set_update_handler,
    signal,
    sleep,
    start_child,
    workflow,
)
from jetflow.core import events as ev
from jetflow.core import guard, unawaited
from jetflow.core.definitions import WorkflowDefinition
from jetflow.core.values import encode
from tests.replay.driver import Run, check_replay, rebuild, recorded


@pytest.fixture(autouse=True)
def noticed() -> None:
    guard.install()


@activity
async def charge(amount: int) -> int:
    raise AssertionError("resolved by the driver")


@workflow
async def child() -> None: ...


async def helper(*given: Any) -> None:
    await charge(1)


FORGOTTEN: dict[str, tuple[Callable[[], Any], str]] = {
    "an activity": (lambda: charge(1), "charge()"),
    "an activity with options": (lambda: charge.with_options(task_queue="q")(1), "charge()"),
    "execute_activity": (lambda: execute_activity(charge, 1), "execute_activity(charge)"),
    "execute_activity by name": (lambda: execute_activity("pay", 1), "execute_activity(pay)"),
    "proxy_activities": (lambda: proxy_activities().pay(1), "execute_activity(pay)"),
    "sleep": (lambda: sleep("1s"), "sleep()"),
    "asyncio.sleep": (lambda: asyncio.sleep(1), "sleep()"),
    "condition": (lambda: condition("s"), "condition()"),
    "a child": (lambda: execute_child(child), "execute_child(child)"),
    "a child to be started": (lambda: start_child("other"), "start_child(other)"),
    "a signal": (lambda: signal("wf", "s"), "signal()"),
    "the user's own function": (lambda: helper(), "helper()"),
    "with a call inside": (lambda: helper(charge(1)), "helper()"),
}


def line_of(run: Run, text: str) -> str:
    lines, first = inspect.getsourcelines(run.definition.function)
    return f"{__file__}:{first + next(n for n, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize("what", FORGOTTEN)
def test_a_call_without_await_fails_the_run(what: str) -> None:
    call, name = FORGOTTEN[what]

    @workflow
    async def forgets() -> str:
        await charge(1)
        call()
        await charge(2)
        return "done"

    run = Run(forgets)
    run.complete()
    assert not run.closed, "it fails where it would end"
    run.complete()
    assert run.failure.type == "NotAllowedInWorkflowError"
    assert run.failure.message.startswith(f"calling {name} without await is not allowed in workflow code, at {__file__}:")
    assert "put await before the call" in run.failure.message
    check_replay(run)


@pytest.mark.parametrize("name", ["statement", "variable", "nested"])
def test_the_line_is_that_of_the_call(name: str) -> None:
    @workflow
    async def statement() -> None:
        charge(1)  # type: ignore[unused-coroutine]
        await charge(2)

    @workflow
    async def variable() -> None:
        later = charge(1)
        await charge(2)
        del later

    @workflow
    async def nested() -> None:
        async def inner() -> None:
            kept = charge(1)
            await charge(2)
            assert kept

        await inner()

    run = Run({"statement": statement, "variable": variable, "nested": nested}[name])
    run.complete()
    assert f"at {line_of(run, 'charge(1)')} in" in run.failure.message
    check_replay(run)


async def _later() -> None:
    made = charge(1)
    await charge(2)
    await made


async def _gathered() -> None:
    await asyncio.gather(charge(1), sleep("1ms"))


async def _as_task() -> None:
    await asyncio.create_task(charge(1))  # type: ignore[arg-type]


async def _task_left() -> None:
    asyncio.create_task(charge(1))  # type: ignore[arg-type]


async def _task_left_with_a_call_inside() -> None:
    asyncio.create_task(helper(charge(1)))


async def _task_cancelled_at_once() -> None:
    for coro in (charge(1), helper(charge(1)), helper([charge(1)], {"a": sleep(1)}), helper(helper(charge(1)))):
        asyncio.create_task(coro).cancel()  # type: ignore[arg-type]
    await asyncio.sleep(0)
    await charge(2)


async def _waited_for() -> None:
    await asyncio.wait_for(charge(1), 60)


async def _wait_for_as_task() -> None:
    asyncio.create_task(asyncio.wait_for(charge(1), 60)).cancel()
    await charge(2)


async def _shielded() -> None:
    await asyncio.shield(charge(1))


async def _closed() -> None:
    made = charge(1)
    made.close()
    await charge(2)


async def _group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(charge(1))  # type: ignore[arg-type]


async def _anyio_group() -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(charge, 1)
        group.start_soon(sleep, "1ms")
        await charge(2)
        group.cancel_scope.cancel()


async def _as_completed() -> None:
    for done in asyncio.as_completed([charge(1), charge(2)]):
        await done


async def _handed_over() -> None:
    async def soon(what: Awaitable[Any]) -> None:
        await what

    await soon(charge(1))


GOOD = [_later, _gathered, _as_task, _task_left, _task_left_with_a_call_inside, _task_cancelled_at_once, _waited_for, _wait_for_as_task, _shielded,
        _closed, _group, _anyio_group, _as_completed, _handed_over]  # fmt: skip


@pytest.mark.parametrize("function", GOOD, ids=lambda function: function.__name__.strip("_"))
def test_a_call_that_is_awaited_handed_over_or_closed_is_none(function: Callable[[], Coroutine[Any, Any, Any]]) -> None:
    run = Run(WorkflowDefinition(function))
    while not run.closed and run.machine.pending:
        index = max(run.machine.pending)
        if run.machine.pending[index].due is not None:
            run.fire(index)
        else:
            run.complete(index)
    assert run.result is None
    check_replay(run)
    with warnings.catch_warnings():  # code that was cancelled before it began is in a cycle with its error
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


def test_a_failure_of_the_code_comes_first() -> None:
    @workflow
    async def fails() -> None:
        charge(1)  # type: ignore[unused-coroutine]
        raise ValueError("no")

    assert Run(fails).failure.type == "ValueError"


def test_a_generation_does_not_go_on_without_it() -> None:
    @workflow
    async def goes_on() -> None:
        charge(1)  # type: ignore[unused-coroutine]
        continue_as_new()

    run = Run(goes_on)
    assert "calling charge() without await" in run.failure.message
    check_replay(run)


def test_an_update_that_forgets_fails_the_run_at_its_end() -> None:
    @workflow
    async def updated() -> None:
        set_update_handler("u", lambda: sleep("1s") and None)
        await condition("s")

    run = Run(updated)
    run.feed(ev.Updated(id="1", at=run.tick(), name="u", input=encode([]), seq=5))
    run.signal("s")
    assert "calling sleep() without await" in run.failure.message


def test_a_run_that_completed_with_an_older_version_is_still_read() -> None:
    @workflow
    async def completes() -> int:
        await charge(0)
        return 5

    async def forgets() -> int:
        await charge(0)
        charge(1)  # type: ignore[unused-coroutine]
        return 5

    run = Run(completes)
    run.complete()
    machine = rebuild(run, [recorded(commit) for commit in run.commits], WorkflowDefinition(forgets, "completes"))
    assert isinstance(machine.closing, ev.Completed)


def test_what_the_garbage_collector_finds_fails_nobody() -> None:
    @workflow
    async def collects() -> None:
        await charge(1)
        gc.collect()

    ring: list[Any] = [helper()]
    ring.append(ring)
    run = Run(collects)
    del ring
    with pytest.warns(RuntimeWarning, match="'helper' was never awaited"):
        run.complete()
    assert run.result is None


def test_outside_of_workflow_code_python_warns_as_ever() -> None:
    with pytest.warns(RuntimeWarning, match="'helper' was never awaited"):
        helper()  # type: ignore[unused-coroutine]


def test_what_is_used_is_there() -> None:
    assert unawaited.missing() == []
