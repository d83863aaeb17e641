"""Workflow code that is put away: evicted from memory, terminated, or left behind by its main function."""

import asyncio
import contextvars
import gc
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from jetflow import CancellationScope, activity, condition, continue_as_new, execute_child, patched, side_effect, sleep, workflow
from jetflow.core.definitions import WorkflowDefinition
from tests.replay.driver import Run, rebuild


@activity
async def step(name: str = "") -> int:
    raise AssertionError("an activity was run outside its workflow")


SEEN: list[str] = []


async def awaits_in_finally() -> None:
    try:
        await step()
    finally:
        SEEN.append("finally")
        await step("cleanup")
        SEEN.append("after cleanup")


async def catches_everything() -> None:
    for _ in range(20):
        try:
            await step()
        except BaseException:
            SEEN.append("caught")


async def never_lets_go_for_long() -> None:
    for _ in range(10):
        try:
            await asyncio.sleep(0)
            await step()
        except BaseException:
            await asyncio.sleep(0)


async def in_nested_scopes() -> None:
    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(awaits_in_finally)
        with anyio.move_on_after(100):
            async with asyncio.timeout(60), CancellationScope.non_cancellable():
                await awaits_in_finally()


async def starts_more_in_finally() -> None:
    try:
        await condition("go")
    finally:
        asyncio.create_task(step("a"))
        await asyncio.gather(step("b"), awaits_in_finally())


async def starts_a_group_in_finally() -> None:
    try:
        await condition("go")
    finally:
        async with anyio.create_task_group() as group:
            group.start_soon(awaits_in_finally)
            await step()


async def decides_at_once_in_finally() -> None:
    try:
        await execute_child("kid")
    finally:
        for decide in (lambda: side_effect(lambda: SEEN.append("side effect")), lambda: patched("p"), lambda: continue_as_new()):
            try:
                decide()
            except BaseException as error:
                SEEN.append(type(error).__name__)
        await execute_child("other kid")


async def inside_a_generator() -> None:
    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
            yield await step()
        finally:
            await step("cleanup")

    async for _ in numbers():
        await sleep(5)


async def with_coroutines_not_begun() -> None:
    limit = asyncio.Semaphore(1)

    async def guarded(coro: Any) -> None:
        async with limit:
            await coro

    await asyncio.gather(*(guarded(step(str(number))) for number in range(4)))


current: contextvars.ContextVar[str] = contextvars.ContextVar("current")


async def with_context_variables() -> None:
    @asynccontextmanager
    async def named(name: str) -> AsyncIterator[None]:
        token = current.set(name)
        try:
            yield
        finally:
            current.reset(token)
            SEEN.append(f"reset {name}")

    async with named("outer"), named("inner"):
        await step()


async def waiting_for_each_other() -> None:
    task = asyncio.create_task(awaits_in_finally())
    shielded = asyncio.shield(task)
    queue: asyncio.Queue[int] = asyncio.Queue()
    await asyncio.wait([asyncio.create_task(queue.get()), shielded, asyncio.create_task(sleep(9))])


CODE: list[Callable[..., Any]] = [
    awaits_in_finally, catches_everything, never_lets_go_for_long, in_nested_scopes, starts_more_in_finally, starts_a_group_in_finally,
    decides_at_once_in_finally, inside_a_generator, with_coroutines_not_begun, with_context_variables, waiting_for_each_other,
]  # fmt: skip


@pytest.fixture(autouse=True)
def silent(recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Any:
    """No test here may leave a warning, a log line or a word on stderr, at once or when memory is collected."""
    SEEN.clear()
    yield
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []
    assert capfd.readouterr().err == ""
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.__name__)
@pytest.mark.parametrize("how", ["evicted", "terminated", "evicted from a replay", "main function ends"])
def test_what_is_put_away_decides_nothing_more(code: Callable[..., Any], how: str) -> None:
    definition = WorkflowDefinition(code, "flow")
    if how == "main function ends":

        async def main() -> str:
            asyncio.create_task(code())
            await condition("end")
            return "ended"

        definition = WorkflowDefinition(main, "flow")
    run = Run(definition)
    before, pending = list(run.events), dict(run.machine.pending)
    machine, tasks = run.machine, list(run.machine.loop.tasks)
    match how:
        case "evicted":
            run.dispose()
        case "terminated":
            run.terminate()
        case "evicted from a replay":
            run.dispose()
            machine = rebuild(run)
            tasks += machine.loop.tasks
            machine.dispose()
        case _:
            run.signal("end")
            assert run.result == "ended"
    if "evicted" in how:
        assert (machine.decided, run.events) == ([], before)
        assert list(machine.pending) == list(pending)
    else:
        assert len(run.events) == len(before) + (1 if how == "terminated" else 2)
    assert machine.halted
    assert "after cleanup" not in SEEN
    assert "side effect" not in SEEN
    assert len(machine.children) <= 1
    assert tasks
    assert [task for task in tasks if task.get_coro().cr_frame is not None] == []  # type: ignore[union-attr]


@pytest.mark.parametrize("code", CODE, ids=lambda code: code.__name__)
def test_what_is_put_away_leaves_no_memory(code: Callable[..., Any]) -> None:
    gc.collect()
    run = Run(WorkflowDefinition(code, "flow"))
    gone = weakref.ref(run.machine)
    run.dispose()
    del run
    gc.collect()
    assert gone() is None


def test_finally_blocks_run_in_their_own_context_and_task() -> None:
    run = Run(WorkflowDefinition(with_context_variables, "flow"))
    run.dispose()
    assert SEEN == ["reset inner", "reset outer"]


def test_another_workflow_that_runs_meanwhile_is_not_touched() -> None:
    other = Run(workflow(name="other")(awaits_in_finally), workflow_id="other")
    before = list(other.events)

    @workflow(name="collecting")
    async def collecting() -> int:
        gc.collect()
        return await step("mine")

    for code in CODE:
        left = Run(WorkflowDefinition(code, "flow"))
        left.dispose()
        del left
        run = Run(collecting)
        assert run.pending == ["activity 'step' (operation 1)"]
        run.dispose()
    assert other.events == before
    other.dispose()


def test_a_machine_can_be_put_away_twice_and_hears_nothing_afterwards() -> None:
    run = Run(WorkflowDefinition(awaits_in_finally, "flow"))
    run.dispose()
    run.dispose()
    assert SEEN == ["finally"]
    run.complete()
    assert SEEN == ["finally"]
    assert not run.closed
