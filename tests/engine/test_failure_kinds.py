"""What kind of failure it is goes by the engine's mark: no code and no name of a user's own type can pose as one."""

import asyncio
import json
from typing import Any

import pytest
from nats.js.api import ConsumerConfig

from jetflow import (
    ActivityError,
    ChildWorkflowError,
    Client,
    FailureError,
    NonRetryableError,
    RetryPolicy,
    Worker,
    WorkflowFailedError,
    WorkflowTerminatedError,
    activity,
    condition,
    execute_activity,
    execute_child,
    sleep,
    workflow,
)
from jetflow.broker.stores.tasks import consumer_name
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from tests.chaos.harness import timeline_events

from .helpers import WAIT, plain_nats, waits_for

TWICE = {"maximum_attempts": 2, "initial_interval": "1ms"}
QUICK = RetryPolicy(**TWICE)  # type: ignore[arg-type]
CODES = [404, 409, 410, 500, 596, 597, 598, 599]
NAMES = ["WorkflowTerminatedError", "CancelledFailure", "ActivityError", "ChildWorkflowError", "AttemptTimeout", "NonRetryableError"]
ATTEMPTS: dict[str, int] = {}


def disguised(name: str, code: int) -> Exception:
    """An error of a user's own that has an engine's code and the name of one of its types."""
    error = type(name, (Exception,), {})(f"{name} {code}")
    error.code = code
    return error


@activity(retry=QUICK)
async def fails_as(key: str, name: str, code: int) -> None:
    ATTEMPTS[key] = ATTEMPTS.get(key, 0) + 1
    raise disguised(name, code)


@activity(retry=QUICK)
async def declines(code: int) -> None:
    error = NonRetryableError("no")
    error.code = code  # type: ignore[attr-defined]
    raise error


@activity(retry=QUICK, start_to_close_timeout="20ms")
async def takes_too_long() -> None:
    await asyncio.sleep(20)


@workflow
async def told_of(name: str, args: list[Any], options: dict[str, Any]) -> list[Any]:
    """Kind and code of an activity's failure; kind, code and class of its cause."""
    try:
        await execute_activity(name, *args, **(options | {"retry": RetryPolicy(**options["retry"])}))
    except ActivityError as error:
        cause = error.cause
        assert isinstance(cause, FailureError)
        return [error.kind, error.code, cause.kind, cause.code, type(cause).__name__, cause.type]
    raise AssertionError("it has not failed")


@workflow
async def raises(name: str, code: int) -> None:
    raise disguised(name, code)


@workflow
async def parent(name: str, code: int) -> list[Any]:
    try:
        await execute_child(raises, name, code)
    except ChildWorkflowError as error:
        cause = error.cause
        assert isinstance(cause, FailureError)
        return [error.kind, error.code, cause.kind, cause.code, type(cause).__name__, cause.type]
    raise AssertionError("it has not failed")


@workflow
async def lets_pass(name: str, code: int) -> None:
    await fails_as("passed", name, code)


@workflow
async def waits() -> None:
    await condition("never")


@workflow
async def cancelled_in_sleep() -> None:
    await sleep("1h")


WORKFLOWS = [told_of, raises, parent, lets_pass, waits, cancelled_in_sleep]


@pytest.mark.parametrize("name", NAMES)
async def test_a_workflows_error(client: Client, queue: str, name: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        for code in CODES:
            handle = await client.start(raises, name, code, task_queue=queue)
            with pytest.raises(WorkflowFailedError) as caught:
                await handle.result(timeout=WAIT)
            error = caught.value
            assert type(error) is WorkflowFailedError
            assert (error.kind, error.code, error.type, error.message) == ("error", code, name, f"{name} {code}")
            record = await handle.describe()
            assert record is not None
            assert record.status == "failed"
            assert record.failure is not None
            assert (record.failure.kind, record.failure.code) == ("error", code)
            execution = await handle.export_execution(extended=True)
            assert execution.events[-1].event_type == "workflow_execution_failed"
            assert execution.failure is not None
            assert (execution.failure.kind, execution.failure.code) == ("error", code)


@pytest.mark.parametrize("name", NAMES)
async def test_a_childs_error(client: Client, queue: str, name: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        for code in CODES:
            told = await client.execute(parent, name, code, task_queue=queue, timeout=WAIT)
            assert told == ["child", code, "error", code, "WorkflowFailedError", name]


@pytest.mark.parametrize("name", NAMES)
async def test_an_activitys_error(client: Client, queue: str, name: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[fails_as]):
        for code in CODES:
            key = f"{queue} {code}"
            handle = await client.start(told_of, "fails_as", [key, name, code], {"retry": TWICE}, task_queue=queue)
            assert await handle.result(timeout=WAIT) == ["exhausted", 597, "error", code, "OriginalError", name]
            assert ATTEMPTS[key] == 2
            execution = await handle.export_execution()
            (failed,) = [event.attributes for event in execution.events if event.event_type == "activity_task_failed"]
            assert (failed.failure_kind, failed.failure.kind, failed.failure.code) == ("exhausted", "error", code)  # type: ignore[union-attr]
            with pytest.raises(ActivityError) as caught:
                await client.execute(lets_pass, name, code, task_queue=queue, timeout=WAIT)
            assert (caught.value.kind, caught.value.code) == ("exhausted", 597)


async def test_the_same_from_another_worker(server: LocalServer, client: Client, queue: str) -> None:
    far = f"{queue}-far"
    async with (
        Worker(client, task_queue=queue, workflows=WORKFLOWS),
        Client.connect(server.url) as other,
        Worker(other, task_queue=far, activities=[fails_as, declines, takes_too_long]),
    ):
        options = {"task_queue": far, "retry": TWICE}
        for code in CODES:
            for name in NAMES:
                told = await client.execute(told_of, "fails_as", ["far", name, code], options, task_queue=queue, timeout=WAIT)
                assert told == ["exhausted", 597, "error", code, "OriginalError", name]
        told = await client.execute(told_of, "declines", [596], options, task_queue=queue, timeout=WAIT)
        assert told == ["fatal", 598, "error", 598, "OriginalError", "NonRetryableError"]
        limited = options | {"start_to_close_timeout": "20ms"}
        told = await client.execute(told_of, "takes_too_long", [], limited, task_queue=queue, timeout=WAIT)
        assert told == ["timed_out", 596, "timed_out", 596, "OriginalError", "AttemptTimeout"]


async def test_an_outcome_by_nats_pub(server: LocalServer, client: Client, queue: str) -> None:
    """Only the flag says that it was a timeout, and only the flag that it is final."""
    far = f"{queue}-far"
    cases = [({"type": name, "code": code, "cause": {"type": name, "code": code}}, "exhausted", code) for name in NAMES for code in CODES]
    cases += [({"code": 418, "timed_out": True}, "timed_out", 418), ({"code": 418, "non_retryable": True}, "fatal", 418), ({}, "exhausted", 597)]
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS), plain_nats(server.url) as nats:
        stream = nats.jetstream()
        once = {"task_queue": far, "retry": {"maximum_attempts": 1}}
        first = await client.start(told_of, "plain", [], once, task_queue=queue)
        await waits_for(first, "plain")
        tasks = await stream.pull_subscribe(
            f"jetflow_task.{far}.plain.>", durable=consumer_name(far, "plain"), stream="JETFLOW_TASKS", config=ConsumerConfig(ack_wait=60)
        )
        for failure, kind, code in cases:
            handle, first = first or await client.start(told_of, "plain", [], once, task_queue=queue), None
            (message,) = await tasks.fetch(1, timeout=20)
            task = json.loads(message.data)
            await stream.publish(task["reply"], json.dumps({"run": task["run"], "attempt": 1, "failure": failure}).encode())
            await message.ack()
            told = await handle.result(timeout=WAIT)
            assert told[:5] == [kind, {"exhausted": 597, "timed_out": 596, "fatal": 598}[kind], "error", code, "OriginalError"], failure
            (failed,) = [event for event in await timeline_events(client, queue, handle.workflow_id) if isinstance(event, ev.ActivityFailed)]
            assert failed.failure.cause is None or failed.failure.cause.kind == "error"


async def test_the_engines_own(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=[declines, takes_too_long]):
        assert await client.execute(told_of, "declines", [1], {"retry": TWICE}, task_queue=queue, timeout=WAIT) == [
            "fatal", 598, "error", 598, "OriginalError", "NonRetryableError",
        ]  # fmt: skip
        limited = {"retry": TWICE, "start_to_close_timeout": "20ms"}
        assert await client.execute(told_of, "takes_too_long", [], limited, task_queue=queue, timeout=WAIT) == [
            "timed_out", 596, "timed_out", 596, "OriginalError", "AttemptTimeout",
        ]  # fmt: skip
        handle = await client.start(waits, task_queue=queue)
        await handle.terminate("enough", code=598, expire="1h")
        with pytest.raises(WorkflowTerminatedError) as caught:
            await handle.result(timeout=WAIT)
        assert (caught.value.kind, caught.value.code) == ("terminated", 598)
        execution = await handle.export_execution()
        assert execution.failure is not None
        assert execution.failure.kind == "terminated"
        handle = await client.start(cancelled_in_sleep, task_queue=queue)
        await waits_for(handle, "")
        await handle.cancel()
        error = await handle.result(throw_on_error=False, timeout=WAIT)
        assert isinstance(error, FailureError)
        assert (error.kind, error.code, error.type) == ("cancelled", 598, "CancelledFailure")
