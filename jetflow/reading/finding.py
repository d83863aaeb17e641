"""How a client finds workflows: list, page, count, follow. ``docs/listing.md`` has the promises and the costs."""

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

    @property
    def broker(self) -> Broker:
        """The connection, where the client may be used."""
        raise NotImplementedError

    def list(self, *, limit: int | None = None, **wanted: Unpack[Wanted]) -> AsyncIterator[StateRecord]:
        """State records, the one changed last first: ``async for record in client.list(status="failed", search={"customer": "c1"})``.

        A workflow that is there when this begins, and stays, is given once, also if it changes meanwhile. ``docs/listing.md`` says what it costs.

        Args:
            limit: stop after so many.
            wanted: which; see ``jetflow.reading.filters.Wanted``.

        Raises:
            InvalidInputError: a filter that cannot be.
        """
        return listing.records(self.broker, filters_of(**wanted), limit)

    async def list_page(self, *, limit: int = 50, cursor: str | None = None, examine: int | None = None, **wanted: Unpack[Wanted]) -> Page:
        """A page of ``list``; the whole of its pages is what ``list`` gives.

        Args:
            limit: workflows of a page.
            cursor: the page before's, with the same filters; None for the first page.
            examine: read so many records at most, or a few thousand more, and give what was found in them, perhaps nothing: for a page that
                must be there soon when few of many workflows match.
            wanted: which; see ``jetflow.reading.filters.Wanted``.

        Raises:
            InvalidInputError: a filter that cannot be, or a cursor that is of another list.
        """
        return await listing.page(self.broker, filters_of(**wanted), limit, cursor, examine)

    def changes(self, **wanted: Unpack[Wanted]) -> Changes:
        """Follows workflows live: ``async with client.changes(task_queue="orders") as changes: async for record in changes``.

        Each change of a record comes as it is made; after a gap, such as a reconnect, at least the last one of each workflow.

        Args:
            wanted: which; see ``jetflow.reading.filters.Wanted``.
        """
        return Changes(self.broker, filters_of(**wanted))

    async def count(self, **wanted: Unpack[Wanted]) -> int:
        """How many workflows there are. All of them, and all of a task queue, are counted by the server at once; for other filters every
        record is read. An expired one counts until a worker has removed what is left of it, which takes a second or two.

        Args:
            wanted: which; see ``jetflow.reading.filters.Wanted``.
        """
        return await listing.count(self.broker, filters_of(**wanted))

    async def count_by(self, field: CountBy, **wanted: Unpack[Wanted]) -> dict[str, int]:
        """How many workflows there are of each ``"status"``, ``"workflow_type"`` or ``"task_queue"``, most first. Every record is read.

        Args:
            field: what to tell them apart by; a parked one's status is ``parked`` here.
            wanted: which; see ``jetflow.reading.filters.Wanted``.
        """
        return await listing.count_by(self.broker, filters_of(**wanted), field)
