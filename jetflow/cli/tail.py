"""``jetflow tail``: changes of workflows as they happen."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.text import Text

from jetflow.cli.options import HERE, Connection, Json, Utc
from jetflow.cli.output import clean, local_time, say, tell, write_json
from jetflow.cli.report import reporting
from jetflow.cli.selection import EVERYTHING, Selection
from jetflow.cli.styles import STYLES, about, status_of
from jetflow.protocol.record import StateRecord


def tail(
    which: Selection = EVERYTHING,
    last: Annotated[int, typer.Option("--last", "-n", metavar="N", min=0, help="Show first the N that changed last.")] = 10,
    utc: Utc = False,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Follow changes of workflows live, until Ctrl-C.

    It prints a line for each change of a workflow's record: started, waits for something else, data changed, ended. After a
    lost connection it prints the last change of each workflow.

    Examples:
      jetflow tail -q orders
      jetflow tail --status failed --json | jq -r '.workflow_id + " " + .failure.message'
    """

    async def follow() -> None:
        async with connection.look("tail") as client, client.changes(**which.wanted) as changes:
            if last:
                page = await client.list_page(limit=last, **which.wanted)
                for record in reversed(page.workflows):
                    _show(record, as_json=as_json)
            if not as_json:
                tell(Text("following; Ctrl-C ends it", "dim"))
            async for record in changes:
                _show(record, as_json=as_json)

    with reporting(as_json):
        asyncio.run(follow())


def _show(record: StateRecord, *, as_json: bool) -> None:
    if as_json:
        write_json(record)
        return
    status = status_of(record)
    line = Text.assemble((local_time(record.updated_at), "dim"), "  ", (f"{status:<10}", STYLES.get(status, "")), "  ", clean(record.workflow_id))
    line.append(f"  {clean(record.workflow_type)}", "dim")
    more = clean(about(record))
    say(Text.assemble(line, f"  {more}" if more else ""))
