"""The clock and the random numbers of the engine. A simulation replaces them here.

The event loop's own time (``asyncio.sleep``, ``call_later``, ``asyncio.timeout``) comes from the loop, and a simulation has its own
loop. All other code that needs a clock or random numbers uses this module.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """A source of time and random numbers."""

    def time(self) -> float:
        """Return seconds since the epoch, by this machine's clock."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary time. It never goes back."""
        ...

    def token(self, size: int, /) -> str:
        """Return ``size`` random bytes in hex. No two calls return the same."""
        ...

    def chance(self) -> float:
        """Return a random number in [0, 1)."""
        ...

    def cpu(self) -> float:
        """Return the seconds for which this thread ran or was ready to run."""
        ...


class System:
    """The machine's own clock and random numbers."""

    monotonic: staticmethod[[], float] = staticmethod(time.monotonic)
    token: staticmethod[[int], str] = staticmethod(secrets.token_hex)
    chance: staticmethod[[], float] = staticmethod(random.random)

    @staticmethod
    def cpu() -> float:
        """Return the seconds for which this thread ran or was ready to run."""
        try:
            with open("/proc/thread-self/schedstat", "rb") as file:
                ran, waited, _ = file.read().split()
                return (int(ran) + int(waited)) / 1e9
        except (OSError, ValueError):  # not Linux
            return time.thread_time()

    time: staticmethod[[], float] = staticmethod(time.time)


_source: Source = System()
_time: Callable[[], float] = time.time
monotonic: Callable[[], float] = time.monotonic
"""Return seconds since an arbitrary time. It never goes back. Call it as ``clock.monotonic()``, since another source may replace it."""


def use(source: Source | None) -> None:
    """Replace the source for the whole process. None restores the machine's own."""
    global _source, _time, monotonic
    _source = source or System()
    _time, monotonic = _source.time, _source.monotonic


def now_ms() -> int:
    """Return ms since the epoch, by this machine's clock."""
    return int(_time() * 1000)


def token(size: int) -> str:
    """Return ``size`` random bytes in hex."""
    return _source.token(size)


def cpu() -> float:
    """Return the seconds for which this thread ran or was ready to run."""
    return _source.cpu()


def chance() -> float:
    """Return a random number in [0, 1)."""
    return _source.chance()
