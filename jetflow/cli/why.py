"""``jetflow why``: one sentence on what a workflow waits for, since when, which worker owns it, what failed, and what would wake it."""

from __future__ import annotations

import asyncio

from rich.text import Text

from jetflow.cli.options import HERE, Connection, Json, TaskQueue, Utc, WorkflowId
from jetflow.cli.output import ago, clean, local_time, say, tell, write_json
from jetflow.cli.report import reporting
from jetflow.client import DEFAULT_QUEUE, Client
from jetflow.errors import WorkflowNotFoundError
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.why import Wait, Why, kept_signals, why

MOST = 3
"""Most waits that the sentence names."""
BARE = frozenset({"start", "delay", "condition", "code", "worker"})


def explain(
    workflow_id: WorkflowId, task_queue: TaskQueue = DEFAULT_QUEUE, utc: Utc = False, as_json: Json = False, connection: Connection = HERE
) -> None:
    """Say in one sentence what a workflow waits for, since when, which worker owns it, what failed, and what would wake it.

    If it waits for a child, the sentence says what the child waits for, and so on. For an unknown id the exit code is 3, and
    the command lists its early signals.

    Examples:
      jetflow why order-456 -q orders
      jetflow why order-456 --json | jq -r '.waits[].wakes'
    """

    async def look() -> Why:
        async with connection.look("why") as client:
            ref = WorkflowRef.of(workflow_id, task_queue)
            try:
                return await why(client.lookups, ref)
            except WorkflowNotFoundError:
                await _tell_kept(client, ref, as_json=as_json)
                raise

    with reporting(as_json):
        found = asyncio.run(look())
        if as_json:
            write_json(found)
        else:
            say(Text.assemble((clean(found.workflow_id), "bold"), " ", clean(sentence(found), multiline=True)))


async def _tell_kept(client: Client, ref: WorkflowRef, *, as_json: bool) -> None:
    for kept in [] if as_json else await kept_signals(client.broker, ref):
        tell(f"an early signal {clean(kept.name)!r} waits for it until {local_time(kept.expires)}")


def sentence(found: Why) -> str:
    """Return the sentence, without the workflow's id."""
    if found.closed_at is not None:
        return _ending(found)
    named = [_clause(wait) for wait in found.waits[:MOST]]
    waits = " and for ".join(named) if len(named) > 1 else named[0]
    more = found.pending - len(named)
    if more > 0 and found.waits[0].kind not in BARE:
        waits += f" and for {more} more"
    verb = "" if found.waits[0].kind == "code" else "waits for "
    asked = ", though it was asked to cancel" if found.cancel_requested else ""
    wakes = " or ".join(dict.fromkeys(wait.wakes for wait in found.waits[:MOST]))
    stored = (
        f"; {found.stored} of its commands {'is' if found.stored == 1 else 'are'} stored and not done" if found.stored and not found.owner else ""
    )
    end = f"; {wakes} would wake it" if found.waits[0].kind != "code" else ""
    return f"({found.workflow_type} on {found.task_queue}) {verb}{waits}{asked}; {_owner(found)}{stored}{end}."


def _ending(found: Why) -> str:
    failure = f" with {found.failure.type}: {found.failure.message}" if found.failure is not None else ""
    assert found.closed_at is not None
    kept = f"; its record expires at {local_time(found.closed_at + found.expire)}" if found.expire is not None else ""
    return (
        f"({found.workflow_type} on {found.task_queue}) has {_ended(found.status)}{failure}, {ago(found.closed_at)}{kept}; nothing wakes it any more."
    )


def _ended(status: str) -> str:
    return f"been {status}" if status in ("terminated", "cancelled") else status


def _owner(found: Why) -> str:
    if found.owner is None:
        return "no worker owns it"
    return f"worker {found.owner.worker_id} ({found.owner.host}, pid {found.owner.pid}) owns it"


def _clause(wait: Wait) -> str:
    since = f", since {ago(wait.since)}"
    failed = f", attempt {wait.attempt - 1} failed with {wait.failure.type}: {wait.failure.message}" if wait.failure and wait.attempt else ""
    attempt = f" attempt {wait.attempt}" if wait.attempt else ""
    match wait.kind:
        case "start":
            return f"a worker to start it{since}, {wait.message}"
        case "delay":
            return f"the time of its start, {ago(wait.due or 0)}, delayed{since}"
        case "worker":
            return f"a worker that can continue it{since}: parked because of {wait.name}: {wait.message}"
        case "code":
            return f"runs its code{since}"
        case "condition":
            return f"a condition of its own code to be true{since}"
        case "timer":
            return f"a timer{since}, due {ago(wait.due or 0)}"
        case "signal":
            return f"signal {wait.name!r}{since}{_until(wait)}"
        case "retry":
            return f"the time of{attempt} of activity {wait.name!r}, {ago(wait.due or 0)}{failed}"
        case "activity":
            return f"activity {wait.name!r}{since}, of which{attempt or ' attempt 1'} is under way{failed}"
        case "remote":
            return f"activity {wait.name!r}{since}, of which{attempt} {wait.message}{failed}"
        case _:
            return f"child {wait.name!r}{since}{_child(wait.child)}"


def _until(wait: Wait) -> str:
    return f", until {ago(wait.due)}" if wait.due is not None else ""


def _child(child: Why | None) -> str:
    if child is None:
        return ""
    if child.closed_at is not None:
        return f", which has {_ended(child.status)}"
    first = child.waits[0]
    return f", which {_clause(first)}" if first.kind == "code" else f", which waits for {_clause(first)}"
