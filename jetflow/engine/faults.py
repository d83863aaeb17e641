"""Named places where a test can kill the process. They do nothing unless ``JETFLOW_FAULT`` is set when the process starts.

``JETFLOW_FAULT=after_commit:3`` kills the process, as ``kill -9`` would, the third time it reaches the place.
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
"""Places on the path of a command, in order."""
TASK_POINTS = ("before_outcome", "after_outcome")
"""Places on the path of a remote activity's task."""
ROUTING = ("after_claim", "after_forward", "after_taken")
"""Places on the path of a signal by id: two in its router, and one after the receiver's owner has removed it."""
LAPSING = ("before_letter", "after_letter")
"""Places on the path of an expired signal, and of a scheduled start that is refused."""
TIDYING = ("before_compaction", "after_compaction", "before_purge")
"""Places after a run has ended, and after its record has expired."""

EVERY = POINTS + TASK_POINTS + ROUTING + LAPSING + TIDYING

_point, _sign, _count = os.environ.get("JETFLOW_FAULT", "").partition(":")
if _point and _point not in EVERY:
    raise ValueError(f"JETFLOW_FAULT names {_point!r}, which is not a known place. The places are: {', '.join(EVERY)}")
_left = int(_count or 1)


def reach(point: str) -> None:
    """Mark a place. Kill the process if ``JETFLOW_FAULT`` names it."""
    global _left
    if point == _point:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
