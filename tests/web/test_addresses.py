"""Every id and task queue has a page that can be reached from the list, reloaded, bookmarked and typed."""

from urllib.parse import quote

import pytest
from playwright.async_api import Page, expect

from jetflow.protocol.record import StateRecord
from tests.records import put_record

from ..engine.helpers import until, waits_for
from .conftest import Open, Shop, press

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAMES = [
    ".", "..", "...", ".hidden", "a.b", "/", "//", "a/b", "/lead", "../up", "a/../b", "?", "a?b=c", "#", "a#b", "%", "100%", "%2F", "%2e%2e",
    "=2E", "=2E=2E",
    "x=41", "=zz", "a b", " a ", "a+b", "a&b", "a\\b", "\\", "\n", "\ttab\r\n", "\x00", "\x7f", "🦊", "é", "日本語", "e\u0301", "\u200b", "\u202eabc",
    "'\"<>",
    "a;b", "a,b", "@", "~", "*", ">", "$", "C:\\x", "http://x/y", "//evil.example/", "static", "api", "undefined", "null", "__proto__", "constructor",
    "x" * 256, "🦊" * 21, "." * 85, "/" * 85,
]  # fmt: skip

CHUNKS = [NAMES[at : at + 12] for at in range(0, len(NAMES), 12)]


async def opened(page: Page, name: str) -> None:
    """The page shows the workflow of this id, to the letter."""
    await expect(page.locator(".w-head .status")).to_have_text("running")
    await until(lambda: _is(page, name))


async def _is(page: Page, name: str) -> bool:
    return await page.locator("h1.id").get_attribute("data-id") == name


async def click_row(page: Page, name: str) -> None:
    await click(page, "id", name)


async def click(page: Page, field: str, name: str) -> None:
    """Clicks the link of the row that has this id or queue, with the mouse."""
    find = f"name => [...document.querySelectorAll('tr')].find((row) => row.dataset.{field} === name)?.querySelector('a.id')"
    found = await page.wait_for_function(find, arg=name)
    await found.as_element().click()


async def test_what_cannot_be_seen_has_a_sign(shop: Shop, visit: Open) -> None:
    signs = {
        " a ": "␠a␠",
        "\n": "␊",
        "\x00": "␀",
        "\x7f": "␡",
        "\u200b": "<U+200B>",
        "\u202eabc": "<U+202E>abc",
        "👨\u200d👩\u200d👧": "👨\u200d👩\u200d👧",
    }
    for number, name in enumerate(signs):
        await put(shop, name, "signs", 50_000 + number)
    page = await visit("/?queue=signs")
    await expect(page.locator("tbody tr")).to_have_count(len(signs))
    assert sorted(await page.locator("a.id").all_text_contents()) == sorted(signs.values())


async def put(shop: Shop, name: str, queue: str, run: int) -> None:
    await put_record(shop.client, StateRecord(name, queue, "any", str(run), "running", 1, 1000, 1000, worker="nobody"))


@pytest.mark.parametrize("chunk", range(len(CHUNKS)))
async def test_any_id_has_a_page(shop: Shop, visit: Open, chunk: int) -> None:
    names, queue = CHUNKS[chunk], f"names-{chunk}"
    for number, name in enumerate(names):
        await put(shop, name, queue, 100_000 + 1000 * chunk + number)
    page = await visit(f"/?queue={queue}")
    await expect(page.locator("tbody tr")).to_have_count(len(names))
    for name in names:
        await click_row(page, name)
        await opened(page, name)
        address = page.url
        await page.reload()
        await opened(page, name)
        assert page.url == address
        await page.go_back()
        await expect(page.locator("tbody tr")).to_have_count(len(names))


@pytest.mark.parametrize("chunk", range(len(CHUNKS)))
async def test_any_task_queue_has_its_pages(shop: Shop, visit: Open, chunk: int) -> None:
    workflow_id = f"one-{chunk}"
    for number, name in enumerate(CHUNKS[chunk]):
        await put(shop, workflow_id, name, 200_000 + 1000 * chunk + number)
    page = await visit(f"/?text={workflow_id}")
    for name in CHUNKS[chunk]:
        await click(page, "queue", name)
        await opened(page, workflow_id)
        assert await page.locator("h1.id").get_attribute("data-queue") == name
        await page.locator(".crumbs a").last.click()
        if name.strip() == name:  # the filter's field takes off what is around it
            await expect(page.locator("tbody tr")).to_have_count(1)
        await page.goto(page.url.partition("?")[0] + f"?text={workflow_id}")


async def test_an_address_that_somebody_wrote_by_hand_is_understood(shop: Shop, visit: Open) -> None:
    names = [name for name in NAMES if name.strip(".") and name not in ("=2E", "=2E=2E") and "\x00" not in name]
    for number, name in enumerate(names):
        await put(shop, name, "names", 300_000 + number)
    page = await visit()
    base = page.url.rstrip("/")
    for name in names:
        await page.goto(f"{base}/workflows/names/{quote(name, safe='')}")
        await opened(page, name)
    await page.goto(f"{base}/workflows/names/100%")  # not even right
    await opened(page, "100%")


async def test_a_workflow_with_an_odd_id_is_commanded(shop: Shop, visit: Open) -> None:
    for name in ("..", "a/b %2F?", "🦊" * 21):
        handle = await shop.client.start("waiting", workflow_id=name)
        await waits_for(handle, "go")
        page = await visit("/")
        await click_row(page, name)
        await opened(page, name)
        await press(page, "Send it…")
        await press(page, "Send signal")
        await handle.result(timeout="30s")
        await expect(page.locator(".w-head .status")).to_have_text("completed")
        await expect(page.locator(".event").last).to_contain_text("workflow completed")


@pytest.mark.parametrize("width", [320, 1280])
async def test_long_names_stay_on_the_page(shop: Shop, visit: Open, width: int) -> None:
    queue = "queue-" + "q" * 250
    await put(shop, "w" * 256, queue, 400_000)
    page = await visit(f"/?queue={queue}", viewport={"width": width, "height": 800})
    await expect(page.locator("tbody tr")).to_have_count(1)
    await stays_inside(page)
    await page.locator("a.id").click()
    await opened(page, "w" * 256)
    await stays_inside(page)


async def stays_inside(page: Page) -> None:
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page can be pushed sideways"
