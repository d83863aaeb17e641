"""Notices calls that workflow code makes and never awaits, such as ``charge(order)`` for ``await charge(order)``.

Python itself tells when a coroutine goes that nothing has started: the moment its last reference goes, as code alone decides, in every
replay. So nothing is counted where calls are made. What the garbage collector finds, in a cycle, goes at any time, perhaps while
another workflow's code runs: such a coroutine gives Python's own warning and no more.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import warnings
from collections.abc import Callable, Iterable
from inspect import CORO_CREATED, getcoroutinestate
from types import CoroutineType
from typing import Any

from jetflow.core.location import is_user_file, user_location

_CORE = os.path.dirname(os.path.abspath(__file__))
_OWN = (os.path.join(os.path.dirname(_CORE), "workflow.py"), os.path.join(_CORE, "calls.py"))
_ASYNCIO = os.path.dirname(asyncio.__file__) + os.sep
_HOOK = "_warn_unawaited_coroutine"

_collecting: set[int] = set()
"""Threads in which the garbage collector runs."""
_installed = False


def missing() -> list[str]:
    """What this module uses and the installed Python does not have: no call without ``await`` is noticed then."""
    return [] if callable(getattr(warnings, _HOOK, None)) else [f"warnings.{_HOOK}"]


def install(tell: Callable[[Any], bool]) -> None:
    """Have a function told of each coroutine that goes and was never started; Python warns of those for which it gives False."""
    global _installed
    if _installed or missing():
        return
    _installed = True
    warn = getattr(warnings, _HOOK)

    def on_unawaited(coro: Any) -> None:
        if threading.get_ident() in _collecting or not tell(coro):
            warn(coro)

    setattr(warnings, _HOOK, on_unawaited)
    gc.callbacks.append(_on_collection)


def _on_collection(phase: str, _: Any) -> None:
    if phase == "start":
        _collecting.add(threading.get_ident())
    else:
        _collecting.discard(threading.get_ident())


def counts(coro: Any) -> bool:
    """Whether a coroutine does something that workflow code waits for: an operation, a function of the user's, or one of asyncio."""
    file = coro.cr_code.co_filename
    return file in _OWN or file.startswith(_ASYNCIO) or is_user_file(file)


def name_of(coro: Any) -> str:
    """How the user writes the call that made a coroutine."""
    held = coro.cr_frame.f_locals if coro.cr_frame is not None else {}
    name = coro.__name__
    if coro.cr_code.co_filename not in _OWN:
        return f"{name}()"
    given = held.get("activity", held.get("workflow"))
    shown = getattr(given, "name", given)
    if name == "run_activity":
        return f"{shown}()"
    return f"{name}()" if given is None else f"{name}({shown})"


def made_at(coro: Any) -> str:
    """Where workflow code made a coroutine."""
    for file, line, function in coro.cr_origin or ():
        if is_user_file(file):
            return f"{file}:{line} in {function}"
    return user_location() or "unknown place"


def handed_to(coro: Any) -> Iterable[Any]:
    """The coroutines that one which has not started was given, and those that they were given."""
    frame = coro.cr_frame if type(coro) is CoroutineType and getcoroutinestate(coro) == CORO_CREATED else None
    for held in frame.f_locals.values() if frame is not None else ():
        for inner in held if type(held) in (list, tuple, set) else held.values() if type(held) is dict else (held,):
            if type(inner) is CoroutineType and getcoroutinestate(inner) == CORO_CREATED:
                yield inner
                yield from handed_to(inner)
