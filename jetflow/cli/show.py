"""``jetflow show``: one workflow's state record as text."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import msgspec
import typer
from rich.text import Text

from jetflow.cli.options import HERE, Connection, Json, TaskQueue, Utc, WorkflowId
from jetflow.cli.output import ago, clean, local_time, say, short_duration, write_json
from jetflow.cli.report import failure_text, reporting
from jetflow.cli.styles import STYLES, status_of
from jetflow.cli.tree import show_tree
from jetflow.client import DEFAULT_QUEUE
from jetflow.protocol.record import StateRecord, Waiting

LABEL = 12


def show(
    workflow_id: WorkflowId,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    tree: Annotated[bool, typer.Option("--tree", help="Show it, its children and their children, one per line.")] = False,
    utc: Utc = False,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Show a workflow: status, times, what it waits for, its result or failure.

    Examples:
      jetflow show order-456 -q orders
      jetflow show order-456 --tree
      jetflow show order-456 --json | jq '.waiting[].name'
    """

    async def read() -> tuple[StateRecord | None, dict[str, Any]]:
        async with connection.look("show") as client:
            handle = client.get_handle(workflow_id, task_queue)
            record = await handle.describe()
            return record, {} if record is not None else (await handle.state(metadata=True))["metadata"]

    with reporting(as_json):
        if tree:
            show_tree(workflow_id, task_queue, connection, as_json=as_json)
            return
        record, pending = asyncio.run(read())
        if as_json:
            write_json(record if record is not None else pending)
        elif record is None:
            say(_headline(workflow_id, "running", "its start is stored and waits for a worker of this task queue"))
        else:
            for line in describe(record):
                say(line)


def describe(record: StateRecord) -> list[Text]:
    """Return a state record as lines."""
    status = status_of(record)
    lines = [_headline(record.workflow_id, status, "asked to cancel" if record.cancel_requested and not record.closed else "")]
    lines += [_line("type", clean(record.workflow_type)), _line("task queue", clean(record.task_queue))]
    generation = f", generation {record.generation}" if record.generation > 1 else ""
    lines.append(_line("run", f"{clean(record.run_id)}{generation}"))
    if record.parent_workflow_id is not None:
        lines.append(_line("parent", clean(record.parent_workflow_id)))
    if record.origin_id is not None and record.origin_id != record.parent_workflow_id:
        lines.append(_line("origin", clean(record.origin_id)))
    lines.append(_line("started", ago(record.started_at)))
    if record.closed_at is not None:
        lines.append(_line("ended", f"{ago(record.closed_at)}, took {short_duration(record.closed_at - record.started_at)}"))
    else:
        lines.append(_line("changed", ago(record.updated_at)))
    if record.parked is not None and not record.closed:
        lines += [
            _line("parked", f"{clean(record.parked.reason)}, {ago(record.parked.since)}"),
            Text(f"    {clean(record.parked.message, multiline=True)}", "yellow"),
        ]
    lines += _waiting_lines(record)
    if record.result is not msgspec.UNSET:
        lines.append(_line("result", ""))
        body = msgspec.json.format(bytes(record.result), indent=2).decode()
        lines.append(Text("\n".join(f"    {line}" for line in body.splitlines())))
    if record.failure is not None:
        lines.append(_line("failure", ""))
        lines.append(Text("    ") + Text("\n    ").join(failure_text(record.failure).split("\n")))
    return lines


def _waiting_lines(record: StateRecord) -> list[Text]:
    if record.closed or not record.waiting:
        return []
    lines = [_line("waits for", "")]
    for operation in record.waiting:
        lines += _operation(operation)
    if record.code > len(record.waiting):
        lines.append(Text(f"    and {record.code - len(record.waiting)} more"))
    return lines


def _operation(operation: Waiting) -> list[Text]:
    name = f" {clean(operation.name)}" if operation.name else ""
    text = Text.assemble(f"    #{operation.index} ", (f"{clean(operation.kind)}{name}", "bold"), f", since {local_time(operation.since)}")
    if operation.due is not None:
        text.append(f", until {local_time(operation.due)}")
    if operation.attempt is not None:
        text.append(f", attempt {operation.attempt}")
    lines = [text]
    if operation.failure is not None:
        lines.append(Text(f"       after {clean(operation.failure.type)}: {clean(operation.failure.message)}", "red"))
    return lines


def _headline(workflow_id: str, status: str, more: str) -> Text:
    return Text.assemble((clean(workflow_id), "bold"), "  ", (clean(status), STYLES.get(status, "")), f"  {more}" if more else "")


def _line(label: str, value: str) -> Text:
    return Text.assemble((f"  {label:<{LABEL}}", "dim"), value)
