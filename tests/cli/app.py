"""The app that the command-line tests serve."""

import os
import time
from pathlib import Path

from msgspec import Struct

from jetflow import (
    RetryPolicy,
    activity,
    condition,
    enrich,
    execute_child,
    set_query_handler,
    set_update_handler,
    sleep,
    start_child,
    workflow,
)

ONCE = RetryPolicy(maximum_attempts=1)


class Item(Struct):
    sku: str
    count: int


@activity
async def price(item: Item) -> int:
    return item.count * 10


@activity
def slow(mark: str, started: str) -> str:
    """Says that it has begun, and ends when the mark is there."""
    with Path(started).open("a") as file:
        file.write(f"{os.getpid()}\n")
    while not Path(mark).exists():
        time.sleep(0.01)
    return "slow done"


@activity
def stuck(started: str, minutes: int) -> str:
    """Blocks its thread; nobody can end it."""
    first = not Path(started).exists()
    Path(started).write_text("begun")
    if first:
        time.sleep(minutes * 60)
    return "second time"


@activity
async def decline(sku: str) -> None:
    raise LookupError(f"no {sku} in [bold]stock[/bold]")


@workflow
async def order(item: Item) -> dict:
    return {"sku": item.sku, "total": await price(item)}


@workflow
async def echo(*args: object) -> list:
    return list(args)


@workflow
async def failing(sku: str) -> None:
    await decline.with_options(retry=ONCE)(sku)


@workflow
async def waiting() -> object:
    return await condition("go")


@workflow
async def two_steps(mark: str, started: str) -> str:
    first = await slow(mark, started)
    await condition("go")
    return f"{first}, then signalled"


@workflow
async def blocked(started: str) -> str:
    return await stuck(started, 30)


@workflow
async def napping(seconds: float) -> str:
    await sleep(seconds)
    return "rested"


@workflow
async def basket() -> dict:
    items: dict = {}

    def add(sku: str, count: int = 1) -> int:
        items[sku] = items.get(sku, 0) + count
        return items[sku]

    set_query_handler("items", lambda: items)
    set_update_handler("add", add)
    await condition("go")
    return items


@workflow
async def labelled(customer: str, number: int) -> None:
    enrich({"customer": customer, "number": number})


@workflow
async def family() -> object:
    await start_child(waiting, workflow_id="first")
    return await execute_child(napping, 3600, workflow_id="second")
