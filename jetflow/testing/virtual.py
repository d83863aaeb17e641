"""Virtual time: a world with one clock, one source of chance, and processes. It runs their callbacks one at a time.

The same seed gives the same run in every Python process if ``PYTHONHASHSEED=0`` is set, since sets of strings iterate by hash.
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
"""The time when a world begins (s since the epoch), by every clock without skew."""
STEP = 50e-6
"""The most seconds that one callback takes."""
DEAD_CONNECTIONS = 0.05
"""The most seconds until the server notices that the process at the other end of a connection was killed."""


class StuckError(AssertionError):
    """Raised when a condition does not hold in time."""


class World(Schedule):
    """One simulated run. It is jetflow's source of time and chance inside its ``with`` block.

    Args:
        seed: decides everything that is left to chance.

    Attributes:
        processes: the processes in the order of their creation.
        steps: the number of callbacks run so far.
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
        """Create a process."""
        return Process(self, name)

    def replace(self, thing: Any, name: str, value: Any) -> None:
        """Set an attribute until the world ends."""
        self._replaced.append((thing, name, getattr(thing, name)))
        setattr(thing, name, value)

    # ---- the source of time and chance

    def time(self) -> float:
        """Return the time by the current process's own clock, s since the epoch."""
        current = self.current
        return EPOCH + self.now + (0.0 if current is None else current.clock_skew)

    def monotonic(self) -> float:
        """Return the seconds since the world began."""
        return self.now

    def token(self, size: int) -> str:
        """Return ``size`` random bytes in hex."""
        return f"{self._tokens.getrandbits(8 * size):0{2 * size}x}"

    def chance(self) -> float:
        """Return a random number from 0 to below 1."""
        return self.rng.random()

    def cpu(self) -> float:
        """Return 0: callbacks need no CPU time."""
        return 0.0

    def __enter__(self) -> World:
        clock.use(self)
        self._gc = gc.isenabled()
        gc.disable()  # its collections differ from run to run
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the world. No process continues, and what coroutines do when Python closes them has no effect."""
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
        """Run until the clock shows ``until`` seconds."""
        self._run(until, None)
        self.now = max(self.now, until)

    def run_for(self, seconds: float) -> None:
        """Run for ``seconds``."""
        self.run(self.now + seconds)

    def run_until(self, predicate: Callable[[], bool], limit: float = 60.0) -> None:
        """Run until ``predicate`` holds. It is called after each callback.

        Raises:
            StuckError: it did not hold within ``limit`` seconds.
        """
        if not predicate() and not self._run(self.now + limit, predicate):
            raise StuckError(f"seed {self.seed}: {predicate} does not hold after {limit:g} s")

    def finish(self, task: asyncio.Future[Any], limit: float = 60.0) -> Any:
        """Run until a task is done, and return its result."""
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
        """Close an unfinished async generator in its process, so that its ``finally`` runs as under asyncio."""
        if self.current is not None and not self.current.dead:
            self.current.loop.create_task(generator.aclose())


class Process:
    """One simulated OS process.

    Attributes:
        loop: the event loop of its main thread.
        loops: that one, and those of its other threads.
        clock_skew: seconds by which its clock is ahead of the world's.
        errors: unhandled errors of its event loops; a simulation expects none.
        on_step: called before each of its callbacks; may pause or kill it.
        on_death: called after it was killed, to close its connections.
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
        """Create the event loop of another thread."""
        loop = SimLoop(self, self.world)
        self.loops.append(loop)
        return loop

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str | None = None) -> SimTask:
        """Run a coroutine on the main thread's loop."""
        return self.loop.create_task(coro, name=name)

    def pause(self) -> None:
        """Stop the process as SIGSTOP does: none of its code runs, and its input waits."""
        self.paused = True
        self._unlist()

    def resume(self) -> None:
        """Continue the process as SIGCONT does. Chance decides whether overdue timers come before or after the waiting input."""
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
        """Kill the process as ``kill -9`` does: none of its code runs again, not even ``finally`` blocks. What it has written may still arrive."""
        if self.dead:
            return
        self.dead: bool = True
        self._unlist()
        for loop in self.loops:  # hold them, so that Python closes no coroutine while the world runs
            self.graveyard += [task for task in asyncio.all_tasks(loop) if not task.done()]
            self.graveyard += [*loop.ready, *loop.late]
            loop.ready.clear()
            loop.late.clear()
        for closes in self.on_death:
            self.world.after(self.world.rng.random() * DEAD_CONNECTIONS, _call, closes)
        self.on_death = []

    def put_away(self) -> None:
        """Forget all callbacks: the world has ended."""
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
