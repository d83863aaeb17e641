"""User data, queries and updates, through a worker and a real server."""

import asyncio
import json
from typing import Any

import pytest

from jetflow import (
    Client,
    InvalidInputError,
    QueryError,
    ResultTimeoutError,
    UpdateError,
    Worker,
    WorkflowAlreadyClosedError,
    WorkflowFailedError,
    WorkflowNotFoundError,
    activity,
    condition,
    continue_as_new,
    enrich,
    entity,
    random,
    search,
    set_query_handler,
    set_update_handler,
    sleep,
    workflow,
)
from jetflow.broker.stores.timeline import Timeline
from jetflow.broker.transport.server import LocalServer
from jetflow.core import events as ev
from jetflow.core.ids import to_token
from tests.engine.helpers import WAIT, another_worker, cli, plain_nats, until, waits_for

gate = asyncio.Event()


@activity
async def wait_at_gate() -> str:
    await gate.wait()
    return "passed"


@activity
async def double(n: int) -> int:
    return 2 * n


@workflow
async def basket(limit: int = 100) -> dict[str, int]:
    items: dict[str, int] = {}
    done = False

    def add(name: str, count: int = 1) -> int:
        items[name] = items.get(name, 0) + count
        return items[name]

    def check(name: str, count: int = 1) -> None:
        if count > limit:
            raise ValueError(f"{count} are too many")

    async def add_twice(name: str, count: int) -> int:
        return add(name, await double(count))

    def fail() -> None:
        raise LookupError("nothing there")

    async def never() -> None:
        await condition("never")

    def finish() -> str:
        nonlocal done
        done = True
        return "bye"

    set_query_handler("items", lambda: items)
    set_query_handler("count", lambda name: items.get(name, 0))
    set_query_handler("fails", lambda: 1 // 0)
    set_query_handler("writes", lambda: enrich({"a": 1}))
    set_query_handler("draws", random)
    set_query_handler("waits", lambda: sleep("1s"))
    set_update_handler("add", add, check)
    set_update_handler("add_twice", add_twice)
    set_update_handler("fail", fail)
    set_update_handler("never", never)
    set_update_handler("finish", finish)
    await condition(lambda: done)
    return items


@workflow
async def gated() -> str:
    stage = "before"
    set_query_handler("stage", lambda: stage)
    search().set(stage=stage)
    stage = await wait_at_gate()
    return stage


@workflow
async def telling() -> str:
    search().incr("count", 2)
    entity().merge({"order": {"lines": [1]}})
    await condition("go")
    enrich({"stage": "paid", "count": 7})
    entity().append("order.lines", 2)
    await condition("end")
    return "told"


@workflow
async def generations(n: int) -> Any:
    search().incr("generations")

    async def never() -> None:
        await condition("never")

    set_update_handler("never", never)
    set_update_handler("note", lambda text: search().set(note=text))
    if n > 0:
        await condition("next")
        continue_as_new(n - 1)
    return search().mget("generations", "note")


@workflow
async def late_handler() -> int:
    total = 0

    def add(n: int) -> int:
        nonlocal total
        total += n
        return total

    await wait_at_gate()
    set_update_handler("add", add)
    await condition(lambda: total > 2)
    return total


WORKFLOWS = [basket, gated, telling, generations, late_handler]
ACTIVITIES = [wait_at_gate, double]


@pytest.fixture(autouse=True)
def closed_gate() -> None:
    global gate
    gate = asyncio.Event()


def serve(client: Client, queue: str, **options: Any) -> Worker:
    return Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=ACTIVITIES, **options)


async def timeline(client: Client, queue: str, workflow_id: str) -> list[Any]:
    store = Timeline(client.broker.lane, client.broker.names)
    last = await store.last(to_token(queue), to_token(workflow_id))
    assert last is not None
    return [event for entry in await store.run(to_token(queue), to_token(workflow_id), last) for event in entry.commit.events]


# ---- user data


async def test_data_is_seen_while_the_workflow_runs_and_after(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(telling, workflow_id="t", task_queue=queue, search={"who": "Änn", "count": 1}, entity={"order": {"id": 5}})
        await waits_for(handle, "go")
        assert await handle.query_state(["who", "count", "order.lines", "nothing"]) == {
            "who": "Änn", "count": 3, "order.lines": [1], "nothing": None,
        }  # fmt: skip
        assert await handle.state() == {"who": "Änn", "count": 3}
        await handle.signal("go")
        await waits_for(handle, "end")
        envelope = await handle.state(metadata=True)
        assert envelope["data"] == {"who": "Änn", "count": 7, "stage": "paid"}
        assert envelope["metadata"]["entity"] == {"order": {"id": 5, "lines": [1, 2]}}
        await handle.signal("end")
        assert await handle.result(timeout=WAIT) == "told"
        assert await handle.state() == "told"
        assert await handle.query_state(["stage", "order.id"]) == {"stage": "paid", "order.id": 5}


async def test_data_shows_while_an_activity_runs(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(gated, workflow_id="g", task_queue=queue)

        async def shown() -> bool:
            return (await handle.query_state(["stage"]))["stage"] == "before"

        await until(shown)
        gate.set()
        assert await handle.result(timeout=WAIT) == "passed"


async def test_data_goes_on_in_the_next_generation(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(generations, 2, workflow_id="g", task_queue=queue)
        await handle.update("note", "kept")
        for _ in range(2):
            await handle.signal("next")
        assert await handle.result(timeout=WAIT) == [3, "kept"]


async def test_a_seed_that_is_no_object_or_too_large_is_refused(client: Client, queue: str) -> None:
    with pytest.raises(InvalidInputError, match="must be a dict"):
        await client.start(telling, task_queue=queue, search=["a"])  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="search and entity of a start"):
        await client.start(telling, task_queue=queue, entity={"a": "x" * 60_000})
    with pytest.raises(InvalidInputError, match="list of names"):
        await client.get_handle("x", queue).query_state("name")


# ---- queries


async def test_a_query_reads_the_workflows_variables(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        assert await handle.query("items") == {}
        assert await handle.update("add", "pear", 3) == 3
        assert await handle.query("items", result_type=dict[str, int]) == {"pear": 3}
        assert await handle.query("count", "pear") == 3
        await handle.update("finish")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fails", "ZeroDivisionError"),
        ("writes", "changing user data"),
        ("draws", "may only read: random"),
        ("waits", "must be a plain function"),
        ("unknown", "no query 'unknown'; it has count, draws, fails, items, waits, writes"),
    ],
)
async def test_a_query_that_cannot_be_answered(name: str, message: str, client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        await handle.update("add", "pear")
        before = await timeline(client, queue, "b")
        with pytest.raises(QueryError, match=message):
            await handle.query(name)
        with pytest.raises(QueryError, match="takes 1 argument"):
            await handle.query("count")
        assert len(await timeline(client, queue, "b")) == len(before)
        await handle.update("finish")
        assert await handle.result(timeout=WAIT) == {"pear": 1}


async def test_a_thousand_queries_while_an_activity_runs_change_nothing(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(gated, workflow_id="g", task_queue=queue)
        await waits_for(handle, "wait_at_gate")
        before = await timeline(client, queue, "g")
        answers = await asyncio.gather(*(handle.query("stage", timeout="30s") for _ in range(1000)))
        assert answers == ["before"] * 1000
        assert len(await timeline(client, queue, "g")) == len(before)
        gate.set()
        assert await handle.result(timeout=WAIT) == "passed"


async def test_only_the_owner_answers_and_an_evicted_workflow_is_rebuilt(server: LocalServer, client: Client, queue: str) -> None:
    options = {"workflows": WORKFLOWS, "activities": ACTIVITIES, "max_cached_workflows": 1}
    async with another_worker(server.url, queue, **options), another_worker(server.url, queue, **options):
        handles = [await client.start(basket, workflow_id=f"b{n}", task_queue=queue) for n in range(10)]
        for n, handle in enumerate(handles):
            await handle.update("add", "pear", n + 1)
        assert [await handle.query("items", timeout=WAIT) for handle in handles] == [{"pear": n + 1} for n in range(10)]
        for handle in handles:
            await handle.update("finish")


async def test_a_query_of_a_workflow_that_has_ended_and_of_none(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        await handle.update("add", "pear")
        await handle.update("finish")
        await handle.result(timeout=WAIT)
        assert await handle.query("items") == {"pear": 1}
        with pytest.raises(WorkflowNotFoundError):
            await client.get_handle("nobody", queue).query("items")


async def test_a_query_without_a_worker_is_not_waited_for_for_ever(client: Client, queue: str) -> None:
    handle = await client.start(basket, workflow_id="b", task_queue=queue)
    with pytest.raises(ResultTimeoutError, match="no worker"):
        await handle.query("items", timeout="50ms")


# ---- updates


async def test_an_update_returns_what_its_handler_gives_after_its_commit(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        assert await handle.update("add", "pear") == 1
        assert await handle.update("add_twice", "pear", 4) == 9
        outcomes = [event for event in await timeline(client, queue, "b") if isinstance(event, ev.UpdateCompleted)]
        assert [bytes(event.result) for event in outcomes] == [b"1", b"9"]
        assert await handle.update("finish") == "bye"
        assert await handle.result(timeout=WAIT) == {"pear": 9}


async def test_a_refused_update_leaves_no_trace(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, 5, workflow_id="b", task_queue=queue)
        await handle.update("add", "pear")
        before = await timeline(client, queue, "b")
        with pytest.raises(UpdateError, match="ValueError: 6 are too many") as refused:
            await handle.update("add", "pear", 6)
        assert refused.value.type == "ValueError"
        with pytest.raises(UpdateError, match="argument 'count'"):
            await handle.update("add", "pear", "many")
        with pytest.raises(UpdateError, match="no update 'unknown'; it has add, add_twice, fail, finish, never"):
            await handle.update("unknown")
        assert len(await timeline(client, queue, "b")) == len(before)
        await handle.update("finish")


async def test_a_handler_that_raises_fails_the_update_and_not_the_workflow(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        with pytest.raises(UpdateError, match="LookupError: nothing there"):
            await handle.update("fail")
        assert await handle.update("add", "pear") == 1
        await handle.update("finish")


async def test_an_update_asked_for_again_by_its_id_is_done_once(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        assert await asyncio.gather(*(handle.update("add", "pear", update_id="one") for _ in range(5))) == [1] * 5
        assert await handle.update("add", "pear", update_id="two") == 2
        await handle.update("finish")
        await handle.result(timeout=WAIT)
        assert await handle.update("add", "pear", update_id="one") == 1
        with pytest.raises(WorkflowAlreadyClosedError, match="completed"):
            await handle.update("add", "pear", update_id="three")
        with pytest.raises(WorkflowAlreadyClosedError):
            await handle.update("add", "pear")
        with pytest.raises(WorkflowNotFoundError):
            await client.get_handle("nobody", queue).update("add", "pear")


async def test_an_update_waits_for_its_handler(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(late_handler, workflow_id="l", task_queue=queue)
        asked = [asyncio.create_task(handle.update("add", n)) for n in (1, 2)]
        await waits_for(handle, "wait_at_gate")
        gate.set()
        assert sorted(await asyncio.gather(*asked)) in ([1, 3], [2, 3])
        assert await handle.result(timeout=WAIT) == 3


@pytest.mark.parametrize("end", ["terminate", "finish", "cancel"])
async def test_whoever_waits_for_an_update_is_told_of_the_workflows_end(end: str, client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        asked = asyncio.create_task(handle.update("never", timeout=None))
        await waits_for(handle, "never")
        if end == "finish":
            await handle.update("finish")
        else:
            await getattr(handle, end)()
        with pytest.raises((WorkflowAlreadyClosedError, UpdateError)):
            await asked
        if end != "finish":
            with pytest.raises((WorkflowFailedError, Exception)):
                await handle.result(timeout=WAIT)


async def test_whoever_waits_for_an_update_is_told_of_the_next_generation(client: Client, queue: str) -> None:
    async with serve(client, queue):
        handle = await client.start(generations, 1, workflow_id="g", task_queue=queue)
        asked = asyncio.create_task(handle.update("never", timeout=None))
        await waits_for(handle, "never")
        await handle.signal("next")
        with pytest.raises(UpdateError, match="continued as new"):
            await asked


async def test_an_update_under_way_is_gone_on_with_by_another_worker(server: LocalServer, client: Client, queue: str) -> None:
    options = {"workflows": WORKFLOWS, "activities": ACTIVITIES}
    async with another_worker(server.url, queue, **options):
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        asked = asyncio.create_task(handle.update("never", timeout=None))
        await waits_for(handle, "never")
    async with another_worker(server.url, queue, **options):
        await handle.signal("never", None)
        assert await asked is None
        await handle.update("finish")


# ---- plain NATS


async def test_a_query_and_an_update_by_the_nats_command(server: LocalServer, client: Client, queue: str, nats_cli: str) -> None:
    async with serve(client, queue), plain_nats(server.url) as nats:
        handle = await client.start(basket, workflow_id="b", task_queue=queue)
        inbox = await nats.subscribe("answers.here")
        await nats.flush()
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.b.update.add", '["pear", 2]', "-H", "Jetflow-Reply:answers.here")
        assert json.loads((await inbox.next_msg(30)).data) == {"result": 2}
        await cli(nats_cli, server.url, "pub", f"jetflow.{queue}.b.update.add", '"pear"')
        await until(lambda: _is(handle.query("count", "pear"), 3))
        asked = await cli(nats_cli, server.url, "req", f"jetflow_query.{queue}.b.items", "", "--raw")
        assert json.loads(asked)["result"] == {"pear": 3}
        await handle.update("finish")


async def _is(value: Any, wanted: Any) -> bool:
    return await value == wanted
