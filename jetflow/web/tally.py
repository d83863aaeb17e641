"""Counts the workflows of each status that match a filter, for the tabs of the list.

A count reads every record. So all browsers with the same filter share one count, one walk runs at a time, and the answer is cached. The longer the
count takes, the longer it is cached. A walk whose browsers have all left is stopped.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from contextlib import aclosing
from typing import Any

from jetflow.client import Client
from jetflow.protocol.record import RUNNING
from jetflow.reading.filters import PARKED, RETRYING, Filters
from jetflow.reading.listing import Listing

MOST_COUNTED = 200_000
"""The most records read for one count. With more, the page shows the number with "or more"."""
LEAST_KEPT = 1.0
"""The fewest seconds that an answer is cached."""
KEPT_FACTOR = 10
"""An answer is cached for this many times the duration of its count, so that counting takes at most a tenth of the time."""
MOST_KEPT = 32
"""The most cached answers."""


class Tallies:
    """Cached counts, and those under way."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._kept: dict[str, tuple[float, dict[str, Any]]] = {}
        self._under_way: dict[str, tuple[asyncio.Task[dict[str, Any]], list[object]]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def of(self, filters: Filters) -> dict[str, Any]:
        """Return workflows by status (``running`` includes parked and retrying ones), ``total``, ``complete`` and ``examined``.

        A cached answer has ``again``, the ms until a newer answer is possible.
        """
        key, now = filters.digest(), time.monotonic()
        until, found = self._kept.get(key, (0.0, {}))
        if now < until:
            return found | {"again": math.ceil((until - now) * 1000)}
        joined = key in self._under_way
        if not joined:
            self._under_way[key] = asyncio.create_task(self._counted(key, filters)), []
        task, waiting = self._under_way[key]
        waiting.append(me := object())
        try:
            found = await asyncio.shield(task)
            until = self._kept[key][0] if joined and key in self._kept else 0.0
            return found | {"again": max(0, math.ceil((until - time.monotonic()) * 1000))}
        finally:
            waiting.remove(me)
            if not waiting:
                task.cancel()
                if self._under_way.get(key, (None,))[0] is task:
                    del self._under_way[key]

    async def _counted(self, key: str, filters: Filters) -> dict[str, Any]:
        async with self._one_at_a_time:
            began = time.monotonic()
            found = await self._count(filters)
            ended = time.monotonic()
        while len(self._kept) >= MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = ended + max(LEAST_KEPT, KEPT_FACTOR * (ended - began)), found
        return found

    async def _count(self, filters: Filters) -> dict[str, Any]:
        counts: Counter[str] = Counter()
        listing = await Listing.begin(self._client.broker, filters)
        complete, total = True, 0
        async with aclosing(listing.matches()) as matches:
            async for match in matches:
                if match is not None:
                    glance = match[0]
                    total += 1
                    counts[glance.shown_status] += 1
                    counts[RUNNING] += glance.shown_status == PARKED
                    counts[RETRYING] += glance.retrying
                elif listing.examined >= MOST_COUNTED:
                    complete = False
                    break
        return {"counts": dict(counts), "total": total, "complete": complete, "examined": listing.examined}
