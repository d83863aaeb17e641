"""Sends deliveries as GitHub would, some of them twice, and counts what became of them. Part of ``webhooks.py``."""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from webhook_deliveries import Delivery

from jetflow import Client, FailureError, WorkflowAlreadyStartedError


class Sent(Struct):
    """What became of one delivery: copies sent, copies accepted, whether its workflow completed, ms from start to result."""

    copies: int
    accepted: int
    completed: bool
    ms: float


class Stored(Protocol):
    """What the summary needs of an outcome."""

    decision: Any
    retries: int


class Summary(Struct):
    """Everything that the program reports; ``p50_ms`` and ``p99_ms`` are from start to result."""

    payloads: str
    seconds: float
    deliveries: int
    copies_sent: int
    accepted: int
    from_an_earlier_run: int
    duplicates_refused: int
    completed: int
    failed: int
    outcomes_stored: int
    outcomes_stored_again: int
    activity_retries: int
    p50_ms: float | None
    p99_ms: float | None
    decisions: dict[str, int]

    @property
    def good(self) -> bool:
        """Whether nothing was lost, and nothing done twice."""
        once = self.accepted + self.from_an_earlier_run == self.deliveries and self.outcomes_stored_again == 0
        return once and self.deliveries == self.completed == self.outcomes_stored


async def send_all(
    client: Client, workflow: Any, task_queue: str, deliveries: Sequence[Delivery], concurrency: int, console: Console
) -> tuple[list[Sent], float]:
    """Send all deliveries, that many at a time, and wait for their results. The second value is the seconds that it took."""
    places = asyncio.Semaphore(concurrency)
    began = time.perf_counter()
    with Progress(console=console) as progress:
        bar = progress.add_task("deliveries", total=len(deliveries))

        async def one(number: int, delivery: Delivery) -> Sent:
            async with places:
                sent = await deliver(client, workflow, task_queue, number, delivery)
            progress.advance(bar)
            return sent

        sent = await asyncio.gather(*[one(number, delivery) for number, delivery in enumerate(deliveries)])
    return sent, time.perf_counter() - began


async def deliver(client: Client, workflow: Any, task_queue: str, number: int, delivery: Delivery) -> Sent:
    """Send a delivery: one in ten twice at the same time, and another one in ten again after its end."""

    async def copy() -> bool:
        try:
            await client.start(workflow, delivery, workflow_id=delivery.id, task_queue=task_queue)
        except WorkflowAlreadyStartedError:
            return False
        return True

    began = time.perf_counter()
    accepted = await asyncio.gather(*[copy() for _ in range(2 if number % 10 == 0 else 1)])
    result = await client.get_handle(delivery.id, task_queue=task_queue).result(throw_on_error=False)
    ms = (time.perf_counter() - began) * 1000
    if number % 10 == 5:
        accepted.append(await copy())
    return Sent(len(accepted), sum(accepted), not isinstance(result, FailureError), ms)


def summarise(payloads: str, sent: Sequence[Sent], seconds: float, stored: Sequence[Stored], stored_again: int) -> Summary:
    """The figures of a run."""
    copies, accepted = sum(one.copies for one in sent), sum(one.accepted for one in sent)
    from_an_earlier_run = sum(one.accepted == 0 for one in sent)
    completed = sum(one.completed for one in sent)
    times = sorted(one.ms for one in sent if one.accepted)
    return Summary(
        payloads=payloads,
        seconds=round(seconds, 2),
        deliveries=len(sent),
        copies_sent=copies,
        accepted=accepted,
        from_an_earlier_run=from_an_earlier_run,
        duplicates_refused=copies - accepted - from_an_earlier_run,
        completed=completed,
        failed=len(sent) - completed,
        outcomes_stored=len(stored),
        outcomes_stored_again=stored_again,
        activity_retries=sum(outcome.retries for outcome in stored),
        p50_ms=_percentile(times, 50),
        p99_ms=_percentile(times, 99),
        decisions=dict(Counter(str(outcome.decision) for outcome in stored).most_common()),
    )


def _percentile(ordered: Sequence[float], percent: int) -> float | None:
    return round(ordered[len(ordered) * percent // 100], 1) if ordered else None


def show(summary: Summary, console: Console) -> None:
    """Prints the summary as a table."""
    table = Table(show_header=False, title="Webhook deliveries")
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("deliveries in", f"{summary.deliveries} in {summary.seconds} s")
    if summary.from_an_earlier_run:
        table.add_row("known from an earlier run", str(summary.from_an_earlier_run))
    table.add_row("duplicates refused", f"{summary.duplicates_refused} of {summary.copies_sent} copies")
    table.add_row("workflows completed", str(summary.completed))
    table.add_row("workflows failed", str(summary.failed))
    table.add_row("activity retries", str(summary.activity_retries))
    if summary.p50_ms is not None:
        table.add_row("start to result, p50 / p99", f"{summary.p50_ms} / {summary.p99_ms} ms")
    table.add_row("outcomes stored / stored again", f"{summary.outcomes_stored} / {summary.outcomes_stored_again}")
    for decision, count in summary.decisions.items():
        table.add_row(f"decided: {decision}", str(count))
    console.print(table)
    if not summary.good:
        console.print("[bold red]Something was lost or done twice.[/]")
