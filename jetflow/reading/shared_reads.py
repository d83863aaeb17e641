"""Reads that several watchers of a workflow share in one client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from jetflow.broker.stores.timeline import Entry, Timeline
from jetflow.reading.notices import Notices


class SharedReads:
    """The running reads of a client by key. A read with the same key joins the running one."""

    def __init__(self) -> None:
        self._under_way: dict[Any, asyncio.Task[Any]] = {}

    async def read(self, key: Any, read: Callable[[], Awaitable[Any]]) -> Any:
        """Return the read's result. The read continues if a caller that waits for it is cancelled."""
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.ensure_future(read())  # type: ignore[arg-type]
            task.add_done_callback(lambda done: self._end(key, done))
        return await asyncio.shield(task)

    def _end(self, key: Any, done: asyncio.Task[Any]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # every caller may have been cancelled


class FollowedTimeline:
    """A timeline whose reads are shared by watchers that have seen the same notices."""

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
