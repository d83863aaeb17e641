"""What the page reads of workflows: a list in pages, one workflow, its history."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from jetflow.client import Client
from jetflow.core.ids import to_token
from jetflow.errors import InvalidInputError, WorkflowNotFoundError
from jetflow.handle import WorkflowHandle
from jetflow.protocol.record import StateRecord, decode_state
from jetflow.web import history as histories
from jetflow.web.rows import payload, row, whole

HEARS = "the page hears of what changes"
PAGE = 100
MOST_EXAMINED = 50_000
"""Records that are looked through for one page; what is found until then is shown, and the page can go on."""


async def workflows(request: Request) -> dict[str, Any]:
    """A page of the list, the one changed last first; ``next`` goes on behind it."""
    client, asked = _client(request), request.query_params
    text = asked.get("text", "").lower()
    filters: dict[str, Any] = {
        "status": asked.get("status") or None,
        "workflow_type": asked.get("type") or None,
        "task_queue": asked.get("queue") or None,
        "search": search_of(asked.get("data", "")),
    }
    cursor, examined = asked.get("cursor") or None, 0
    found: list[StateRecord] = []
    while True:
        page = await client.list_page(**filters, limit=PAGE - len(found), cursor=cursor, examine=MOST_EXAMINED - examined)
        found += [record for record in page.workflows if text in record.workflow_id.lower()]
        cursor, examined = page.cursor, examined + page.examined
        if cursor is None or len(found) >= PAGE or examined >= MOST_EXAMINED:
            return {"rows": [row(record) for record in found], "next": cursor, "examined": examined, "size": PAGE}


async def total(request: Request) -> dict[str, Any]:
    """How many workflows there are, on one task queue or on all; the server knows without reading them."""
    return {"total": await _client(request).count(task_queue=request.query_params.get("queue") or None)}


def search_of(text: str) -> dict[str, Any] | None:
    """User data to look for, written ``field=value`` with blanks or commas between several; a value is JSON, else plain text.

    Raises:
        InvalidInputError: a word without ``=``.
    """
    found: dict[str, Any] = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidInputError(f"user data is looked for by field=value, not {word!r}")
        try:
            found[name] = msgspec.json.decode(value.encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            found[name] = value
    return found or None


async def workflow(request: Request) -> dict[str, Any]:
    """Everything a state record says, and where its parent is."""
    client, handle = _client(request), _handle(request)
    record = await handle.describe()
    if record is None:
        return {"queue": handle.task_queue, "id": handle.workflow_id, "status": "pending"}
    shown = whole(record)
    for relative in ("parent", "origin"):
        shown[relative] = await _place_of(client, shown[relative], record.task_queue)
    return shown


async def _place_of(client: Client, workflow_id: str | None, queue: str) -> dict[str, Any] | None:
    """A relative by id alone: its record may be on another task queue, or gone."""
    if workflow_id is None:
        return None
    names = client.broker.names
    asked = {"multi_last": [names.states("*", to_token(workflow_id))]}
    found = [
        record
        for message in await client.broker.lane.read_many(names.state_stream, asked, may_lag=HEARS)
        if (record := decode_state(message.data)) is not None
    ]
    found.sort(key=lambda record: record.task_queue != queue)
    return {"id": workflow_id, "queue": found[0].task_queue if found else None}


async def history(request: Request) -> dict[str, Any]:
    """Events from ``from`` on."""
    return await histories.events(_handle(request), first=_number(request.query_params, "from", 1))


async def one_payload(request: Request) -> dict[str, Any]:
    """All of one payload that was shown in part: ``of`` is ``result``, ``entity``, ``data.NAME``, or ``EVENT.ATTRIBUTE``."""
    handle, of = _handle(request), request.query_params.get("of", "")
    where, _, name = of.partition(".")
    if where.isdecimal():
        return payload(await histories.attribute(handle, int(where), name), cut_at=None)
    record = await handle.describe()
    value: Any = msgspec.UNSET
    if record is not None:
        value = {"result": record.result, "entity": record.entity, "data": record.data.get(name, msgspec.UNSET)}.get(where, msgspec.UNSET)
    if value is msgspec.UNSET:
        raise WorkflowNotFoundError(handle.workflow_id, handle.task_queue)
    return payload(value, cut_at=None)


def _client(request: Request) -> Client:
    return request.app.state.dashboard.client


def _handle(request: Request) -> WorkflowHandle:
    asked = request.query_params
    return _client(request).get_handle(asked.get("id", ""), asked.get("queue", ""))


def _number(asked: Mapping[str, str], name: str, default: int) -> int:
    text = asked.get(name) or str(default)
    if not text.isdecimal() or not int(text):
        raise InvalidInputError(f"{name} must be a number from 1 on, not {text!r}")
    return int(text)
