"""Finding workflows on the page: what is typed is found without Enter, figures are there, and nothing superseded is read on."""

import asyncio
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, Request, expect

from jetflow.protocol.record import Parked, StateRecord, Waiting
from jetflow.web import reading, tally
from tests.records import put_record

from ..engine.helpers import until
from .app import Order
from .conftest import Api, Open, Shop, press, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

HOUR = 3_600_000
FAILURE = {"type": "ConnectionError", "message": "the bank did not answer", "code": 597}


async def put(shop: Shop, name: str, number: int, status: str = "running", kind: str = "order", queue: str = "found", **more: Any) -> None:
    record = StateRecord(name, queue, kind, str(500_000 + number), status, 1, more.pop("at", 1000), 1000 + number, worker="nobody", **more)
    await put_record(shop.client, record)


@pytest_asyncio.fixture(loop_scope="module")
async def crowd(shop: Shop) -> None:
    await put(shop, "red-1", 1)
    await put(shop, "red-2", 2, "completed", closed_at=2000)
    await put(shop, "red-3", 3, "failed", closed_at=2000)
    await put(shop, "blue-1", 4, kind="ordering")
    await put(shop, "blue-2", 5, kind="refund", parked=Parked("code", "old", 1000))
    await put(shop, "blue-3", 6, waiting=[Waiting(1, "activity", "charge", 1000, due=10**13, attempt=4, failure=reading_failure())])


def reading_failure() -> Any:
    from jetflow.core.failures import Failure

    return Failure(**FAILURE)


def asks(page: Page, call: str) -> list[Request]:
    """Requests to one call, as they are made."""
    found: list[Request] = []
    page.on("request", lambda request: found.append(request) if f"/api/{call}?" in request.url or request.url.endswith(f"/api/{call}") else None)
    return found


async def shown(page: Page, *names: str) -> None:
    await expect(page.locator("tbody tr")).to_have_count(len(names))
    for name in names:
        await expect(row(page, name)).to_be_visible()


async def counts(page: Page, **wanted: int) -> None:
    for name, number in wanted.items():
        await expect(page.locator(".tabs button").filter(has_text=name).locator("small")).to_have_text(str(number))


@pytest.mark.usefixtures("crowd")
async def test_filters_work_as_one_types(visit: Open) -> None:
    page = await visit("/?queue=found")
    await shown(page, "red-1", "red-2", "red-3", "blue-1", "blue-2", "blue-3")
    await page.evaluate("window.same = document.querySelector('input[name=text]')")
    await page.keyboard.press("/")
    await page.keyboard.type("RED-")
    await shown(page, "red-1", "red-2", "red-3")
    await page.keyboard.type("3")
    await shown(page, "red-3")
    await page.keyboard.press("Backspace")
    await shown(page, "red-1", "red-2", "red-3")
    assert await page.evaluate("document.activeElement === window.same"), "the field keeps the focus and what is typed"
    assert "text=RED-" in page.url
    await page.keyboard.press("Escape")
    await shown(page, "red-1", "red-2", "red-3", "blue-1", "blue-2", "blue-3")
    await page.get_by_placeholder("Type").press_sequentially("ord")
    await shown(page, "red-1", "red-2", "red-3", "blue-1", "blue-3")
    await page.get_by_placeholder("Type").press_sequentially("ering")
    await shown(page, "blue-1")
    await page.reload()
    await shown(page, "blue-1")
    await press(page, "Clear")
    await page.get_by_placeholder("Task queue").press_sequentially("fou")
    await shown(page, "red-1", "red-2", "red-3", "blue-1", "blue-2", "blue-3")


@pytest.mark.usefixtures("crowd")
async def test_tabs_have_figures_and_the_filter_a_total(visit: Open) -> None:
    page = await visit("/?queue=found")
    await expect(page.locator("h1")).to_contain_text("6 on this queue")
    await counts(page, all=6, running=4, retrying=1, parked=1, completed=1, failed=1, terminated=0)
    await page.get_by_placeholder("Id contains…").fill("blue")
    await counts(page, all=3, running=3, retrying=1, parked=1, completed=0, failed=0)
    await expect(page.locator("h1")).to_contain_text("3 match")
    await press(page, "retrying")
    await shown(page, "blue-3")
    await expect(page.locator("h1")).to_contain_text("1 match")
    await counts(page, all=3, running=3, retrying=1, parked=1)


async def test_figures_follow_what_happens(shop: Shop, visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally, "LEAST_KEPT", 0)
    page = await visit("/?text=figured-")
    await counts(page, all=0)
    handle = await shop.client.start("waiting", workflow_id="figured-1")
    await counts(page, all=1, running=1)
    await handle.signal("go")
    await counts(page, all=1, running=0, completed=1)


async def test_a_time_range(shop: Shop, visit: Open) -> None:
    now = await (await visit()).evaluate("Date.now()")
    for number, age in enumerate((0, 2, 30, 24 * 30)):
        await put(shop, f"aged-{age}", number, at=now - age * HOUR, queue="aged")
    page = await visit("/?queue=aged")
    ranges = page.get_by_label("Started", exact=True)
    await shown(page, "aged-0", "aged-2", "aged-30", "aged-720")
    await ranges.select_option("Last 24 hours")
    await shown(page, "aged-0", "aged-2")
    await counts(page, all=2)
    await page.reload()
    await expect(ranges).to_have_value("24h")
    await shown(page, "aged-0", "aged-2")
    await ranges.select_option("Last hour")
    await shown(page, "aged-0")
    await ranges.select_option("From … to …")
    # a field for a moment takes local time
    local = (
        "hours => { const at = new Date(Date.now() - hours * 36e5); return new Date(at - at.getTimezoneOffset() * 6e4).toISOString().slice(0, 16) }"
    )
    await page.get_by_label("Started from").fill(await page.evaluate(local, 40))
    await page.get_by_label("Started before").fill(await page.evaluate(local, 1))
    await shown(page, "aged-2", "aged-30")
    await page.reload()
    await shown(page, "aged-2", "aged-30")
    await press(page, "Clear")
    await expect(page.get_by_label("Started from")).to_be_hidden()


async def test_what_begins_outside_of_the_filter_does_not_appear(shop: Shop, visit: Open) -> None:
    page = await visit("/?text=inside-&type=wai&started=1h")
    await expect(page.get_by_role("heading", name="No matching workflows")).to_be_visible()
    await shop.client.start("waiting", workflow_id="outside-1")
    await shop.client.execute("echo", 1, workflow_id="inside-2", timeout="30s")
    await shop.client.start("waiting", workflow_id="inside-3")
    await shown(page, "inside-3")


@pytest.mark.usefixtures("crowd")
async def test_typing_asks_once_and_what_is_superseded_is_given_up(visit: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    page = await visit()
    await expect(page.locator("tbody tr").first).to_be_visible()
    asked, ended = asks(page, "workflows"), []
    page.on("requestfailed", lambda request: ended.append(request.url))
    await page.get_by_placeholder("Id contains…").press_sequentially("quick-typing", delay=20)
    await expect(page.get_by_role("heading", name="No matching workflows")).to_be_visible()
    assert len([request for request in asked if "text=quick-typing" in request.url]) == 1
    assert len(asked) <= 2
    walks: list[str] = []
    real = reading.listing.page

    async def slow(broker: Any, filters: Any, *rest: Any) -> Any:
        if filters.id_part != "slow-2":
            walks.append(f"{filters.id_part} begins")
            try:
                await asyncio.sleep(60)
            finally:
                walks.append(f"{filters.id_part} is stopped")
        return await real(broker, filters, *rest)

    monkeypatch.setattr(reading.listing, "page", slow)
    await page.get_by_placeholder("Id contains…").fill("slow-1")
    await until(lambda: "slow-1 begins" in walks)
    await page.get_by_placeholder("Id contains…").fill("slow-2")
    await until(lambda: "slow-1 is stopped" in walks)
    await expect(page.locator(".list.loading")).to_have_count(0)
    assert any("text=slow-1" in url for url in ended)


async def test_one_count_serves_all_and_stops_when_nobody_waits(shop: Shop, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    began, stopped, go = [], [], asyncio.Event()

    async def slow(self: tally.Tallies, filters: Any) -> dict[str, Any]:
        began.append(filters.id_part)
        try:
            await go.wait()
        except asyncio.CancelledError:
            stopped.append(filters.id_part)
            raise
        return {"counts": {}, "total": 7, "complete": True, "examined": 7}

    monkeypatch.setattr(tally.Tallies, "_count", slow)
    left = [asyncio.create_task(api.get("counts", text="left")) for _ in range(2)]
    await until(lambda: began)
    left[0].cancel()
    waiting = [asyncio.create_task(api.get("counts", text="shared")) for _ in range(5)]
    await asyncio.sleep(0.2)
    assert (began, stopped) == (["left"], []), "one at a time, and somebody still waits for it"
    left[1].cancel()
    await until(lambda: stopped == ["left"])
    await until(lambda: began == ["left", "shared"])
    go.set()
    assert [found["total"] for found in await asyncio.gather(*waiting)] == [7] * 5
    assert (await api.get("counts", text="shared", status="failed"))["total"] == 7, "kept for a while"
    assert (await api.get("counts", text="shared"))["again"] > 0
    assert began == ["left", "shared"]


@pytest.mark.usefixtures("crowd")
async def test_what_the_server_is_asked(shop: Shop, api: Api) -> None:
    async def names(**asked: str) -> list[str]:
        return sorted(found["id"] for found in (await api.get("workflows", queue="found", **asked))["rows"])

    assert await names(type="OR") == ["blue-1", "blue-3", "red-1", "red-2", "red-3"]
    assert await names(type="rder") == []
    assert await names(text="-3") == ["blue-3", "red-3"]
    assert await names(status="retrying") == ["blue-3"]
    assert await names(status="running") == ["blue-1", "blue-2", "blue-3", "red-1"]
    assert await names(after="1001") == []
    assert await names(before="1000") == []
    found = await api.get("workflows", queue="foun")
    assert len(found["rows"]) == 6
    assert found["queue"] is None
    await put(shop, "other", 7, queue="foun")
    assert [each["id"] for each in (await api.get("workflows", queue="foun"))["rows"]] == ["other"], "a queue of just this name goes first"
    for wrong in ({"after": "soon"}, {"before": "-1"}, {"after": "9" * 40}, {"status": "odd"}):
        assert (await api.http.get(f"{api.url}/api/workflows", params=wrong)).status_code == 400
    assert (await api.get("about"))["statuses"][:4] == ["pending", "running", "retrying", "parked"]


async def test_a_whole_id_is_found_behind_however_many_others(shop: Shop, api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(shop, "behind-1", 1)
    await put(shop, "behind-1", 2, queue="elsewhere too")
    for number in range(300):
        await put(shop, f"before-{number}", 1000 + number)
    monkeypatch.setattr(reading, "MOST_EXAMINED", 50)
    found = await api.get("workflows", text="behind-1")
    assert sorted(each["queue"] for each in found["rows"]) == ["elsewhere too", "found"]
    assert found["next"]
    assert (await api.get("workflows", text="behind-1", status="failed"))["rows"] == []
    assert [each["id"] for each in (await api.get("workflows", text="before-299"))["rows"]] == ["before-299"]
    assert (await api.get("workflows", text="x" * 300))["rows"] == []


async def test_user_data_with_blanks(shop: Shop, visit: Open) -> None:
    await shop.client.start("order", Order("A", customer="Ada Lovelace"), workflow_id="lovelace-1")
    page = await visit("/")
    await page.get_by_placeholder("Data, as field=value").press_sequentially('customer="Ada Lovelace"', delay=30)
    await shown(page, "lovelace-1")
    await shop.client.get_handle("lovelace-1").terminate(suppress=True)


async def test_a_workflow_that_retries_says_so(shop: Shop, visit: Open) -> None:
    handle = await shop.client.start("stubborn", "door 7", workflow_id="retries-1")
    await shop.client.start("waiting", workflow_id="retries-not")
    page = await visit("/?text=retries-")
    line = row(page, "retries-1")
    await expect(line.locator(".status")).to_have_text("running")
    await expect(line.locator(".tag.retrying")).to_have_text("retrying")
    await expect(line.locator(".c-about")).to_contain_text("knock, attempt 2 in 1 m")
    await expect(line.locator(".c-about")).to_contain_text("TimeoutError nobody opens door 7")
    await press(page, "retrying")
    await shown(page, "retries-1")
    await page.locator("a.id").click()
    await expect(page.locator(".w-head .tag")).to_have_text("retrying, attempt 2")
    await expect(page.locator(".callout li").first).to_contain_text("activity knock")
    await expect(page.locator(".callout li").first).to_contain_text("TimeoutError nobody opens door 7")
    await expect(page.locator(".callout li").first).to_contain_text("in 1 m")
    assert [record.workflow_id async for record in shop.client.list(status="retrying", workflow_type="stubborn")] == ["retries-1"]
    await handle.terminate(expire="1h")
    await expect(page.locator(".w-head .tag")).to_have_count(0)


async def test_a_wait_of_ten_thousand_years_and_more(shop: Shop, visit: Open) -> None:
    """Longer than Python's dates go, and longer than a browser's."""
    year = 31_557_600_000
    for number, (years, said) in enumerate(((10_000, "9,9"), (300_000, "299,"))):
        wait = Waiting(1, "timer", "", 1000, due=years * year)
        await put(shop, f"ages-{years}", 20 + number, waiting=[wait])
        page = await visit(f"/workflows/found/ages-{years}", refusals=True)
        await expect(page.locator(".callout li")).to_contain_text(f"in {said}")
        await expect(page.locator(".callout li")).to_contain_text("after the year 275,000" if years > 275_000 else "11970")
        await expect(page.locator(".problem")).to_have_count(0)
