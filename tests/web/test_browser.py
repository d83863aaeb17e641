"""The page in a real Chromium, as a person uses it."""

import asyncio
import re
from typing import Any

import pytest
from playwright.async_api import Page, expect

from jetflow.errors import Failure
from jetflow.protocol.record import StateRecord
from jetflow.web.security import Access
from tests.records import put_record

from ..engine.helpers import until, waits_for
from .app import Order
from .conftest import Open, Shop, press, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

MANY = 5000
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"

LONGEST_FREEZE = """
() => {
  window.longest = 0;
  let last = performance.now();
  const look = () => {
    const now = performance.now();
    window.longest = Math.max(window.longest, now - last);
    last = now;
    setTimeout(look, 0);
  };
  look();
}
"""


async def test_a_workflow_appears_and_ends_without_a_reload(shop: Shop, visit: Open) -> None:
    page = await visit("/?text=live-")
    await expect(page.get_by_role("heading", name="No matching workflows")).to_be_visible()
    await page.evaluate("window.same = true")
    handle = await shop.client.start("order", Order("A-1", customer="Ada"), workflow_id="live-1")
    await shop.client.start("waiting", workflow_id="elsewhere-1")
    await expect(row(page, "live-1")).to_contain_text("running")
    await expect(row(page, "live-1")).to_contain_text("signal approval")
    await expect(row(page, "live-1")).to_contain_text('customer "Ada"')
    await handle.signal("approval", {"ok": True})
    await expect(row(page, "live-1")).to_contain_text("completed")
    assert await page.locator("tr[data-id^='elsewhere']").count() == 0
    assert await page.evaluate("window.same")


async def test_a_row_leaves_a_list_that_it_no_longer_fits(shop: Shop, visit: Open) -> None:
    handle = await shop.client.start("waiting", workflow_id="leaving-1")
    page = await visit("/?text=leaving-&status=running")
    await expect(row(page, "leaving-1")).to_be_visible()
    await handle.signal("go")
    await expect(row(page, "leaving-1")).to_have_count(0)


async def test_filters_by_hand(shop: Shop, visit: Open) -> None:
    for number in range(2):
        await shop.client.execute("echo", number, workflow_id=f"by-hand-{number}", timeout="30s")
    handle = await shop.client.start("rejected", "B-2", workflow_id="by-hand-bad")
    await handle.result(throw_on_error=False, timeout="30s")
    page = await visit("/")
    await expect(row(page, "by-hand-1")).to_be_visible()
    await page.keyboard.press("/")
    await page.keyboard.type("by-hand")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(3)
    await press(page, "failed")
    await expect(page.locator("tbody tr")).to_have_count(1)
    await expect(row(page, "by-hand-bad")).to_contain_text("no B-2 in stock")
    assert "status=failed" in page.url
    await press(page, "Clear")
    await expect(row(page, "by-hand-1")).to_be_visible()
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await expect(page.locator("h1.id")).to_be_visible()
    await page.go_back()
    await expect(page.get_by_role("heading", name="Workflows")).to_be_visible()


async def test_what_happened_before_the_stream_of_events_was_open_is_shown(shop: Shop, visit: Open) -> None:
    page = await visit("/workflows")

    async def late(route: Any) -> None:
        await asyncio.sleep(3)
        await route.continue_()

    await page.route("**/api/events*", late)
    handle = await shop.client.start("order", Order("A-3", 1, "Grace"), workflow_id="late-stream")
    await page.goto(page.url.removesuffix("/workflows") + "/workflows/default/late-stream")
    await expect(page.locator(".w-head .status")).to_have_text("running")
    await handle.signal("approval", {"ok": True})
    await handle.result(timeout="30s")
    await expect(page.locator(".w-head .status")).to_have_text("completed")


async def test_a_workflow_is_followed_and_signaled(shop: Shop, visit: Open) -> None:
    handle = await shop.client.start("order", Order("A-2", 2, "Grace"), workflow_id="followed")
    page = await visit("/workflows/default/followed")
    await expect(page.locator(".callout")).to_contain_text("signal approval")
    await expect(page.locator(".w-head .status")).to_have_text("running")
    bar = page.locator("g.op.signal.going-on rect")
    width = float(await bar.get_attribute("width") or 0)
    await expect(bar).not_to_have_attribute("width", str(width))  # it grows
    await press(page, "Signal…")
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_label("Name")).to_have_value("approval")
    await dialog.get_by_label("Data").fill("{broken")
    await press(page, "Send signal")
    await expect(dialog.get_by_role("alert")).to_contain_text("not JSON")
    await dialog.get_by_label("Data").fill('{"ok": true, "by": "Grace"}')
    await press(page, "Send signal")
    await expect(dialog).to_have_count(0)
    assert (await handle.result(timeout="30s"))["approval"] == {"ok": True, "by": "Grace"}
    await expect(page.locator(".w-head .status")).to_have_text("completed")
    await expect(page.locator(".event").last).to_contain_text("workflow completed")
    await expect(page.locator(".payloads")).to_contain_text("12345678901234567890")
    await expect(page.get_by_role("button", name="Signal…")).to_have_count(0)
    await expect(page.locator("g.op")).to_have_count(5)
    child = page.locator(".event").filter(has_text="child started")
    await child.get_by_role("link").click()
    await expect(page.locator(".facts")).to_contain_text("followed")
    await page.locator(".facts").get_by_role("link", name="followed").click()
    await expect(page.locator("h1.id")).to_have_text("followed")
    await page.get_by_role("button", name=re.compile("activity charge")).press("Enter")
    await expect(page.locator(".event[open]")).to_contain_text("activity scheduled")


async def test_cancel_and_terminate_ask_first(shop: Shop, visit: Open) -> None:
    first, second = [await shop.client.start("waiting", workflow_id=f"asked-{number}") for number in (1, 2)]
    page = await visit("/workflows/default/asked-1")
    await press(page, "Cancel…")
    await press(page, "Not now")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert (await first.describe()).cancel_requested is False
    await press(page, "Cancel…")
    await page.get_by_label("Reason").fill("customer called")
    await press(page, "Cancel the workflow")
    await expect(page.locator(".w-head .status")).to_have_text("cancelled")
    await expect(page.locator(".failure")).to_contain_text("customer called")
    await page.goto(page.url.replace("asked-1", "asked-2"))
    await press(page, "Terminate…")
    await page.keyboard.press("Escape")
    await expect(page.get_by_role("dialog")).to_have_count(0)
    assert (await second.describe()).closed is False
    await press(page, "Terminate…")
    await press(page, "Terminate")
    await expect(page.locator(".w-head .status")).to_have_text("terminated")


async def test_markup_is_shown_as_text(shop: Shop, visit: Open) -> None:
    """In an id, a type's name, an input, a result, user data, a failure, a signal's name, a dead letter. The fixture fails if any of it runs."""
    evil_id = f"evil {EVIL}"
    handle = await shop.client.start("order", Order(EVIL, 1, EVIL, EVIL), workflow_id=evil_id)
    await waits_for(handle, "approval")
    await shop.client.broker.lane.publish_once(f"jetflow.default.evil-letter.{EVIL.replace(' ', '').replace('.', '')}", EVIL.encode(), "evil-letter")
    await put_record(
        shop.client,
        StateRecord(
            EVIL, EVIL, EVIL, "1", "failed", -598, 1000, 1000, closed_at=2000, failure=Failure(EVIL, EVIL, 598, EVIL), origin_id=EVIL, worker=EVIL
        ),
    )
    page = await visit("/")
    await expect(page.locator(".c-id").filter(has_text=evil_id)).to_be_visible()
    await page.get_by_role("link", name=EVIL, exact=True).click()
    await expect(page.locator(".failure")).to_contain_text(EVIL)
    await page.goto(page.url.partition("/workflows")[0])
    await page.get_by_role("link", name=evil_id, exact=True).click()
    await expect(page.locator("h1.id")).to_have_text(evil_id)
    await handle.signal("approval", {"html": EVIL})
    await expect(page.locator(".w-head .status")).to_have_text("completed")
    await expect(page.locator(".payloads")).to_contain_text(f'"html": "{EVIL}"')
    for name in await page.locator(".e-name").all():
        await name.click()
    await expect(page.locator(".e-inside").first).to_contain_text(EVIL)
    await page.get_by_role("link", name="Dead letters").click()
    await expect(page.locator(".letter pre")).to_contain_text(EVIL)
    await press(page, "Edit and requeue…")
    await press(page, "Not now")
    assert await page.locator("main script, main img").count() == 0


async def test_dead_letters_are_mended(shop: Shop, visit: Open) -> None:
    handle = await shop.client.start("waiting", workflow_id="by-letter")
    await waits_for(handle, "go")
    await shop.client.broker.lane.publish_once("jetflow.default.by-letter.signal.go", b'{"ok": tru', "broken")
    page = await visit("/dead-letters")
    letter = page.locator(".letter").filter(has_text="by-letter.signal.go")
    await until(lambda: _shown(page, letter))
    await letter.get_by_role("button", name="Edit and requeue…").click()
    await page.get_by_label("Body").fill('{"ok": true}')
    await press(page, "Send it again")
    await expect(letter).to_have_count(0)
    assert await handle.result(timeout="30s") == {"ok": True}


async def _shown(page: Page, letter: Any) -> bool:
    if await letter.count():
        return True
    await page.reload()
    await page.locator(".letters > *").first.wait_for()
    return bool(await letter.count())


async def test_workers_and_partitions_are_shown(visit: Open) -> None:
    page = await visit("/workers")
    await expect(page.get_by_text("64 of 64 partitions have an owner")).to_be_visible()
    await expect(page.locator(".partitions rect")).to_have_count(64)
    await expect(page.locator(".serves").first).to_contain_text("order")


async def test_five_thousand_workflows_do_not_freeze_the_page(shop: Shop, visit: Open) -> None:
    async def write(numbers: range, changed_at: int) -> None:
        for number in numbers:
            await put_record(
                shop.client, StateRecord(f"many-{number}", "crowd", "w", str(number + 1), "running", 1, 1000 + number, changed_at, worker="nobody")
            )

    await asyncio.gather(*(write(range(start, MANY, 50), 1000) for start in range(50)))
    page = await visit("/?queue=crowd")
    await expect(page.locator("tbody tr")).to_have_count(100)
    await expect(page.locator("h1")).to_contain_text("5,000 on this queue")
    await page.evaluate(LONGEST_FREEZE)
    await press(page, "Older")
    await expect(page.locator(".pager")).to_contain_text("101 to 200")
    await press(page, "Newer")
    await expect(page.locator(".pager")).to_contain_text("1 to 100")
    await asyncio.gather(*(write(range(start, MANY, 50), 2000) for start in range(50)))  # and all of them change
    await expect(page.locator("tbody tr")).to_have_count(100)
    await page.get_by_placeholder("Id contains…").fill("many-4321")
    await page.keyboard.press("Enter")
    await expect(page.locator("tbody tr")).to_have_count(1)
    assert await page.evaluate("window.longest") < 2000, "milliseconds in which the page did nothing"


async def test_read_only_has_no_buttons(shop: Shop, visit: Open) -> None:
    handle = await shop.client.start("waiting", workflow_id="untouched")
    await waits_for(handle, "go")
    await shop.client.broker.lane.publish_once("jetflow.default.untouched.nonsense", b"{}", "nonsense")
    async with shop.dashboard(Access(read_only=True)) as address:
        page = await visit("/workflows/default/untouched", base=address)
        await expect(page.locator(".callout")).to_contain_text("signal go")
        await expect(page.get_by_text("read-only")).to_be_visible()
        for name in ("Signal…", "Cancel…", "Terminate…", "Send it…"):
            await expect(page.get_by_role("button", name=name)).to_have_count(0)
        await page.get_by_role("link", name="Dead letters").click()
        await expect(page.locator(".letter").first).to_be_visible()
        await expect(page.locator(".letter button")).to_have_count(0)
        await page.goto("about:blank")


async def test_the_token_is_asked_for(shop: Shop, visit: Open) -> None:
    async with shop.dashboard(Access("a-token-for-tests")) as address:
        page = await visit("/?token=a-token-for-tests", base=address)
        await expect(page.locator("h1")).to_contain_text("Workflows")
        await expect(page).to_have_url(f"{address}/")
        await page.reload()
        await expect(page.locator("h1")).to_contain_text("Workflows")
        await page.goto("about:blank")
