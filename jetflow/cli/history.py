"""``jetflow history``: what happened in a workflow, as a table, as lines, or as a tree with its children."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
import typer
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from jetflow.cli.lines import columns, heading, line
from jetflow.cli.options import HERE, Connection, Json, TaskQueue, Utc, WorkflowId
from jetflow.cli.output import out, say, tell, write_json
from jetflow.cli.report import reporting
from jetflow.client import DEFAULT_QUEUE
from jetflow.errors import InvalidInputError
from jetflow.handle import WorkflowHandle
from jetflow.history.execution import WorkflowExecution

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Show new events as they come, until the workflow ends.")]
Children = Annotated[bool, typer.Option("--verbose", "-v", help="Show a tree with the histories of its children.")]
Depth = Annotated[int, typer.Option("--max-depth", metavar="N", min=1, help="Levels of the tree.")]
Basic = Annotated[bool, typer.Option("--basic", help="Show only the events of `jetflow export` without --extended, with the same numbers.")]
After = Annotated[int, typer.Option("--after", metavar="N", min=0, help="Leave out events up to number N.")]


def history(
    workflow_id: WorkflowId,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    follow: Follow = False,
    verbose: Children = False,
    max_depth: Depth = 5,
    basic: Basic = False,
    after: After = 0,
    utc: Utc = False,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Show what happened in a workflow, event by event.

    Examples:
      jetflow history order-456 -q orders
      jetflow history order-456 --follow
      jetflow history order-456 --verbose
      jetflow history order-456 --json | jq -r .event_type
    """

    async def run() -> None:
        async with connection.look("history") as client:
            handle = client.get_handle(workflow_id, task_queue)
            if follow:
                await _follow(handle, after, extended=not basic, utc=utc, as_json=as_json)
            else:
                await _show(handle, after, max_depth if verbose else None, extended=not basic, utc=utc, as_json=as_json)

    with reporting(as_json):
        if follow and verbose:
            raise InvalidInputError("--follow and --verbose cannot be used together")
        asyncio.run(run())


async def _follow(handle: WorkflowHandle, after: int, *, extended: bool, utc: bool, as_json: bool) -> None:
    async for event in handle.watch(after, extended=extended, enrich_inputs=True):
        if as_json:
            write_json(event)
        else:
            say(line(event, utc=utc, whole=not out.is_terminal))


async def _show(handle: WorkflowHandle, after: int, depth: int | None, *, extended: bool, utc: bool, as_json: bool) -> None:
    execution = await handle.export_execution(
        mode="sparse" if depth is None else "verbose", max_depth=depth or 1, extended=extended, enrich_inputs=True, first_event=after + 1
    )
    if as_json and depth is not None:
        write_json(execution)
    elif as_json:
        for event in execution.events:
            write_json(event)
    elif depth is not None:
        out.print(_tree(execution, utc=utc), soft_wrap=not out.is_terminal)
    else:
        _print_table(execution, utc=utc)


def _print_table(execution: WorkflowExecution, *, utc: bool) -> None:
    say(heading(execution, utc=utc))
    if not execution.events:
        tell("no events" if execution.start_time is not None else "no worker has applied its start yet")
    elif not out.is_terminal:
        for event in execution.events:
            say(line(event, utc=utc, whole=True))
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("#", justify="right", no_wrap=True)
        table.add_column("TIME", no_wrap=True)
        table.add_column("EVENT", no_wrap=True)
        table.add_column("WHAT", overflow="fold")
        for event in execution.events:
            table.add_row(*columns(event, utc=utc, whole=False))
        out.print(table)


def _tree(execution: WorkflowExecution, *, utc: bool, tree: Tree | None = None) -> Tree:
    """Return the run's events as branches. A child's run is below the event that started it."""
    tree = Tree(heading(execution, utc=utc)) if tree is None else tree
    children = [] if execution.children is msgspec.UNSET else list(execution.children)
    for event in execution.events:
        branch = tree.add(Text("  ").join(columns(event, utc=utc, whole=False)))
        started = event.event_type == "child_workflow_execution_started"
        if started and children and children[0].workflow_id == event.attributes.child_workflow_id:  # type: ignore[union-attr]
            child = children.pop(0)
            _tree(child, utc=utc, tree=branch.add(heading(child, utc=utc)))
    return tree
