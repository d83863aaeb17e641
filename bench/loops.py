"""Which event loop things run on."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from jetflow.cli.serving import spare_the_collector

R = TypeVar("R")
LOOPS = ("uvloop", "asyncio")


def available(loop: str) -> str:
    """The loop asked for, or asyncio's own where uvloop is not installed."""
    if loop == "uvloop":
        try:
            import uvloop  # noqa: F401  only whether it is there
        except ImportError:
            return "asyncio"
    return loop


def run(work: Coroutine[Any, Any, R], loop: str) -> R:
    """Runs a coroutine to its end on the named loop, set up as ``jetflow worker`` sets itself up."""
    spare_the_collector()
    if loop == "uvloop":
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(work)
    return asyncio.run(work)
