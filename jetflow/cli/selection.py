"""The filter options of ``list``, ``count`` and ``tail``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import msgspec
import typer

from jetflow.core.durations import to_ms
from jetflow.errors import InvalidInputError
from jetflow.reading.filters import Wanted

WHICH = "Which workflows"


class Status(StrEnum):
    """The statuses as shown to people."""

    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    PARKED = "parked"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TERMINATED = "terminated"


@dataclass(frozen=True)
class Selection:
    """Filters. A workflow must match all of them."""

    status: Annotated[
        list[Status] | None,
        typer.Option(
            "--status",
            help="Only workflows with this status. Repeat it for several. running includes retrying and parked ones.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None
    workflow_type: Annotated[str | None, typer.Option("--type", metavar="NAME", help="Only workflows of this type.", rich_help_panel=WHICH)] = None
    task_queue: Annotated[
        str | None,
        typer.Option(
            "--task-queue", "-q", envvar="JETFLOW_TASK_QUEUE", metavar="NAME", help="Only this task queue. Default: all.", rich_help_panel=WHICH
        ),
    ] = None
    started_after: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Started since: 2026-11-24T08:00 in local time or with a zone, or 2h for two hours ago.", rich_help_panel=WHICH
        ),
    ] = None
    started_before: Annotated[str | None, typer.Option(metavar="TIME", help="Started before this time.", rich_help_panel=WHICH)] = None
    search: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=VALUE",
            help="Only with this user data: a field of search() or a path into the entity. Repeatable. VALUE is JSON, else plain text.",
            show_default=False,
            rich_help_panel=WHICH,
        ),
    ] = None

    @property
    def wanted(self) -> Wanted:
        """Return the filters as keywords of ``client.list``.

        Raises:
            InvalidInputError: a time or a search is malformed.
        """
        return Wanted(
            status=[each.value for each in self.status] if self.status else None,
            workflow_type=self.workflow_type,
            task_queue=self.task_queue or None,
            started_after=_moment(self.started_after, "--started-after"),
            started_before=_moment(self.started_before, "--started-before"),
            search=dict(_field(text) for text in self.search or []),
        )


EVERYTHING = Selection()
"""The default of a command's parameter. Typer fills in the given options."""


def _moment(text: str | None, option: str) -> datetime | int | None:
    if text is None:
        return None
    try:
        return datetime.fromisoformat(text).astimezone()
    except ValueError:
        pass
    try:
        return int(time.time() * 1000) - to_ms(text, option)
    except InvalidInputError as error:
        raise InvalidInputError(f"{option} {text!r} must be a time such as 2026-11-24T08:00 or a duration such as 2h") from error


def _field(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise InvalidInputError(f"--search {text!r} must be FIELD=VALUE")
    try:
        return name, msgspec.json.decode(value)
    except msgspec.DecodeError:
        return name, value
