"""Everything in jetflow that rests on anyio's internals: cancel scopes in workflow code behave the same in every process.

anyio cancels nested scopes from a set of them. Scopes of workflow code therefore hash like the task they are in, which is in creation
order. Scopes of other code hash as ever, since some may be in such sets already.

Where the installed anyio lacks what is used here, and with ``anyio`` in the environment variable ``JETFLOW_PLAIN``, anyio stays as it
is. Everything works then but one thing: nested scopes that are cancelled together may be cancelled in another order when the workflow
is replayed, which the replay reports as a ``NondeterminismError``.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from typing import Any

from jetflow.core.plain import asked_for

log: logging.Logger = logging.getLogger("jetflow.workflow")

CHECKED_WITH = ("4.16.0",)
"""Versions of anyio that this module was checked with; ``tests/unit/test_pins.py`` says what to do about another one."""

_retry: Any = None
_states: Any = None
_ready = False


def missing() -> list[str]:
    """What this module uses and the installed anyio does not have."""
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
    """Has the scopes of these tasks hash like their task; does it once."""
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
    """Whether a callback is anyio's next try to cancel what does not give way."""
    if _retry is not None:
        return getattr(callback, "__func__", None) is _retry
    return type(getattr(callback, "__self__", None)).__module__.startswith("anyio.")


def forget(task: asyncio.Task[Any]) -> None:
    """Has anyio forget a task, as it does when one ends."""
    if _states is not None and _states.data:
        _states.pop(task, None)
