"""What finding workflows costs: ``python -m bench.listing [RECORDS]`` writes so many state records and lists, pages and counts them.

The records are written as owners write them, without owners: a tenth of them runs, one of 100 failed, the task queue ``rare`` has one of
20,000, and a tenth is written a second time, so that the stream has gaps.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable

import msgspec
from msgspec import Raw

from bench.loops import available, run
from bench.stage import in_flight
from jetflow import Client
from jetflow.broker.transport.server import LocalServer
from jetflow.core.ids import to_token
from jetflow.protocol.headers import header_block
from jetflow.protocol.record import StateRecord

IN_FLIGHT = 500
RARE = 20_000


def record(number: int, now: int) -> StateRecord:
    """One workflow's state, of about 400 bytes."""
    status = "running" if number % 10 == 0 else "failed" if number % 100 == 1 else "completed"
    return StateRecord(
        workflow_id=f"order-{number}", task_queue="rare" if number % RARE == 7 else "orders", workflow_type="order", run_id=str(number * 3 + 1),
        status=status, code={"running": 1, "failed": -598}.get(status, 0), started_at=now, updated_at=now,
        closed_at=None if status == "running" else now, result=Raw(b'{"sku": "A-1", "total": 30}'), timeline_seq=3,
        expire=604_800_000, worker="host-12-3f9a", data={"customer": Raw(b'"c%d"' % (number % 1000))},
    )  # fmt: skip


async def put(client: Client, written: StateRecord) -> None:
    """As an owner would, without one."""
    subject = client.states.subject(to_token(written.task_queue), to_token(written.workflow_id))
    headers = header_block(Nats_TTL="604800s") if written.closed else None
    await client.broker.lane.publish(subject, msgspec.json.encode(written), headers)


async def fill(client: Client, records: int) -> None:
    """Writes them all, and a tenth of them again."""
    now = int(time.time() * 1000)
    await in_flight(IN_FLIGHT, records, lambda number: put(client, record(number, now)))
    await in_flight(IN_FLIGHT, records // 10, lambda number: put(client, record(number * 10, now)))


async def whole_list(client: Client) -> int:
    found = 0
    async for _ in client.list():
        found += 1
    return found


async def paged(client: Client, pages: int) -> int:
    """Ten pages of 50, one after the other."""
    cursor, found = None, 0
    for _ in range(pages):
        page = await client.list_page(limit=50, cursor=cursor)
        cursor, found = page.cursor, found + len(page.workflows)
        if cursor is None:
            break
    return found


async def page_of(client: Client, **wanted: object) -> int:
    return len((await client.list_page(limit=50, **wanted)).workflows)  # type: ignore[arg-type]


WORK: tuple[tuple[str, Callable[[Client], Awaitable[int]]], ...] = (
    ("count()", lambda client: client.count()),
    ('count(task_queue="orders")', lambda client: client.count(task_queue="orders")),
    ('count(task_queue="rare")', lambda client: client.count(task_queue="rare")),
    ("page of 50", page_of),
    ("ten pages of 50", lambda client: paged(client, 10)),
    ('page of 50, status="running"', lambda client: page_of(client, status="running")),
    ('page of 50, status="failed"', lambda client: page_of(client, status="failed")),
    ('page of 50, task_queue="rare"', lambda client: page_of(client, task_queue="rare")),
    ('page of 50, search={"customer": "c7"}', lambda client: page_of(client, search={"customer": "c7"})),
    ('page of 50, search={"customer": "nobody"}', lambda client: page_of(client, search={"customer": "nobody"})),
    ('count(status="failed")', lambda client: client.count(status="failed")),
    ('count(search={"customer": "c7"})', lambda client: client.count(search={"customer": "c7"})),
    ("list(), all", whole_list),
)


async def measure(records: int) -> None:
    """Prints a line for each."""
    async with LocalServer() as server, Client.connect(server.url) as client:
        began = time.perf_counter()
        await fill(client, records)
        print(f"{records:,} records written in {time.perf_counter() - began:.1f} s")
        for what, work in WORK:
            began, cpu = time.perf_counter(), time.process_time()
            found = await work(client)
            took, spent = (time.perf_counter() - began) * 1000, (time.process_time() - cpu) * 1000
            print(f"{what:<45} {took:>9,.1f} ms  {spent:>9,.1f} ms CPU  {found:>9,} found")


if __name__ == "__main__":
    run(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000), available("uvloop"))
