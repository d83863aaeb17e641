"""``jetflow list``: the workflows that have a record."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from enum import StrEnum
from typing import Annotated

import typer
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from jetflow.broker.state import StateRecord
from jetflow.cli.options import Connection, Creds, Json, Namespace, Server
from jetflow.cli.output import clean, local_time, out, say, tell, write_json
from jetflow.cli.report import reporting
from jetflow.cli.show import STYLES, status_of
from jetflow.core.ids import DEFAULT_NAMESPACE

TABLE_LIMIT = 50
COLUMNS = ("ID", "STATUS", "TYPE", "TASK QUEUE", "STARTED", "ABOUT")


class Status(StrEnum):
    """The statuses of a record."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"


def list_workflows(
    status: Annotated[Status | None, typer.Option(help="Only these.")] = None,
    workflow_type: Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only workflows of this type.")] = None,
    task_queue: Annotated[
        str | None, typer.Option("--task-queue", "-q", envvar="JETFLOW_TASK_QUEUE", metavar="NAME", help="Only this one's; all when not given.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help=f"The N changed last; 0 for all. {TABLE_LIMIT} when not given, with --json all.", show_default=False),
    ] = None,
    as_json: Json = False,
    server: Server = None,
    namespace: Namespace = DEFAULT_NAMESPACE,
    creds: Creds = None,
) -> None:
    """List workflows, the one changed last at the bottom.

    Reads every record of the namespace or task queue. Workflows whose start no worker has taken up yet have none.

    Examples:
      jetflow list --status failed -q orders
      jetflow list --type order --json | jq -r .workflow_id
    """

    async def read() -> None:
        async with Connection(server, namespace, creds).open("list") as client:
            records = client.list(task_queue=task_queue or None, status=status and status.value, workflow_type=workflow_type)
            if as_json and not limit:
                async for record in records:  # as they come: there may be many
                    write_json(record)
                return
            wanted = TABLE_LIMIT if limit is None else limit
            kept, found = await _last(records, wanted)
            if as_json:
                for record in kept:
                    write_json(record)
            else:
                _print_table(kept)
                if found > len(kept):
                    tell(Text(f"the {len(kept)} changed last of {found}; --limit 0 shows all", "dim"))

    with reporting(as_json):
        asyncio.run(read())


async def _last(records: AsyncIterator[StateRecord], wanted: int) -> tuple[list[StateRecord], int]:
    kept: deque[StateRecord] = deque(maxlen=wanted or None)
    found = 0
    async for record in records:
        kept.append(record)
        found += 1
    return list(kept), found


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
            _about(record),
        )
    )


def _about(record: StateRecord) -> str:
    if record.failure is not None:
        return f"{record.failure.type}: {record.failure.message}"
    if record.closed:
        return ""
    if record.parked is not None:
        return record.parked.reason
    waits = ", ".join(f"{operation.kind} {operation.name}".strip() for operation in record.waiting[:3])
    return f"waits for {waits}" if waits else ""


def _print_rich(rows: list[tuple[str, ...]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in COLUMNS:
        # ids are there to be copied: folded rather than cut
        table.add_column(column, no_wrap=column not in ("ID", "TASK QUEUE"), overflow="fold" if column in ("ID", "TASK QUEUE") else "ellipsis")
    for row in rows:
        table.add_row(*(Text(cell, STYLES.get(cell, "") if column == "STATUS" else "") for column, cell in zip(COLUMNS, row, strict=True)))
    out.print(table)


def _print_plain(rows: list[tuple[str, ...]]) -> None:
    """For pipes: whole cells, columns as wide as they need to be."""
    everything = [COLUMNS, *rows]
    widths = [max(cell_len(row[i]) for row in everything) for i in range(len(COLUMNS))]
    for row in everything:
        say("  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip())
