"""An event loop without I/O, run one callback at a time by a ``World``."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections import deque
from collections.abc import Callable
from contextvars import Context
from random import Random
from typing import Any, Protocol

from jetflow.core.asyncio_internals import LoopHandle, LoopTimerHandle

log: logging.Logger = logging.getLogger("jetflow.testing")


class Schedule:
    """What the event loops of one world share: the clock, chance, timers, and the runnable loops.

    Attributes:
        now: seconds since the world began; the monotonic clock of every process.
        rng: the source of chance for schedules, latencies and faults.
        timers: a heap of time, number, function and argument.
        runnable: loops with callbacks that can run.
        events, objects: the numbers of timers and futures created.
    """

    def __init__(self, rng: Random) -> None:
        self.now: float = 0.0
        self.rng: Random = rng
        self.timers: list[tuple[float, int, Callable[..., None], Any]] = []
        self.runnable: list[SimLoop] = []
        self.events: int = 0
        self.objects: int = 0

    def at(self, when: float, function: Callable[..., None], argument: Any = None) -> None:
        """Call ``function(argument)`` outside of all processes at a time, or now if that is past."""
        self.events += 1
        heapq.heappush(self.timers, (when, self.events, function, argument))

    def after(self, delay: float, function: Callable[..., None], argument: Any = None) -> None:
        """Like ``at``, ``delay`` seconds from now."""
        self.at(self.now + delay, function, argument)


class Owner(Protocol):
    """What a loop needs of its process."""

    name: str
    dead: bool
    paused: bool
    errors: list[dict[str, Any]]


class SimFuture(asyncio.Future[Any]):
    """A future that hashes by creation order, so that a set of futures iterates in the same order in every run."""

    __slots__ = ("_order",)

    def __init__(self, loop: SimLoop) -> None:
        loop.world.objects += 1
        self._order = loop.world.objects
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._order

    def __eq__(self, other: object) -> bool:
        return self is other


class SimTask(asyncio.Task[Any]):
    """A task that hashes by creation order, like ``SimFuture``."""

    __slots__ = ("_order",)

    def __init__(self, coro: Any, loop: SimLoop, name: str | None, context: Context | None) -> None:
        loop.world.objects += 1
        self._order = loop.world.objects
        super().__init__(coro, loop=loop, name=name or f"Task-{self._order}", context=context)

    def __hash__(self) -> int:
        return self._order

    def __eq__(self, other: object) -> bool:
        return self is other


class SimLoop(asyncio.AbstractEventLoop):
    """The event loop of one thread of a process.

    Attributes:
        process: the loop's process.
        ready: callbacks that can run.
        late: timers that became due while the process stood still.
    """

    def __init__(self, process: Owner, world: Schedule) -> None:
        self.process = process
        self.world = world
        self.ready: deque[LoopHandle | LoopTimerHandle] = deque()
        self.late: list[LoopTimerHandle] = []
        self.listed = False
        self._timers = self.world.timers
        self._exception_handler: Callable[[asyncio.AbstractEventLoop, dict[str, Any]], Any] | None = None

    # ---- callbacks

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = LoopHandle(callback, args, self, context)
        process = self.process
        if not process.dead:
            self.ready.append(handle)
            if not self.listed and not process.paused:
                self.listed = True
                self.world.runnable.append(self)
        return handle

    call_soon_threadsafe = call_soon

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        handle = LoopTimerHandle(when, callback, args, self, context)
        if not self.process.dead:
            self.world.events += 1
            heapq.heappush(self._timers, (when, self.world.events, self._due, handle))
        return handle

    def _due(self, handle: LoopTimerHandle) -> None:
        process = self.process
        if handle.dropped or process.dead:
            return
        if process.paused:
            self.late.append(handle)
            return
        self.ready.append(handle)
        if not self.listed:
            self.listed: bool = True
            self.world.runnable.append(self)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Do nothing: the loop skips a cancelled timer when its time comes."""

    def time(self) -> float:
        return self.world.now

    # ---- futures and tasks

    def create_future(self) -> SimFuture:
        return SimFuture(self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> SimTask:
        task = SimTask(coro, self, name, context)
        if self.process.dead:
            coro.close()  # it never begins, so Python must not warn about it
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> SimFuture:  # type: ignore[override]
        """Run the function in a callback of its own, a little later."""
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                result = func(*args)
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        self.call_later(self.world.rng.random() * 0.002, run)
        return future

    async def shutdown_asyncgens(self) -> None:
        """Do nothing: the garbage collector removes them."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Do nothing: there is no executor."""

    # ---- what else asyncio needs

    def get_debug(self) -> bool:
        return False

    def set_debug(self, enabled: bool) -> None:
        pass

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return self.process.dead

    def get_task_factory(self) -> None:
        return None

    def get_exception_handler(self) -> Any:
        return self._exception_handler

    def set_exception_handler(self, handler: Any) -> None:
        self._exception_handler = handler

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.process.dead:
            self.process.errors.append(context)
            log.error("%s: %s", self.process.name, context.get("message"), exc_info=context.get("exception"))

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if self.process.dead:
            return
        if self._exception_handler is not None:
            self._exception_handler(self, context)
        else:
            self.default_exception_handler(context)


SimLoop.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]
