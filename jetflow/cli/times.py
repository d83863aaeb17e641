"""Times as the command line shows them: this machine's, or UTC."""

from __future__ import annotations

from datetime import datetime


def shown_time(iso: str, *, utc: bool) -> str:
    """An ISO 8601 time to the millisecond, with its day, as a person reads it."""
    try:
        time = datetime.fromisoformat(iso)
        local = time if utc else time.astimezone()
    except (ValueError, OverflowError):  # a year that Python cannot hold
        return f"{iso.rstrip('Z').replace('T', ' ')}Z"
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d}{'Z' if utc else ''}"
