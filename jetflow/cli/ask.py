"""``jetflow query`` and ``update``: query a workflow, or call a function of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from jetflow.cli.arguments import parse_all
from jetflow.cli.options import HERE, AnswerTimeout, Args, Connection, Json, TaskQueue, WorkflowId
from jetflow.cli.output import write_result
from jetflow.cli.report import reporting
from jetflow.client import DEFAULT_QUEUE
from jetflow.handle import WorkflowHandle


def query(
    workflow_id: WorkflowId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that the workflow passed to set_query_handler.", show_default=False)],
    args: Args = None,
    timeout: AnswerTimeout = "5s",
    task_queue: TaskQueue = DEFAULT_QUEUE,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Query a workflow and print its answer as JSON. A query stores nothing and changes nothing.

    Examples:
      jetflow query order-456 lines -q orders
      jetflow query order-456 price '"EUR"' --json | jq .total
    """
    _ask("query", lambda handle, given: handle.query(name, *given, timeout=timeout), workflow_id, args, task_queue,
         connection, as_json=as_json)  # fmt: skip


def update(
    workflow_id: WorkflowId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name that the workflow passed to set_update_handler.", show_default=False)],
    args: Args = None,
    timeout: AnswerTimeout = "1m",
    update_id: Annotated[str | None, typer.Option("--update-id", metavar="ID", help="Apply it once, however often it is called.")] = None,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Call a function of a running workflow and print its result as JSON once it is stored.

    Examples:
      jetflow update order-456 add_line '{"sku": "A"}' -q orders
      jetflow update order-456 approve --update-id approve-1
    """
    _ask("update", lambda handle, given: handle.update(name, *given, timeout=timeout, update_id=update_id), workflow_id, args, task_queue,
         connection, as_json=as_json)  # fmt: skip


def _ask(
    what: str,
    ask: Callable[[WorkflowHandle, list[Any]], Awaitable[Any]],
    workflow_id: str,
    args: list[str] | None,
    task_queue: str,
    connection: Connection,
    *,
    as_json: bool,
) -> None:
    async def run(given: list[Any]) -> Any:
        async with connection.open(what) as client:
            return await ask(client.get_handle(workflow_id, task_queue), given)

    with reporting(as_json):
        write_result(asyncio.run(run(parse_all(args or []))), one_line=as_json)
