"""Code that was changed under a running workflow."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from jetflow import (
    CancellationScope,
    activity,
    condition,
    continue_as_new,
    execute_child,
    side_effect,
    sleep,
    start_child,
    workflow,
)
from jetflow.core.definitions import WorkflowDefinition
from jetflow.errors import NondeterminismError
from tests.replay.driver import Run, rebuild


@activity
async def charge(order: str) -> int:
    raise AssertionError("resolved by the driver")


@activity
async def refund(order: str) -> int:
    raise AssertionError("resolved by the driver")


elsewhere = charge.with_options(task_queue="other")


@workflow(name="order")
async def before() -> int:
    """What was running when the history was made."""
    first = await charge("a")
    await asyncio.gather(charge("b"), sleep(5))
    await execute_child("kid", workflow_id="kid-1")
    return first


def history(steps: int = 3) -> Run:
    run = Run(before)
    for step in [lambda: run.complete(1, 1), lambda: run.complete(2, 2), lambda: run.fire(), lambda: run.complete("child", "grown")][:steps]:
        step()
    return run


async def renamed() -> int:
    return await refund("a")  # here


async def moved_to_another_queue() -> int:
    return await elsewhere("a")  # here


async def timer_replaced_by_wait() -> None:
    await charge("a")
    await asyncio.gather(charge("b"), condition("go"))  # here


async def swapped() -> None:
    await charge("a")
    await asyncio.gather(sleep(5), charge("b"))  # here


async def added_before() -> None:
    await sleep(1)  # here
    await charge("a")


async def added_between() -> None:
    await charge("a")
    await condition("go")  # here
    await asyncio.gather(charge("b"), sleep(5))


async def added_in_parallel() -> None:
    await charge("a")
    await asyncio.gather(charge("b"), sleep(5), charge("c"))  # here


async def side_effect_added() -> None:
    await charge("a")
    side_effect(lambda: 1)  # here


async def removed() -> None:
    await asyncio.gather(charge("b"), sleep(5))  # here


async def finished_earlier() -> int:
    return await charge("a")  # here


async def failed_earlier() -> int:
    await charge("a")
    raise ValueError("new check")  # here


async def went_on_as_new() -> None:
    await charge("a")
    continue_as_new()  # here


async def other_child_id() -> None:
    await charge("a")
    await asyncio.gather(charge("b"), sleep(5))
    await execute_child("kid", workflow_id="kid-2")  # here


async def other_child_type() -> None:
    await charge("a")
    await asyncio.gather(charge("b"), sleep(5))
    await execute_child("goat", workflow_id="kid-1")  # here


async def child_not_awaited() -> None:
    await charge("a")
    await asyncio.gather(charge("b"), sleep(5))
    await start_child("kid", workflow_id="kid-1")  # here


async def gave_up_early() -> None:
    await charge("a")
    task = asyncio.create_task(charge("b"))
    await asyncio.wait([task, asyncio.create_task(sleep(5))], return_when=asyncio.FIRST_COMPLETED)
    await sleep(1)  # here


async def less_in_parallel() -> None:
    await charge("a")
    await charge("b")  # here


CHANGES: dict[Callable[..., Any], tuple[str, str]] = {
    renamed: ("activity 'charge' (operation 1)", "activity 'refund' (operation 1)"),
    moved_to_another_queue: ("activity 'charge' (operation 1)", "activity 'charge' on task queue 'other' (operation 1)"),
    timer_replaced_by_wait: ("timer (operation 3)", "wait for signal 'go' (operation 3)"),
    swapped: ("activity 'charge' (operation 2)", "timer (operation 2)"),
    added_before: ("activity 'charge' (operation 1)", "timer (operation 1)"),
    added_between: ("activity 'charge' (operation 2)", "wait for signal 'go' (operation 2)"),
    added_in_parallel: ("nothing more at this point", "activity 'charge' (operation 4)"),
    side_effect_added: ("activity 'charge' (operation 2)", "side effect (operation 2)"),
    removed: ("nothing more at this point", "timer (operation 2)"),
    finished_earlier: ("activity 'charge' (operation 2)", "the workflow's completion"),
    failed_earlier: ("activity 'charge' (operation 2)", "the workflow's failure (ValueError: new check)"),
    went_on_as_new: ("activity 'charge' (operation 2)", "continuing as new 'order'"),
    other_child_id: ("child workflow 'kid' 'kid-1' (operation 4)", "child workflow 'kid' 'kid-2' (operation 4)"),
    other_child_type: ("child workflow 'kid' 'kid-1' (operation 4)", "child workflow 'goat' 'kid-1' (operation 4)"),
    child_not_awaited: ("child workflow 'kid' 'kid-1' (operation 4)", "child workflow 'kid' 'kid-1', not awaited (operation 4)"),
    gave_up_early: ("nothing more at this point", "timer (operation 4)"),
    less_in_parallel: ("timer (operation 3)", "nothing"),
}


def marked_line(function: Callable[..., Any]) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if line.rstrip().endswith("# here"))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_is_shown_against_the_record_with_its_place(change: Callable[..., Any]) -> None:
    recorded, attempted = CHANGES[change]
    with pytest.raises(NondeterminismError) as raised:
        rebuild(history(), definition=WorkflowDefinition(change, "order"))
    error = raised.value
    assert (error.recorded, error.attempted) == (recorded, attempted)
    assert f"test_nondeterminism.py:{marked_line(change)} " in error.location
    assert error.location in str(error)
    assert "guard the change with patched()" in str(error)


def test_the_same_code_is_no_change() -> None:
    for steps in range(5):
        rebuild(history(steps)).dispose()
    assert history(4).result == 1


def test_changes_behind_what_was_recorded_are_free() -> None:
    @workflow(name="order")
    async def changed() -> int:
        await charge("other arguments do not count")
        await asyncio.gather(charge("b"), sleep(500))
        await execute_child("kid", workflow_id="kid-1")
        return await refund("new")

    machine = rebuild(history(), definition=changed)
    assert [operation.event.index for operation in machine.pending.values()] == [4]


def swallowing_except() -> Any:
    async def code() -> int:
        while True:
            try:
                return await refund("a")
            except Exception:
                await charge("a")

    return code


def swallowing_finally() -> Any:
    async def code() -> int:
        try:
            return await refund("a")
        finally:
            await charge("a")

    return code


def swallowing_everything() -> Any:
    async def code() -> int:
        while True:
            try:
                return await refund("a")
            except BaseException:
                continue

    return code


def swallowing_in_a_group() -> Any:
    async def code() -> int:
        async with CancellationScope.non_cancellable():
            await asyncio.gather(refund("a"), sleep(1), return_exceptions=True)
            return await charge("a")

    return code


def swallowing_in_the_handler_of_a_task() -> Any:
    async def code() -> int:
        task = asyncio.create_task(refund("a"))
        try:
            return await asyncio.shield(task)
        except BaseException:
            return 5

    return code


@pytest.mark.parametrize(
    "make",
    [swallowing_except, swallowing_finally, swallowing_everything, swallowing_in_a_group, swallowing_in_the_handler_of_a_task],
    ids=lambda make: make.__name__,
)
def test_user_code_cannot_swallow_it(make: Callable[[], Any], recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NondeterminismError) as raised:
        rebuild(history(), definition=WorkflowDefinition(make(), "order"))
    assert raised.value.recorded == "activity 'charge' (operation 1)"
    assert raised.value.attempted == "activity 'refund' (operation 1)"
    assert [str(warning.message) for warning in recwarn] == []
    assert capfd.readouterr().err == ""


def test_arguments_that_no_longer_fit_are_shown() -> None:
    @workflow(name="order")
    async def changed(needed: int) -> int:
        return await charge("a")

    with pytest.raises(NondeterminismError, match=r"the workflow's failure \(InvalidInputError: .*takes 1 argument"):
        rebuild(history(), definition=changed)


def test_a_result_for_what_is_no_longer_waited_for_is_shown() -> None:
    @workflow(name="order")
    async def careful() -> None:
        async with CancellationScope.non_cancellable():
            await asyncio.gather(charge("a"), charge("b"))

    @workflow(name="order")
    async def careless() -> None:
        await asyncio.gather(charge("a"), charge("b"), return_exceptions=True)
        await asyncio.Event().wait()

    run = Run(careful)
    run.cancel()
    run.complete(1)
    with pytest.raises(NondeterminismError, match="recorded: a result for operation 1; attempted now: no such operation is pending"):
        rebuild(run, definition=careless)


def test_the_machine_does_nothing_more_after_a_mismatch() -> None:
    run = history()
    machine = run.machine.__class__(WorkflowDefinition(swallowing_finally(), "order"), run.info)
    with pytest.raises(NondeterminismError):
        machine.replay(run.commits)
    assert machine.halted
    assert machine.decided == []
