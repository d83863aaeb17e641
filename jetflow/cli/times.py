"""Times as the command line shows them: this machine's, or UTC."""

from __future__ import annotations

from datetime import datetime


def shown_time(iso: str, *, utc: bool) -> str:
    """An ISO 8601 time to the millisecond, with its day, as a person reads it."""
    time = datetime.fromisoformat(iso)
    local = time if utc else time.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d}{'Z' if utc else ''}"
