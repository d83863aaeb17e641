"""What the page reads: lists of workflows in pages, one workflow, its history."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request

from jetflow.client import Client
from jetflow.core.ids import to_token
from jetflow.errors import InvalidInputError, WorkflowNotFoundError
from jetflow.handle import WorkflowHandle
from jetflow.protocol.record import StateRecord, decode_state
from jetflow.reading import listing
from jetflow.reading.filters import Filters, filters_of, matcher
from jetflow.web import history as histories
from jetflow.web.rows import payload, row, whole

HEARS = "the page hears of what changes"
PAGE = 100
MOST_EXAMINED = 50_000
"""The most records read for one page. The page shows what was found until then, and can continue."""

MOST_DIGITS = 16
"""The most digits of a number in an address."""


async def workflows(request: Request) -> dict[str, Any]:
    """Return a page of the list, the last changed workflow first. ``next`` continues behind it."""
    filters = await _filters(request)
    cursor = request.query_params.get("cursor") or None
    page = await listing.page(_client(request).broker, filters, PAGE, cursor, MOST_EXAMINED)
    exact = [] if cursor else await _with_id(_client(request), filters)
    there = {(record.task_queue, record.workflow_id) for record in page.workflows}
    found = [record for record in exact if (record.task_queue, record.workflow_id) not in there]
    return {
        "rows": [row(record) for record in found + page.workflows],
        "next": page.cursor,
        "examined": page.examined,
        "size": PAGE,
        "queue": filters.task_queue,
    }


async def counts(request: Request) -> dict[str, Any]:
    """Return how many workflows of each status match the filters, without the status filter."""
    filters = await _filters(request)
    return await request.app.state.dashboard.tallies.of(msgspec.structs.replace(filters, statuses=()))


async def _filters(request: Request) -> Filters:
    """Return the filters of a request. A type is a prefix. A task queue is a prefix too, unless a queue of exactly that name exists."""
    client, asked = _client(request), request.query_params
    queue = asked.get("queue") or None
    exact = queue is not None and await client.count(task_queue=queue) > 0
    filters = filters_of(
        status=asked.get("status") or None,
        task_queue=queue if exact else None,
        started_after=_ms(asked, "after"),
        started_before=_ms(asked, "before"),
        search=search_of(asked.get("data", "")),
    )
    return msgspec.structs.replace(
        filters, id_part=asked.get("text") or None, type_prefix=asked.get("type") or None, queue_prefix=None if exact else queue
    )


async def total(request: Request) -> dict[str, Any]:
    """Return how many workflows there are, on one task queue or on all. The server knows that without reading them."""
    return {"total": await _client(request).count(task_queue=request.query_params.get("queue") or None)}


_WORD = re.compile(r'([^\s,=]+)=("(?:\\.|[^"\\])*"(?=[\s,]|$)|[^\s,]*)|[^\s,]+')


def search_of(text: str) -> dict[str, Any] | None:
    """Parse a search for user data: ``field=value``, several with blanks or commas between them. A value is JSON, or else plain text. A text with
    blanks stands in quotes.

    Raises:
        InvalidInputError: a word has no ``=``.
    """
    found: dict[str, Any] = {}
    for word in _WORD.finditer(text):
        name, value = word.groups()
        if not name:
            raise InvalidInputError(f"user data is looked for by field=value, not {word[0]!r}")
        try:
            found[name] = msgspec.json.decode(value.encode())
        except (msgspec.DecodeError, UnicodeEncodeError):
            found[name] = value
    return found or None


async def workflow(request: Request) -> dict[str, Any]:
    """Return everything in a state record, and the task queue of its parent."""
    client, handle = _client(request), _handle(request)
    record = await handle.describe()
    if record is None:
        return {"queue": handle.task_queue, "id": handle.workflow_id, "status": "pending"}
    shown = whole(record)
    for relative in ("parent", "origin"):
        shown[relative] = await _place_of(client, shown[relative], record.task_queue)
    return shown


async def _place_of(client: Client, workflow_id: str | None, queue: str) -> dict[str, Any] | None:
    """Return the id and task queue of a related workflow, known by id alone. Its record may be on another task queue, or gone."""
    if workflow_id is None:
        return None
    found = [record for body in await _records_of(client, workflow_id) if (record := decode_state(body)) is not None]
    found.sort(key=lambda record: record.task_queue != queue)
    return {"id": workflow_id, "queue": found[0].task_queue if found else None}


async def _with_id(client: Client, filters: Filters) -> list[StateRecord]:
    """Return workflows whose id is exactly the text of the search. This is quick however many workflows there are."""
    try:
        bodies = await _records_of(client, filters.id_part) if filters.id_part else []
    except InvalidInputError:  # longer than an id may be
        return []
    match = matcher(filters)
    return [record for body in bodies if match(body) is not None and (record := decode_state(body)) is not None]


async def _records_of(client: Client, workflow_id: str) -> list[bytes]:
    names = client.broker.names
    asked = {"multi_last": [names.states("*", to_token(workflow_id))]}
    return [message.data for message in await client.broker.lane.read_many(names.state_stream, asked, may_lag=HEARS)]


async def history(request: Request) -> dict[str, Any]:
    """Return events from number ``from`` on."""
    return await histories.events(_handle(request), first=_number(request.query_params, "from", 1))


async def one_payload(request: Request) -> dict[str, Any]:
    """Return the whole of a payload that was cut. ``of`` is ``result``, ``entity``, ``data.NAME``, or ``EVENT.ATTRIBUTE``."""
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


def _ms(asked: Mapping[str, str], name: str) -> int | None:
    text = asked.get(name)
    if not text:
        return None
    if not text.isdecimal() or len(text) > MOST_DIGITS:
        raise InvalidInputError(f"{name} must be a time in ms since the epoch, not {text[:40]!r}")
    return int(text)


def _number(asked: Mapping[str, str], name: str, default: int) -> int:
    text = asked.get(name) or str(default)
    if not text.isdecimal() or len(text) > MOST_DIGITS or not int(text):
        raise InvalidInputError(f"{name} must be a number from 1 on, not {text[:40]!r}")
    return int(text)
