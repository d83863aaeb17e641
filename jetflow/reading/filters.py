"""Filters of lists and counts, and whether a state record matches them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
from msgspec import Raw, Struct

from jetflow.core.data import look_up
from jetflow.core.ids import to_token
from jetflow.core.values import decode, encode
from jetflow.errors import Failure, InvalidInputError
from jetflow.protocol.record import CANCELLED, COMPLETED, FAILED, PENDING, RUNNING, TERMINATED, status_of_failed

PARKED = "parked"
RETRYING = "retrying"
STATUSES = (PENDING, RUNNING, RETRYING, PARKED, COMPLETED, FAILED, CANCELLED, TERMINATED)
Moment = datetime | int
"""A time: with a time zone, or ms since the epoch."""


class Filters(Struct, frozen=True, omit_defaults=True):
    """Filters for workflows. Status ``running`` matches parked and retrying ones too. Times are ms since the epoch. ``search``: JSON by name.

    Attributes:
        id_part: text that the workflow id contains, in any case.
        type_prefix: text that the workflow type begins with, in any case.
        queue_prefix: text that the task queue begins with, in any case.
    """

    statuses: tuple[str, ...] = ()
    workflow_type: str | None = None
    task_queue: str | None = None
    started_after: int | None = None
    started_before: int | None = None
    search: dict[str, Any] = {}
    id_part: str | None = None
    type_prefix: str | None = None
    queue_prefix: str | None = None

    @property
    def everything(self) -> bool:
        """Whether the filters match every workflow of the namespace, or of one task queue."""
        return self == Filters(task_queue=self.task_queue)

    def digest(self) -> str:
        """A digest. Different filters have different ones."""
        return hashlib.blake2b(msgspec.json.encode(self, order="deterministic"), digest_size=6).hexdigest()


class Wanted(TypedDict, total=False):
    """Keywords of ``client.list`` and ``client.count``. A keyword that is missing or None matches every workflow.

    Attributes:
        status: one or several of ``pending`` (its start is stored, and no worker has begun it), ``running``, ``retrying``, ``parked``,
            ``completed``, ``failed``, ``cancelled``, ``terminated``. ``running`` matches parked and retrying ones too. A workflow is
            retrying while an attempt of one of its activities has failed and the next one is due.
        workflow_type: name of the workflow function.
        task_queue: its task queue.
        started_after: started at this time or later: a datetime with a time zone, or ms since the epoch.
        started_before: started earlier than this time.
        search: values of user data by name: fields of ``search()``, or dotted paths into the ``entity()``. All must be equal.
    """

    status: str | Collection[str] | None
    workflow_type: str | None
    task_queue: str | None
    started_after: Moment | None
    started_before: Moment | None
    search: dict[str, Any] | None


def filters_of(
    status: str | Collection[str] | None = None,
    workflow_type: str | None = None,
    task_queue: str | None = None,
    started_after: Moment | None = None,
    started_before: Moment | None = None,
    search: dict[str, Any] | None = None,
) -> Filters:
    """Return filters from a caller's keywords.

    Raises:
        InvalidInputError: a status is unknown, a time has no zone, or a value cannot be written as JSON.
    """
    statuses = () if status is None else (status,) if isinstance(status, str) else tuple(sorted(set(status)))
    for each in statuses:
        if each not in STATUSES:
            raise InvalidInputError(f"status must be one of {', '.join(STATUSES)}, not {each!r}")
    if task_queue is not None:
        to_token(task_queue, "task queue")
    wanted = {name: decode(encode(value, f"search value of {name!r}")) for name, value in (search or {}).items()}
    after, before = _ms(started_after, "started_after"), _ms(started_before, "started_before")
    return Filters(statuses, workflow_type, task_queue, after, before, wanted)


def _ms(moment: Moment | None, what: str) -> int | None:
    if moment is None or (isinstance(moment, int) and not isinstance(moment, bool)):
        return moment
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise InvalidInputError(f"{what} must be a datetime with a time zone, or ms since the epoch, not {moment!r}")
    return int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1000)


class Glance(Struct):
    """The fields of a state record that filters use. The decoder skips the others."""

    run_id: str
    status: str
    task_queue: str
    workflow_type: str
    started_at: int
    workflow_id: str = ""
    parked: Raw = Raw()
    waiting: Raw = Raw()
    failure: Raw = Raw()

    @property
    def shown_status(self) -> str:
        """The status as shown to people: ``parked`` for a parked workflow."""
        return PARKED if self.parked and self.status == RUNNING else self.status

    @property
    def retrying(self) -> bool:
        """Whether an attempt has failed and the next one is due."""
        if self.status != RUNNING or _FAILURE not in bytes(self.waiting):
            return False
        return any(operation.failure for operation in _waits.decode(self.waiting))

    @property
    def run(self) -> int:
        """The run id as a number. It is unique in the namespace."""
        return int(self.run_id)


class _GlanceWithData(Glance):
    data: dict[str, Raw] = {}
    entity: dict[str, Any] | None = None


class _Wait(Struct):
    failure: Raw = Raw()


_FAILURE = b'"failure"'
_CANCELLED = b"CancelledFailure"
_failure = msgspec.json.Decoder(Failure)
_waits = msgspec.json.Decoder(list[_Wait])
_plain = msgspec.json.Decoder(Glance)
_with_data = msgspec.json.Decoder(_GlanceWithData)


def matcher(filters: Filters) -> Callable[[bytes], Glance | None]:
    """Return a function that decodes a record's body and returns its ``Glance`` if it matches, else None."""
    decoder = _with_data if filters.search else _plain
    queue, kind = filters.task_queue, filters.workflow_type
    after, before = filters.started_after, filters.started_before
    statuses, search, retrying = frozenset(filters.statuses), filters.search, RETRYING in filters.statuses
    id_part, type_prefix, queue_prefix = ((each or "").lower() for each in (filters.id_part, filters.type_prefix, filters.queue_prefix))

    def match(body: bytes) -> Glance | None:
        if not body:  # deleted or expired
            return None
        try:
            seen = decoder.decode(body)
            if seen.status == FAILED and _CANCELLED in bytes(seen.failure):  # as older versions wrote it
                seen.status = status_of_failed(_failure.decode(seen.failure))
        except msgspec.DecodeError:
            return None
        if (
            (queue is not None and seen.task_queue != queue)
            or (kind is not None and seen.workflow_type != kind)
            or (id_part and id_part not in seen.workflow_id.lower())
            or (queue_prefix and not seen.task_queue.lower().startswith(queue_prefix))
            or (type_prefix and not seen.workflow_type.lower().startswith(type_prefix))
            or (statuses and seen.status not in statuses and seen.shown_status not in statuses and not (retrying and seen.retrying))
            or (after is not None and seen.started_at < after)
            or (before is not None and seen.started_at >= before)
            or (search and not _has(seen, search))
            or not seen.run_id.isdecimal()
        ):
            return None
        return seen

    return match


def _has(seen: Any, search: dict[str, Any]) -> bool:
    """Return whether user data has these values. A name is a field of ``search()``, or else a path into the entity."""
    return all(_same(decode(seen.data[name]) if name in seen.data else look_up(seen.entity, name), value) for name, value in search.items())


def _same(found: Any, wanted: Any) -> bool:
    return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
