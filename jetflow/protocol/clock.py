"""Time and chance as the engine knows them: the one place that a simulation replaces.

The event loop's own time (``asyncio.sleep``, ``call_later``, ``asyncio.timeout``) comes from the loop; a simulation brings a loop of its
own. Everything else that depends on a clock or on chance asks here.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from typing import Protocol


class Source(Protocol):
    """Where time and chance come from."""

    def time(self) -> float:
        """Seconds since the epoch, as this machine's clock has them."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...

    def token(self, size: int, /) -> str:
        """``size`` bytes of chance in hex, which nobody else has drawn."""
        ...

    def chance(self) -> float:
        """A number from 0 up to before 1."""
        ...

    def cpu(self) -> float:
        """Seconds in which this thread ran, or would have liked to."""
        ...


class System:
    """The machine's own clock and chance."""

    monotonic: staticmethod[[], float] = staticmethod(time.monotonic)
    token: staticmethod[[int], str] = staticmethod(secrets.token_hex)
    chance: staticmethod[[], float] = staticmethod(random.random)

    @staticmethod
    def cpu() -> float:
        """Seconds in which this thread ran, or would have liked to."""
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
"""Seconds since some moment; never goes back. Call it as ``clock.monotonic()``: another source replaces it."""


def use(source: Source | None) -> None:
    """Replaces the source for the whole process; None brings the machine's own back."""
    global _source, _time, monotonic
    _source = source or System()
    _time, monotonic = _source.time, _source.monotonic


def now_ms() -> int:
    """Milliseconds since the epoch, as this machine's clock has them."""
    return int(_time() * 1000)


def token(size: int) -> str:
    """``size`` bytes of chance in hex."""
    return _source.token(size)


def cpu() -> float:
    """Seconds in which this thread ran, or would have liked to."""
    return _source.cpu()


def chance() -> float:
    """A number from 0 up to before 1."""
    return _source.chance()
