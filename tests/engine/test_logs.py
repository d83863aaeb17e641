"""What a worker logs of its workflows: failed attempts, failed and parked runs, and the fields of these lines."""

import logging
from collections.abc import AsyncIterator

import pytest

from jetflow import (
    ActivityError,
    CancelledFailure,
    Client,
    RetryPolicy,
    Worker,
    WorkflowTerminatedError,
    activity,
    execute_activity,
    sleep,
    workflow,
)
from jetflow.broker.transport.server import LocalServer

from .helpers import WAIT, parked, until

TWICE = RetryPolicy(maximum_attempts=2, initial_interval="10ms")


@activity(retry=TWICE)
async def buggy(text: str) -> None:
    raise KeyError(f"no {text}\nin sight")


@activity(retry=RetryPolicy(maximum_attempts=2, initial_interval="1s"))
async def slow_to_retry() -> int:
    if activity.info().attempt == 1:
        raise ConnectionError("try again")
    return activity.info().attempt


@activity
async def tells_type() -> str:
    return activity.info().workflow_type


@workflow
async def fails(text: str) -> None:
    await buggy(text)


@workflow
async def waits_between() -> int:
    return await slow_to_retry()


@workflow
async def elsewhere(queue: str) -> None:
    await execute_activity("buggy", "thing", task_queue=queue, retry=TWICE)


@workflow
async def asks_type(queue: str | None) -> str:
    return await execute_activity(tells_type, task_queue=queue)


@workflow
async def goes_well() -> str:
    return await tells_type()


@workflow
async def sleeps() -> None:
    await sleep("1h")


@workflow
async def unknown() -> None:
    """No worker has it."""


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    workflows = [fails, waits_between, elsewhere, asks_type, goes_well, sleeps]
    async with Worker(client, task_queue=queue, workflows=workflows, activities=[buggy, slow_to_retry, tells_type]) as worker:
        yield worker


def lines(caplog: pytest.LogCaptureFixture, level: int, workflow_id: str) -> list[logging.LogRecord]:
    """The lines of this level or above that concern a workflow."""
    return [record for record in caplog.records if record.levelno >= level and getattr(record, "workflow_id", None) == workflow_id]


async def test_each_failed_attempt_and_the_failed_workflow_are_logged(
    client: Client, queue: str, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    handle = await client.start(fails, "thing", task_queue=queue, workflow_id="bad")
    with pytest.raises(ActivityError):
        await handle.result(timeout=WAIT)
    first, second, end = lines(caplog, logging.WARNING, "bad")
    assert first.levelno == second.levelno == logging.WARNING
    assert first.getMessage().startswith("workflow bad: attempt 1 of 2 of activity buggy failed: KeyError: ")
    assert "attempt 2 is due in 0.0" in first.getMessage()
    assert "\n" not in first.getMessage()
    assert second.getMessage().endswith("no attempt follows")
    assert end.levelno == logging.ERROR
    assert end.getMessage().startswith("workflow bad (fails) failed: ActivityError: ")
    for record in (first, second, end):
        fields = vars(record)
        assert (fields["workflow_id"], fields["workflow_type"], fields["run_id"], fields["task_queue"]) == ("bad", "fails", handle.run_id, queue)
    assert [vars(record)["attempt"] for record in (first, second)] == [1, 2]
    assert vars(first)["activity"] == "buggy"
    assert vars(first)["next_attempt"] is not None
    assert vars(second)["next_attempt"] is None


async def test_an_attempt_with_a_durable_backoff_is_logged_once(client: Client, queue: str, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    assert await client.execute(waits_between, task_queue=queue, workflow_id="slow") == 2
    (line,) = lines(caplog, logging.WARNING, "slow")
    assert "attempt 1 of 2 of activity slow_to_retry failed: ConnectionError: try again; attempt 2 is due in" in line.getMessage()


async def test_attempts_of_other_workers_are_logged_by_the_owner_and_by_them(
    server: LocalServer, client: Client, queue: str, worker: Worker, caplog: pytest.LogCaptureFixture
) -> None:
    far = f"{queue}-far"
    async with Client.connect(server.url) as other, Worker(other, task_queue=far, activities=[buggy]):
        handle = await client.start(elsewhere, far, task_queue=queue, workflow_id="remote")
        with pytest.raises(ActivityError):
            await handle.result(timeout=WAIT)
    found = lines(caplog, logging.WARNING, "remote")
    texts = [record.getMessage() for record in found]
    assert [text.rpartition("; ")[2] for text in texts if "attempt 2" in text[:30]] == [
        "the workflow's owner decides whether an attempt follows",
        "no attempt follows",
    ]
    assert sum("of 2 of activity buggy" in text for text in texts) == 2, "one line of the owner for each attempt"
    assert {vars(record)["workflow_type"] for record in found} == {"elsewhere"}
    assert {vars(record)["run_id"] for record in found} == {handle.run_id}


async def test_a_parked_workflow_is_an_error(client: Client, queue: str, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    handle = await client.start(unknown, task_queue=queue, workflow_id="lost")
    await parked(handle)
    (line,) = lines(caplog, logging.ERROR, "lost")
    assert (vars(line)["workflow_type"], vars(line)["run_id"]) == ("unknown", handle.run_id)


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_a_run_that_somebody_ended_is_no_error(client: Client, queue: str, worker: Worker, how: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "jetflow.worker")
    handle = await client.start(sleeps, task_queue=queue, workflow_id=how)
    await until(lambda: handle.status())
    await getattr(handle, how)("enough")
    with pytest.raises((CancelledFailure, WorkflowTerminatedError)):
        await handle.result(timeout=WAIT)
    (line,) = lines(caplog, logging.INFO, how)
    assert line.levelno == logging.INFO
    assert "enough" in line.getMessage()


async def test_success_logs_nothing(client: Client, queue: str, worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    assert await client.execute(goes_well, task_queue=queue, workflow_id="good") == "goes_well"
    assert not lines(caplog, logging.INFO, "good")


async def test_an_activity_knows_the_type_of_its_workflow(server: LocalServer, client: Client, queue: str, worker: Worker) -> None:
    far = f"{queue}-far"
    async with Client.connect(server.url) as other, Worker(other, task_queue=far, activities=[tells_type]):
        assert await client.execute(asks_type, far, task_queue=queue) == "asks_type"
    assert await client.execute(asks_type, None, task_queue=queue) == "asks_type"
