"""Refuses real I/O, threads and blocking calls while workflow code runs, through Python's audit events.

Python before 3.13 has no event for ``time.sleep``, and before 3.12 none for threads. There this module wraps the functions.

A worker calls ``install``; nothing happens on import. Outside workflow code the hook returns at once.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from jetflow.core.location import is_border, user_location
from jetflow.core.loop import running
from jetflow.errors import NotAllowedInWorkflowError

_REFUSED = {
    "time.sleep": ("blocking time.sleep()", "await jetflow.sleep() instead"),
    "_thread.start_new_thread": ("starting a thread", None),
    "_thread.start_joinable_thread": ("starting a thread", None),
    "os.fork": ("forking", None),
    "os.forkpty": ("forking", None),
    "os.exec": ("starting a process", None),
    "os.posix_spawn": ("starting a process", None),
    "os.system": ("starting a process", None),
    "subprocess.Popen": ("starting a process", None),
    "socket.__new__": ("opening a socket", None),
    "socket.connect": ("network I/O", None),
    "socket.bind": ("network I/O", None),
    "socket.sendto": ("network I/O", None),
    "socket.getaddrinfo": ("a name lookup", None),
    "socket.gethostbyname": ("a name lookup", None),
    "open": ("opening a file", None),
}
_OF_PYTHON = frozenset(("importlib", "zipimport", "linecache", "traceback", "tokenize", "warnings", "logging"))
_installed = False


def install() -> None:
    """Add the audit hook, once for each process."""
    global _installed
    if not _installed:
        _installed = True
        sys.addaudithook(_hook)
        if sys.version_info < (3, 13):
            time.sleep = _watched(time.sleep, "time.sleep")
        if sys.version_info < (3, 12):
            threading._start_new_thread = _watched(threading._start_new_thread, "_thread.start_new_thread")  # type: ignore[attr-defined]


def _watched(function: Callable[..., Any], event: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any) -> Any:
        _hook(event, args)
        return function(*args)

    return watched


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if event not in _REFUSED or threading.get_ident() not in running:
        return
    if _for_python_itself():
        return
    what, fix = _REFUSED[event]
    location = user_location() or asyncio.get_running_loop().machine.standing_at()  # type: ignore[attr-defined]
    if fix is None:
        raise NotAllowedInWorkflowError(what, location)
    raise NotAllowedInWorkflowError(what, location, fix)


def _for_python_itself() -> bool:
    """Return whether Python itself makes the call: an import, a traceback's source lines, a warning or a log handler."""
    frame = sys._getframe(2)
    while frame is not None and not is_border(frame):
        if str(frame.f_globals.get("__name__", "")).partition(".")[0] in _OF_PYTHON:
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False
