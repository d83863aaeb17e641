"""``jetflow show --tree``: a workflow with its children and theirs."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from msgspec import Struct
from rich.text import Text
from rich.tree import Tree

from jetflow.cli.options import Connection
from jetflow.cli.output import clean, out, say, write_json
from jetflow.cli.styles import STYLES, about, status_of
from jetflow.client import Client
from jetflow.core.events import ChildStarted
from jetflow.errors import WorkflowNotFoundError
from jetflow.protocol.record import StateRecord, summary
from jetflow.protocol.reference import WorkflowRef
from jetflow.reading.why import children

AT_ONCE = 32
"""Most workflows read at once."""


class Node(Struct):
    """A workflow, its record (None if it does not exist yet, or any more), and its children in the order of their starts."""

    workflow_id: str
    task_queue: str
    workflow_type: str
    status: str
    record: StateRecord | None
    children: list[Node]


def show_tree(workflow_id: str, task_queue: str, connection: Connection, *, as_json: bool) -> None:
    """Print the tree of a workflow."""

    async def read() -> Node:
        async with connection.look("show") as client:
            record = await client.get_handle(workflow_id, task_queue).describe()  # raises for an unknown id
            turn = asyncio.Semaphore(AT_ONCE)
            return await _node(client, turn, workflow_id, task_queue, record, "", frozenset())

    found = asyncio.run(read())
    if as_json:
        write_json(_as_data(found))
    elif found.children:
        root = Tree(_line(found), guide_style="dim")
        _grow(root, found)
        out.print(root, soft_wrap=True)
    else:
        say(_line(found))


async def _node(
    client: Client,
    turn: asyncio.Semaphore,
    workflow_id: str,
    task_queue: str,
    record: StateRecord | None,
    kind: str,
    above: frozenset[tuple[str, str]],
) -> Node:
    status = "early" if record is None else status_of(record)
    node = Node(workflow_id, task_queue, record.workflow_type if record is not None else kind, status, record, [])
    here = (task_queue, workflow_id)
    if here not in above:  # a descendant may use the id of an ancestor
        async with turn:
            started = await children(client.lookups.timeline, WorkflowRef.of(workflow_id, task_queue))
        node.children = list(await asyncio.gather(*(_child(client, turn, each, above | {here}) for each in started)))
    return node


async def _child(client: Client, turn: asyncio.Semaphore, started: ChildStarted, above: frozenset[tuple[str, str]]) -> Node:
    try:
        async with turn:
            record = await client.get_handle(started.workflow_id, started.task_queue).describe()
    except WorkflowNotFoundError:
        return Node(started.workflow_id, started.task_queue, started.workflow_type, "expired", None, [])
    return await _node(client, turn, started.workflow_id, started.task_queue, record, started.workflow_type, above)


def _grow(branch: Tree, node: Node) -> None:
    for child in node.children:
        _grow(branch.add(_line(child)), child)


def _line(node: Node) -> Text:
    line = Text.assemble(
        (clean(node.workflow_id), "bold"), "  ", (node.status, STYLES.get(node.status, "dim")), (f"  {clean(node.workflow_type)}", "dim")
    )
    more = clean(about(node.record)) if node.record is not None else ""
    return Text.assemble(line, f"  {more}" if more else "")


def _as_data(node: Node) -> dict[str, Any]:
    plain = msgspec.structs.asdict(node)
    return plain | {"record": None if node.record is None else summary(node.record), "children": [_as_data(child) for child in node.children]}
