"""Activities on other workers: where they run, retries, timeouts, heartbeats, leases, limits and cancellation."""

import asyncio
import json
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.js.api import ConsumerConfig

from jetflow import (
    ActivityError,
    CancelledFailure,
    Client,
    NonRetryableError,
    RetryPolicy,
    Worker,
    activity,
    condition,
    execute_activity,
    workflow,
)
from jetflow.broker.stores.tasks import consumer_name
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from jetflow.errors import RegistrationError
from tests.chaos.harness import timeline_events

from .helpers import WAIT, dead_letters, plain_nats, until, waits_for

QUICK = RetryPolicy(maximum_attempts=3, initial_interval="10ms")
RAN: Counter[str] = Counter()
BY: dict[str, set[str]] = {}
INFOS: dict[str, list[Any]] = {}
GATES: dict[str, asyncio.Event] = {}
ENDED: dict[str, str] = {}
TOGETHER: Counter[str] = Counter()
MOST: Counter[str] = Counter()


class DeclinedError(ValueError):
    pass


def begin(key: str) -> int:
    RAN[key] += 1
    INFOS.setdefault(key, []).append(activity.info())
    return RAN[key]


@activity
async def plain(key: str, value: Any) -> Any:
    begin(key)
    return value


@activity
def in_a_thread(key: str) -> str:
    begin(key)
    return threading.current_thread().name


@activity
async def takes(key: str, seconds: float) -> int:
    count = begin(key)
    await asyncio.sleep(seconds)
    return count


@activity
async def gated(key: str) -> int:
    count = begin(key)
    try:
        await GATES.setdefault(key, asyncio.Event()).wait()
    except asyncio.CancelledError:
        ENDED[key] = "cancelled"
        raise
    return count


@activity
async def fails_until(key: str, good: int) -> int:
    begin(key)
    if activity.info().attempt < good:
        raise ConnectionError(f"attempt {activity.info().attempt}")
    return activity.info().attempt


@activity
async def declined(key: str, final: bool) -> None:
    begin(key)
    raise NonRetryableError("no use") if final else DeclinedError("card declined")


@activity
async def reports(key: str, beats: int, silent_until: int) -> list[Any]:
    """Says how far it has come; attempts before ``silent_until`` then say nothing any more."""
    begin(key)
    info = activity.info()
    for beat in range(beats):
        activity.heartbeat({"attempt": info.attempt, "beat": beat})
        await asyncio.sleep(0.02)
    if info.attempt < silent_until:
        await asyncio.Event().wait()
    return [info.attempt, info.heartbeat_details]


@activity
async def reports_and_fails(key: str, good: int) -> Any:
    begin(key)
    if activity.info().attempt < good:
        if activity.info().attempt == 1:
            activity.heartbeat("half")
        raise ConnectionError("broken")
    return activity.info().heartbeat_details


@activity
def beats_in_a_thread(key: str) -> None:
    begin(key)
    try:
        while True:
            activity.heartbeat()
            threading.Event().wait(0.01)
    except CancelledFailure as error:
        ENDED[key] = str(error)
        raise


@activity
async def counted(group: str, seconds: float) -> str:
    TOGETHER[group] += 1
    MOST[group] = max(MOST[group], TOGETHER[group])
    await asyncio.sleep(seconds)
    TOGETHER[group] -= 1
    return activity.info().workflow_id


@workflow
async def one(name: str, args: list[Any], options: dict[str, Any]) -> Any:
    """One activity with the options given."""
    retry = options.pop("retry", None)
    return await execute_activity(name, *args, retry=RetryPolicy(**retry) if retry else QUICK, **options)


@workflow
async def many(queue: str, count: int, seconds: float) -> list[int]:
    return await asyncio.gather(*(execute_activity(takes, f"{queue}-{n}", seconds, task_queue=queue) for n in range(count)))


@workflow
async def near_and_far(queue: str, count: int) -> int:
    here = [execute_activity(counted, queue, 0.02) for _ in range(count)]
    there = [execute_activity(counted, queue, 0.02, task_queue=queue) for _ in range(count)]
    return len(await asyncio.gather(*here, *there))


@workflow
async def gives_up(queue: str, key: str) -> str:
    """Stops waiting for its activity when it is told to, and goes on."""
    task = asyncio.create_task(execute_activity(gated, key, task_queue=queue))
    await condition("stop")
    task.cancel()
    await condition("end")
    return "ended"


@activity(task_queue="the-usual-place")
async def placed() -> str:
    return "from there"


@workflow
async def by_decorator() -> str:
    return await placed()


ALL = [plain, in_a_thread, takes, gated, fails_until, declined, reports, reports_and_fails, beats_in_a_thread, counted]
WORKFLOWS = [one, many, gives_up, near_and_far]


@asynccontextmanager
async def serving(url: str, queue: str, **options: Any) -> AsyncIterator[Worker]:
    """An activity worker with a connection of its own, as in another process."""
    async with Client.connect(url) as client, Worker(client, task_queue=queue, **{"activities": ALL, **options}) as worker:
        await until(lambda: worker.ready)
        yield worker


@pytest.fixture
async def owner(client: Client, queue: str) -> AsyncIterator[Worker]:
    """A worker that has the workflows and none of the activities."""
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS) as worker:
        yield worker


@pytest.fixture
def far(queue: str) -> str:
    """Another task queue."""
    return f"{queue}-far"


def _once(far: str, **options: Any) -> dict[str, Any]:
    return {"task_queue": far, "retry": {"maximum_attempts": 1}, **options}


async def run(client: Client, queue: str, name: str, *args: Any, **options: Any) -> Any:
    return await client.execute(one, name, list(args), options, task_queue=queue, timeout=WAIT)


# ---- where it runs


async def test_a_task_queue_names_whose_workers_run_it(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    async with serving(server.url, far):
        assert await run(client, queue, "plain", queue, {"a": [1, "ü"]}, task_queue=far) == {"a": [1, "ü"]}
        assert (await run(client, queue, "in_a_thread", queue, task_queue=far)).startswith("jetflow-activity")
    assert RAN[queue] == 2
    first = INFOS[queue][0]
    assert (first.activity_type, first.task_queue, first.index, first.attempt, first.heartbeat_details) == ("plain", queue, 1, 1, None)
    assert first.idempotency_key.startswith(f"{queue}/")


async def test_the_decorator_names_it_too(server: LocalServer, client: Client, queue: str) -> None:
    async with (
        Worker(client, task_queue=queue, workflows=[by_decorator], activities=[placed]),
        serving(server.url, "the-usual-place", activities=[placed]),
    ):
        assert await client.execute(by_decorator, task_queue=queue, timeout=WAIT) == "from there"
        assert [type(event).__name__ for event in await timeline_events(client, queue, (await ids(client, queue))[0])] == [
            "Started", "ActivityScheduled", "ActivityCompleted", "Completed"]  # fmt: skip


async def ids(client: Client, queue: str) -> list[str]:
    names = client.broker.names
    found = await client.broker.lane.read_many(names.state_stream, {"multi_last": [f"{names.state_prefix}{queue}.*"]}, may_lag="a test looks")
    return [message.subject.rpartition(".")[2] for message in found]


async def test_names_that_are_no_subject_tokens(server: LocalServer, client: Client, owner: Worker, queue: str) -> None:
    @activity(name="say. it > *")
    async def odd(text: str) -> str:
        return text + activity.info().workflow_id

    async with serving(server.url, f"{queue} far.off", activities=[odd]):
        handle = await client.start(one, "say. it > *", ["x "], {"task_queue": f"{queue} far.off"}, workflow_id="of mine.1", task_queue=queue)
        assert await handle.result(timeout=WAIT) == "x of mine.1"


async def test_an_activity_that_the_owner_does_not_have_waits_for_a_worker_that_has_it(server: LocalServer, client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        handle = await client.start(one, "plain", [queue, 7], {}, task_queue=queue, workflow_id="w")
        await waits_for(handle, "plain")
        record = await handle.describe()
        assert record is not None
        assert record.parked is None
        async with serving(server.url, queue):
            assert await handle.result(timeout=WAIT) == 7
    events = await timeline_events(client, queue, "w")
    assert [type(event) for event in events] == [ev.Started, ev.ActivityScheduled, ev.ActivityQueued, ev.ActivityCompleted, ev.Completed]


async def test_an_owner_that_does_not_have_a_begun_activity_hands_it_on(server: LocalServer, client: Client, queue: str) -> None:
    """The first owner runs it itself, and goes; the next one does not know it; the first comes again, as a worker of tasks."""
    async with Client.connect(server.url) as other:
        first = Worker(other, task_queue=queue, workflows=WORKFLOWS, activities=[gated], graceful_timeout="10ms")
        async with first:
            handle = await client.start(one, "gated", [queue], {}, task_queue=queue, workflow_id="w")
            await until(lambda: RAN[queue] == 1)
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS) as second:
        await until(lambda: second.partitions)
        await waits_for(handle, "gated")
        GATES[queue].set()
        async with serving(server.url, queue):
            assert await handle.result(timeout=WAIT) == 2


@pytest.mark.parametrize("before", [True, False], ids=["waits already", "comes later"])
async def test_a_worker_with_workflows_serves_tasks_too(
    server: LocalServer, client: Client, owner: Worker, queue: str, far: str, before: bool
) -> None:
    async def start() -> Any:
        return await client.start(one, "plain", [far, 1], {"task_queue": far}, task_queue=queue)

    handle = await start() if before else None
    if handle is not None:
        await waits_for(handle, "plain")
    async with serving(server.url, far, workflows=WORKFLOWS):
        handle = handle or await start()
        assert await handle.result(timeout=WAIT) == 1
        assert await run(client, queue, "plain", far, 2, task_queue=far) == 2


async def test_nothing_to_serve(client: Client, queue: str) -> None:
    with pytest.raises(RegistrationError, match="at least one workflow or activity"):
        Worker(client, task_queue=queue)


# ---- retries


@pytest.mark.parametrize("interval", ["10ms", "1100ms"])
async def test_it_is_tried_again(server: LocalServer, client: Client, owner: Worker, queue: str, far: str, interval: str) -> None:
    async with serving(server.url, far):
        retry = {"maximum_attempts": 4, "initial_interval": interval, "backoff_coefficient": 1}
        assert await run(client, queue, "fails_until", far, 3, task_queue=far, retry=retry) == 3
    assert [info.attempt for info in INFOS[far]] == [1, 2, 3]
    assert len({info.idempotency_key for info in INFOS[far]}) == 1


@pytest.mark.parametrize(
    ("name", "args", "options", "code", "executions", "cause"),
    [
        ("fails_until", [9], {}, 597, 3, "ConnectionError"),
        ("declined", [True], {}, 598, 1, "NonRetryableError"),
        ("declined", [False], {"retry": {"initial_interval": "1ms", "non_retryable": ["ValueError"]}}, 598, 1, "DeclinedError"),
        ("takes", ["not a number"], {}, 598, 1, "InvalidInputError"),
        ("gated", [], {"start_to_close_timeout": "50ms"}, 596, 3, "AttemptTimeout"),
        ("gated", [], {"heartbeat_timeout": "50ms"}, 596, 3, "HeartbeatTimeout"),
    ],
)
async def test_failures(
    server: LocalServer,
    client: Client,
    queue: str,
    far: str,
    name: str,
    args: list[Any],
    options: dict[str, Any],
    code: int,
    executions: int,
    cause: str,
) -> None:
    @workflow
    async def told(queue: str) -> list[Any]:
        chosen = {"retry": QUICK, **options}
        if isinstance(chosen["retry"], dict):
            chosen["retry"] = RetryPolicy(**chosen["retry"])
        try:
            await execute_activity(name, queue, *args, task_queue=queue, **chosen)
        except ActivityError as error:
            return [error.code, error.cause.type, error.cause.stack != ""]  # type: ignore[union-attr]
        return []

    async with Worker(client, task_queue=queue, workflows=[told]), serving(server.url, far):
        assert await client.execute(told, far, task_queue=queue, timeout=WAIT) == [code, cause, True]
    assert RAN[far] == (0 if cause == "InvalidInputError" else executions)


async def test_schedule_to_close_holds_without_any_worker(client: Client, owner: Worker, queue: str, far: str) -> None:
    handle = await client.start(one, "plain", [far, 1], {"task_queue": far, "schedule_to_close_timeout": "300ms"}, task_queue=queue)
    error = await handle.result(throw_on_error=False, timeout=WAIT)
    assert error.code == 596
    assert "schedule_to_close_timeout" in error.message
    await until(lambda: _no_tasks(client, far))


async def _no_tasks(client: Client, queue: str) -> bool:
    names = client.broker.names
    return await client.broker.lane.last_message(names.task_stream, f"{names.task_prefix}{queue}.>") is None


# ---- heartbeats


async def test_silence_ends_an_attempt_and_the_next_gets_details(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    async with serving(server.url, far):
        result = await run(client, queue, "reports", far, 3, 3, task_queue=far, heartbeat_timeout="400ms")
    assert result == [3, {"attempt": 2, "beat": 2}]
    assert [info.heartbeat_details for info in INFOS[far]] == [None, {"attempt": 1, "beat": 2}, {"attempt": 2, "beat": 2}]


async def test_locally_too(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ALL):
        assert await run(client, queue, "reports", queue, 3, 2, heartbeat_timeout="400ms") == [2, {"attempt": 1, "beat": 2}]
        assert await run(client, queue, "reports", queue, 2, 0) == [1, None]


@pytest.mark.parametrize("where", ["here", "there"])
@pytest.mark.parametrize("interval", ["10ms", "1s"])
async def test_details_outlive_silent_attempts(server: LocalServer, client: Client, queue: str, far: str, where: str, interval: str) -> None:
    retry = {"maximum_attempts": 4, "initial_interval": interval, "backoff_coefficient": 1}
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ALL), serving(server.url, far):
        options = {"task_queue": far} if where == "there" else {}
        assert await run(client, queue, "reports_and_fails", queue, 3, retry=retry, **options) == "half"


async def test_a_thread_learns_at_a_heartbeat_that_it_is_over(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    async with serving(server.url, far):
        handle = await client.start(
            one,
            "beats_in_a_thread",
            [far],
            {"task_queue": far, "start_to_close_timeout": "100ms", "retry": {"maximum_attempts": 1}},
            task_queue=queue,
        )
        error = await handle.result(throw_on_error=False, timeout=WAIT)
        assert error.code == 596
        await until(lambda: "took too long" in ENDED.get(far, ""))


# ---- leases and limits


async def test_longer_than_its_lease_and_with_a_rival_it_runs_once(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    """Three leases long; by hand ``JETFLOW_TEST_LEASE=30s JETFLOW_TEST_TAKES=45`` asks for the lease that workers have by default."""
    lease, seconds = os.environ.get("JETFLOW_TEST_LEASE", "1s"), float(os.environ.get("JETFLOW_TEST_TAKES", "3"))
    async with serving(server.url, far, activity_lease=lease), serving(server.url, far, activity_lease=lease):
        handle = await client.start(one, "takes", [far, seconds], {"task_queue": far}, task_queue=queue)
        assert await handle.result(timeout="100s") == 1
    assert RAN[far] == 1


async def test_two_hundred_over_three_workers(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    options = {"max_concurrent_activities": 10}
    async with serving(server.url, far, **options), serving(server.url, far, **options), serving(server.url, far, **options):
        assert await client.execute(many, far, 200, 0.01, task_queue=queue, timeout="60s") == [1] * 200
        assert all(RAN[f"{far}-{n}"] == 1 for n in range(200))
        await until(lambda: _no_tasks(client, far))


async def test_local_and_remote_ones_share_a_limit(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ALL, max_concurrent_activities=3):
        assert await client.execute(near_and_far, queue, 20, task_queue=queue, timeout=WAIT) == 40
    assert MOST[queue] == 3


async def test_a_task_is_not_kept_waiting_by_a_worker_that_is_full(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    """It pulls for several activities with one free place; what it cannot begin goes to whoever can."""
    options = {"max_concurrent_activities": 1, "activity_lease": "1500ms"}
    async with serving(server.url, far, **options) as full:
        blocker = await client.start(one, "gated", [far], {"task_queue": far}, task_queue=queue)
        await until(lambda: RAN[far] == 1)
        second = await client.start(one, "plain", [far, "second"], {"task_queue": far}, task_queue=queue)
        await waits_for(second, "plain")
        async with serving(server.url, far, **options):
            assert await second.result(timeout=WAIT) == "second"
        assert full.ready
        GATES[far].set()
        assert await blocker.result(timeout=WAIT) == 1


async def test_a_worker_that_stops_lets_it_finish_or_gives_it_back(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    async with serving(server.url, far) as first:
        finishing = await client.start(one, "takes", [far, 0.5], {"task_queue": far}, task_queue=queue)
        await until(lambda: RAN[far] == 1)
        await first.stop()
        assert await finishing.result(timeout=WAIT) == 1
    async with serving(server.url, far, graceful_timeout="10ms") as second:
        given_back = await client.start(one, "gated", [f"{far}-2"], {"task_queue": far}, task_queue=queue)
        await until(lambda: RAN[f"{far}-2"] == 1)
        await second.stop()
        assert ENDED[f"{far}-2"] == "cancelled"
    GATES[f"{far}-2"].set()
    async with serving(server.url, far):  # long before the lease of 30 s is over
        assert await given_back.result(timeout="20s") == 2


# ---- nobody waits any more


@pytest.mark.parametrize("how", ["cancel", "terminate", "give up"])
async def test_an_attempt_is_cancelled_when_nobody_waits_for_it(
    server: LocalServer, client: Client, owner: Worker, queue: str, far: str, how: str
) -> None:
    async with serving(server.url, far):
        handle = await client.start(gives_up, far, far, task_queue=queue)
        await until(lambda: RAN[far] == 1)
        if how == "cancel":
            await handle.cancel()
        elif how == "terminate":
            await handle.terminate()
        else:
            await handle.signal("stop")
        await until(lambda: ENDED.get(far) == "cancelled")
        await until(lambda: _no_tasks(client, far))
        if how == "give up":
            await handle.signal("end")
            assert await handle.result(timeout=WAIT) == "ended"
    assert RAN[far] == 1


async def test_a_task_not_begun_is_taken_back(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    handle = await client.start(one, "plain", [far, 1], {"task_queue": far}, task_queue=queue)
    await waits_for(handle, "plain")
    assert not await _no_tasks(client, far)
    await handle.cancel()
    assert isinstance(await handle.result(throw_on_error=False, timeout=WAIT), CancelledFailure)
    await until(lambda: _no_tasks(client, far))


async def test_a_thread_is_told_at_its_next_heartbeat(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    async with serving(server.url, far):
        handle = await client.start(one, "beats_in_a_thread", [far], {"task_queue": far}, task_queue=queue)
        await until(lambda: RAN[far] == 1)
        await handle.cancel()
        await until(lambda: "no longer waits" in ENDED.get(far, ""))


# ---- owners that come and go


async def test_an_outcome_waits_for_the_next_owner(server: LocalServer, client: Client, queue: str, far: str) -> None:
    async with Client.connect(server.url) as other, Worker(other, task_queue=queue, workflows=WORKFLOWS):
        handle = await client.start(one, "gated", [far], {"task_queue": far}, task_queue=queue, workflow_id="w")
        await waits_for(handle, "gated")
    async with serving(server.url, far):
        await until(lambda: RAN[far] == 1)
        GATES[far].set()
        await until(lambda: _no_tasks(client, far))
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS):
        assert await handle.result(timeout=WAIT) == 1
    assert RAN[far] == 1


async def test_what_nobody_asked_for_changes_nothing(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    """Outcomes of other runs, attempts and operations, repeated ones, and such that are none."""
    handle = await client.start(one, "gated", [far], {"task_queue": far}, task_queue=queue, workflow_id="w")
    await waits_for(handle, "gated")
    lane, run_id = client.broker.lane, int(handle.run_id or 0)

    async def tell(command: str, body: bytes) -> None:
        await lane.publish(f"jetflow.{queue}.w.{command}", body)

    for run_number, attempt in ((run_id - 1, 1), (run_id + 1, 1), (run_id, 0), (run_id, 2)):
        await tell("activity.1", b'{"run":%d,"attempt":%d,"result":"forged"}' % (run_number, attempt))
    await tell("activity.2", b'{"run":%d,"attempt":1}' % run_id)
    wrong = [
        ("activity.1", b"no json"),
        ("activity.1", b'{"attempt":1}'),
        ("activity.x", b"{}"),
        ("activity", b"{}"),
        ("activity.1", b'{"run":1}\xff'),
    ]
    for command, body in wrong:
        await tell(command, body)
    await until(lambda: _count(client, queue, len(wrong)))
    async with serving(server.url, far):
        GATES.setdefault(far, asyncio.Event()).set()
        assert await handle.result(timeout=WAIT) == 1
    await tell("activity.1", b'{"run":%d,"attempt":1,"result":"late"}' % run_id)
    assert await handle.result(timeout=WAIT) == 1


async def _count(client: Client, queue: str, wanted: int) -> bool:
    return len(await dead_letters(client, queue)) == wanted


async def test_a_task_that_cannot_be_read_is_a_dead_letter(server: LocalServer, client: Client, queue: str, far: str) -> None:
    async with serving(server.url, far):
        await client.broker.lane.publish(f"jetflow_task.{far}.plain.q.w.1.1.1", b"no json")
        await client.broker.lane.publish(
            f"jetflow_task.{far}.plain.q.w.1.2.1",
            b'{"workflow_id":"w","task_queue":"q","run":1,"index":2,"attempt":1,"activity":"plain","args":["x",1],"reply":"$JS.API.STREAM.DELETE.JETFLOW"}',
        )
        await until(lambda: _count(client, far, 2))
        await until(lambda: _no_tasks(client, far))


async def test_a_task_comes_again_and_is_not_run_again(server: LocalServer, client: Client, owner: Worker, queue: str, far: str) -> None:
    """Somebody publishes the outcome and dies before the ack."""
    handle = await client.start(one, "plain", [far, 1], {"task_queue": far}, task_queue=queue)
    await waits_for(handle, "plain")
    async with plain_nats(server.url) as nats:
        config = ConsumerConfig(ack_wait=0.5)
        tasks = await nats.jetstream().pull_subscribe(
            f"jetflow_task.{far}.plain.>", durable=consumer_name(far, "plain"), stream="JETFLOW_TASKS", config=config
        )
        (message,) = await tasks.fetch(1, timeout=20)
        task = json.loads(message.data)
        await nats.jetstream().publish(task["reply"], json.dumps({"run": task["run"], "attempt": 1, "result": "by another"}).encode())
    assert await handle.result(timeout=WAIT) == "by another"
    async with serving(server.url, far):
        await until(lambda: _no_tasks(client, far))
    assert RAN[far] == 0
