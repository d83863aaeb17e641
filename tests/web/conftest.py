"""A shop of its own server, the dashboard over it, and a real Chromium."""

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from jetflow import Client, Worker
from jetflow.broker.transport.server import LocalServer
from jetflow.web.app import create_app
from jetflow.web.security import Access
from jetflow.web.serving import address_of, bind, served

from . import app as shop_app

expect.set_options(timeout=15_000)  # a machine may do other things, too

PACKAGES = ("chromium", "fonts-dejavu-core")
CHROMIUM_ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip
WORKFLOWS = [shop_app.order, shop_app.shipping, shop_app.rejected, shop_app.echo, shop_app.waiting, shop_app.family, shop_app.stubborn]
ACTIVITIES = [shop_app.reserve, shop_app.charge, shop_app.decline, shop_app.knock, shop_app.pack]


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of Chromium: ``CHROMIUM``, the one on PATH, or Debian's, installed once where that is possible."""
    found = _chromium()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with Path(tempfile.gettempdir(), "jetflow-chromium.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one test process installs it, the others wait
            if _chromium() is None:
                subprocess.run(["apt-get", "update", "-q"], check=True, stdout=subprocess.DEVNULL, timeout=600)
                command = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=900, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
        found = _chromium()
    assert found, f"the dashboard's tests need Chromium: `apt-get install {' '.join(PACKAGES)}`, or set CHROMIUM to the path of one"
    return found


def _chromium() -> str | None:
    given = os.environ.get("CHROMIUM")
    return given or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SMALL_PHONE = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
LARGE_PHONE = {"viewport": {"width": 430, "height": 932}, "has_touch": True, "is_mobile": True}


class Shop:
    """A server with a worker, and a client to start and command workflows with."""

    def __init__(self, server: LocalServer, client: Client) -> None:
        self.server = server
        self.client = client

    @asynccontextmanager
    async def dashboard(self, access: Access | None = None) -> AsyncIterator[str]:
        """Serves the dashboard on a connection of its own; gives its address."""
        async with Client.connect(self.server.url) as client:
            listening = bind("127.0.0.1", 0)
            async with served(create_app(client, access), listening):
                yield address_of(listening, "127.0.0.1")


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    """A server of its own, and a worker that has all partitions."""
    server = LocalServer()
    await server.start()
    try:
        async with Client.connect(server.url) as client, Worker(client, task_queue="default", workflows=WORKFLOWS, activities=ACTIVITIES) as worker:
            while not worker.partitions:
                await asyncio.sleep(0.01)
            yield Shop(server, client)
    finally:
        await server.stop()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shop() -> AsyncIterator[Shop]:
    async with open_shop() as shop:
        yield shop


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def url(shop: Shop) -> AsyncIterator[str]:
    """Address of a dashboard that anybody on this machine may use."""
    async with shop.dashboard() as address:
        yield address


class Api:
    """Calls as the page makes them."""

    def __init__(self, http: httpx.AsyncClient, url: str) -> None:
        self.http = http
        self.url = url

    async def get(self, path: str, **parameters: Any) -> Any:
        answer = await self.http.get(f"{self.url}/api/{path}", params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return await self.http.post(f"{self.url}/api/{path}", json=body, headers={"origin": self.url, **headers})


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(url: str) -> AsyncIterator[Api]:
    async with httpx.AsyncClient(trust_env=False) as http:
        yield Api(http, url)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGS)
        yield browser
        await browser.close()


Open = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, url: str) -> AsyncIterator[Open]:
    """Opens a page of the dashboard; whatever goes wrong in it, or is run by it, fails the test. ``refusals`` says that calls may fail."""
    contexts, problems = [], []

    async def visit(path: str = "/", *, base: str = url, refusals: bool = False, **options: Any) -> Page:
        options = {"viewport": {"width": 1280, "height": 860}, "locale": "en-GB", "timezone_id": "Europe/Brussels"} | options
        context = await browser.new_context(**options)
        contexts.append(context)
        page = await context.new_page()
        page.set_default_timeout(40_000)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on(
            "console", lambda message: problems.append(f"console: {message.text}") if message.type == "error" and not refused(message.text) else None
        )

        def refused(text: str) -> bool:  # what Chromium says of an answer of 404 or 503, or of none
            return refusals and text.startswith("Failed to load resource")

        async def refuse(dialog: Any) -> None:
            problems.append(f"dialog: {dialog.message}")
            await dialog.dismiss()

        page.on("dialog", refuse)
        page.on("request", lambda request: None if request.url.startswith(base) else problems.append(f"asks for {request.url}"))
        await page.goto(base + path)
        return page

    yield visit
    for context in contexts:
        await context.close()
    assert problems == []


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def row(page: Page, workflow_id: str) -> Any:
    """A workflow's row in the list."""
    return page.locator(f'tr[data-id="{workflow_id}"]')


async def press(page: Page, name: str) -> None:
    """Clicks the one button of this name."""
    await page.get_by_role("button", name=name, exact=True).click()
