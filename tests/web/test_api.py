"""What the page is told, and what its commands do."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest

from jetflow.protocol.record import StateRecord
from jetflow.web import feed as feeds
from jetflow.web.feed import MOST_ROWS, Feed, Interest
from jetflow.web.reading import search_of
from jetflow.web.throughput import Throughput

from ..engine.helpers import dead_letters, until, waits_for
from .app import Order
from .conftest import Api, Shop

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_the_list_is_filtered(shop: Shop, api: Api) -> None:
    for number in range(3):
        await shop.client.execute("echo", number, workflow_id=f"filtered-{number}", timeout="30s")
    handle = await shop.client.start("rejected", "B-1", workflow_id="filtered-bad")
    await handle.result(throw_on_error=False, timeout="30s")
    found = await api.get("workflows", text="FILTERED-")
    assert [row["id"] for row in found["rows"]][::-1] == ["filtered-0", "filtered-1", "filtered-2", "filtered-bad"]
    assert found["next"] is None
    (failed,) = (await api.get("workflows", text="filtered-", status="failed"))["rows"]
    assert failed["failure"] == {"type": "LookupError", "message": "no B-1 in stock"}
    assert {row["type"] for row in (await api.get("workflows", type="echo"))["rows"]} == {"echo"}
    assert (await api.get("workflows", queue="elsewhere"))["rows"] == []
    assert (await api.http.get(f"{api.url}/api/workflows?status=odd")).status_code == 400


async def test_user_data_is_searched(shop: Shop, api: Api) -> None:
    handle = await shop.client.start("order", Order("A", customer="searched for"), workflow_id="searched")
    await waits_for(handle, "approval")
    assert search_of('customer=Ada, count=3 ok=true, code="3"') == {"customer": "Ada", "count": 3, "ok": True, "code": "3"}
    answer = await api.http.get(f"{api.url}/api/workflows", params={"data": "stage"})
    assert answer.status_code == 400
    found = await api.get("workflows", data="sku=none")
    assert found["rows"] == []
    await shop.client.get_handle("searched").terminate(suppress=True)


async def test_a_workflow_with_everything(shop: Shop, api: Api) -> None:
    handle = await shop.client.start("order", Order("A-1", 2, "Ada", "flaky"), workflow_id="whole")
    await waits_for(handle, "approval")
    shown = await api.get("workflow", queue="default", id="whole")
    assert shown["status"] == "running"
    assert shown["waits"][0]["name"] == "approval"
    assert shown["data"]["customer"]["text"] == '"Ada"'
    await handle.signal("approval", {"ok": True})
    await handle.result(timeout="30s")
    shown = await api.get("workflow", queue="default", id="whole")
    assert shown["status"] == "completed"
    assert '"amount_minor": 12345678901234567890' in shown["result"]["text"], "no number is rounded"
    history = await api.get("history", queue="default", id="whole")
    kinds = [event["type"] for event in history["events"]]
    assert kinds[0] == "workflow_execution_started"
    assert kinds[-1] == "workflow_execution_completed"
    assert kinds.count("activity_task_retrying") == 2
    started = next(event for event in history["events"] if event["type"] == "child_workflow_execution_started")
    child = await api.get("workflow", queue="default", id=started["attributes"]["child_workflow_id"])
    assert child["parent"] == {"id": "whole", "queue": "default"}
    rest = await api.get("history", queue="default", id="whole", **{"from": 5})
    assert rest["events"] == history["events"][4:]


async def test_a_large_payload_comes_in_part(shop: Shop, api: Api) -> None:
    text = "x" * 100_000
    await shop.client.execute("echo", {"text": text}, workflow_id="large", timeout="30s")
    shown = await api.get("workflow", queue="default", id="large")
    assert shown["result"]["cut"] is True
    assert len(shown["result"]["text"]) < 40_000
    history = await api.get("history", queue="default", id="large")
    assert len(json.dumps(history)) < 40_000
    for of in ("result", "1.input", f"{history['events'][-1]['n']}.result"):
        whole = await api.get("payload", queue="default", id="large", of=of)
        assert text in whole["text"]
        assert "cut" not in whole
    for of in ("", "data.none", "1.nothing", "99.input", "1.__class__"):
        assert (await api.http.get(f"{api.url}/api/payload", params={"queue": "default", "id": "large", "of": of})).status_code in (400, 404)


async def test_what_there_is_not(api: Api) -> None:
    for path in ("workflow", "history"):
        answer = await api.http.get(f"{api.url}/api/{path}", params={"queue": "default", "id": "nobody"})
        assert answer.status_code == 404
        assert "nobody" in answer.json()["error"]
        assert (await api.http.get(f"{api.url}/api/{path}")).status_code == 400
    assert (await api.http.get(f"{api.url}/api/nothing")).status_code == 404
    assert (await api.http.get(f"{api.url}/static/nothing.js")).status_code == 404


async def test_commands(shop: Shop, api: Api) -> None:
    handles = [await shop.client.start("waiting", workflow_id=f"commanded-{number}") for number in range(3)]
    for handle in handles:
        await waits_for(handle, "go")
    places = [{"queue": "default", "id": handle.workflow_id} for handle in handles]
    big = '{"amount": 98765432109876543210}'
    assert (await api.post("signal", places[0] | {"name": "go", "data": big})).status_code == 200
    assert await handles[0].result(timeout="30s") == {"amount": 98765432109876543210}
    assert (await api.post("cancel", places[1] | {"reason": "customer called"})).status_code == 200
    assert "customer called" in str(await handles[1].result(throw_on_error=False, timeout="30s"))
    assert (await api.post("terminate", places[2] | {"reason": "wrong price"})).status_code == 200
    assert "wrong price" in str(await handles[2].result(throw_on_error=False, timeout="30s"))
    for place in places:
        for action, more in (("signal", {"name": "go"}), ("cancel", {}), ("terminate", {})):
            assert (await api.post(action, place | more)).status_code == 409
    answer = await api.post("signal", places[0] | {"name": "go", "data": "{broken"})
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]
    for body in ([], "text", {"queue": "default"}, {"queue": 1, "id": 2}, places[0] | {"name": ""}, places[0] | {"name": 7}):
        assert (await api.post("signal", body)).status_code == 400
    answer = await api.http.post(f"{api.url}/api/signal", content=b"{", headers={"origin": api.url, "content-type": "application/json"})
    assert answer.status_code == 400


async def test_a_request_without_end_is_refused(shop: Shop, api: Api) -> None:
    body = {"queue": "default", "id": "x", "name": "go", "data": "x" * (shop.client.broker.max_payload * 3)}
    assert (await api.post("signal", body)).status_code == 400


async def test_dead_letters(shop: Shop, api: Api) -> None:
    handle = await shop.client.start("waiting", workflow_id="mended")
    await waits_for(handle, "go")
    for body in (b'{"ok": tru', b"\xff\xfe{"):
        await shop.client.broker.lane.publish_once("jetflow.default.mended.signal.go", body, f"broken-{len(body)}")
    await until(lambda: _two(shop))
    first, second = (await api.get("letters"))["letters"]
    assert first["subject"] == "jetflow.default.mended.signal.go"
    assert first["body"] == '{"ok": tru'
    assert first["shown_whole"] is True
    assert second["shown_whole"] is False
    assert (await api.post("letters/drop", {"number": second["number"]})).status_code == 200
    assert (await api.post("letters/drop", {"number": second["number"]})).status_code == 400
    assert (await api.post("letters/requeue", {"number": first["number"], "body": '{"ok": true}'})).status_code == 200
    assert await handle.result(timeout="30s") == {"ok": True}
    assert (await api.get("letters"))["letters"] == []


async def _two(shop: Shop) -> bool:
    return len(await dead_letters(shop.client, "default")) == 2


async def test_workers_and_partitions(api: Api) -> None:
    found = await api.get("workers")
    (worker,) = found["workers"]
    assert worker["task_queue"] == "default"
    assert "order" in worker["workflows"]
    (consumer,) = found["consumers"]
    assert consumer["worker_id"] == worker["worker_id"]
    assert consumer["partitions"] == list(range(found["partitions"]))
    assert {"JETFLOW", "KV_jetflow_state"} <= {stream["name"] for stream in found["streams"]}


# ---- changes as they happen


@asynccontextmanager
async def hearing(api: Api, **interest: str) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
    """Named messages of one stream of events, once it is open."""
    async with api.http.stream("GET", f"{api.url}/api/events", params=interest, timeout=30) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")

        async def messages() -> AsyncIterator[tuple[str, Any]]:
            name = ""
            async for line in answer.aiter_lines():
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])

        found = messages()
        assert (await anext(found))[0] == "hello"
        yield found


async def row_of(messages: AsyncIterator[tuple[str, Any]], workflow_id: str, status: str) -> dict[str, Any]:
    async for name, value in messages:
        for row in value["rows"] if name == "rows" else ():
            if row["id"] == workflow_id and row["status"] == status:
                return row
    raise AssertionError("the stream has ended")


async def test_changes_are_told(shop: Shop, api: Api) -> None:
    async with hearing(api, view="list", text="told") as all_of_them, hearing(api, view="workflow", queue="default", id="told-1") as one:
        handle = await shop.client.start("waiting", workflow_id="told-1")
        other = await shop.client.start("waiting", workflow_id="other-1")
        await row_of(all_of_them, "told-1", "running")
        await handle.signal("go")
        await other.signal("go")
        await row_of(one, "told-1", "completed")
        await row_of(all_of_them, "told-1", "completed")


async def test_figures_are_told(shop: Shop, api: Api) -> None:
    async with hearing(api) as messages:
        await shop.client.execute("echo", 1, timeout="30s")
        started = closed = 0
        async for name, value in messages:
            assert name == "tick"
            assert value["connected"] is True
            started, closed = started + value["starts"], closed + value["closes"]
            if started and closed:
                break


async def test_ten_browsers_are_one_subscription(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "LINGER", 0)
    feed = Feed(shop.client)
    wire = shop.client.broker.wire

    def subscriptions() -> int:
        return sum(each._subject == "jetflow_changed.>" for each in wire._subs.values())  # type: ignore[attr-defined]

    async def look() -> int:
        async with feed.listen(Interest()) as buffer:
            while not any(name == "rows" for name, _ in await buffer.next()):
                pass
            return subscriptions()

    looking = [asyncio.create_task(look()) for _ in range(10)]
    await until(lambda: feed.listening)
    await shop.client.execute("echo", 1, timeout="30s")
    assert await asyncio.wait_for(asyncio.gather(*looking), 30) == [1] * 10
    await until(lambda: not feed.listening)
    assert subscriptions() == 0


async def test_a_browser_that_reads_nothing_costs_no_more(shop: Shop) -> None:
    feed = Feed(shop.client)
    async with feed.listen(Interest()) as buffer:
        for number in range(5 * MOST_ROWS):
            for code in (1, 2):
                buffer.change(("default", f"w{number}"), record(f"w{number}", code=code))
        messages = dict(await buffer.next())
        assert len(messages["rows"]["rows"]) == MOST_ROWS
        assert messages["rows"]["more"] is True
        assert messages["rows"]["rows"][0]["pending"] == 2, "the newest of each"
    feed.close()


def record(workflow_id: str, *, code: int = 1, **more: Any) -> StateRecord:
    times = {"started_at": 1000, "updated_at": 1000}
    return StateRecord(
        **{
            "workflow_id": workflow_id,
            "task_queue": "default",
            "workflow_type": "w",
            "run_id": "1",
            "status": "running",
            "code": code,
            **times,
            **more,
        }
    )


async def test_a_run_is_counted_once() -> None:
    counted = Throughput()
    for _ in range(3):
        counted.count(record("a"), now_ms=1500)
    counted.count(record("a", status="completed", closed_at=1400), now_ms=1500)
    counted.count(record("a", status="completed", closed_at=1400), now_ms=1500)
    counted.count(record("a", run_id="2"), now_ms=1500)
    counted.count(record("old"), now_ms=1_000_000)
    assert counted.take() == (2, 1)
    assert counted.take() == (0, 0)


async def test_streams_end_with_the_server(shop: Shop) -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        async with shop.dashboard() as address:
            answer = await http.send(http.build_request("GET", f"{address}/api/events"), stream=True)
            assert answer.status_code == 200
        ended = b"".join([part async for part in answer.aiter_bytes()])
        assert b"hello" in ended
