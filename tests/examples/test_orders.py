"""``orders.py``: an order ends shipped, or refunded, and never both charged and forgotten."""

from contextlib import asynccontextmanager

import nats as nats_client
import pytest

from jetflow import ActivityError, CancelledFailure, Client, Worker, WorkflowHandle, WorkflowNotFoundError
from tests.examples.conftest import documented


@asynccontextmanager
async def serving(client: Client, queue: str, module):
    activities = [module.charge, module.refund, module.book_carrier]
    async with Worker(client, task_queue=queue, workflows=[module.order, module.ship], activities=activities):
        yield


async def until_it_waits_for_approval(client: Client, handle: WorkflowHandle) -> None:
    """Returns once the workflow's state shows the wait; every change of it is published."""
    async with await nats_client.connect(client.url) as connection:
        changed = await connection.subscribe(f"jetflow_changed.{handle.task_queue}.{handle.workflow_id}")
        await connection.flush()
        record = await handle.describe()
        while record is None or all(waiting.name != "approval" for waiting in record.waiting):
            await changed.next_msg(timeout=30)
            record = await handle.describe()


async def test_an_approved_order_is_shipped_by_its_child(client: Client, queue: str, example) -> None:
    module = example("orders")
    async with serving(client, queue, module):
        handle = await client.start(module.order, module.Order("A", 3), workflow_id="order-1", task_queue=queue)
        await handle.signal("approval", {"ok": True, "by": "Ada"})
        assert await handle.result(timeout="30s") == "shipped as parcel-A-3, approved by Ada"
        assert await client.get_handle("order-1-shipping", task_queue=queue).result(timeout="10s") == "parcel-A-3"
        assert list(module.payments.charged.values()) == [3 * module.PRICE]
        assert not module.payments.refunded


async def test_a_refused_order_is_refunded(client: Client, queue: str, example) -> None:
    module = example("orders")
    async with serving(client, queue, module):
        handle = await client.start(module.order, module.Order("A"), workflow_id="order-1", task_queue=queue)
        await handle.signal("approval", {"ok": False, "by": "Grace"})
        assert await handle.result(timeout="30s") == "refunded: refused by Grace"
        assert module.payments.refunded == set(module.payments.charged)


async def test_an_order_that_nobody_approves_is_refunded_and_never_shipped(client: Client, queue: str, example) -> None:
    module = example("orders")
    async with serving(client, queue, module):
        handle = await client.start(module.order, module.Order("A", approve_within="50ms"), workflow_id="order-1", task_queue=queue)
        assert await handle.result(timeout="30s") == "refunded: nobody approved in time"
        assert module.payments.refunded == set(module.payments.charged)
        with pytest.raises(WorkflowNotFoundError):
            await client.get_handle("order-1-shipping", task_queue=queue).status()


async def test_a_cancelled_order_is_refunded_before_it_ends(client: Client, queue: str, example) -> None:
    module = example("orders")
    async with serving(client, queue, module):
        handle = await client.start(module.order, module.Order("A"), workflow_id="order-1", task_queue=queue)
        await until_it_waits_for_approval(client, handle)
        await handle.cancel("changed my mind")
        with pytest.raises(CancelledFailure):
            await handle.result(timeout="30s")
        assert len(module.payments.charged) == 1
        assert module.payments.refunded == set(module.payments.charged)


async def test_a_declined_card_fails_the_order_at_once(client: Client, queue: str, example) -> None:
    module = example("orders")
    async with serving(client, queue, module):
        with pytest.raises(ActivityError, match="over the card's limit") as caught:
            await client.execute(module.order, module.Order("A", 101), task_queue=queue, timeout="30s")
        assert caught.value.code == 598
        assert not module.payments.charged


async def test_commands_of_the_docstring_work(client: Client, example, nats) -> None:
    module = example("orders")
    async with serving(client, "orders", module):
        handle = client.get_handle("order-456", task_queue="orders")
        nats(documented(module, "start.order"), client.url)
        await until_it_waits_for_approval(client, handle)
        assert '"approval"' in nats(documented(module, "kv get jetflow_state"), client.url)
        assert '"sku"' in nats(documented(module, "kv get jetflow_timeline"), client.url)
        nats(documented(module, "signal.approval"), client.url)
        assert await handle.result(timeout="30s") == "shipped as parcel-A-3, approved by Ada"


async def test_the_documented_cancel_refunds(client: Client, queue: str, example, nats) -> None:
    module = example("orders")
    async with serving(client, queue, module):
        handle = await client.start(module.order, module.Order("A"), workflow_id="order-456", task_queue=queue)
        await until_it_waits_for_approval(client, handle)
        nats(documented(module, "order-456.cancel").replace("jetflow.orders.", f"jetflow.{queue}."), client.url)
        with pytest.raises(CancelledFailure):
            await handle.result(timeout="30s")
        assert module.payments.refunded == set(module.payments.charged)
