"""Places in user code, as ``file:line in function``."""

from __future__ import annotations

import os
import sys
import sysconfig
from types import FrameType
from typing import Any

_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_STDLIB = os.path.join(sysconfig.get_paths()["stdlib"], "")
_RUNTIME_LIBRARIES = tuple(f"{os.sep}site-packages{os.sep}{name}{os.sep}" for name in ("anyio", "msgspec", "nats"))


def is_own_file(filename: str) -> bool:
    """Return whether a file is jetflow's."""
    return filename.startswith(_OWN)


def is_user_file(filename: str) -> bool:
    """Return whether a file is user code: not of jetflow, of the standard library, or of a library that jetflow uses."""
    if filename.startswith((_OWN, "<frozen")):
        return False
    if "site-packages" in filename:
        return not any(name in filename for name in _RUNTIME_LIBRARIES)
    return not filename.startswith(_STDLIB)


def user_location() -> str:
    """Return the innermost frame of workflow code on the current stack; "" if there is none, as in a task that only calls an activity."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_border(frame):
        if is_user_file(frame.f_code.co_filename):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        frame = frame.f_back
    return ""


def is_border(frame: FrameType) -> bool:
    """Return whether a frame is the one that runs workflow code. Its callers are outside workflow code."""
    return frame.f_code.co_name == "_inside" and frame.f_code.co_filename.startswith(_OWN)


def await_location(awaitable: Any) -> str:
    """Return where a suspended coroutine of user code waits."""
    found = "unknown place"
    while awaitable is not None:
        frame = getattr(awaitable, "cr_frame", None)
        if frame is not None and is_user_file(frame.f_code.co_filename):
            found = f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaitable = getattr(awaitable, "cr_await", None)
    return found


def raised_at(error: BaseException) -> str:
    """Return the innermost frame of user code in an error's traceback."""
    found, trace = "unknown place", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if is_user_file(code.co_filename):
            found = f"{code.co_filename}:{trace.tb_lineno} in {code.co_name}"
        trace = trace.tb_next
    return found


def end_of(function: Any) -> str:
    """Return a function's last line, where it returns without a ``return`` statement."""
    code = function.__code__
    last = max((line for _, _, line in code.co_lines() if line is not None), default=code.co_firstlineno)
    return f"{code.co_filename}:{last} at the end of {code.co_name}"
