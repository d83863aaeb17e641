"""Threads for activities that are plain functions.

A thread cannot be stopped: an attempt that took too long keeps its thread until its function returns. So threads are counted, an attempt's
time begins once it has one, and a worker that stops, or a process that ends, waits for none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import ParamSpec, TypeVar

from jetflow.protocol import clock

log: logging.Logger = logging.getLogger("jetflow.worker")

P = ParamSpec("P")
R = TypeVar("R")

SHORT_AFTER = 1.0
"""Seconds that an activity waits for a thread before that counts as a shortage."""
LOG_EVERY = 60.0


class DaemonThreads(Executor):
    """Runs functions in threads that do not keep the process from ending. It makes a thread for each function that finds none idle."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.Lock()
        self._idle: list[SimpleQueue[Callable[[], None] | None]] = []
        self._closed = False
        self._made = 0

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """See ``concurrent.futures.Executor``."""
        future: Future[R] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                value = fn(*args, **kwargs)
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(value)

        with self._lock:
            if self._closed:
                raise RuntimeError("the worker has stopped")
            jobs = self._idle.pop() if self._idle else None
            if jobs is None:
                self._made += 1
                jobs = SimpleQueue()
                threading.Thread(target=self._serve, args=(jobs,), name=f"{self._name}_{self._made}", daemon=True).start()
        jobs.put(run)
        return future

    def _serve(self, jobs: SimpleQueue[Callable[[], None] | None]) -> None:
        while (job := jobs.get()) is not None:
            job()
            del job
            with self._lock:
                if self._closed:
                    return
                self._idle.append(jobs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads that are idle, and the others once they come back. Nobody waits for them."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for jobs in idle:
            jobs.put(None)


class Threads:
    """The threads of one worker.

    Attributes:
        limit: how many there are at most.
        busy: threads that have a function.
        over: of these, threads whose attempt nobody waits for any more.
        short: attempts that have waited for a thread for longer than a second so far.
    """

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self.busy: int = 0
        self.over: int = 0
        self.short: int = 0
        self._free = asyncio.Semaphore(limit)
        self._pool = DaemonThreads("jetflow-activity")
        self._waiting: deque[list[float]] = deque()
        self._logged = float("-inf")

    async def take(self) -> None:
        """Return once there is a thread for the caller, who then calls ``run`` at once."""
        if self._free.locked():
            entry = [clock.monotonic()]
            self._waiting.append(entry)
            try:
                await self._free.acquire()
            finally:
                self._waiting.remove(entry)
        else:
            await self._free.acquire()
        self.busy += 1

    async def run(self, function: Callable[[], R]) -> R:
        """Call a function in the thread that was taken. If this is cancelled, the thread stays busy until the function returns."""
        loop = asyncio.get_running_loop()
        left = back = False

        def came_back() -> None:
            nonlocal back
            back = True
            self.busy -= 1
            self.over -= left
            self._free.release()

        def call() -> R | None:
            try:
                return None if left else function()
            finally:
                with contextlib.suppress(RuntimeError):  # the event loop has ended
                    loop.call_soon_threadsafe(came_back)

        try:
            work = loop.run_in_executor(self._pool, call)
        except BaseException:
            came_back()
            raise
        try:
            return await asyncio.shield(work)  # type: ignore[return-value]
        except asyncio.CancelledError:
            if not back:
                left = True
                self.over += 1
            raise

    def complaint(self) -> str | None:
        """Return what people should know: that activities wait for threads, or that attempts that are over keep some. Log a shortage, at most
        once a minute.
        """
        now = clock.monotonic()
        late = 0
        for entry in self._waiting:
            if now - entry[0] < SHORT_AFTER:
                break
            late += 1
            if len(entry) == 1:
                entry.append(now)
                self.short += 1
        if not late and not self.over:
            return None
        kept = f", {self.over} of them by attempts that are over" if self.over else ""
        waits = f"activities wait for a thread: {len(self._waiting)}; " if late else ""
        message = f"{waits}{self.busy} of {self.limit} threads are busy{kept}; give the worker more threads, or functions that return in time"
        if late and now - self._logged >= LOG_EVERY:
            self._logged = now
            log.warning("%s", message)
        return message

    def close(self) -> None:
        """Take no more functions. Threads that do not come back are left alone."""
        self._pool.shutdown()
