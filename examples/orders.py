"""An order: charge, wait for an approval, ship in a child workflow, and refund if the order does not get that far.

    jetflow dev examples/orders.py --task-queue orders                       # embedded nats-server and a worker

    nats pub jetflow.orders.order-456.start.order '{"sku":"A","quantity":3}' # in another terminal
    nats kv get jetflow_state orders.order-456 --raw                         # it waits for the signal "approval"
    nats kv get jetflow_timeline orders.order-456.1 --raw                    # the first commit of its history, while it runs
    nats pub jetflow.orders.order-456.signal.approval '{"ok":true,"by":"Ada"}'
    nats pub jetflow.orders.order-456.cancel ''                              # or cancel it: it is refunded
    nats sub 'jetflow_changed.orders.>'                                      # every change, live

Or from Python:

    async with Client.connect() as client:
        handle = await client.start(order, Order("A", 3), workflow_id="order-457", task_queue="orders")
        await handle.signal("approval", {"ok": True, "by": "Ada"})
        print(await handle.result())
"""

from msgspec import Struct

from jetflow import CancellationScope, CancelledFailure, RetryPolicy, activity, condition, execute_child, sleep, workflow, workflow_info

PRICE = 1999


class Order(Struct):
    sku: str
    quantity: int = 1
    approve_within: str = "24h"


class Receipt(Struct):
    id: str
    amount: int


class Approval(Struct):
    ok: bool
    by: str = ""


class PaymentProvider:
    """Stands for a service that takes an idempotency key, as real ones do: the same key never moves money twice."""

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}
        self.refunded: set[str] = set()

    def charge(self, key: str, amount: int) -> Receipt:
        self.charged.setdefault(key, amount)
        return Receipt(key, amount)

    def refund(self, receipt_id: str) -> None:
        self.refunded.add(receipt_id)


payments = PaymentProvider()


class CardDeclinedError(Exception):
    """No retry would help."""


@activity(retry=RetryPolicy(maximum_attempts=5, non_retryable=["CardDeclinedError"]), start_to_close_timeout="30s")
async def charge(order: Order) -> Receipt:
    if order.quantity > 100:
        raise CardDeclinedError(f"{order.quantity} of {order.sku} are over the card's limit")
    return payments.charge(activity.info().idempotency_key, PRICE * order.quantity)


@activity
async def refund(receipt: Receipt) -> None:
    payments.refund(receipt.id)


@activity
async def book_carrier(order: Order) -> str:
    return f"parcel-{order.sku}-{order.quantity}"


@workflow
async def order(o: Order) -> str:
    """Return what became of the order. A cancelled order fails with ``CancelledFailure`` once it is refunded."""
    receipt = await charge(o)
    try:
        approval = await condition("approval", timeout=o.approve_within, model=Approval)
        if approval is False or not approval.ok:
            await refund(receipt)
            return "refunded: nobody approved in time" if approval is False else f"refunded: refused by {approval.by}"
        parcel = await execute_child(ship, o, workflow_id=f"{workflow_info().workflow_id}-shipping")
    except CancelledFailure:
        async with CancellationScope.non_cancellable():
            await refund(receipt)
        raise
    return f"shipped as {parcel}, approved by {approval.by}"


@workflow
async def ship(order: Order) -> str:
    """A child with an id and a history of its own."""
    parcel = await book_carrier(order)
    await sleep("1s")  # the carrier needs a moment
    return parcel
