"""How a client finds workflows: list, page, count, follow. See ``docs/listing.md`` for guarantees and costs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Unpack

from jetflow.broker.transport.connection import Broker
from jetflow.protocol.record import StateRecord
from jetflow.reading import listing
from jetflow.reading.changes import Changes
from jetflow.reading.filters import Wanted, filters_of
from jetflow.reading.listing import CountBy, Page


class Finding:
    """The part of ``Client`` that finds workflows."""

    broker: Broker

    def list(self, *, limit: int | None = None, **wanted: Unpack[Wanted]) -> AsyncIterator[StateRecord]:
        """Yield state records, the last changed first: ``async for record in client.list(status="failed", search={"customer": "c1"})``.

        A workflow that exists during the whole list comes once, even if it changes meanwhile. See ``docs/listing.md`` for the cost.

        Args:
            limit: the most records to yield.
            wanted: filters; see ``jetflow.reading.filters.Wanted``.

        Raises:
            InvalidInputError: a filter is invalid.
        """
        return listing.records(self.broker, filters_of(**wanted), limit)

    async def list_page(self, *, limit: int = 50, cursor: str | None = None, examine: int | None = None, **wanted: Unpack[Wanted]) -> Page:
        """Return a page of ``list``. All pages together have the records of ``list``.

        Args:
            limit: the most workflows of the page.
            cursor: the cursor of the page before, for the same filters; None for the first page.
            examine: the most records to read, to within a few thousand. The page has the matches among them, possibly none. Use it for a fast
                answer when few of many workflows match.
            wanted: filters; see ``jetflow.reading.filters.Wanted``.

        Raises:
            InvalidInputError: a filter is invalid, or the cursor belongs to another list.
        """
        return await listing.page(self.broker, filters_of(**wanted), limit, cursor, examine)

    def changes(self, **wanted: Unpack[Wanted]) -> Changes:
        """Follow workflows live: ``async with client.changes(task_queue="orders") as changes: async for record in changes``.

        Each change of a record comes as it happens. After a gap, such as a reconnect, at least the last change of each workflow comes.

        Args:
            wanted: filters; see ``jetflow.reading.filters.Wanted``.
        """
        return Changes(self.broker, filters_of(**wanted))

    async def count(self, **wanted: Unpack[Wanted]) -> int:
        """Count workflows.

        The server counts all workflows, or all of a task queue, at once. For other filters the client reads every record. An expired
        workflow counts until a worker has removed the rest of it, which takes a second or two.

        Args:
            wanted: filters; see ``jetflow.reading.filters.Wanted``.
        """
        return await listing.count(self.broker, filters_of(**wanted))

    async def count_by(self, field: CountBy, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """Count workflows by ``"status"``, ``"workflow_type"`` or ``"task_queue"``, the largest count first. It reads every record.

        Args:
            field: the field to count by. The status of a parked workflow is ``parked`` here.
            wanted: filters; see ``jetflow.reading.filters.Wanted``.
        """
        return await listing.count_by(self.broker, filters_of(**wanted), field)
