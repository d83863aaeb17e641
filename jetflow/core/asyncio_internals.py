"""All code of the workflow loop that uses asyncio's internals.

``_enter_task``, ``_leave_task`` and ``_set_running_loop`` are used elsewhere: asyncio documents or exports them for authors of event
loops. The loop has its own handle classes, so that it does not read private fields of asyncio's.

If the installed Python lacks one of these internals, or the environment variable ``JETFLOW_PLAIN`` has ``asyncio``, this module finds
the callback of ``asyncio.sleep`` by a trial call. Then ``asyncio.as_completed`` starts coroutines in the order of a set, which differs
between processes. Pass tasks to it. Everything else works.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from types import CodeType, FrameType
from typing import Any

from jetflow.core.plain import asked_for

CHECKED_WITH = ("3.11", "3.12", "3.13")
"""Versions of Python that this module was checked with. ``tests/unit/test_pins.py`` says how to check another one."""


def missing() -> list[str]:
    """Return the names that this module uses and the installed Python lacks."""
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
    """Base of the loop's handles."""

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
        """Call the callback. Report its errors to the loop."""
        try:
            self.context.run(self.callback, *self.args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.loop.call_exception_handler({"message": f"Exception in callback {self.callback!r}", "exception": error, "handle": self})


class LoopHandle(_Own, asyncio.Handle):
    """A callback that is ready. Unlike asyncio's own handle, it has public fields for the loop.

    Attributes:
        callback, args, context: the function to call, its arguments, and the context to call it in.
        dropped: whether the handle was cancelled.
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
    """A callback that becomes ready at a time."""

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
    """Do nothing: the callback of a cancelled handle."""


# ---- asyncio.sleep


class _Trying:
    """Replaces the loop during the trial call of ``asyncio.sleep``."""

    callback: Any = None

    def create_future(self) -> Any:
        return _Stop()

    def call_later(self, _delay: float, callback: Any, *_: Any) -> Any:
        self.callback = callback
        return self

    def cancel(self) -> None:
        """See ``asyncio.Handle``."""

    def get_debug(self) -> bool:
        return False


class _Stop:
    """Ends the trial call where it would await the future."""

    def __await__(self) -> Any:
        raise GeneratorExit


def callback_of_sleep() -> Any:
    """Return the callback that ``asyncio.sleep`` gives to its timer, found by a trial call."""
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
    """Return the frame of ``asyncio.as_completed`` if ``caller`` creates a task for it."""
    if caller.f_code is not _ENSURE_FUTURE:
        return None
    frame = caller.f_back
    while frame is not None and (frame.f_code in _WITHIN or frame.f_code.co_name == "<setcomp>"):
        frame = frame.f_back
    return frame if frame is not None and frame.f_code in _AS_COMPLETED else None


def may_be_left_pending(task: asyncio.Task[Any]) -> None:
    """Stop Python's warning about a pending task that is destroyed, as the tasks of an unloaded run are."""
    if hasattr(task, "_log_destroy_pending"):
        task._log_destroy_pending = False  # type: ignore[attr-defined]
