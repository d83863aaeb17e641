"""Times as the command line shows them, in this machine's time zone or in UTC."""

from __future__ import annotations

from datetime import datetime


def shown_time(iso: str, *, utc: bool) -> str:
    """Return an ISO 8601 time as text, with date and ms."""
    time = datetime.fromisoformat(iso)
    local = time if utc else time.astimezone()
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d}{'Z' if utc else ''}"
