"""All code that uses anyio's internals. It makes cancel scopes in workflow code behave the same in every process.

anyio iterates over a set of nested scopes to cancel them. So a scope of workflow code hashes like its task, whose hash follows creation
order. The hash of other scopes does not change, since some may be in such sets already.

If the installed anyio lacks one of these internals, or the environment variable ``JETFLOW_PLAIN`` has ``anyio``, this module changes
nothing. Then a replay may cancel nested scopes, which were cancelled together, in another order. It reports that as a
``NondeterminismError``. Everything else works.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

from jetflow.core.plain import asked_for

log: logging.Logger = logging.getLogger("jetflow.workflow")

CHECKED_WITH = ("4.16.0",)
"""Versions of anyio that this module was checked with. ``tests/unit/test_pins.py`` says how to check another one."""

_retry: Any = None
_states: Any = None
_ready = False


def missing() -> list[str]:
    """Return the names that this module uses and the installed anyio lacks."""
    from anyio._backends import _asyncio as backend

    gone = []
    scope = getattr(backend, "CancelScope", None)
    if "_host_task" not in getattr(scope, "__slots__", ()):
        gone.append("anyio._backends._asyncio.CancelScope._host_task")
    if not inspect.isfunction(getattr(scope, "_deliver_cancellation", None)):
        gone.append("anyio._backends._asyncio.CancelScope._deliver_cancellation()")
    if not hasattr(getattr(backend, "_task_states", None), "data"):
        gone.append("anyio._backends._asyncio._task_states")
    return gone


def prepare(task_class: type[asyncio.Task[Any]]) -> None:
    """Make cancel scopes of these tasks hash like their task. Only the first call has an effect."""
    global _retry, _states, _ready
    if _ready:
        return
    _ready = True
    if asked_for("anyio"):
        return
    gone = missing()
    if gone:
        log.warning("anyio has no %s: nested cancel scopes may be cancelled in another order on replay", ", ".join(gone))
        return
    from anyio._backends import _asyncio as backend

    def hash_of(scope: Any) -> int:
        task = scope._host_task
        return hash(task) if isinstance(task, task_class) else object.__hash__(scope)

    backend.CancelScope.__hash__ = hash_of  # type: ignore[method-assign]
    _retry, _states = backend.CancelScope._deliver_cancellation, backend._task_states


def is_retry(callback: Any) -> bool:
    """Return whether a callback is anyio's retry of a cancel that had no effect yet."""
    if _retry is not None:
        return getattr(callback, "__func__", None) is _retry
    return type(getattr(callback, "__self__", None)).__module__.startswith("anyio.")


def forget(task: asyncio.Task[Any]) -> None:
    """Remove a task from anyio's memory, as anyio does when a task ends."""
    if _states is not None and _states.data:
        _states.pop(task, None)
