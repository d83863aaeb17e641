"""``jetflow start`` and ``jetflow result``: start a workflow, and wait for its result."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.text import Text

from jetflow.cli.arguments import parse_all
from jetflow.cli.options import HERE, Connection, Json, TaskQueue, Timeout, WorkflowId, follow_up
from jetflow.cli.output import clean, expiry, say, tell, write_json, write_result
from jetflow.cli.report import reporting
from jetflow.client import DEFAULT_QUEUE
from jetflow.core.durations import limit_ms
from jetflow.core.values import decode
from jetflow.handle import WorkflowHandle


class IfExists(StrEnum):
    """What a start does if its id is taken."""

    FAIL = "fail"
    ATTACH = "attach"
    REPLACE = "replace"


def start(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW", help="Name of the workflow.", show_default=False)],
    args: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help='Each is JSON, else plain text; "-" reads JSON from stdin.', show_default=False)
    ] = None,
    workflow_id: Annotated[str | None, typer.Option("--id", metavar="ID", help="The workflow's id. Default: a random one.")] = None,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end and print its result, as `jetflow result` does.")] = False,
    timeout: Timeout = None,
    expire: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help='How long its record stays after the end, or "forever". Default: the worker\'s.'),
    ] = None,
    if_exists: Annotated[IfExists, typer.Option(help="What to do if the id is taken.")] = IfExists.FAIL,
    start_delay: Annotated[str | None, typer.Option(metavar="DURATION", help="How long until it begins.")] = None,
    search: Annotated[str | None, typer.Option(metavar="JSON", help="Fields of user data to begin with, as a JSON object.")] = None,
    entity: Annotated[str | None, typer.Option(metavar="JSON", help="The JSON document to begin with.")] = None,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Start a workflow.

    The command returns once the start is stored, whether or not a worker is up. With --wait only the result goes to stdout.
    Options may come anywhere. Arguments that begin with a dash must come after "--".

    Examples:
      jetflow start order '{"sku": "A", "count": 3}' --id order-456 -q orders
      jetflow start greet Ann --wait
      jetflow start transfer -q bank -- -50 '"12345"'
      jq .order mail.json | jetflow start order - --json
    """

    async def begin(given: list[Any]) -> Any:
        async with connection.open("start") as client:
            handle = await client.start(
                workflow,
                *given,
                workflow_id=workflow_id,
                task_queue=task_queue,
                expire=expiry(expire, default="default"),
                if_exists=if_exists.value,
                start_delay=start_delay,
                search=None if search is None else decode(search.encode(errors="replace"), "--search"),
                entity=None if entity is None else decode(entity.encode(errors="replace"), "--entity"),
            )
            _show_started(handle, connection, as_json=as_json, wait=wait)
            return await handle.result(timeout=timeout) if wait else None

    with reporting(as_json):
        if timeout is not None:
            limit_ms(timeout, "timeout")  # report a wrong timeout before starting anything
        value = asyncio.run(begin(parse_all(args or [])))
        if wait:
            write_result(value, one_line=as_json)


def _show_started(handle: WorkflowHandle, connection: Connection, *, as_json: bool, wait: bool) -> None:
    told = "started" if handle.run_id is not None else "already there:"
    run = f", run {handle.run_id}" if handle.run_id is not None else ""
    headline = Text.assemble(f"{told} ", (clean(handle.workflow_id), "bold"), f" on task queue {clean(handle.task_queue)}{run}")
    if as_json:
        facts = {
            "workflow_id": handle.workflow_id,
            "run_id": handle.run_id,
            "task_queue": handle.task_queue,
            "workflow_type": handle.workflow_type,
            "started": handle.run_id is not None,
        }
        write_json(facts, to_stderr=wait)
    elif wait:
        tell(headline)
    else:
        say(headline)
        for command, what in (("result", "waits for its result"), ("show", "shows its state")):
            say(Text.assemble("  ", (follow_up(command, handle.workflow_id, handle.task_queue, connection), "cyan"), (f"   {what}", "dim")))


def result(
    workflow_id: WorkflowId,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    timeout: Timeout = None,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Wait for a workflow's end and print its result as JSON.

    A failed workflow's failure, with its causes and their stacks, goes to stderr. The exit code is 1 then. It is 3 for an
    unknown id, and 4 after the timeout.

    Examples:
      jetflow result order-456 -q orders
      jetflow result order-456 --timeout 30s --json | jq .total
    """

    async def wait() -> Any:
        async with connection.open("result") as client:
            return await client.get_handle(workflow_id, task_queue).result(timeout=timeout)

    with reporting(as_json):
        write_result(asyncio.run(wait()), one_line=as_json)
