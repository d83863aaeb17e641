"""Virtual time: a world with one clock, one source of chance, and processes whose callbacks it runs one at a time.

The same seed gives the same run in every Python process, provided that ``PYTHONHASHSEED=0`` is set: sets of text iterate by hash.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import heapq
import sys
import warnings
from collections.abc import Callable, Coroutine
from random import Random
from types import TracebackType
from typing import Any

from jetflow.protocol import clock
from jetflow.testing.loop import Schedule, SimLoop, SimTask

EPOCH = 1_800_000_000
"""What the clocks of all processes show when a world begins, unless they are wrong."""
STEP = 50e-6
"""The longest that one callback takes, in seconds."""
DEAD_CONNECTIONS = 0.05
"""The longest until the server hears that the process at the other end of a connection was killed, in seconds."""


class StuckError(AssertionError):
    """What was waited for did not come."""


class World(Schedule):
    """Everything there is in one simulated run. It is the source of time and chance for jetflow while ``with`` lasts.

    Args:
        seed: whatever is left to chance follows from it.

    Attributes:
        processes: in the order of their creation.
        steps: callbacks run so far.
        on_step: called with the process before each callback.
    """

    def __init__(self, seed: int | str = 0) -> None:
        super().__init__(Random(f"{seed}"))
        self.seed = seed
        self._tokens = Random(f"{seed}/tokens")
        self.processes: list[Process] = []
        self.steps: int = 0
        self.current: Process | None = None
        self.on_step: Callable[[Process], None] | None = None
        self._replaced: list[tuple[Any, str, Any]] = []
        self._gc = False

    def process(self, name: str) -> Process:
        """A new process."""
        return Process(self, name)

    def replace(self, thing: Any, name: str, value: Any) -> None:
        """Sets an attribute for as long as the world lasts."""
        self._replaced.append((thing, name, getattr(thing, name)))
        setattr(thing, name, value)

    # ---- the source of time and chance

    def time(self) -> float:
        """The current process's own clock, seconds since the epoch."""
        current = self.current
        return EPOCH + self.now + (0.0 if current is None else current.clock_skew)

    def monotonic(self) -> float:
        """Seconds since the world began."""
        return self.now

    def token(self, size: int) -> str:
        """Bytes of chance in hex."""
        return f"{self._tokens.getrandbits(8 * size):0{2 * size}x}"

    def chance(self) -> float:
        """From 0 up to before 1."""
        return self.rng.random()

    def cpu(self) -> float:
        """Seconds that a thread has wanted a CPU for: none, callbacks take no time of their own."""
        return 0.0

    def __enter__(self) -> World:
        clock.use(self)
        self._gc = gc.isenabled()
        gc.disable()  # what it collects, and when, differs from run to run
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the world: no process runs on, and what its coroutines do when Python puts them away has no effect."""
        clock.use(None)
        while self._replaced:
            thing, name, value = self._replaced.pop()
            setattr(thing, name, value)
        for process in self.processes:
            process.dead = True
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for loop in [loop for process in self.processes for loop in process.loops]:
                    for task in asyncio.all_tasks(loop):
                        asyncio._set_running_loop(loop)
                        with contextlib.suppress(BaseException):  # what is awaited in a ``finally``
                            task.get_coro().close()  # type: ignore[union-attr]
                for process in self.processes:
                    process.put_away()
                self.timers.clear()
                self.runnable.clear()
                self.processes.clear()
                gc.collect(0)
                gc.collect(1)
        finally:
            asyncio._set_running_loop(None)
            sys.unraisablehook = hook
            if self._gc:
                gc.enable()

    # ---- running

    def run(self, until: float) -> None:
        """Runs until the clock shows ``until`` seconds."""
        self._run(until, None)
        self.now = max(self.now, until)

    def run_for(self, seconds: float) -> None:
        """Runs so many seconds on."""
        self.run(self.now + seconds)

    def run_until(self, predicate: Callable[[], bool], limit: float = 60.0) -> None:
        """Runs until ``predicate``, asked after each callback, holds.

        Raises:
            StuckError: it did not within ``limit`` seconds.
        """
        if not predicate() and not self._run(self.now + limit, predicate):
            raise StuckError(f"seed {self.seed}: {predicate} does not hold after {limit:g} s")

    def finish(self, task: asyncio.Future[Any], limit: float = 60.0) -> Any:
        """Runs until a task is done, and gives its result."""
        self.run_until(task.done, limit)
        return task.result()

    def _run(self, until: float, predicate: Callable[[], bool] | None) -> bool:
        timers, runnable, chance = self.timers, self.runnable, self.rng.random
        set_loop, pop = asyncio._set_running_loop, heapq.heappop
        inside: SimLoop | None = None
        outer, outer_hooks = asyncio._get_running_loop(), sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(None, self._finish_generator)
        set_loop(None)
        try:
            while True:
                while timers and timers[0][0] <= self.now:
                    _, _, function, argument = pop(timers)
                    function(argument)
                count = len(runnable)
                if not count:
                    while timers and getattr(timers[0][3], "dropped", False):
                        pop(timers)
                    if not timers or timers[0][0] > until:
                        return False
                    self.now: float = max(self.now, timers[0][0])
                    if predicate is not None and predicate():
                        return True
                    continue
                if self.now > until:
                    return False
                place = 0 if count == 1 else int(chance() * count)
                loop = runnable[place]
                process: Any = loop.process
                if self.on_step is not None or process.on_step is not None:
                    for hook in (self.on_step, process.on_step):
                        if hook is not None:
                            hook(process)
                    if place >= len(runnable) or runnable[place] is not loop:  # paused or killed
                        continue
                ready = loop.ready
                handle = ready.popleft()
                if not ready:
                    loop.listed = False
                    del runnable[place]
                if handle.dropped:
                    continue
                if loop is not inside:
                    set_loop(loop)
                    inside = loop
                self.current = process
                self.steps += 1
                handle.run()
                self.current = None
                self.now += chance() * STEP
                if predicate is not None and predicate():
                    return True
        finally:
            self.current = None
            set_loop(outer)
            sys.set_asyncgen_hooks(*outer_hooks)

    def _finish_generator(self, generator: Any) -> None:
        """An async generator that was left half-way runs its ``finally`` in its process, as under asyncio."""
        if self.current is not None and not self.current.dead:
            self.current.loop.create_task(generator.aclose())


class Process:
    """One simulated OS process.

    Attributes:
        loop: the event loop of its main thread.
        loops: that one, and those of its other threads.
        clock_skew: seconds by which its clock is ahead of the world's.
        errors: what event loops were told that nobody handled; a simulation expects none.
        on_step: called before each of its callbacks; may pause or kill it.
        on_death: called when it is killed, by whoever has to close its connections.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.dead = False
        self.paused = False
        self.clock_skew: float = 0.0
        self.errors: list[dict[str, Any]] = []
        self.on_step: Callable[[Process], None] | None = None
        self.on_death: list[Callable[[], None]] = []
        self.graveyard: list[Any] = []
        self.loops: list[SimLoop] = []
        self.loop: SimLoop = self.thread()
        world.processes.append(self)

    def __repr__(self) -> str:
        return f"<Process {self.name}{' dead' if self.dead else ' paused' if self.paused else ''}>"

    def thread(self) -> SimLoop:
        """The event loop of one more thread."""
        loop = SimLoop(self, self.world)
        self.loops.append(loop)
        return loop

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str | None = None) -> SimTask:
        """Runs a coroutine on the main thread's loop."""
        return self.loop.create_task(coro, name=name)

    def pause(self) -> None:
        """SIGSTOP: nothing of it runs, and what comes for it piles up."""
        self.paused = True
        self._unlist()

    def resume(self) -> None:
        """SIGCONT. Whether timers that became due come before or after what piled up is left to chance."""
        if not self.paused or self.dead:
            return
        self.paused: bool = False
        for loop in self.loops:
            if self.world.rng.random() < 0.5:
                loop.ready.extend(loop.late)
            else:
                loop.ready.extendleft(reversed(loop.late))
            loop.late.clear()
            if loop.ready and not loop.listed:
                loop.listed = True
                self.world.runnable.append(loop)

    def kill(self) -> None:
        """kill -9: nothing of it runs ever again, not even ``finally`` blocks. What it has written may still arrive."""
        if self.dead:
            return
        self.dead: bool = True
        self._unlist()
        for loop in self.loops:  # held, so that Python puts no coroutine away while the world runs
            self.graveyard += [task for task in asyncio.all_tasks(loop) if not task.done()]
            self.graveyard += [*loop.ready, *loop.late]
            loop.ready.clear()
            loop.late.clear()
        for closes in self.on_death:
            self.world.after(self.world.rng.random() * DEAD_CONNECTIONS, _call, closes)
        self.on_death = []

    def put_away(self) -> None:
        """Forgets what was to run; the world has ended."""
        for loop in self.loops:
            loop.ready.clear()
            loop.late.clear()
        self.graveyard.clear()

    def _unlist(self) -> None:
        for loop in self.loops:
            if loop.listed:
                loop.listed = False
                self.world.runnable.remove(loop)


def _call(function: Callable[[], None]) -> None:
    function()
