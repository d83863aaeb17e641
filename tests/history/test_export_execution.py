"""Histories of real runs, against what a person would write down."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from jetflow import (
    CancellationScope,
    CancelledFailure,
    ChildWorkflowError,
    Client,
    InvalidInputError,
    RetryPolicy,
    Worker,
    WorkflowHandle,
    WorkflowNotFoundError,
    WorkflowTerminatedError,
    activity,
    condition,
    continue_as_new,
    execute_child,
    patched,
    search,
    set_update_handler,
    side_effect,
    signal,
    sleep,
    start_child,
    workflow,
    workflow_info,
)
from jetflow.broker.stores.timeline import Timeline
from jetflow.core.ids import to_token
from jetflow.history.execution import WorkflowExecution
from tests.engine.helpers import WAIT, until, waits_for
from tests.history.checks import check_events, check_execution, check_summary, story

gates: dict[str, asyncio.Event] = {}
"""What an activity of this process waits for, by the name it was given."""


@activity
async def add(a: int, b: int) -> int:
    return a + b


@activity
async def weigh(text: str, n: int) -> int:
    return len(text) + n


@activity
async def ltlog(text: str) -> None:
    """A system activity, by its name."""


@activity
async def gated(name: str) -> str:
    await gates[name].wait()
    return name


@activity(retry=RetryPolicy(initial_interval="10ms", maximum_attempts=3))
async def at_third(n: int) -> int:
    if activity.info().attempt < 3:
        raise ConnectionError("not yet")
    return n


@activity(retry=RetryPolicy(initial_interval="1s", backoff_coefficient=1, maximum_attempts=2))
async def later(n: int) -> int:
    if activity.info().attempt < 2:
        raise ConnectionError("later")
    return n


@activity(retry=RetryPolicy(initial_interval="1ms", maximum_attempts=2))
async def never(n: int) -> int:
    raise ValueError(f"no {n}")


@workflow
async def steps(n: int) -> int:
    await ltlog("begins")
    total = 0
    for i in range(n):
        total = await add(total, i)
    return total


@workflow
async def retries() -> int:
    return await at_third(1) + await later(2) + await never(3)


@workflow
async def parallel() -> list[str]:
    return list(await asyncio.gather(gated("a"), gated("b"), gated("c")))


@workflow
async def fails(why: str) -> None:
    await add(1, 1)
    raise ValueError(why)


@workflow
async def has_a_failing_child() -> str:
    try:
        await execute_child(fails, "broken", workflow_id=f"{workflow_info().workflow_id}-child")
    except ChildWorkflowError as error:
        return error.__cause__.failure.message  # type: ignore[union-attr]
    return "fine"


@workflow
async def race(timeout: str) -> Any:
    """A signal against a timer, twice: with a timeout of its own, and as asyncio has it."""
    first = await condition("go", timeout=timeout)
    try:
        async with asyncio.timeout(0.05 if first is False else 60):
            return first, await condition("again")
    except TimeoutError:
        return first, "too late"


@workflow
async def cleans_up() -> str:
    try:
        await sleep("1h")
    except CancelledFailure:
        async with CancellationScope.non_cancellable():
            await add(1, 2)
        raise
    return "slept"


@workflow
async def waits() -> Any:
    await add(1, 1)
    return await condition("go")


@workflow
async def three_times(n: int) -> str:
    await add(n, 0)
    if n < 3:
        continue_as_new(n + 1)
    return await condition("end")


@workflow
async def nested(depth: int, path: str) -> int:
    if depth == 1:
        return await add(1, 0)
    kids = [execute_child(nested, depth - 1, f"{path}{side}", workflow_id=f"{path}{side}") for side in "lr"[: 2 if depth > 4 else 1]]
    return sum(await asyncio.gather(*kids)) + 1


@workflow
async def leaves_a_child(child_id: str) -> str:
    await start_child(waits, workflow_id=child_id, parent_close_policy="abandon")
    return "left"


@workflow
async def keeps_going(n: int) -> Any:
    for i in range(n):
        await add(i, i)
    return await condition("go")


@workflow
async def heavy(count: int) -> int:
    """Decides more at once than one message holds."""
    text = "x" * 400_000
    return sum(await asyncio.gather(*(weigh(text, n) for n in range(count))))


@workflow
async def extras() -> int:
    given: list[int] = []

    async def take(n: int) -> int:
        given.append(await add(n, 0))
        return len(given)

    async def refuse(n: int) -> int:
        raise ValueError("no")

    set_update_handler("take", take)
    set_update_handler("refuse", refuse)
    patched("v2")
    side_effect(lambda: 7)
    search().set("colour", "red")
    await signal("somebody", "hello", {"n": 1})
    await condition(lambda: len(given) > 0)
    return given[0]


WORKFLOWS = [
    steps,
    retries,
    parallel,
    fails,
    has_a_failing_child,
    race,
    cleans_up,
    waits,
    three_times,
    nested,
    leaves_a_child,
    keeps_going,
    heavy,
    extras,
]
ACTIVITIES = [add, weigh, ltlog, gated, at_third, later, never]


@pytest.fixture
async def worker(client: Client, queue: str) -> AsyncIterator[Worker]:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ACTIVITIES) as worker:
        yield worker


async def execution_of(handle: WorkflowHandle, **options: Any) -> WorkflowExecution:
    execution = await handle.export_execution(**options)
    check_execution(execution)
    return execution


async def test_a_run_that_completes(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(steps, 2, workflow_id="s 1", task_queue=queue)
    assert await handle.result(timeout=WAIT) == 1
    execution = await execution_of(handle)
    assert story(execution) == [
        "1 workflow_execution_started steps input [2]",
        "2 activity_task_scheduled ltlog",
        "3 activity_task_completed ltlog <2 result null",
        "4 activity_task_scheduled add",
        "5 activity_task_completed add <4 result 0",
        "6 activity_task_scheduled add",
        "7 activity_task_completed add <6 result 1",
        "8 workflow_execution_completed result 1",
    ]
    assert (execution.workflow_id, execution.workflow_type, execution.task_queue, execution.run_id) == ("s 1", "steps", queue, handle.run_id)
    assert (execution.status, execution.result, execution.failure) == ("completed", 1, None)
    assert msgspec.to_builtins(execution.summary) == {
        "total_events": 8,
        "activities": {"total": 3, "completed": 3, "failed": 0, "system": 1, "user": 2},
        "child_workflows": {"total": 0, "completed": 0, "failed": 0},
        "timers": 0,
        "signals": 0,
    }
    left_out = {"children", "parent_workflow_id", "origin_id", "stream_history", "next_event"}
    assert not left_out & set(msgspec.to_builtins(execution))
    record = await handle.describe()
    assert record is not None
    assert execution.duration_ms == (record.closed_at or 0) - record.started_at


async def test_inputs_and_results_come_and_go_with_their_options(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(steps, 1, task_queue=queue)
    await handle.result(timeout=WAIT)
    assert story(await execution_of(handle, enrich_inputs=True))[3:5] == [
        "4 activity_task_scheduled add input [0,0]",
        "5 activity_task_completed add <4 input [0,0] result 0",
    ]
    bare = await execution_of(handle, omit_results=True, exclude_system=True)
    assert story(bare) == [
        "1 workflow_execution_started steps",
        "2 activity_task_scheduled add",
        "3 activity_task_completed add <2",
        "4 workflow_execution_completed",
    ]
    assert bare.result is None
    assert bare.summary.activities.system == 0
    both = await execution_of(handle, omit_results=True, enrich_inputs=True)
    assert story(both)[0] == "1 workflow_execution_started steps input [1]"


async def test_retries(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(retries, task_queue=queue)
    with pytest.raises(Exception, match="no 3"):
        await handle.result(timeout=WAIT)
    execution = await execution_of(handle)
    assert story(execution) == [
        "1 workflow_execution_started retries input []",
        "2 activity_task_scheduled at_third",
        "3 activity_task_completed at_third <2 attempt 3 result 1",
        "4 activity_task_scheduled later",
        "5 activity_task_completed later <4 attempt 2 result 2",
        "6 activity_task_scheduled never",
        "7 activity_task_failed never <6 attempt 2 failure ValueError: no 3",
        "8 workflow_execution_failed failure ActivityError: activity 'never' failed after 2 attempts: ValueError: no 3",
    ]
    assert execution.status == "failed"
    assert execution.failure is not None
    assert execution.failure.code == 597
    assert (execution.summary.activities.completed, execution.summary.activities.failed) == (2, 1)
    extended = await execution_of(handle, extended=True)
    assert story(extended)[2:5] == [
        "3 activity_task_retrying at_third <2 failure ConnectionError: not yet",
        "4 activity_task_retrying at_third <2 attempt 2 failure ConnectionError: not yet",
        "5 activity_task_completed at_third <2 attempt 3 result 1",
    ]
    assert story(extended)[6] == "7 activity_task_retrying later <6 failure ConnectionError: later"
    assert extended.events[6].attributes.next_attempt_time > extended.events[6].event_time  # type: ignore[union-attr]


async def test_parallel_activities(client: Client, queue: str, worker: Worker) -> None:
    gates.update({name: asyncio.Event() for name in "abc"})
    handle = await client.start(parallel, task_queue=queue)
    for done, name in enumerate("bca"):
        await until(lambda done=done: _has_events(handle, 4 + done))
        gates[name].set()
    assert await handle.result(timeout=WAIT) == ["a", "b", "c"]
    assert story(await execution_of(handle)) == [
        "1 workflow_execution_started parallel input []",
        "2 activity_task_scheduled gated",
        "3 activity_task_scheduled gated",
        "4 activity_task_scheduled gated",
        '5 activity_task_completed gated <3 result "b"',
        '6 activity_task_completed gated <4 result "c"',
        '7 activity_task_completed gated <2 result "a"',
        '8 workflow_execution_completed result ["a","b","c"]',
    ]


async def _has_events(handle: WorkflowHandle, count: int) -> bool:
    try:
        return len((await handle.export_execution()).events) >= count
    except WorkflowNotFoundError:
        return False


async def test_what_is_pending_has_its_first_event(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(waits, task_queue=queue)
    await waits_for(handle, "go")
    execution = await execution_of(handle)
    assert story(execution)[3:] == ["4 signal_wait_started go"]
    assert (execution.status, execution.close_time, execution.result) == ("running", None, None)
    await handle.signal("go", [1])
    await handle.result(timeout=WAIT)
    after = await execution_of(handle)
    assert story(after)[3:] == [
        "4 signal_wait_started go",
        "5 workflow_execution_signaled go <4 input [1]",
        "6 workflow_execution_completed result [1]",
    ]
    assert after.events[:4] == execution.events


async def test_a_failed_child(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(has_a_failing_child, workflow_id="p", task_queue=queue)
    await handle.result(timeout=WAIT)
    execution = await execution_of(handle, mode="verbose", include_lineage=True, enrich_inputs=True)
    assert story(execution) == [
        "1 workflow_execution_started has_a_failing_child input []",
        '2 child_workflow_execution_started fails input ["broken"]',
        "3 child_workflow_execution_failed p-child <2 failure ValueError: broken",
        '4 workflow_execution_completed result "broken"',
    ]
    [child] = execution.children  # type: ignore[misc]
    assert story(child)[-1] == "4 workflow_execution_failed failure ValueError: broken"
    assert (child.status, child.workflow_id, child.workflow_type) == ("failed", "p-child", "fails")
    assert (child.parent_workflow_id, child.origin_id) == ("p", "p")
    assert (execution.parent_workflow_id, execution.origin_id) == (None, None)
    assert msgspec.to_builtins(execution)["parent_workflow_id"] is None
    alone = await execution_of(client.get_handle("p-child", queue), include_lineage=True)
    assert (alone.parent_workflow_id, alone.origin_id) == ("p", "p")
    assert story(child) == story(await execution_of(client.get_handle("p-child", queue), enrich_inputs=True))
    assert execution.summary.child_workflows.failed == 1


async def test_a_signal_that_comes_before_the_timer(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(race, "1m", task_queue=queue)
    await waits_for(handle, "go")
    await handle.signal("go", 1)
    await waits_for(handle, "again")
    await handle.signal("again", 2)
    assert await handle.result(timeout=WAIT) == [1, 2]
    assert story(await execution_of(handle)) == [
        '1 workflow_execution_started race input ["1m"]',
        "2 signal_wait_started go",
        "3 workflow_execution_signaled go <2 input 1",
        "4 timer_started",
        "5 signal_wait_started again",
        "6 workflow_execution_signaled again <5 input 2",
        "7 workflow_execution_completed result [1,2]",
    ]
    extended = await execution_of(handle, extended=True)
    assert "7 timer_cancelled <4" in story(extended)
    assert extended.events[1].attributes.timeout_ms == 60_000  # type: ignore[union-attr]
    assert extended.events[3].attributes.duration_ms == 60_000  # type: ignore[union-attr]


async def test_a_timer_that_comes_before_the_signal(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(race, "50ms", task_queue=queue)
    assert await handle.result(timeout=WAIT) == [False, "too late"]
    execution = await execution_of(handle)
    assert story(execution)[1:] == [
        "2 signal_wait_started go",
        "3 timer_started",
        "4 signal_wait_started again",
        "5 timer_fired <3",
        '6 workflow_execution_completed result [false,"too late"]',
    ]
    assert execution.summary.signals == 0
    assert [line for line in story(await execution_of(handle, extended=True)) if "timed_out" in line or "cancelled" in line] == [
        "3 signal_wait_timed_out go <2",
        "7 signal_wait_cancelled again <5",
    ]


async def test_cancel_with_cleanup(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(cleans_up, task_queue=queue)
    await until(lambda: _has_events(handle, 2))
    await handle.cancel("enough")
    with pytest.raises(CancelledFailure):
        await handle.result(timeout=WAIT)
    execution = await execution_of(handle, extended=True)
    assert story(execution) == [
        "1 workflow_execution_started cleans_up input []",
        "2 timer_started",
        "3 workflow_execution_cancel_requested",
        "4 activity_task_scheduled add",
        "5 activity_task_completed add <4 result 3",
        "6 workflow_execution_failed failure CancelledFailure: Workflow cancelled: enough",
    ]
    assert execution.events[2].attributes.reason == "enough"  # type: ignore[union-attr]
    assert execution.status == "failed"
    assert "3 activity_task_scheduled add" in story(await execution_of(handle))


async def test_terminate(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(waits, workflow_id="t", task_queue=queue)
    await waits_for(handle, "go")
    await handle.terminate("stuck", expire="1h")
    with pytest.raises(WorkflowTerminatedError):
        await handle.result(timeout=WAIT)
    basic = await execution_of(handle)
    assert story(basic)[3:] == [
        "4 signal_wait_started go",
        "5 workflow_execution_failed failure WorkflowTerminatedError: workflow 't' was terminated: stuck",
    ]
    assert basic.status == "failed"
    assert basic.failure is not None
    assert basic.failure.code == 410
    extended = await execution_of(handle, extended=True)
    assert extended.events[-1].event_type == "workflow_execution_terminated"
    assert extended.events[-1].attributes.reason == "stuck"  # type: ignore[union-attr]


async def test_continue_as_new(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(three_times, 1, task_queue=queue)
    await waits_for(handle, "end")
    await handle.signal("end", "over")
    assert await handle.result(timeout=WAIT) == "over"
    execution = await execution_of(handle)
    assert story(execution) == [
        "1 workflow_execution_started three_times input [1]",
        "2 activity_task_scheduled add",
        "3 activity_task_completed add <2 result 1",
        "4 activity_task_scheduled add",
        "5 activity_task_completed add <4 result 2",
        "6 activity_task_scheduled add",
        "7 activity_task_completed add <6 result 3",
        "8 signal_wait_started end",
        '9 workflow_execution_signaled end <8 input "over"',
        '10 workflow_execution_completed result "over"',
    ]
    assert [event.attributes.execution_index for event in execution.events[1:9]] == [1, 1, 2, 2, 3, 3, 4, 4]  # type: ignore[union-attr]
    extended = await execution_of(handle, extended=True)
    assert [line for line in story(extended) if "continued" in line] == [
        "4 workflow_execution_continued_as_new three_times input [2]",
        "7 workflow_execution_continued_as_new three_times input [3]",
    ]


def paths(execution: WorkflowExecution) -> list[str]:
    assert execution.children is not msgspec.UNSET
    return [execution.workflow_id, *(path for child in execution.children for path in paths(child))]


async def test_children_to_depth_six(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(nested, 6, "n", workflow_id="n", task_queue=queue)
    assert await handle.result(timeout=WAIT) == 19
    whole = await execution_of(handle, mode="verbose", max_depth=10)
    legs = ["nll", "nlll", "nllll", "nlllll"], ["nrl", "nrll", "nrlll", "nrllll"]
    assert paths(whole)[:6] == ["n", "nl", *legs[0]]
    assert len(paths(whole)) == len(set(paths(whole))) == 19
    assert set(legs[1]) <= set(paths(whole))
    assert whole.summary.child_workflows == msgspec.convert({"total": 2, "completed": 2, "failed": 0}, type(whole.summary.child_workflows))
    by_depth = {depth: [len(path) for path in paths(await execution_of(handle, mode="verbose", max_depth=depth))] for depth in (1, 2, 5, 6)}
    assert by_depth[1] == [1]
    assert by_depth[2] == [1, 2, 2]
    assert max(by_depth[5]) == 5
    assert max(by_depth[6]) == 6
    default = await execution_of(handle, mode="verbose")
    assert paths(default) == paths(await execution_of(handle, mode="verbose", max_depth=5))
    assert (await execution_of(handle)).children is msgspec.UNSET


async def test_a_child_id_that_somebody_else_has_is_not_nested(client: Client, queue: str, worker: Worker) -> None:
    other = await client.start(waits, workflow_id="kid", task_queue=queue)
    await waits_for(other, "go")
    handle = await client.start(leaves_a_child, "kid", workflow_id="p", task_queue=queue)
    with pytest.raises(ChildWorkflowError):
        await handle.result(timeout=WAIT)
    execution = await execution_of(handle, mode="verbose")
    assert execution.summary.child_workflows.failed == 1
    assert execution.children == []


async def test_a_child_that_goes_on(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(leaves_a_child, "kid", task_queue=queue)
    assert await handle.result(timeout=WAIT) == "left"
    await waits_for(client.get_handle("kid", queue), "go")
    execution = await execution_of(handle, mode="verbose")
    assert story(execution) == [
        '1 workflow_execution_started leaves_a_child input ["kid"]',
        "2 child_workflow_execution_started waits",
        '3 workflow_execution_completed result "left"',
    ]
    assert execution.events[1].attributes.awaited is False  # type: ignore[union-attr]
    assert [child.status for child in execution.children] == ["running"]  # type: ignore[union-attr]
    accepted = (await execution_of(handle, extended=True)).events[2].attributes
    assert accepted.run_id == (await execution_of(client.get_handle("kid", queue))).run_id  # type: ignore[union-attr]


async def test_early_signals(client: Client, queue: str, worker: Worker) -> None:
    handle = client.get_handle("e", queue)
    await handle.signal("go", {"early": 1})
    await client.start(waits, workflow_id="e", task_queue=queue)
    assert await handle.result(timeout=WAIT) == {"early": 1}
    assert story(await execution_of(handle))[3:] == [
        "4 signal_wait_started go",
        '5 workflow_execution_signaled go <4 input {"early":1}',
        '6 workflow_execution_completed result {"early":1}',
    ]


async def test_the_extended_set(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(extras, task_queue=queue)
    with pytest.raises(Exception, match="no"):
        await handle.update("refuse", 1, update_id="first")
    assert await handle.update("take", 4, update_id="second") == 1
    assert await handle.result(timeout=WAIT) == 4
    lines = story(await execution_of(handle, extended=True))
    assert lines[1:4] == ["2 workflow_execution_patched v2", "3 side_effect_recorded", '4 signal_sent hello input {"n":1}']
    assert lines[4:] == [
        "5 workflow_execution_update_accepted refuse input [1]",
        "6 workflow_execution_update_failed <5 failure ValueError: no",
        "7 workflow_execution_update_accepted take input [4]",
        "8 activity_task_scheduled add",
        "9 activity_task_completed add <8 result 4",
        "10 workflow_execution_update_completed <7 result 1",
        "11 workflow_execution_completed result 4",
    ]
    assert [line.split()[1] for line in story(await execution_of(handle))] == [
        "workflow_execution_started",
        "activity_task_scheduled",
        "activity_task_completed",
        "workflow_execution_completed",
    ]


# ---- where it is read from


async def test_pages(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(steps, 20, task_queue=queue)
    await handle.result(timeout=WAIT)
    whole = await execution_of(handle)
    gathered: list[Any] = []
    first: Any = 1
    while first is not msgspec.UNSET:
        page = await handle.export_execution(first_event=first, limit=10)
        check_events(page.events, gathered)
        check_summary(page.summary, page.events)
        assert (page.status, page.result, page.close_time, page.duration_ms) == (whole.status, whole.result, whole.close_time, whole.duration_ms)
        assert len(page.events) == 10 or page.next_event is msgspec.UNSET
        gathered += page.events
        first = page.next_event
    assert gathered == whole.events
    assert (await handle.export_execution(first_event=1000)).events == []
    assert (await handle.export_execution(limit=len(whole.events))).next_event is msgspec.UNSET


async def test_a_page_reads_no_further_than_it_has_to(client: Client, queue: str, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jetflow.reading.run_reader.PAGE", 4)
    handle = await client.start(keeps_going, 20, task_queue=queue)
    await until(lambda: _has_events(handle, 42))
    whole = await execution_of(handle)
    told: list[tuple[int, int]] = []
    page = await handle.export_execution(first_event=5, limit=6, progress=lambda read, keys: told.append((read, keys)))
    assert page.events == whole.events[4:10]
    assert (page.next_event, page.status) == (11, "running")
    assert told[-1][0] <= 8
    assert told[-1][1] == 21
    told.clear()
    await handle.export_execution(progress=lambda read, keys: told.append((read, keys)))
    assert told[-1] == (21, 21)
    assert [read for read, _ in told] == sorted({read for read, _ in told})


async def test_a_commit_over_several_keys(client: Client, queue: str, worker: Worker) -> None:
    """Also a history too long to become one key."""
    handle = await client.start(heavy, 6, workflow_id="h", task_queue=queue)
    assert await handle.result(timeout=WAIT) == 6 * 400_000 + 15
    last = await Timeline(client.broker.lane, client.broker.names).last(to_token(queue), "h")
    assert last is not None
    assert last.seq > 3
    assert not last.commit.compacted
    execution = await execution_of(handle)
    assert [event.event_type for event in execution.events[1:7]] == ["activity_task_scheduled"] * 6
    assert sorted(event.attributes.scheduled_event_id for event in execution.events[7:13]) == [2, 3, 4, 5, 6, 7]  # type: ignore[union-attr]
    enriched = await execution_of(handle, enrich_inputs=True)
    assert [event.attributes.input[1] for event in enriched.events[1:7]] == [0, 1, 2, 3, 4, 5]  # type: ignore[union-attr]


async def test_one_key_or_many_make_no_difference(client: Client, queue: str, worker: Worker) -> None:
    """A run that has rested is compacted after its end."""
    handle = await client.start(waits, workflow_id="w", task_queue=queue)
    await waits_for(handle, "go")
    before = await execution_of(handle)
    await handle.signal("go", 1)
    await handle.result(timeout=WAIT)
    timeline = Timeline(client.broker.lane, client.broker.names)
    while (last := await timeline.last(to_token(queue), "w")) is not None and not last.commit.compacted:
        execution = await execution_of(handle)
        assert execution.events[: len(before.events)] == before.events
    assert last is not None
    execution = await execution_of(handle)
    assert [event.event_type for event in execution.events[4:]] == ["workflow_execution_signaled", "workflow_execution_completed"]
    assert execution.events[: len(before.events)] == before.events


async def test_a_start_that_no_worker_has_taken_up(client: Client, queue: str) -> None:
    handle = await client.start("some type", {"n": 1}, workflow_id="early", task_queue=queue)
    for asked in (handle, client.get_handle("early", queue)):
        execution = await execution_of(asked, include_stream_history=True, mode="verbose")
        assert (execution.status, execution.workflow_type, execution.run_id, execution.start_time) == ("running", "some type", handle.run_id, None)
        assert execution.events == execution.children == []
        [message] = execution.stream_history  # type: ignore[misc]
        assert message.data == {"n": 1}
        assert str(message.seq) == handle.run_id
        assert message.subject.endswith(".early.start.some=20type")


async def test_commands_that_are_still_stored(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(cleans_up, workflow_id="c", task_queue=queue)
    await until(lambda: _stored(handle))
    [timer] = await _stored(handle)
    assert timer.subject.startswith("jetflow_timer.")
    assert "Nats-Schedule" in timer.headers


async def _stored(handle: WorkflowHandle) -> list[Any]:
    messages = (await handle.export_execution(include_stream_history=True)).stream_history
    return [message for message in messages if message.subject.startswith("jetflow_timer.")]  # type: ignore[union-attr]


async def test_unknown_workflows(client: Client, queue: str) -> None:
    for options in ({}, {"allow_direct_query": True}, {"mode": "verbose"}):
        with pytest.raises(WorkflowNotFoundError):
            await client.get_handle("nobody", queue).export_execution(**options)  # type: ignore[arg-type]


async def test_a_record_that_has_expired(client: Client, queue: str, worker: Worker) -> None:
    handle = await client.start(steps, 1, workflow_id="gone", task_queue=queue)
    await handle.result(timeout=WAIT)
    names, asked = client.broker.names, client.get_handle("gone", queue)
    await client.broker.lane.api(f"STREAM.PURGE.{names.state_stream}", {"filter": f"{names.state_prefix}{queue}.gone"})

    async def is_unknown() -> bool:
        try:
            await asked.export_execution()
        except WorkflowNotFoundError:
            return True
        return False

    await until(is_unknown)  # once its start is acked too
    execution = await execution_of(asked, allow_direct_query=True)
    assert (execution.status, execution.result, execution.workflow_type) == ("completed", 0, "steps")
    assert len(execution.events) == 6
    with pytest.raises(WorkflowNotFoundError):
        await asked.export()


async def test_a_handle_sees_its_own_run_only(client: Client, queue: str) -> None:
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ACTIVITIES):
        first = await client.start(steps, 1, workflow_id="again", task_queue=queue, expire="1s")
        await first.result(timeout=WAIT)

        async def has_expired() -> bool:
            return await client.states.get(to_token(queue), "again") is None

        await until(has_expired)
        second = await client.start(steps, 3, workflow_id="again", task_queue=queue)
        await second.result(timeout=WAIT)
    assert story(await execution_of(second))[0].endswith("input [3]")
    assert await execution_of(client.get_handle("again", queue)) == await execution_of(second)
    for options in ({}, {"allow_direct_query": True}):
        with pytest.raises(WorkflowNotFoundError):
            await first.export_execution(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"mode": "dense"}, {"max_depth": 0}, {"first_event": 0}, {"limit": 0}])
async def test_options_that_make_no_sense(client: Client, queue: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(options))):
        await client.get_handle("x", queue).export_execution(**options)
