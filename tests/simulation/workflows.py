"""The one workflow that a simulation runs: an interpreter of small programs, and the activities that it calls.

A program is a JSON object: ``ops`` is a list of operations, ``on_cancel`` says what a cancellation leads to. Every activity writes
down when it begins and ends, so that a checker can compare that with what the timeline had at that moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from jetflow import RetryPolicy, activity, workflow
from jetflow.core.failures import is_cancellation
from jetflow.errors import ActivityError, ChildWorkflowError
from jetflow.workflow import (
    CancellationScope,
    condition,
    continue_as_new,
    execute_child,
    set_query_handler,
    set_update_handler,
    side_effect,
    signal,
    sleep,
    start_child,
)

QUEUE, REMOTE = "q", "r"
SOON = RetryPolicy(maximum_attempts=4, initial_interval="50ms", backoff_coefficient=1)
SLOWLY = RetryPolicy(maximum_attempts=8, initial_interval="700ms", backoff_coefficient=1)
LATER = RetryPolicy(maximum_attempts=4, initial_interval="1s", backoff_coefficient=1)
TWICE = RetryPolicy(maximum_attempts=2, initial_interval="20ms", backoff_coefficient=1)


class Journal:
    """What activities ask of the simulation that runs: ``note(process, what, subject, *facts)`` writes down what they do."""

    note: Callable[..., None]
    chance: Callable[[], float]


journal = Journal()


def _note(what: str) -> None:
    info = activity.info()
    process = asyncio.get_running_loop().process.name  # type: ignore[attr-defined]
    journal.note(process, what, f"{info.workflow_id}/{info.run_id}/{info.index}", info.attempt)


async def _attempt(milliseconds: int) -> int:
    _note("begins")
    await asyncio.sleep(milliseconds / 1000)
    _note("ends")
    return activity.info().attempt


@activity
async def work(number: int, milliseconds: int) -> int:
    await _attempt(milliseconds)
    return number + 1


@activity
def quick(number: int) -> int:
    _note("begins")
    return number + 1


async def _fail_first(number: int, failures: int, milliseconds: int) -> int:
    if await _attempt(milliseconds) <= failures:
        raise ValueError("not yet")
    return number + 1


@activity(retry=SOON)
async def flaky(number: int, failures: int, milliseconds: int) -> int:
    return await _fail_first(number, failures, milliseconds)


@activity(retry=SLOWLY)
async def flaky_slowly(number: int, milliseconds: int) -> int:
    """Fails by chance, so that of two owners either may be the first to succeed."""
    await _attempt(milliseconds)
    if journal.chance() < 0.6:
        raise ValueError("not this time")
    return number + 1


@activity(retry=LATER)
async def flaky_for_long(number: int, failures: int, milliseconds: int) -> int:
    return await _fail_first(number, failures, milliseconds)


@activity(retry=TWICE)
async def hopeless(milliseconds: int) -> int:
    await _attempt(milliseconds)
    raise ValueError("never")


@activity(task_queue=REMOTE, retry=SOON)
async def far(number: int, failures: int, milliseconds: int) -> int:
    return await _fail_first(number, failures, milliseconds)


ACTIVITIES = [work, quick, flaky, flaky_slowly, flaky_for_long, hopeless]
REMOTE_ACTIVITIES = [far]


@workflow
async def play(program: dict[str, Any]) -> list[Any]:
    """Carries out the operations in turn; gives how it ended, their outcomes, and the updates that came."""
    got: list[Any] = program.get("got", [])
    added: list[int] = program.get("added", [])

    def add(number: int) -> int:
        added.append(number)
        return len(added)

    set_query_handler("place", lambda: len(got))
    set_update_handler("add", add)
    try:
        for place, op in enumerate(program["ops"]):
            if op[0] == "again":
                continue_as_new({**program, "ops": program["ops"][place + 1 :], "got": [*got, True], "added": added})
            got.append(await _carry_out(op, added))
    except BaseException as error:
        if not is_cancellation(error) or program.get("on_cancel") != "clean":
            raise
        async with CancellationScope.non_cancellable():
            got.append(await work(-1, 20))
        return ["cancelled", got, added]
    return ["done", got, added]


async def _carry_out(op: list[Any], added: list[int]) -> Any:
    kind, *args = op
    match kind:
        case "work":
            return await work(*args)
        case "quick":
            return await quick(*args)
        case "flaky":
            return await flaky(*args)
        case "flaky_slowly":
            try:
                return await flaky_slowly(*args)
            except ActivityError:
                return "failed"
        case "flaky_for_long":
            return await flaky_for_long(*args)
        case "far":
            return await far(*args)
        case "hopeless":
            try:
                return await hopeless(*args)
            except ActivityError:
                return "failed"
        case "all":
            return list(await asyncio.gather(*(_carry_out(each, added) for each in args[0])))
        case "sleep":
            await sleep(args[0] / 1000)
            return True
        case "wait":
            return await condition(args[0], timeout=None if args[1] is None else args[1] / 1000)
        case "until":
            return await condition(lambda: len(added) >= args[0], timeout=args[1] / 1000)
        case "within":
            try:
                async with asyncio.timeout(args[0] / 1000):
                    return await _carry_out(args[1], added)
            except TimeoutError:
                return "late"
        case "child":
            program, policy, workflow_id, expire = args
            try:
                return await execute_child(play, program, workflow_id=workflow_id, parent_close_policy=policy, expire=expire)
            except ChildWorkflowError:
                return "failed"
        case "begin":
            program, policy, workflow_id, expire = args
            try:
                await start_child(play, program, workflow_id=workflow_id, parent_close_policy=policy, expire=expire)
            except ChildWorkflowError:
                return "failed"
            return True
        case "tell":
            await signal(args[0], args[1], args[2], expire=args[3])
            return True
        case "side":
            return side_effect(lambda: args[0])
    raise ValueError(f"operation {kind!r}")


def fits(op: list[Any], value: Any) -> bool:
    """Whether a value can be the outcome of an operation."""
    kind, *args = op
    match kind:
        case "work" | "quick" | "flaky" | "flaky_for_long" | "far":
            return value == args[0] + 1
        case "flaky_slowly":
            return value in (args[0] + 1, "failed")
        case "hopeless":
            return value == "failed"
        case "all":
            return isinstance(value, list) and len(value) == len(args[0]) and all(map(fits, args[0], value))
        case "sleep" | "tell" | "again":
            return value is True
        case "wait":
            return isinstance(value, int) and (value is not False or args[1] is not None)
        case "until":
            return isinstance(value, bool)
        case "within":
            return value == "late" or fits(args[1], value)
        case "child":
            return value == "failed" or fits_program(args[0], value)
        case "begin":
            return value in (True, "failed")
        case "side":
            return value == args[0]
    return False


def fits_program(program: dict[str, Any], result: Any) -> bool:
    """Whether a program can have this result."""
    if not isinstance(result, list) or len(result) != 3:
        return False
    how, got, _ = result
    ops = program["ops"]
    if how == "done":
        return len(got) == len(ops) and all(map(fits, ops, got))
    return how == "cancelled" and bool(got) and got[-1] == 0 and len(got) <= len(ops) + 1 and all(map(fits, ops, got[:-1]))
