"""Supervises the loops of a worker, so that none of them dies in silence.

An unexpected end of a loop is logged and counted, and the loop begins again after a growing pause. Too many ends within a minute end the worker,
with an error that says why: a worker that only looks alive is worse than none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from typing import Any

from jetflow.errors import WorkerFailedError
from jetflow.protocol import clock

log: logging.Logger = logging.getLogger("jetflow.worker")

PAUSES = (0.1, 0.5, 2.0, 5.0)
"""Seconds before a loop begins again. The last pause repeats."""
MOST = 8
WITHIN = 60.0
"""A loop that fails ``MOST`` times within ``WITHIN`` seconds ends the worker."""


class Supervisor:
    """Runs loops until it is stopped.

    Attributes:
        failures: numbers of unexpected ends, by the name of the loop.
        failed: resolved with the error once a loop has failed too often.
    """

    def __init__(self) -> None:
        self.failures: Counter[str] = Counter()
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop, and call it again each time it ends unexpectedly."""
        self._tasks[name] = asyncio.get_running_loop().create_task(self._keep(name, loop))

    async def _keep(self, name: str, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        recent: deque[float] = deque(maxlen=MOST)
        while True:
            try:
                await loop()
                raise RuntimeError(f"{name} returned")
            except Exception as error:
                self.failures[name] += 1
                recent.append(clock.monotonic())
                log.exception("%s failed %d times, and begins again", name, self.failures[name])
                if len(recent) == MOST and recent[-1] - recent[0] < WITHIN:
                    self._give_up(name, error)
                    return
                await asyncio.sleep(PAUSES[min(len(recent), len(PAUSES)) - 1])

    def _give_up(self, name: str, error: Exception) -> None:
        problem = WorkerFailedError(f"{name} failed {MOST} times within {WITHIN:g} s, last with {type(error).__name__}: {error}")
        problem.__cause__ = error
        log.critical("the worker ends: %s", problem)
        if not self.failed.done():
            self.failed.set_exception(problem)
            self.failed.exception()  # so that asyncio does not warn when no caller awaits it

    async def stop(self, *names: str) -> None:
        """Stop loops, or all of them if none is named."""
        tasks = [self._tasks.pop(name) for name in (names or list(self._tasks)) if name in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
