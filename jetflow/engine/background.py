"""Background work of one worker. It stops with the worker, and an unexpected end is logged and counted."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Coroutine
from typing import Any

from jetflow.errors import BrokerError

log: logging.Logger = logging.getLogger("jetflow.worker")

MAX_TIDYING = 64
"""The most pieces of tidying under way at once."""


class Background:
    """The tasks of one worker.

    Attributes:
        failures: numbers of unexpected ends, by the name of the coroutine.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.failures: Counter[str] = Counter()
        self._loop = loop
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._tidying = asyncio.Semaphore(MAX_TIDYING)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work until it ends or the worker stops. Log and count an unexpected end."""
        task = self._loop.create_task(work)
        self._tasks[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            name = getattr(task.get_coro(), "__qualname__", "work")
            self.failures[name] += 1
            log.error("%s ended unexpectedly", name, exc_info=error)

    def tidy(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run work that may be delayed or lost."""
        task = self.spawn(self._quietly(work))
        task.add_done_callback(lambda _: work.close())  # the worker may stop before the work has begun

    async def _quietly(self, work: Coroutine[Any, Any, Any]) -> None:
        async with self._tidying:
            try:
                await work
            except BrokerError as error:
                log.debug("tidying failed: %s", error)

    async def stop(self) -> None:
        """Cancel all work, and wait until it has ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
