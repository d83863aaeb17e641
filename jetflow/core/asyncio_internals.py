"""Everything in jetflow's workflow loop that rests on asyncio's internals.

``_enter_task``, ``_leave_task`` and ``_set_running_loop`` are not in this list: asyncio documents them, or exports them, for those who
write event loops. Handles are the loop's own, so that it need not look into asyncio's.

Where the installed Python lacks what is used here, and with ``asyncio`` in the environment variable ``JETFLOW_PLAIN``, the callback of
``asyncio.sleep`` is found by trying it. Everything works then but one thing: ``asyncio.as_completed`` starts coroutines in the order of
a set, which another process need not repeat. Give it tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from types import CodeType, FrameType
from typing import Any

from jetflow.core.plain import asked_for

CHECKED_WITH = ("3.11", "3.12", "3.13")
"""Versions of Python that this module was checked with; ``tests/unit/test_pins.py`` says what to do about another one."""


def missing() -> list[str]:
    """What this module uses and the installed Python does not have."""
    gone = []
    if not callable(getattr(asyncio.futures, "_set_result_unless_cancelled", None)):
        gone.append("asyncio.futures._set_result_unless_cancelled")
    if not isinstance(getattr(asyncio.ensure_future, "__code__", None), CodeType):
        gone.append("asyncio.ensure_future.__code__")
    if not isinstance(getattr(asyncio.as_completed, "__code__", None), CodeType):
        gone.append("asyncio.as_completed.__code__")
    if not hasattr(asyncio.Task, "_log_destroy_pending"):
        gone.append("asyncio.Task._log_destroy_pending")
    return gone


class _Own:
    """What the loop's handles have in common."""

    __slots__ = ()
    callback: Callable[..., Any]
    args: tuple[Any, ...]
    loop: asyncio.AbstractEventLoop
    context: Context
    dropped: bool

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.callback!r}{' cancelled' if self.dropped else ''}>"

    def get_context(self) -> Context:
        """See ``asyncio.Handle``."""
        return self.context

    def cancelled(self) -> bool:
        """See ``asyncio.Handle``."""
        return self.dropped

    def run(self) -> None:
        """Calls it; what it raises is told to the loop."""
        try:
            self.context.run(self.callback, *self.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.loop.call_exception_handler({"message": f"Exception in callback {self.callback!r}", "exception": error, "handle": self})


class LoopHandle(_Own, asyncio.Handle):
    """A callback that is ready. asyncio's own handle keeps private what a loop must know.

    Attributes:
        callback, args, context: what is called, and in which context.
        dropped: whether it was cancelled.
    """

    __slots__ = ("args", "callback", "context", "dropped", "loop")

    def __init__(self, callback: Callable[..., Any], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop, context: Context | None) -> None:
        self.callback: Callable[..., Any] = callback
        self.args: tuple[Any, ...] = args
        self.loop: asyncio.AbstractEventLoop = loop
        self.context: Context = copy_context() if context is None else context
        self.dropped: bool = False

    def cancel(self) -> None:
        """See ``asyncio.Handle``."""
        self.dropped = True
        self.callback, self.args = _nothing, ()


class LoopTimerHandle(_Own, asyncio.TimerHandle):
    """The same, at a time."""

    __slots__ = ("args", "at", "callback", "context", "dropped", "loop")

    def __init__(
        self, when: float, callback: Callable[..., Any], args: tuple[Any, ...], loop: asyncio.AbstractEventLoop, context: Context | None
    ) -> None:
        self.at: float = when
        self.callback: Callable[..., Any] = callback
        self.args: tuple[Any, ...] = args
        self.loop: asyncio.AbstractEventLoop = loop
        self.context: Context = copy_context() if context is None else context
        self.dropped: bool = False

    def when(self) -> float:
        """See ``asyncio.TimerHandle``."""
        return self.at

    def cancel(self) -> None:
        """See ``asyncio.TimerHandle``."""
        if not self.dropped:
            self.dropped = True
            self.loop._timer_handle_cancelled(self)  # type: ignore[attr-defined]
            self.callback, self.args = _nothing, ()


def _nothing() -> None:
    """What a cancelled handle calls."""


# ---- asyncio.sleep


class _Trying:
    """Stands in for a loop while ``asyncio.sleep`` is tried."""

    callback: Any = None

    def create_future(self) -> Any:
        return _Stop()

    def call_later(self, _delay: float, callback: Any, *_: Any) -> Any:
        self.callback = callback
        return self

    def cancel(self) -> None:
        """As a handle has it."""

    def get_debug(self) -> bool:
        return False


class _Stop:
    """Ends the try where the future would be awaited."""

    def __await__(self) -> Any:
        raise GeneratorExit


def callback_of_sleep() -> Any:
    """What ``asyncio.sleep`` has called when its time has come, found by trying it."""
    trying: Any = _Trying()
    before = asyncio._get_running_loop()
    sleeping = asyncio.sleep(1)
    asyncio._set_running_loop(trying)
    try:
        sleeping.send(None)
    except (GeneratorExit, StopIteration):
        pass
    finally:
        asyncio._set_running_loop(before)
        sleeping.close()
    return trying.callback


SLEEP: Any = None if asked_for("asyncio") else getattr(asyncio.futures, "_set_result_unless_cancelled", None)
if SLEEP is None:
    SLEEP = callback_of_sleep()


# ---- asyncio.as_completed

_ENSURE_FUTURE: CodeType | None = None
_WITHIN: frozenset[CodeType] = frozenset()
_AS_COMPLETED: frozenset[CodeType] = frozenset()
if not asked_for("asyncio") and not missing():
    _ENSURE_FUTURE = getattr(asyncio.tasks, "_ensure_future", asyncio.ensure_future).__code__
    _WITHIN = frozenset({asyncio.ensure_future.__code__})
    _AS_COMPLETED = frozenset({asyncio.as_completed.__code__})
    if hasattr(asyncio.tasks, "_AsCompletedIterator"):
        _AS_COMPLETED |= {asyncio.tasks._AsCompletedIterator.__init__.__code__}  # type: ignore[attr-defined]


def as_completed_around(caller: FrameType) -> FrameType | None:
    """The frame of ``asyncio.as_completed`` if it is what creates a task by ``caller``."""
    if caller.f_code is not _ENSURE_FUTURE:
        return None
    frame = caller.f_back
    while frame is not None and (frame.f_code in _WITHIN or frame.f_code.co_name == "<setcomp>"):
        frame = frame.f_back
    return frame if frame is not None and frame.f_code in _AS_COMPLETED else None


def may_be_left_pending(task: asyncio.Task[Any]) -> None:
    """Has Python not warn of a task that is put away while it waits, as a run's tasks are."""
    if hasattr(task, "_log_destroy_pending"):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
