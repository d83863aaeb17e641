"""Time, chance, side effects and generations come from the timeline."""

import asyncio
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from jetflow import activity, condition, continue_as_new, execute_child, now, random, side_effect, sleep, uuid4, workflow, workflow_info
from jetflow.core import events as ev
from jetflow.core import loop
from jetflow.core.machine import last_generation
from jetflow.core.recorder import MAX_AT_ONCE
from jetflow.errors import PayloadTooLargeError
from tests.replay.driver import START, Run, check_replay, rebuild


@activity
async def step(what: Any = None) -> Any:
    raise AssertionError("resolved by the driver")


@workflow(name="chance")
async def chance() -> list[Any]:
    found = [random(), str(uuid4()), now().timestamp()]
    await step()
    return [*found, random(), str(uuid4()), now().timestamp()]


def result_of(**info: Any) -> list[Any]:
    run = Run(chance, **info)
    run.complete("activity", None, after=1500)
    check_replay(run)
    return run.result


def test_time_and_chance_repeat_in_every_replay() -> None:
    first = result_of()
    assert first == result_of()
    assert len(set(map(str, first))) == 6
    assert first[2] == START / 1000
    assert first[5] == START / 1000 + 1.5
    assert 0 <= first[0] < 1
    assert uuid.UUID(first[1]).version == 4


@pytest.mark.parametrize("info", [{"workflow_id": "other"}, {"run": 8}])
def test_chance_differs_between_workflows_and_runs(info: dict[str, Any]) -> None:
    one, other = result_of(), result_of(**info)
    assert [number for number in (0, 1, 3, 4) if one[number] == other[number]] == []


def test_a_side_effect_is_taken_once() -> None:
    taken: list[int] = []

    @workflow
    async def flow() -> list[Any]:
        value = side_effect(lambda: taken.append(1) or {"ns": time.time_ns()})
        await step()
        return [value, side_effect(lambda: taken.append(2) or [None, "x"])]

    run = Run(flow)
    rebuild(run).dispose()
    run.complete()
    kept = run.result
    assert taken == [1, 2]
    for length in range(len(run.commits)):
        rebuild(run, run.commits[: length + 1]).dispose()
    assert taken == [1, 2]
    assert rebuild(run).closing == run.machine.closing
    assert kept[1] == [None, "x"]


def test_the_error_of_a_side_effect_is_recorded_too() -> None:
    broken = [True]

    def take() -> int:
        if broken:
            raise KeyError("HOME")
        return 1

    @workflow
    async def flow() -> list[str]:
        try:
            side_effect(take)
        except Exception as error:
            await step()
            return [type(error).__name__, str(error)]
        return []

    run = Run(flow)
    broken.clear()
    rebuild(run).dispose()
    run.complete()
    rebuild(run).dispose()
    assert run.result == ["WorkflowFailedError", "KeyError: 'HOME'"]


def test_what_a_side_effect_gives_must_be_json() -> None:
    @workflow
    async def flow() -> None:
        side_effect(object)

    run = Run(flow)
    check_replay(run)
    assert "side_effect value cannot be written as JSON" in run.failure.message


def test_a_generation_follows_the_other() -> None:
    @workflow
    async def flow(count: int = 0) -> list[Any]:
        await step()
        got = await condition("go")
        if count < 3:
            continue_as_new(count + 1)
        return [count, got, workflow_info().generation, workflow_info().run_id]

    run = Run(flow)
    for number in range(4):
        run.complete("activity")
        check_replay(run)
        run.signal("go", number)
    check_replay(run)
    assert run.result == [3, 3, 4, "7"]
    started = run.commits[0][0]
    assert (started.generation, started.first_index, started.consumed) == (4, 7, {"go": 103})
    assert [bytes(generation[-1][-1].input) for generation in run.generations] == [b"[1]", b"[2]", b"[3]"]


def test_nothing_runs_after_continue_as_new() -> None:
    ran: list[str] = []

    @workflow
    async def flow(count: int = 0) -> str:
        if count:
            return "second"
        try:
            continue_as_new(1)
        except Exception:
            ran.append("except")
        finally:
            await step()
            ran.append("after step")
        return "first"

    run = Run(flow)
    assert run.result == "second"
    assert ran == []
    assert [describe for describe in run.outputs if "activity" in describe] == []
    assert len(run.generations[0][0]) == 2


def spin_on_sleep() -> Any:
    async def flow() -> None:
        while True:
            await sleep(0)

    return flow


def spin_on_a_true_predicate() -> Any:
    async def flow() -> None:
        while True:
            await condition(lambda: True)

    return flow


def spin_on_cancellation() -> Any:
    async def flow() -> None:
        while True:
            try:
                await step()
            except Exception:
                continue

    return flow


def spin_on_gather() -> Any:
    async def flow() -> None:
        while True:
            await asyncio.gather(step(), step(), return_exceptions=True)

    return flow


def spin_on_wait() -> Any:
    async def flow() -> None:
        while True:
            await asyncio.wait([asyncio.create_task(step()) for _ in range(3)])

    return flow


def spin_on_groups() -> Any:
    async def flow() -> None:
        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(step())
                    group.create_task(step())
            except Exception:
                continue

    return flow


@pytest.mark.parametrize(
    "make",
    [spin_on_sleep, spin_on_a_true_predicate, spin_on_cancellation, spin_on_gather, spin_on_wait, spin_on_groups],
    ids=lambda make: make.__name__,
)
def test_code_that_never_waits_fails_instead_of_hanging(make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    drained: list[int] = []
    monkeypatch.setattr(loop.WorkflowLoop, "next_order", counted(drained, loop.WorkflowLoop.next_order))
    run = Run(workflow(name="spinning")(make()))
    if not run.closed:
        run.cancel()
    assert run.failure.type == "NotAllowedInWorkflowError"
    assert "without waiting for anything" in run.failure.message
    assert "test_determinism.py" in run.failure.message
    assert len(drained) < 20_000  # tasks and futures
    assert rebuild(run).closing is not None


def counted(calls: list[int], function: Any) -> Any:
    def counting(*args: Any) -> Any:
        calls.append(1)
        return function(*args)

    return counting


def test_very_many_tasks_at_once_are_no_spin() -> None:
    @workflow
    async def flow() -> int:
        found = await asyncio.gather(*(step() for _ in range(5_000)), return_exceptions=True)
        return len(found)

    run = Run(flow)
    run.cancel()
    assert run.result == 5_000

    @workflow
    async def cancelled_before() -> int:
        try:
            await step()
        except Exception:
            return len(await asyncio.gather(*(step() for _ in range(5_000)), return_exceptions=True))
        return 0

    run = Run(cancelled_before)
    run.cancel()
    assert run.result == 5_000


def test_many_operations_refused_in_one_go_are_no_spin() -> None:
    @workflow
    async def flow() -> int:
        refused = 0
        for _ in range(MAX_AT_ONCE // 10):
            try:
                await step()
            except Exception:
                refused += 1
        return refused

    run = Run(flow)
    run.cancel()
    assert run.result == MAX_AT_ONCE // 10


def test_a_payload_too_large_is_refused_where_it_is_made_and_in_every_replay() -> None:
    @workflow
    async def flow() -> list[str]:
        log: list[str] = []
        for attempt in (lambda: step("x" * 2000), lambda: execute_child("kid", "x" * 2000)):
            try:
                await attempt()
            except PayloadTooLargeError as error:
                log.append(str(error).split(" is ")[0])
        try:
            side_effect(lambda: "x" * 2000)
        except Exception as error:
            log.append(str(error).split(" is ")[0])
        await step("small")
        return log

    run = Run(flow, max_payload=1000)
    run.complete()
    check_replay(run)
    assert run.result == [
        "the payload of activity 'step' (operation 1)",
        "the payload of child workflow 'kid' 'wf-1-7-2' (operation 2)",
        "PayloadTooLargeError: the payload of side effect (operation 3)",
    ]


def test_a_result_too_large_fails_the_workflow() -> None:
    @workflow
    async def flow() -> str:
        return "x" * 2000

    run = Run(flow, max_payload=1000)
    check_replay(run)
    assert run.failure.type == "PayloadTooLargeError"


def test_a_smaller_limit_does_not_break_what_was_recorded() -> None:
    @workflow
    async def flow() -> Any:
        return await step("x" * 2000)

    run = Run(flow)
    run.complete("activity", "y" * 2000)
    run.machine.max_payload = 1000
    assert rebuild(run).closing == run.machine.closing


def test_a_commit_over_several_keys_replays() -> None:
    @workflow
    async def flow() -> list[int]:
        return await asyncio.gather(*(step() for _ in range(4)))  # type: ignore[arg-type]

    run = Run(flow)
    for _ in range(4):
        run.complete()
    first, rest = run.commits[0], run.commits[1:]
    parts = [first[:2], first[2:3], first[3:]]
    commits = [ev.Commit(run=7, cause=1, events=part, more=part is not parts[-1]) for part in parts]
    commits += [ev.Commit(run=7, cause=1, events=part) for part in rest]
    assert rebuild(run, last_generation(commits)).closing is not None
