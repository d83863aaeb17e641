"""What is shown inside of something else looks as it does alone: no rule of style reaches into a component that stands in another."""

import itertools
from typing import Any

import pytest
from playwright.async_api import Locator, Page, expect

from jetflow.core.failures import Failure
from jetflow.protocol.record import StateRecord
from tests.records import put_record

from .conftest import PHONE, Open, Shop

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE_LINE = 24

DEEP = {
    "a": {"b": {"c": [1, 2, {"d": None}]}, "key, with blanks": "x y z " * 12},
    "list": [[1, 2], [], [{"k": True}]],
    "amount": 12345678901234567890,
}

LINES = """
(body) => {
  // every line of the JSON in the order of the text: what it says, where it begins, how high it is, and its keys' boxes
  const box = body.getBoundingClientRect();
  return [...body.querySelectorAll("summary, details > div:last-child, div:not(:has(details))")]
    .filter((line) => line.checkVisibility())
    .map((line) => {
      const range = document.createRange();
      const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
      let text = texts.nextNode();
      while (!text.data.trim()) text = texts.nextNode();
      range.selectNodeContents(line);
      range.setStart(text, text.data.length - text.data.trimStart().length);
      const first = [...range.getClientRects()].find((each) => each.width > 0);
      const [tag, height] = [line.tagName, line.getBoundingClientRect().height];
      const keys = [...line.querySelectorAll(":scope > .j-key")].map((key) => key.getClientRects().length);
      const indent = line.textContent.length - line.textContent.trimStart().length;
      const top = line.getBoundingClientRect().top - box.top;
      return { tag, text: line.textContent.trim(), indent, left: first.left - box.left, top, height, keys };
    });
}
"""

STYLES = """
(root) => [root, ...root.querySelectorAll("*")].map((element) => {
  const style = getComputedStyle(element);
  const names = ["display", "gridTemplateColumns", "columnGap", "paddingLeft", "paddingRight", "marginLeft", "minHeight", "textAlign", "fontFamily",
    "fontSize", "fontWeight", "lineHeight", "color", "whiteSpace", "alignItems", "listStyleType"];
  const grid = style.display === "grid";
  return [element.tagName, ...names.map((name) => (name === "gridTemplateColumns" && !grid ? "none" : style[name]))].join(" | ");
})
"""


async def json_of(page: Page, where: Locator) -> list[dict[str, Any]]:
    await expect(where).to_be_visible()
    return await where.evaluate(LINES)


def is_in_order(lines: list[dict[str, Any]], summary: float = ONE_LINE) -> None:
    """Each line is below the one before, indented by its blanks, and no key is broken in two."""
    assert len(lines) > 15
    lefts = {line["indent"]: line["left"] for line in lines}
    step = (lefts[4] - lefts[2]) / 2
    assert 5 < step < 10, "the width of a character"
    for line in lines:
        assert abs(line["left"] - (lefts[2] + step * (line["indent"] - 2))) < 1.5, line
        assert all(parts == 1 for parts in line["keys"]), line
        if line["tag"] == "SUMMARY":
            assert abs(line["height"] - summary) < 1, line
        elif len(line["text"]) < 20:
            assert line["height"] == ONE_LINE, line
    tops = [line["top"] for line in sorted(lines, key=lambda each: each["top"])]
    assert all(later - earlier >= ONE_LINE for earlier, later in itertools.pairwise(tops))


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
async def test_json_in_an_event_is_as_straight_as_alone(shop: Shop, visit: Open, options: dict[str, Any]) -> None:
    name = f"straight-{len(options)}"
    await shop.client.execute("echo", DEEP, workflow_id=name, timeout="30s")
    page = await visit(f"/workflows/default/{name}", **options)
    summary = 32 if options else ONE_LINE  # a finger needs more
    alone = page.locator(".payloads .j-body")
    await expect(alone).to_have_count(2)
    for number in range(2):
        is_in_order(await json_of(page, alone.nth(number)), summary)
    await page.locator(".e-line").last.click()
    inside = page.locator(".event[open] .j-body")
    is_in_order(await json_of(page, inside), summary)
    result = page.locator(".payloads .card").filter(has_text="Result").locator(".j-body")
    assert await inside.evaluate(STYLES) == await result.evaluate(STYLES)
    await inside.locator("summary").nth(1).click()
    await expect(inside.locator("details:not([open]) .j-folded").first).to_be_visible()
    await expect(page.locator(".event[open]")).to_have_count(1)


async def test_a_failure_in_an_event_is_as_alone(shop: Shop, visit: Open) -> None:
    handle = await shop.client.start("rejected", "K-1", workflow_id="as-alone")
    await handle.result(throw_on_error=False, timeout="30s")
    page = await visit("/workflows/default/as-alone")
    await page.locator(".e-line").last.click()
    alone, inside = page.locator(".card > .failure"), page.locator(".event[open] .failure").first
    await expect(inside).to_be_visible()
    assert await inside.evaluate(STYLES) == await alone.evaluate(STYLES)
    stack = inside.locator("summary").first
    around = stack.locator("xpath=ancestor::*[contains(concat(' ', @class, ' '), ' failure ')][1]")
    box, page_box = await stack.bounding_box(), await around.bounding_box()
    assert box
    assert page_box
    assert box["width"] < 120
    assert box["x"] == page_box["x"]
    await stack.click()
    await expect(inside.locator("pre").first).to_be_visible()


async def test_user_data_is_as_straight(shop: Shop, visit: Open) -> None:
    from msgspec import Raw
    from msgspec.json import encode

    data = {"deep": Raw(encode(DEEP)), "plain": Raw(b'"x"')}
    failed = Failure("ValueError", "no", 597, "line\n" * 60, Failure("KeyError", "k", 597, "line\n"))
    await put_record(shop.client, StateRecord("with-data", "default", "w", "600001", "failed", -1, 1, 2, closed_at=3, data=data, failure=failed))
    page = await visit("/workflows/default/with-data", refusals=True)
    is_in_order(await json_of(page, page.locator(".data .j-body").first))
    await page.get_by_text("Stack").first.click()
    assert await page.locator(".failure pre").first.get_attribute("tabindex") == "0", "it scrolls, and the keyboard reaches it"
    await page.get_by_text("Stack").last.click()
    assert await page.locator(".failure pre").last.get_attribute("tabindex") is None
