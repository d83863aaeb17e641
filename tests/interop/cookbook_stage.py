"""What the cookbook's commands are run against: a server of their own, a worker of the queue ``orders``, and workflows in every state."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from jetflow import Client, Worker, activity, condition, enrich, set_query_handler, set_update_handler, sleep, workflow
from jetflow.broker.transport.server import LocalServer
from tests.engine.helpers import parked, until, waits_for


@activity(task_queue="mail")
async def send_mail(address: str) -> None: ...


@workflow
async def order(customer: str) -> list[str]:
    items: list[str] = []

    def add(sku: str) -> int:
        items.append(sku)
        return len(items)

    set_query_handler("items", lambda: items)
    set_update_handler("add", add)
    enrich({"customer": customer})
    await condition("approval", timeout="24h")
    return items


@workflow
async def nap() -> None:
    await sleep("1h")


@workflow
async def broken() -> None:
    raise LookupError("no stock")


@workflow
async def mailing() -> None:
    await send_mail("ann@example.org")


@asynccontextmanager
async def staged(folder: Path) -> AsyncIterator[Client]:
    """Everything that the page speaks of is there when this yields."""
    workflows = [order, nap, broken, mailing]
    async with (
        LocalServer(folder / "store") as server,
        Client.connect(server.url) as client,
        Worker(client, task_queue="orders", workflows=workflows),
    ):
        for number, customer in enumerate(("c7", "c8", "c9", "c7"), 1):
            handle = await client.start(order, customer, workflow_id=f"order-{number}", task_queue="orders")
            await waits_for(handle, "approval")
        await client.start(nap, workflow_id="nap-1", task_queue="orders")
        failed = await client.start(broken, workflow_id="broken-1", task_queue="orders")
        await failed.result(throw_on_error=False)
        mail = await client.start(mailing, workflow_id="mailing-1", task_queue="orders")
        await waits_for(mail, "send_mail")
        await parked(await client.start("newer", workflow_id="newer-1", task_queue="orders"))
        await client.start(order, "c1", workflow_id="waiting-1", task_queue="nobody")
        nap_one = client.get_handle("nap-1", "orders")
        await until(lambda: nap_one.status())
        yield client
