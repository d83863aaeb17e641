"""Named places where a test can have the process killed. Off unless ``JETFLOW_FAULT`` is set when the process starts.

``JETFLOW_FAULT=after_commit:3`` kills the process, as ``kill -9`` would, the third time it comes there.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "before_commit",
    "after_commit",
    "after_effects",
    "before_activity",
    "after_activity",
    "after_schedule",
    "after_buffer",
    "after_notice",
    "after_state",
    "before_ack",
)
"""In the order a command meets them."""
TASK_POINTS = ("before_outcome", "after_outcome")
"""Those that a task of a remote activity meets."""
ROUTING = ("after_claim", "after_forward", "after_taken")
"""Those that a signal by id meets: two in its router, and where its receiver's owner has removed it."""
LAPSING = ("before_letter", "after_letter")
"""What an expired signal meets."""
TIDYING = ("before_compaction", "after_compaction", "before_purge")
"""What comes after a run has ended, and after its record has expired."""

EVERY = POINTS + TASK_POINTS + ROUTING + LAPSING + TIDYING

_point, _sign, _count = os.environ.get("JETFLOW_FAULT", "").partition(":")
if _point and _point not in EVERY:
    raise ValueError(f"JETFLOW_FAULT names {_point!r}; the places are {', '.join(EVERY)}")
_left = int(_count or 1)


def reach(point: str) -> None:
    """Marks a place; ends the process if the environment asks for it."""
    global _left
    if point == _point:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
