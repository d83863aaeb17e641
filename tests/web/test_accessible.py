"""Every view with axe, on screens from a small phone to a desk, in both themes, with whatever can be open over it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from importlib.resources import files
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from jetflow.core.failures import Failure
from jetflow.protocol.record import Parked, StateRecord, Waiting
from jetflow.web.security import Access
from tests.records import put_record

from ..engine.helpers import dead_letters, until, waits_for
from .app import Order
from .conftest import LARGE_PHONE, PHONE, SMALL_PHONE, Open, Shop, press

pytestmark = pytest.mark.asyncio(loop_scope="module")

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RUN = """
async (rules) => {
  const { passes, violations } = await axe.run(document, { runOnly: rules });
  return [passes.length, violations.flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.target.join(" ")}: ${node.html.slice(0, 160)}`))];
}
"""

MEASURE = """
() => {
  const found = [];
  const name = (element) => element.outerHTML.slice(0, 120);
  const seen = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && element.getClientRects().length;
  const active = "a[href], button, input, select, textarea, summary, [role=button], [tabindex='0']";
  const coarse = matchMedia("(pointer: coarse)").matches;
  const over = document.querySelector("dialog[open]") ?? document;
  if (document.documentElement.scrollWidth > innerWidth) found.push(`the page is ${document.documentElement.scrollWidth} wide`);
  for (const element of over.querySelectorAll(active)) {
    if (!seen(element) || element.matches(".skip") || element.disabled) continue;
    const inner = element.matches("[tabindex='0']:not([role=button])") ? null : element.querySelector(active);
    if (inner) found.push(`nested: ${name(element)}`);
    const box = element.getBoundingClientRect();
    if (element.matches(".json *")) continue; // below
    const label = element.closest("label");
    const height = Math.max(box.height, label && element.type === "checkbox" ? label.getBoundingClientRect().height : 0, cover(element));
    if (height < 23.5) found.push(`${height.toFixed(1)} px high: ${name(element)}`);
    const fits = element.matches("button, input:not([type=checkbox]), select, .e-line, .t-row, #bar a, label");
    if (coarse && fits && height < 43.5) found.push(`${height.toFixed(1)} px high for a finger: ${name(element)}`);
    if (box.right > innerWidth + 1 || box.left < -1) found.push(`cut off: ${name(element)}`);
  }
  function cover(element) { // a link that fills its card
    const after = getComputedStyle(element, "::after");
    return after.position === "absolute" && after.inset === "0px" ? element.closest("tr").getBoundingClientRect().height : 0;
  }
  for (const element of over.querySelectorAll(".json summary")) {
    const { height } = element.getBoundingClientRect();
    if (seen(element) && height < 23.5) found.push(`${height.toFixed(1)} px high: ${name(element)}`);
  }
  for (const element of over.querySelectorAll("*")) {
    const style = getComputedStyle(element);
    const down = element.scrollHeight > element.clientHeight + 1 && /auto|scroll/.test(style.overflowY);
    const across = element.scrollWidth > element.clientWidth + 1 && /auto|scroll/.test(style.overflowX);
    if (element === document.documentElement || element === document.body || !seen(element) || !(down || across)) continue;
    if (element.tabIndex < 0 && !element.querySelector(active)) found.push(`no key reaches what scrolls: ${name(element)}`);
    if (across && element.matches(".tabs, nav, #bar")) found.push(`scrolls sideways: ${name(element)}`);
  }
  return found;
}
"""

SCREENS: dict[str, dict[str, Any]] = {
    "desk, light": {"color_scheme": "light"},
    "desk, dark": {"color_scheme": "dark"},
    "320, light": {**SMALL_PHONE, "color_scheme": "light"},
    "390, dark": {**PHONE, "color_scheme": "dark"},
    "430, light": {**LARGE_PHONE, "color_scheme": "light"},
    "700, dark": {"viewport": {"width": 700, "height": 900}, "color_scheme": "dark"},
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def full(shop: Shop) -> None:
    """One workflow of each kind, and dead letters."""
    retries = await shop.client.start("stubborn", "door 7", workflow_id="a-retrying")
    await waits_for(retries, "knock")
    failing = await shop.client.start("rejected", "K", workflow_id="a-failed")
    await failing.result(throw_on_error=False, timeout="30s")
    whole = await shop.client.start("order", Order("K-7", 3, "Grace", "flaky"), workflow_id="a-whole")
    await waits_for(whole, "approval")
    await whole.signal("approval", {"ok": True, "deep": {"a": {"b": [1, {"c": "x " * 400}]}}})
    await whole.result(timeout="30s")
    waiting = await shop.client.start("order", Order("K-8", 1, "Ada"), workflow_id="a-waiting")
    await waits_for(waiting, "approval")
    ended = await shop.client.start("waiting", workflow_id="a-terminated")
    await ended.terminate("ordered twice", expire="1h")
    failure = Failure("ConnectionError", "the bank did not answer", 597)
    waits = [Waiting(1, "activity", "charge", 1000, due=10**13, attempt=4, failure=failure)]
    parked = Parked("code has changed", "step 3 was charge, now is reserve\\n" * 3, 1000)
    await put_record(shop.client, StateRecord("a-parked", "default", "order", "700001", "running", 1, 1000, 2000, parked=parked, waiting=waits))
    for status in ("cancelled", "pending"):
        await put_record(shop.client, StateRecord(f"a-{status}", "default", "order", f"70001{len(status)}", status, 1, 1000, 2000))
    for number in range(2):
        body = b'{"ok": tru' * (200 if number else 1)
        await shop.client.broker.lane.publish_once(f"jetflow.default.a-letter.signal.go{number}", body, f"a-letter-{number}")
    await until(lambda: _letters(shop))


async def _letters(shop: Shop) -> bool:
    return len(await dead_letters(shop.client, "default")) == 2


Check = Callable[[Page, str], Awaitable[None]]


@pytest.fixture(params=SCREENS)
def screen(request: pytest.FixtureRequest) -> dict[str, Any]:
    return SCREENS[request.param] | {"reduced_motion": "reduce"}


@pytest_asyncio.fixture(loop_scope="module")
async def check() -> AsyncIterator[Check]:
    """Notes what is wrong with what a page shows; the test fails with all of it at its end."""
    found: list[str] = []

    async def check(page: Page, what: str) -> None:
        await page.evaluate("document.fonts.ready")
        await asyncio.sleep(0.1)
        await page.evaluate(AXE)
        passes, violations = await page.evaluate(RUN, RULES)
        assert passes > 15, "axe looked at something"
        found.extend(f"{what}: {each}" for each in [*violations, *await page.evaluate(MEASURE)])

    yield check
    assert not found, "\n".join(sorted(set(found)))


@pytest.mark.usefixtures("full")
async def test_the_list(visit: Open, check: Check, screen: dict[str, Any]) -> None:
    page = await visit("/?text=a-", **screen)
    await expect(page.locator("tbody tr").first).to_be_visible()
    await expect(page.locator(".tabs small").first).not_to_be_empty()
    await check(page, "list")
    await page.get_by_label("Started", exact=True).select_option("range")
    await check(page, "list with a range of time")
    await page.get_by_placeholder("Id contains…").fill("nothing-like-it")
    await expect(page.get_by_role("heading", name="No matching workflows")).to_be_visible()
    await check(page, "list with nothing in it")


@pytest.mark.usefixtures("full")
async def test_a_whole_workflow(visit: Open, check: Check, screen: dict[str, Any]) -> None:
    page = await visit("/workflows/default/a-whole", **screen)
    await expect(page.locator(".event").last).to_contain_text("workflow completed")
    await check(page, "workflow")
    for line in await page.locator(".e-line").all():
        await line.press("Enter")
    await expect(page.locator(".event:not([open])")).to_have_count(0)
    await check(page, "workflow with all events open")


@pytest.mark.parametrize("name", ["a-failed", "a-retrying", "a-parked", "a-terminated", "nobody"])
@pytest.mark.usefixtures("full")
async def test_workflows(visit: Open, check: Check, screen: dict[str, Any], name: str) -> None:
    page = await visit(f"/workflows/default/{name}", refusals=True, **screen)
    await expect(page.locator("h1")).to_be_visible()
    if name == "nobody":
        await expect(page.get_by_role("heading", name="There is no such workflow")).to_be_visible()
    else:
        await expect(page.get_by_role("heading", name="History")).to_be_visible()
    if name == "a-failed":
        await page.get_by_text("Stack").first.click()
    await check(page, name)


@pytest.mark.usefixtures("full")
async def test_dialogs_and_notices(visit: Open, check: Check, screen: dict[str, Any]) -> None:
    page = await visit("/workflows/default/a-waiting", refusals=True, **screen)
    for button in ("Signal…", "Cancel…", "Terminate…"):
        await press(page, button)
        await expect(page.get_by_role("dialog")).to_be_visible()
        await check(page, f"dialog {button}")
        await page.keyboard.press("Escape")
    await press(page, "Signal…")
    await page.get_by_label("Data").fill("{broken")
    await press(page, "Send signal")
    await expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    await check(page, "dialog with a problem")
    await page.keyboard.press("Escape")
    await page.evaluate("async () => (await import('/static/dom.js')).toast('It went wrong', 'error')")
    await page.evaluate("async () => (await import('/static/dom.js')).toast('It is done')")
    await check(page, "toasts")
    await page.route("**/api/events*", lambda route: route.abort())
    await page.evaluate("async () => (await import('/static/api.js')).live.watch({}, {})")
    await expect(page.locator("#notice")).to_be_visible()
    await check(page, "no dashboard")
    await page.goto("about:blank")


@pytest.mark.usefixtures("full")
async def test_workers_letters_and_the_rest(shop: Shop, visit: Open, check: Check, screen: dict[str, Any]) -> None:
    page = await visit("/workers", **screen)
    await expect(page.get_by_text("64 of 64 partitions have an owner")).to_be_visible()
    await check(page, "workers")
    page = await visit("/dead-letters", **screen)
    await expect(page.locator(".letter")).to_have_count(2)
    await check(page, "dead letters")
    for button in ("Drop…", "Edit and requeue…"):
        await page.get_by_role("button", name=button).last.click()
        await check(page, f"dialog {button}")
        await page.keyboard.press("Escape")
    page = await visit("/nowhere", **screen)
    await expect(page.get_by_role("heading", name="There is no such page")).to_be_visible()
    await check(page, "no such page")
    async with shop.dashboard(Access("a-token-for-tests")) as address:
        page = await visit("/", base=address, refusals=True, **screen)
        await expect(page.get_by_label("Token")).to_be_visible()
        await check(page, "token")
        await page.goto("about:blank")


@pytest.mark.usefixtures("full")
async def test_all_of_it_by_keyboard(visit: Open) -> None:
    """Whatever takes the focus shows it, and can be left again."""
    for path in ("/?text=a-", "/workflows/default/a-whole", "/dead-letters"):
        page = await visit(path)
        await expect(page.locator("h1")).to_be_visible()
        await asyncio.sleep(0.5)
        unseen = []
        for _ in range(60):
            await page.keyboard.press("Tab")
            problem = await page.evaluate("""() => {
              const element = document.activeElement;
              if (element === document.body) return "end";
              const style = getComputedStyle(element);
              const hover = element.querySelector(".t-hover");
              const underlined = /underline/.test(style.textDecorationLine);
              const framed = hover && getComputedStyle(hover).stroke !== "none";
              return style.outlineStyle !== "none" || underlined || framed ? "" : element.outerHTML.slice(0, 120);
            }""")
            if problem == "end":
                break
            if problem:
                unseen.append(problem)
        assert unseen == []
