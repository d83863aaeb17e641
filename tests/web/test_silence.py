"""A broker that is frozen, stopped or busy, and a dashboard that is: the page says so within seconds, and goes on by itself."""

import asyncio
import os
import re
import signal
import sys
import time

import pytest
from playwright.async_api import Page, expect

from jetflow.web.pulse import EVERY, PATIENCE

from .conftest import Open, Shop, open_shop, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTICED = 3.0
"""Seconds within which a person is told."""
SLACK = 1.0 if os.environ.get("CI") else 0.5
"""More for the test's own looks, on a machine that does other things too."""


async def told_within(page: Page, since: float, text: str) -> None:
    await expect(page.locator("#notice")).to_contain_text(text, timeout=10_000)
    assert time.monotonic() - since < NOTICED + SLACK
    await expect(page.locator(".live")).not_to_have_text("live")


async def silence(page: Page) -> float:
    """Seconds of silence that the page tells."""
    found = re.search(r"No answer for (\d+)(?:\.\d)? s", await page.locator(".silence").text_content() or "")
    assert found
    return float(found[1])


async def test_the_bounds_add_up() -> None:
    assert EVERY + PATIENCE < NOTICED - 0.5


@pytest.mark.parametrize("path", ["/", "/workflows/default/there", "/workers", "/dead-letters"])
async def test_a_frozen_broker(visit: Open, path: str) -> None:
    async with open_shop() as shop, shop.dashboard() as address:
        handle = await shop.client.start("waiting", workflow_id="there")
        page = await visit(path, base=address, refusals=True)
        await expect(page.locator(".live")).to_have_text("live")
        await expect(page.locator("h1")).to_be_visible()
        await page.evaluate("window.same = true")
        assert shop.server.pid
        os.kill(shop.server.pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            await told_within(page, began, "The broker does not answer")
            await asyncio.sleep(max(0, began + 6 - time.monotonic()))
            assert abs(await silence(page) - (time.monotonic() - began)) < 2
        finally:
            os.kill(shop.server.pid, signal.SIGCONT)
        await expect(page.locator("#notice")).to_be_hidden(timeout=20_000)
        await expect(page.locator(".live")).to_have_text("live")
        await handle.signal("go")
        await handle.result(timeout="30s")
        if path == "/":
            await expect(row(page, "there")).to_contain_text("completed")
        if path.startswith("/workflows/"):
            await expect(page.locator(".w-head .status")).to_have_text("completed")
        await expect(page.locator(".problem")).to_have_count(0)
        assert await page.evaluate("window.same"), "nobody reloaded it"
        await page.goto("about:blank")


async def test_a_page_that_is_opened_while_the_broker_is_frozen(visit: Open) -> None:
    async with open_shop() as shop, shop.dashboard() as address:
        await shop.client.start("waiting", workflow_id="there")
        assert shop.server.pid
        os.kill(shop.server.pid, signal.SIGSTOP)
        try:
            page = await visit("/", base=address, refusals=True)
            began = time.monotonic()
            await told_within(page, began, "The broker does not answer")
        finally:
            os.kill(shop.server.pid, signal.SIGCONT)
        await expect(row(page, "there")).to_be_visible(timeout=20_000)
        await expect(page.locator("#notice")).to_be_hidden()
        await page.goto("about:blank")


async def test_a_broker_that_is_stopped_and_comes_back(visit: Open) -> None:
    async with open_shop() as shop, shop.dashboard() as address:
        await shop.client.start("waiting", workflow_id="there")
        page = await visit("/", base=address, refusals=True)
        await expect(row(page, "there")).to_be_visible()
        began = time.monotonic()
        await shop.server.stop(keep_store=True)
        await told_within(page, began, "The broker does not answer")
        await shop.server.start()
        await expect(page.locator("#notice")).to_be_hidden(timeout=20_000)
        await shop.client.start("waiting", workflow_id="there-2")
        await expect(row(page, "there-2")).to_be_visible()
        await page.goto("about:blank")


async def test_a_dashboard_that_is_frozen_or_gone(shop: Shop, visit: Open, free_port: int) -> None:
    async def begin() -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "jetflow", "ui", "--server", shop.server.url, "--port", str(free_port)]
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL)
        assert process.stdout
        while b"http://" not in await asyncio.wait_for(process.stdout.readline(), 30):
            pass
        return process

    process = await begin()
    address = f"http://127.0.0.1:{free_port}"
    try:
        page = await visit("/", base=address, refusals=True)
        await expect(page.locator(".live")).to_have_text("live")
        process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        await told_within(page, began, "The dashboard's server does not answer")
        process.send_signal(signal.SIGCONT)
        await expect(page.locator("#notice")).to_be_hidden(timeout=20_000)
        process.terminate()
        await process.wait()
        began = time.monotonic()
        await told_within(page, began, "The dashboard's server does not answer")
        await page.get_by_role("link", name="Workers").click()
        process = await begin()
        await expect(page.locator("#notice")).to_be_hidden(timeout=20_000)
        await expect(page.get_by_text("64 of 64 partitions have an owner")).to_be_visible()
        await page.goto("about:blank")
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
