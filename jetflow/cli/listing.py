"""``jetflow list`` and ``jetflow count``: workflows with a record."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from jetflow.cli.options import HERE, Connection, Json, Utc
from jetflow.cli.output import clean, local_time, out, say, tell, write_json
from jetflow.cli.report import reporting
from jetflow.cli.selection import EVERYTHING, Selection
from jetflow.cli.styles import STYLES, about, status_of
from jetflow.client import Client
from jetflow.protocol.record import PENDING, StateRecord
from jetflow.reading.listing import CountBy, Page
from jetflow.reading.overview import unserved_queues

PAGE = 50
MUCH = 1000
"""Workflows in one page when all are read."""
GAP = 2
LEAST_ID = 16
LEAST_ABOUT = 8
"""Least width of a terminal for the column ABOUT."""
COLUMNS = ("ID", "STATUS", "TYPE", "TASK QUEUE", "STARTED", "ABOUT")

Limit = Annotated[
    int | None,
    typer.Option(metavar="N", min=0, help=f"At most N workflows; 0: all. Default: {PAGE}, with --json all.", show_default=False),
]
Cursor = Annotated[str | None, typer.Option(metavar="TEXT", help="Continue after a page: its cursor, with the same filters.")]


class By(StrEnum):
    """The fields to count by."""

    STATUS = "status"
    TYPE = "type"
    TASK_QUEUE = "task-queue"


FIELDS: dict[By, CountBy] = {By.STATUS: "status", By.TYPE: "workflow_type", By.TASK_QUEUE: "task_queue"}


def list_workflows(
    which: Selection = EVERYTHING,
    limit: Limit = None,
    cursor: Cursor = None,
    utc: Utc = False,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """List workflows, the last changed first.

    If there are more, the cursor of the next page goes to stderr. Changes between two pages do not disturb the list: each workflow
    that stays is on one page. A workflow whose start is stored, and which no worker has begun, is pending.

    Examples:
      jetflow list --status failed --started-after 24h -q orders
      jetflow list --search customer=c7 --search paid=true --limit 20
      jetflow list --type order --json | jq -r .workflow_id
    """

    async def read() -> None:
        async with connection.look("list") as client:
            if limit == 0 or (limit is None and as_json):
                await _all(client, which, cursor, as_json=as_json)
                return
            page = await client.list_page(limit=limit or PAGE, cursor=cursor, **which.wanted)
            _print_page(page, as_json=as_json, first=cursor is None)
            if not as_json and any(record.status == PENDING for record in page.workflows):
                for queue in await unserved_queues(client.broker):
                    tell(Text(f"no worker serves task queue {clean(queue.task_queue)!r}: {queue.commands:,} of its commands wait", "yellow"))

    with reporting(as_json):
        asyncio.run(read())


async def _all(client: Client, which: Selection, cursor: str | None, *, as_json: bool) -> None:
    records: list[StateRecord] = []
    while True:
        page = await client.list_page(limit=MUCH, cursor=cursor, **which.wanted)
        cursor = page.cursor
        if as_json:  # print each at once, since there may be many
            for record in page.workflows:
                write_json(record)
        records += [] if as_json else page.workflows
        if cursor is None:
            break
    if not as_json:
        _print_table(records)


def _print_page(page: Page, *, as_json: bool, first: bool) -> None:
    if as_json:
        for record in page.workflows:
            write_json(record)
        if page.cursor is not None:
            write_json({"cursor": page.cursor}, to_stderr=True)
        return
    if page.workflows or first:
        _print_table(page.workflows)
    if page.cursor is not None:
        tell(Text(f"there may be more: --cursor {page.cursor}", "dim"))


def count_workflows(
    which: Selection = EVERYTHING,
    by: Annotated[By | None, typer.Option("--by", help="Count the workflows of each.", show_default=False)] = None,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Count workflows. Counting all of them, or all of a task queue, is fast. Other filters read every record.

    Examples:
      jetflow count -q orders
      jetflow count --status failed --started-after 24h
      jetflow count --by status
    """

    async def read() -> int | dict[str, int]:
        async with connection.look("count") as client:
            return await (client.count(**which.wanted) if by is None else client.count_by(FIELDS[by], **which.wanted))

    with reporting(as_json):
        found = asyncio.run(read())
        if as_json:
            write_json(found if isinstance(found, dict) else {"count": found})
        elif isinstance(found, dict):
            for name, number in found.items():
                say(f"{number:>9,}  {clean(name)}")
        else:
            say(str(found))


def _print_table(records: list[StateRecord]) -> None:
    if not records:
        tell("no workflows")
        return
    rows = [_row(record) for record in records]
    if out.is_terminal:
        _print_rich(rows)
    else:
        _print_plain(rows)


def _row(record: StateRecord) -> tuple[str, ...]:
    return tuple(
        clean(cell)
        for cell in (
            record.workflow_id,
            status_of(record),
            record.workflow_type,
            record.task_queue,
            local_time(record.started_at),
            about(record),
        )
    )


def _print_rich(rows: list[tuple[str, ...]]) -> None:
    """Print a table for a terminal. ABOUT gets the width that the other columns leave. Long ids are folded, never cut."""
    widths = [max(cell_len(row[i]) for row in (COLUMNS, *rows)) + GAP for i in range(len(COLUMNS) - 1)]
    room = out.width - sum(widths)
    shown = len(COLUMNS) if room >= LEAST_ABOUT else len(widths)
    while shown > 2 and min(widths[0], LEAST_ID) + sum(widths[1:shown]) > out.width:
        shown -= 1
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for column in COLUMNS[:shown]:
        table.add_column(column, no_wrap=column not in ("ID", "TASK QUEUE"), overflow="fold" if column in ("ID", "TASK QUEUE") else "ellipsis")
    for row in rows:
        cells = [Text(cell, STYLES.get(cell, "") if column == "STATUS" else "") for column, cell in zip(COLUMNS, row, strict=True)]
        cells[-1].truncate(max(room, 1), overflow="ellipsis")
        table.add_row(*cells[:shown])
    out.print(table)


def _print_plain(rows: list[tuple[str, ...]]) -> None:
    """Print a table for pipes, with whole cells."""
    everything = [COLUMNS, *rows]
    widths = [max(cell_len(row[i]) for row in everything) for i in range(len(COLUMNS))]
    for row in everything:
        say("  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip())
