"""Workflows whose start is stored and not begun: what the inbox has, as records with the status ``pending``.

A worker acks a start only after it has written the record of its run. So a start without such a record is not begun, or was begun a moment ago.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from jetflow.broker.transport.connection import Broker
from jetflow.broker.transport.walk import Row, Walk
from jetflow.core.ids import from_token, to_token
from jetflow.errors import InvalidInputError
from jetflow.protocol.commands import StartCommand, read_command
from jetflow.protocol.record import PENDING, RUNNING, StateRecord, decode_state, encode_state
from jetflow.reading.filters import Filters

AT_ONCE = 500
"""The most records looked up in one request."""


def may_match(filters: Filters) -> bool:
    """Return whether a pending workflow may match the filters."""
    return not filters.statuses or PENDING in filters.statuses


async def pending(broker: Broker, filters: Filters, below: int, wanted: int) -> AsyncGenerator[tuple[int, list[Row]], None]:
    """Yield windows of the inbox downwards: the position where each begins, and the pending workflows in it as rows of records, newest first."""
    names = broker.names
    queue = "*" if filters.task_queue is None else to_token(filters.task_queue)
    walk = Walk(broker.lane, names.inbox_stream, names.pending_start(queue, "*"), replicated=broker.topology.replicas > 1)
    shape = await walk.shape()
    if not shape.taken:
        return
    async with aclosing(walk.downwards(shape, min(below, shape.last + 1), wanted)) as windows:
        async for low, rows in windows:
            found: list[Row] = []
            for place in range(0, len(rows), AT_ONCE):
                found += await _not_begun(broker, rows[place : place + AT_ONCE])
            yield low, found


async def _not_begun(broker: Broker, rows: list[Row]) -> list[Row]:
    names = broker.names
    starts: dict[str, tuple[Row, StateRecord]] = {}
    for row in rows:  # the newest first: of several starts of an id, the first one stays
        made = _record_of(row)
        if made is not None:
            starts[names.states(to_token(made.task_queue), to_token(made.workflow_id))] = row, made
    if not starts:
        return []
    known = await broker.lane.read_many(names.state_stream, {"multi_last": list(starts)}, may_lag="a picture of a moment")
    for message in known:
        record = decode_state(message.data)
        if record is not None and (record.status == RUNNING or int(record.run_id) >= starts[message.subject][0].position):
            del starts[message.subject]
    return [row._replace(data=encode_state(record)) for row, record in starts.values()]


def _record_of(row: Row) -> StateRecord | None:
    """Return the record of a start as if it had begun; None for what is not a start."""
    tokens = row.subject.split(".")
    try:
        _, workflow_id, _, start = read_command(row.subject, row.headers, row.data)
        task_queue = from_token(tokens[2])
    except (InvalidInputError, IndexError):
        return None
    if not isinstance(start, StartCommand):
        return None
    return StateRecord(
        workflow_id=workflow_id,
        task_queue=task_queue,
        workflow_type=start.workflow_type,
        run_id=str(row.position),
        status=PENDING,
        code=1,
        started_at=row.stored_ms,
        updated_at=row.stored_ms,
        parent_workflow_id=start.parent.workflow_id if start.parent is not None else None,
        origin_id=start.origin,
        data=start.data,
        entity=start.entity,
    )
