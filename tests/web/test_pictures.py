"""The pictures of docs/dashboard.md; JETFLOW_SCREENSHOTS=1 puts them there."""

import asyncio
import os
import struct
from pathlib import Path

import pytest
from playwright.async_api import Page, expect

from ..engine.helpers import waits_for
from .app import Order
from .conftest import Open, Shop, press, row

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEPT = bool(os.environ.get("JETFLOW_SCREENSHOTS"))
IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"


async def test_pictures(shop: Shop, visit: Open, tmp_path: Path) -> None:
    people = ["Ada", "Grace", "Edsger", "Barbara"]
    flaky = await shop.client.start("order", Order("K-7", 3, "Grace", "flaky"), workflow_id="order-2077")
    await waits_for(flaky, "approval")
    page = await visit("/")
    dark = await visit("/workflows/default/order-2077", color_scheme="dark")
    for number in range(24):
        person = people[number % 4]
        match number % 6:
            case 0 | 3:
                await shop.client.start("order", Order(f"K-{number}", 1 + number % 3, person), workflow_id=f"order-{2080 + number}")
            case 1:
                await shop.client.start("rejected", f"Q-{number}", workflow_id=f"restock-{number}")
            case 2:
                await shop.client.start("shipping", Order(f"K-{number}", 1, person), workflow_id=f"shipping-{2080 + number}")
            case _:
                await shop.client.start("echo", {"page": number}, workflow_id=f"sync-{number}")
        if KEPT:
            await asyncio.sleep((1.1, 0.1, 0.6, 0.05)[number % 4])  # so that the chart has something to show
    for number in (0, 3, 6):
        handle = shop.client.get_handle(f"order-{2080 + number}")
        await waits_for(handle, "approval")
        await handle.signal("approval", {"ok": True, "by": "Barbara"})
    await shop.client.get_handle("order-2089").terminate("ordered twice", expire="1h")
    await expect(row(page, "order-2089")).to_contain_text("terminated")
    await expect(row(page, "order-2086")).to_contain_text("completed")
    await picture(page, tmp_path, "list")
    await press(dark, "Send it…")
    await dark.get_by_label("Data").fill('{"ok": true, "by": "Barbara"}')
    await picture(dark, tmp_path, "signal")
    await press(dark, "Send signal")
    await expect(dark.locator(".w-head .status")).to_have_text("completed")
    whole = await visit("/workflows/default/order-2077", viewport={"width": 1280, "height": 1180})
    await expect(whole.locator(".event").last).to_contain_text("workflow completed")
    await picture(whole, tmp_path, "workflow")


async def picture(page: Page, folder: Path, name: str) -> None:
    """Takes one, and sees that something is on it: a blank page compresses to next to nothing."""
    await page.evaluate("document.fonts.ready")
    path = folder / f"{name}.png"
    await page.screenshot(path=path, animations="disabled")
    data = path.read_bytes()
    assert struct.unpack(">I", data[16:20])[0] == 1280
    assert len(data) > 40_000
    if KEPT:
        (IMAGES / f"dashboard-{name}.png").write_bytes(data)
