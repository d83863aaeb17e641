"""asyncio in workflow code: it works as it always does, and every history of it replays."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import pytest

from jetflow import activity, condition, execute_activity, now, sleep, workflow
from tests.replay.driver import START, Run, check_replay, rebuild


@activity
async def fetch(name: str) -> int:
    raise AssertionError("resolved by the driver")


def finish(run: Run, *steps: tuple[Any, ...]) -> Any:
    """Takes the steps, checks the replay of the whole history, and gives the result."""
    for name, *args in steps:
        getattr(run, name)(*args)
    check_replay(run)
    return run.result


def test_gather_runs_side_by_side() -> None:
    @workflow
    async def flow() -> list[int]:
        return await asyncio.gather(*(fetch(str(number)) for number in range(3)))

    run = Run(flow)
    assert run.pending == [f"activity 'fetch' (operation {index})" for index in (1, 2, 3)]
    assert finish(run, ("complete", 3, 30), ("complete", 1, 10), ("complete", 2, 20)) == [10, 20, 30]


def test_gather_can_keep_the_errors() -> None:
    @workflow
    async def flow() -> list[str]:
        return [type(part).__name__ for part in await asyncio.gather(fetch("a"), fetch("b"), return_exceptions=True)]

    assert finish(Run(flow), ("fail", 1), ("complete", 2, 5)) == ["ActivityError", "int"]


def test_a_task_runs_on_while_the_main_function_waits_elsewhere() -> None:
    @workflow
    async def flow() -> list[int]:
        task = asyncio.create_task(fetch("background"), name="mine")
        assert task.get_name() == "mine"
        first = await fetch("foreground")
        return [first, await task]

    run = Run(flow)
    assert bytes(run.find(1).event.input) == b'["foreground"]'  # the task starts when the main function waits
    assert finish(run, ("complete", 1, 1), ("complete", 2, 2)) == [1, 2]


def test_a_task_group_cancels_the_others_when_one_fails() -> None:
    @workflow
    async def flow() -> list[str]:
        log: list[str] = []

        async def step(name: str) -> None:
            try:
                await fetch(name)
            except asyncio.CancelledError:
                log.append(f"{name} cancelled")
                raise

        try:
            async with asyncio.TaskGroup() as group:
                for name in "abc":
                    group.create_task(step(name))
        except* Exception as errors:
            log.append(type(errors.exceptions[0]).__name__)
        return log

    run = Run(flow)
    assert finish(run, ("fail", 2)) == ["a cancelled", "c cancelled", "ActivityError"]
    assert run.outputs[-3:-1] == ["giving up operation 1", "giving up operation 3"]


@pytest.mark.parametrize("kind", ["timeout", "timeout_at", "wait_for"])
@pytest.mark.parametrize("late", [True, False])
def test_timeouts_are_durable_timers(kind: str, late: bool) -> None:
    @workflow
    async def flow() -> Any:
        try:
            match kind:
                case "timeout":
                    async with asyncio.timeout(5):
                        return await fetch("a")
                case "timeout_at":
                    async with asyncio.timeout_at(asyncio.get_running_loop().time() + 5):
                        return await fetch("a")
                case _:
                    return await asyncio.wait_for(fetch("a"), 5)
        except TimeoutError:
            return "late"

    run = Run(flow)
    assert run.find("timer").due == START + 5000
    assert finish(run, ("fire",) if late else ("complete", "activity", 7)) == ("late" if late else 7)
    given_up = [output for output in run.outputs if output.startswith("giving up")]
    assert len(given_up) == 1  # the activity, or the timer that was not needed


def test_a_timeout_can_be_moved() -> None:
    @workflow
    async def flow() -> str:
        async with asyncio.timeout(5) as limit:
            await fetch("a")
            limit.reschedule(asyncio.get_running_loop().time() + 60)
            await fetch("b")
        return "done"

    run = Run(flow)
    run.complete()
    assert run.find("timer").due == START + 1 + 60_000
    assert finish(run, ("complete",)) == "done"


def test_wait_for_the_first_and_iterate_over_the_sets_in_the_same_order() -> None:
    @workflow
    async def flow() -> list[str]:
        tasks = [asyncio.create_task(fetch(str(number)), name=str(number)) for number in range(20)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:  # the order of a set: each cancellation is recorded
            task.cancel()
        return [task.get_name() for task in (*done, *pending)]

    run = Run(flow)
    names = finish(run, ("complete", 4, 1))
    assert names[0] == "3"
    assert sorted(names, key=int) == [str(number) for number in range(20)]
    for _ in range(20):
        rebuild(run).dispose()


def test_wait_has_a_durable_timeout() -> None:
    @workflow
    async def flow() -> int:
        done, pending = await asyncio.wait([asyncio.create_task(fetch("a")), asyncio.create_task(fetch("b"))], timeout=5)
        return len(done) * 10 + len(pending)

    assert finish(Run(flow), ("complete", 2), ("fire",)) == 11


@pytest.mark.parametrize("tasks", [True, False])
def test_as_completed_starts_in_the_given_order_and_yields_by_completion(tasks: bool) -> None:
    @workflow
    async def flow() -> list[int]:
        steps: Any = [fetch(str(number)) for number in range(12)]
        if tasks:
            steps = [asyncio.create_task(step) for step in steps]
        return [await step for step in asyncio.as_completed(steps)]

    run = Run(flow)
    assert [bytes(run.find(index).event.input) for index in range(1, 13)] == [b'["%d"]' % number for number in range(12)]
    order = [5, 1, 12, 3, 2, 4, 6, 7, 11, 10, 9, 8]
    assert finish(run, *[("complete", index, index) for index in order]) == order


def test_as_completed_over_coroutines_without_an_order_is_refused() -> None:
    @workflow
    async def flow() -> None:
        for step in asyncio.as_completed(iter([fetch("a"), fetch("b")])):
            await step

    run = Run(flow)
    assert run.failure.type == "NotAllowedInWorkflowError"
    assert "give it a list of coroutines or tasks" in run.failure.message
    assert "test_loop_asyncio.py" in run.failure.message


def test_a_shielded_task_outlives_its_timeout() -> None:
    @workflow
    async def flow() -> list[Any]:
        task = asyncio.create_task(fetch("a"))
        try:
            async with asyncio.timeout(1):
                await asyncio.shield(task)
        except TimeoutError:
            return ["late", await task]
        return []

    run = Run(flow)
    run.fire()
    assert run.pending == ["activity 'fetch' (operation 2)"]
    assert finish(run, ("complete", 2, 5)) == ["late", 5]


def test_queues_events_locks_semaphores_and_conditions_work() -> None:
    @workflow
    async def flow() -> dict[str, Any]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=1)
        started, lock, limit, changed = asyncio.Event(), asyncio.Lock(), asyncio.Semaphore(2), asyncio.Condition()
        seen: list[int] = []
        log: list[str] = []

        async def produce() -> None:
            await started.wait()
            for number in range(3):
                await queue.put(await fetch(str(number)))

        async def consume() -> None:
            for _ in range(3):
                item = await queue.get()
                async with changed:
                    seen.append(item)
                    changed.notify_all()

        async def exclusive(name: str) -> None:
            async with limit, lock:
                log.append(f"{name} in")
                await sleep(1)
                log.append(f"{name} out")

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
            for name in "xyz":
                group.create_task(exclusive(name))
            started.set()
            async with changed:
                await changed.wait_for(lambda: len(seen) == 3)
        return {"seen": seen, "log": log}

    run = Run(flow)
    for number in range(3):
        run.complete("activity", number)
        run.fire()
    check_replay(run)
    assert run.result == {"seen": [0, 1, 2], "log": ["x in", "x out", "y in", "y out", "z in", "z out"]}


def test_asyncio_sleep_is_a_durable_timer_and_time_stands_still_between_inputs() -> None:
    @workflow
    async def flow() -> list[Any]:
        times = [now().timestamp()]
        value = await asyncio.sleep(2.5, "woken")
        times.append(asyncio.get_running_loop().time())
        return [value, *times]

    run = Run(flow)
    assert run.find("timer").due == START + 2500
    assert finish(run, ("fire",)) == ["woken", START / 1000, START / 1000 + 2.5]


def test_sleeping_no_time_needs_no_timer() -> None:
    @workflow
    async def flow() -> str:
        await asyncio.sleep(0)
        await sleep(0)
        return "done"

    run = Run(flow)
    assert run.outputs == ["the workflow's completion"]
    check_replay(run)


@pytest.mark.parametrize("leave", ["at the end", "half-way", "half-way, closing"])
def test_async_generators_finish_whichever_way_they_are_left(leave: str) -> None:
    @workflow
    async def flow() -> list[Any]:
        log: list[Any] = []

        async def steps() -> AsyncIterator[int]:
            try:
                for number in range(2):
                    yield await fetch(str(number))
            finally:
                log.append(await fetch("cleanup"))

        if leave == "half-way, closing":
            async with aclosing(steps()) as generator:
                async for value in generator:
                    log.append(value)
                    break
        else:
            async for value in steps():
                log.append(value)
                if leave == "half-way":
                    break
        await fetch("after")
        await condition(lambda: len(log) > 1)
        return log

    run = Run(flow)
    while not run.closed:
        run.complete("activity", run.machine.next_index)
    check_replay(run)
    assert len(run.result) == (3 if leave == "at the end" else 2)


def test_context_variables_belong_to_their_task() -> None:
    current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")

    @workflow
    async def flow() -> list[Any]:
        async def step(name: str) -> str:
            current.set(name)
            await fetch(name)
            await condition(lambda: current.get() == name)  # a predicate sees what its task sees
            return current.get()

        current.set("main")
        return [*await asyncio.gather(step("a"), step("b")), current.get()]

    assert finish(Run(flow), ("complete", 2), ("complete", 1)) == ["a", "b", "main"]
    assert current.get() == "none"


def test_tasks_of_many_parked_workflows_do_not_share_a_hash() -> None:
    @workflow
    async def flow() -> int:
        return hash(asyncio.current_task())

    hashes = {Run(flow, workflow_id=f"wf-{number}").result for number in range(200)}
    assert len(hashes) > 190  # asyncio keeps all tasks in one set
    assert Run(flow).result == Run(flow).result


def test_a_predicate_that_raises_is_the_error_of_its_wait() -> None:
    @workflow
    async def flow() -> list[str]:
        log: list[str] = []
        for error in (ValueError("x"), asyncio.CancelledError(), StopIteration(), SystemExit(3)):
            first = [True]

            def predicate(first: list[bool] = first, error: BaseException = error) -> bool:
                if first and first.pop():
                    return False
                raise error

            try:
                await condition(predicate)
            except BaseException as raised:
                log.append(type(raised).__name__)
        return log

    run = Run(flow)
    assert run.result == ["ValueError", "CancelledError", "RuntimeError", "SystemExit"]


def test_an_async_predicate_is_refused() -> None:
    @workflow
    async def flow() -> None:
        async def predicate() -> bool:
            return True

        await condition(predicate)

    assert "needs a plain function" in Run(flow).failure.message


def test_an_activity_by_name_gives_its_result_type() -> None:
    @workflow
    async def flow() -> list[Any]:
        pair = await execute_activity("elsewhere", 1, result_type=tuple[int, str], task_queue="other")
        return [type(pair).__name__, *pair]

    run = Run(flow)
    assert run.pending == ["activity 'elsewhere' on task queue 'other' (operation 1)"]
    assert finish(run, ("complete", 1, [5, "x"])) == ["tuple", 5, "x"]
