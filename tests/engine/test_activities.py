"""Activities: retries, timeouts, codes, threads, failures, and what user code may raise."""

import asyncio
import contextvars
import threading
from collections import Counter
from typing import Any

import pytest

from jetflow import (
    ActivityError,
    Client,
    NonRetryableError,
    OriginalError,
    RetryPolicy,
    Worker,
    activity,
    execute_activity,
    proxy_activities,
    workflow,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, another_worker, until

QUICK = RetryPolicy(maximum_attempts=3, initial_interval="10ms")
DURABLE = RetryPolicy(maximum_attempts=3, initial_interval="1s", backoff_coefficient=1)
EXECUTIONS: Counter[str] = Counter()
SETTING: contextvars.ContextVar[str] = contextvars.ContextVar("setting", default="unset")
TOGETHER = threading.Barrier(4, timeout=20)


class DeclinedError(ValueError):
    pass


class AbruptEnd(BaseException):
    pass


def count(key: str) -> int:
    EXECUTIONS[key] += 1
    return EXECUTIONS[key]


@activity(retry=QUICK)
async def fails_until(key: str, good: int) -> int:
    assert activity.info().attempt == count(key)
    if activity.info().attempt < good:
        raise ConnectionError(f"attempt {activity.info().attempt}")
    return activity.info().attempt


@activity(retry=DURABLE)
async def fails_durably(key: str, good: int) -> int:
    if count(key) < good:
        raise ConnectionError("not yet")
    return activity.info().attempt


@activity(retry=RetryPolicy(initial_interval="1ms", non_retryable=[ValueError]))
async def declined(key: str) -> None:
    count(key)
    raise DeclinedError("card declined") from KeyError("inner")


@activity(retry=QUICK)
async def stops_itself(key: str) -> None:
    count(key)
    raise NonRetryableError("no use")


@activity(start_to_close_timeout="30ms", retry=RetryPolicy(maximum_attempts=2, initial_interval="1ms"))
async def never_ends(key: str) -> None:
    count(key)
    await asyncio.Event().wait()


@activity(schedule_to_close_timeout="150ms", retry=RetryPolicy(initial_interval="40ms", backoff_coefficient=1, maximum_attempts=0))
async def never_works(key: str) -> None:
    count(key)
    raise OSError("down")


@activity(retry=RetryPolicy(maximum_attempts=2, initial_interval="1ms"))
async def raises(kind: str) -> None:
    count(kind)
    raise {
        "SystemExit": SystemExit(3),
        "AbruptEnd": AbruptEnd("now"),
        "CancelledError": asyncio.CancelledError("its own"),
        "TimeoutError": TimeoutError("its own"),
        "StopAsyncIteration": StopAsyncIteration(),
        "GeneratorExit": GeneratorExit(),
        "ExceptionGroup": ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    }[kind]


@activity(retry=RetryPolicy(maximum_attempts=2, initial_interval="1ms"))
def raises_in_a_thread(kind: str) -> None:
    count(f"thread {kind}")
    raise {"SystemExit": SystemExit(3), "AbruptEnd": AbruptEnd("now"), "StopIteration": StopIteration(), "ValueError": ValueError("plain")}[kind]


@activity(retry=RetryPolicy(maximum_attempts=1))
async def asks_elsewhere(url: str, queue: str) -> None:
    """Runs another workflow, which fails."""
    async with Client.connect(url) as client:
        await client.execute(uncaught, f"{queue}-elsewhere", task_queue=queue, timeout=WAIT)


@activity
def meets_others() -> int:
    """Returns only while three more threads are in here."""
    TOGETHER.wait()
    return threading.get_ident()


@activity
def looks_around(value: str) -> list[Any]:
    before = SETTING.get()
    SETTING.set(value)
    info = activity.info()
    return [before, SETTING.get(), info.activity_type, info.workflow_id, info.attempt, info.idempotency_key, threading.current_thread().name]


@activity
async def takes_number(n: int) -> int:
    return n + 1


@activity(name="renamed")
async def under_another_name(text: str) -> str:
    return text.upper()


CALLS = {
    "fails_until": fails_until, "fails_durably": fails_durably, "declined": declined, "stops_itself": stops_itself, "never_ends": never_ends,
    "never_works": never_works, "raises": raises, "raises_in_a_thread": raises_in_a_thread, "asks_elsewhere": asks_elsewhere,
}  # fmt: skip


@workflow
async def calls(name: str, args: list[Any], width: int) -> list[Any]:
    """Calls an activity alone, or several times in a gather; failures as [code, type of the cause, message]."""

    async def one(n: int) -> Any:
        own = [f"{args[0]}-{n}", *args[1:]] if width > 1 and not name.startswith("raises") else args
        try:
            return await execute_activity(CALLS[name], *own)
        except ActivityError as error:
            return [error.code, error.cause.type, error.message]  # type: ignore[union-attr]

    return [await one(0)] if width == 1 else await asyncio.gather(*(one(n) for n in range(width)))


@workflow
async def uncaught(key: str) -> None:
    await declined(key)


@workflow
async def error_as_value(key: str) -> str:
    error = await execute_activity(declined, key, retry=RetryPolicy(throw_on_error=False, maximum_attempts=1))
    assert isinstance(error, ActivityError)
    return f"{error.code} {error.cause.type}"  # type: ignore[union-attr]


@workflow
async def four_threads() -> int:
    return len(set(await asyncio.gather(*(meets_others() for _ in range(4)))))


@workflow
async def looks() -> list[list[Any]]:
    return [await looks_around("a"), *await asyncio.gather(looks_around("b"), looks_around("c"))]


@workflow
async def wide(width: int) -> int:
    return sum(await asyncio.gather(*(takes_number(n) for n in range(width))))


@workflow
async def by_name() -> list[Any]:
    acts = proxy_activities(start_to_close_timeout="5s")
    return [await execute_activity("renamed", "a"), await acts.renamed("b"), await acts.takes_number(1), await under_another_name("c")]


@workflow
async def undecodable() -> None:
    await execute_activity("takes_number", "no number")


@workflow
async def with_options(key: str) -> int:
    return await fails_until.with_options(retry=RetryPolicy(maximum_attempts=5, initial_interval="1ms"))(key, 5)


SERVED = {
    "workflows": [calls, uncaught, error_as_value, four_threads, looks, wide, by_name, undecodable, with_options],
    "activities": [*CALLS.values(), meets_others, looks_around, takes_number, under_another_name],
}


@pytest.mark.parametrize("width", [1, 5], ids=["alone", "in a gather"])
async def test_outcomes_and_codes_are_the_same_alone_and_in_a_gather(client: Client, queue: str, width: int) -> None:
    async def run(name: str, *args: Any) -> list[Any]:
        return await client.execute(calls, name, [f"{queue}-{name}-{args}", *args], width, task_queue=queue, timeout=WAIT)

    def executed(part: str) -> set[int]:
        return {times for key, times in EXECUTIONS.items() if key.startswith(f"{queue}-{part}")}

    async with Worker(client, task_queue=queue, **SERVED):
        assert await run("fails_until", 3) == [3] * width
        for code, cause, _ in await run("fails_until", 4):
            assert (code, cause) == (597, "ConnectionError")
        assert executed("fails_until") == {3}, "maximum_attempts counts executions"
        assert await run("fails_durably", 2) == [2] * width
        for name, code, cause, times in (
            ("declined", 598, "DeclinedError", {1}),
            ("stops_itself", 598, "NonRetryableError", {1}),
            ("never_ends", 596, "AttemptTimeout", {2}),
        ):
            found = await run(name)
            assert {(got[0], got[1]) for got in found} == {(code, cause)}
            assert executed(name) == times
        assert {(got[0], got[1]) for got in await run("never_works")} == {(596, "OSError")}
        assert min(executed("never_works")) > 1


@pytest.mark.parametrize(
    "kind", ["SystemExit", "AbruptEnd", "CancelledError", "TimeoutError", "StopAsyncIteration", "GeneratorExit", "ExceptionGroup"]
)
async def test_whatever_an_activity_raises_is_its_failure_and_ends_no_worker(client: Client, queue: str, kind: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        before = EXECUTIONS[kind]
        code, cause, _ = (await client.execute(calls, "raises", [kind], 1, task_queue=queue, timeout=WAIT))[0]
        assert (code, cause) == (597, kind)
        assert EXECUTIONS[kind] - before == 2
        assert await client.execute(wide, 2, task_queue=queue, timeout=WAIT) == 3


@pytest.mark.parametrize("kind", ["SystemExit", "AbruptEnd", "StopIteration", "ValueError"])
async def test_whatever_a_thread_raises_is_its_failure(client: Client, queue: str, kind: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        code, cause, _ = (await client.execute(calls, "raises_in_a_thread", [kind], 1, task_queue=queue, timeout=WAIT))[0]
        assert code == 597
        assert cause in (kind, "RuntimeError")


async def test_a_durable_backoff_survives_the_workers_restart(server: LocalServer, client: Client, queue: str) -> None:
    key = f"{queue}-restart"
    handle = await client.start(calls, "fails_durably", [key, 2], 1, task_queue=queue)
    async with another_worker(server.url, queue, **SERVED):

        async def backing_off() -> bool:
            record = await handle.describe()
            return record is not None and any(waiting.attempt == 2 and waiting.due for waiting in record.waiting)

        await until(backing_off)
        assert EXECUTIONS[key] == 1
    async with another_worker(server.url, queue, **SERVED):
        assert await handle.result(timeout=WAIT) == [2]
    assert EXECUTIONS[key] == 2


async def test_the_chain_of_causes_and_the_remote_stack_reach_the_handle(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        handle = await client.start(uncaught, f"{queue}-chain", task_queue=queue)
        with pytest.raises(ActivityError, match="activity 'declined' failed: DeclinedError: card declined") as caught:
            await handle.result(timeout=WAIT)
        error = caught.value
        assert (error.code, error.type) == (598, "ActivityError")
        assert type(error.cause) is OriginalError
        assert (error.failure.stack, "jetflow/engine" in error.stack) == ("", False)  # type: ignore[union-attr]
        assert (error.cause.type, error.cause.message) == ("DeclinedError", "card declined")
        assert error.cause.cause.type == "KeyError"  # type: ignore[union-attr]
        assert "in declined" in error.stack
        assert "raise DeclinedError" in error.cause.stack
        returned = await handle.result(throw_on_error=False)
        assert (type(returned), returned.message) == (ActivityError, error.message)


async def test_a_failure_from_elsewhere_that_an_activity_lets_pass_has_the_activitys_code(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        code, cause, message = (await client.execute(calls, "asks_elsewhere", [client.url, queue], 1, task_queue=queue, timeout=WAIT))[0]
    assert (code, cause) == (597, "ActivityError")
    assert "card declined" in message


async def test_throw_on_error_false_gives_the_error_as_a_value(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(error_as_value, f"{queue}-value", task_queue=queue, timeout=WAIT) == "597 DeclinedError"


async def test_sync_functions_run_at_once_in_threads_each_in_a_context_of_its_own(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(four_threads, task_queue=queue, timeout=WAIT) == 4
        found = await client.execute(looks, workflow_id="looks", task_queue=queue, timeout=WAIT)
    assert {seen[0] for seen in found} == {"unset"}
    assert [seen[1] for seen in found] == ["a", "b", "c"]
    assert {(seen[2], seen[3], seen[4]) for seen in found} == {("looks_around", "looks", 1)}
    assert len({seen[5] for seen in found}) == 3, "each step has an idempotency key of its own"
    assert all("MainThread" not in seen[6] for seen in found)


async def test_a_hundred_at_once(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED, max_concurrent_activities=7):
        assert await client.execute(wide, 100, task_queue=queue, timeout=WAIT) == 5050


async def test_names_proxies_and_options(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, **SERVED):
        assert await client.execute(by_name, task_queue=queue, timeout=WAIT) == ["A", "B", 2, "C"]
        assert await client.execute(with_options, f"{queue}-options", task_queue=queue, timeout=WAIT) == 5
        with pytest.raises(ActivityError, match="argument 'n'") as caught:
            await client.execute(undecodable, task_queue=queue, timeout=WAIT)
        assert caught.value.code == 598


async def test_outside_a_workflow_an_activity_is_a_function() -> None:
    assert await takes_number(1) == 2
    assert (await asyncio.gather(under_another_name("x")))[0] == "X"
