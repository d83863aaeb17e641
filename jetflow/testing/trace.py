"""Formats a trace for people to read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def story(trace: Iterable[tuple[Any, ...]], words: str = "") -> str:
    """Return a server's trace, one line for each event. Only lines that contain ``words`` are included."""
    lines = []
    for time, process, what, stream, subject, *facts in trace:
        line = f"{time:12.6f}  {process or '-':<12}  {what:<10}  {stream:<22}  {subject}  {' '.join(map(str, facts))}".rstrip()
        if words in line:
            lines.append(line)
    return "\n".join(lines)
