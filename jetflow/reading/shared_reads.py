"""Reads that several share who follow the same workflow through one client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from jetflow.broker.stores.timeline import Entry, Timeline
from jetflow.reading.notices import Notices


class SharedReads:
    """Reads under way, by what is asked for: who asks for the same joins in. One for each client."""

    def __init__(self) -> None:
        self._under_way: dict[Any, asyncio.Task[Any]] = {}

    async def read(self, key: Any, read: Callable[[], Awaitable[Any]]) -> Any:
        """What the read gives; it goes on when somebody who waits for it is cancelled."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(read())  # type: ignore[arg-type]
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def _end(self, key: Any, done: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # all who waited for it may have left


class FollowedTimeline:
    """A timeline as a watcher reads it: shared with those who have been told the same."""

    def __init__(self, timeline: Timeline, shared: SharedReads, notices: Notices) -> None:
        self._timeline = timeline
        self._shared = shared
        self._notices = notices

    async def last(self, queue_token: str, id_token: str) -> Entry | None:
        key = queue_token, id_token, self._notices.count
        return await self._shared.read(key, lambda: self._timeline.last(queue_token, id_token))  # type: ignore[no-any-return]

    async def between(self, queue_token: str, id_token: str, low: int, high: int) -> list[Entry]:
        key = queue_token, id_token, self._notices.count, low, high
        return await self._shared.read(key, lambda: self._timeline.between(queue_token, id_token, low, high))  # type: ignore[no-any-return]

    async def has(self, queue_token: str, id_token: str, seq: int) -> bool:
        return await self._timeline.has(queue_token, id_token, seq)
