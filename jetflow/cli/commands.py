"""``jetflow signal``, ``cancel`` and ``terminate``: commands to one workflow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from jetflow.cli.arguments import parse
from jetflow.cli.options import HERE, Connection, Json, Reason, TaskQueue, WorkflowId, follow_up
from jetflow.cli.output import clean, expiry, say, write_json
from jetflow.cli.report import reporting
from jetflow.client import DEFAULT_QUEUE
from jetflow.errors import WorkflowAlreadyClosedError, WorkflowNotFoundError
from jetflow.handle import WorkflowHandle


def signal(
    workflow_id: WorkflowId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the workflow waits for with condition(NAME).", show_default=False)],
    data: Annotated[str | None, typer.Argument(metavar="DATA", help='JSON, else plain text; "-" reads JSON from stdin.', show_default=False)] = None,
    expire: Annotated[str, typer.Option(metavar="DURATION", help='How long it waits for the workflow\'s condition, or "forever".')] = "10m",
    task_queue: TaskQueue = DEFAULT_QUEUE,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Send a signal to a workflow. The signal may come before the workflow's start.

    Examples:
      jetflow signal order-456 approval '{"ok": true}' -q orders
      jetflow signal order-456 approval --expire 1h
    """

    with reporting(as_json):
        given = None if data is None else parse(data)

    async def send(handle: WorkflowHandle) -> str:
        note = ""
        try:  # look before the signal, which may end the workflow
            record = await handle.describe()
            if record is not None and record.closed:
                note = f", but the workflow had already ended ({record.status})"
        except WorkflowNotFoundError:
            note = f"; there is no such workflow yet, the signal waits for it for {expire}"
        await handle.signal(name, given, expire=expiry(expire, default="10m"))
        return f"stored{note}"

    _command(f"signal {name}", send, workflow_id, task_queue, connection, as_json=as_json)


def cancel(
    workflow_id: WorkflowId,
    reason: Reason = None,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """Ask a workflow to cancel. Its code may clean up first, or continue.

    Examples:
      jetflow cancel order-456 -q orders --reason "customer called"
    """

    async def send(handle: WorkflowHandle) -> str:
        record = await handle.describe()
        if record is not None and record.closed:
            raise WorkflowAlreadyClosedError(workflow_id, record.status)
        await handle.cancel(reason)
        return f"asked; `{follow_up('result', workflow_id, task_queue, connection)}` waits for its end"

    _command("cancel", send, workflow_id, task_queue, connection, as_json=as_json)


def terminate(
    workflow_id: WorkflowId,
    reason: Reason = None,
    descend: Annotated[bool, typer.Option("--descend", help="Terminate its children and their children too.")] = False,
    expire: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help='How long its record stays, or "forever". Default: as if it had ended by itself.', show_default=False),
    ] = None,
    task_queue: TaskQueue = DEFAULT_QUEUE,
    as_json: Json = False,
    connection: Connection = HERE,
) -> None:
    """End a workflow at once. None of its code runs any more, not even cleanup.

    Examples:
      jetflow terminate order-456 -q orders --reason "wrong price" --descend
    """

    async def send(handle: WorkflowHandle) -> str:
        await handle.terminate(reason or "terminated by command", descend=descend, expire=expiry(expire, default="default"))
        return "sent"

    _command("terminate", send, workflow_id, task_queue, connection, as_json=as_json)


def _command(
    what: str, send: Callable[[WorkflowHandle], Awaitable[str]], workflow_id: str, task_queue: str, connection: Connection, *, as_json: bool
) -> None:
    async def run() -> str:
        async with connection.open(what.partition(" ")[0]) as client:
            return await send(client.get_handle(workflow_id, task_queue))

    with reporting(as_json):
        outcome = asyncio.run(run())
        if as_json:
            write_json({"workflow_id": workflow_id, "task_queue": task_queue, "command": what, "outcome": outcome})
        else:
            say(f"{clean(what)} to {clean(workflow_id)}: {clean(outcome)}")
