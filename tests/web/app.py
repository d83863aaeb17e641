"""The shop that the browser tests look at."""

import asyncio

from msgspec import Struct

from jetflow import RetryPolicy, activity, condition, enrich, execute_child, sleep, start_child, workflow

QUICK = RetryPolicy(maximum_attempts=4, initial_interval="1s", backoff_coefficient=1)
ONCE = RetryPolicy(maximum_attempts=1)
SLOWLY = RetryPolicy(initial_interval="90s", backoff_coefficient=1)


class Order(Struct):
    sku: str
    count: int = 1
    customer: str = ""
    note: str = ""


@activity
async def reserve(order: Order) -> dict:
    await asyncio.sleep(0.15)
    return {"warehouse": "Ghent", "sku": order.sku, "shelf": 12}


@activity(retry=QUICK)
async def charge(order: Order) -> dict:
    """Fails twice for orders that say so."""
    from jetflow.activity import info

    await asyncio.sleep(0.1)
    if order.note == "flaky" and info().attempt < 3:
        raise ConnectionError("the bank did not answer")
    return {"receipt": f"r-{order.sku}", "amount_minor": 12345678901234567890, "currency": "EUR"}


@activity(retry=ONCE)
async def decline(sku: str) -> None:
    raise LookupError(f"no {sku} in stock")


@activity(retry=SLOWLY)
async def knock(door: str) -> None:
    raise TimeoutError(f"nobody opens {door}")


@activity
async def pack(order: Order) -> str:
    await asyncio.sleep(0.2)
    return "parcel"


@workflow
async def shipping(order: Order) -> str:
    await pack(order)
    await sleep(0.4)
    return f"shipped {order.sku}"


@workflow
async def order(order: Order) -> dict:
    """Reserve and charge, wait for an approval, ship."""
    enrich({"customer": order.customer, "stage": "reserving"})
    reserved, receipt = await asyncio.gather(reserve(order), charge(order))
    await sleep(0.3)
    enrich({"stage": "waiting for approval"})
    approval = await condition("approval", timeout="24h")
    enrich({"stage": "shipping"})
    parcel = await execute_child(shipping, order)
    return {"reserved": reserved, "receipt": receipt, "approval": approval, "parcel": parcel}


@workflow
async def rejected(sku: str) -> None:
    await decline(sku)


@workflow
async def echo(value: object) -> object:
    return value


@workflow
async def waiting(value: object = None) -> object:
    return await condition("go")


@workflow
async def family() -> str:
    await start_child(waiting, None, workflow_id="the-child")
    return "started"


@workflow
async def stubborn(door: str) -> None:
    """Retries for an hour, and waits for much else beside."""
    await asyncio.gather(*(condition(f"other-{number}") for number in range(30)), knock(door))
