"""Tells Ctrl-C from a ``KeyboardInterrupt`` that user code raises.

User code may raise anything, and its errors are its own: they end neither the worker nor other runs. Ctrl-C arrives as the same type,
between any two instructions of whatever code runs, and must end the process.
"""

from __future__ import annotations

import dis
from typing import Any

_RAISES = frozenset(dis.opmap[name] for name in ("RAISE_VARARGS", "RERAISE") if name in dis.opmap)
_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def is_interrupt(error: BaseException) -> bool:
    """Return whether an error is the process's own interrupt: no statement has raised it, or asyncio's handler of SIGINT has."""
    if type(error) is not KeyboardInterrupt or error.args:
        return False
    trace = _TRACEBACK.__get__(error)
    if trace is None:
        return True
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return code.co_code[trace.tb_lasti] not in _RAISES or code.co_name == "_on_sigint"
