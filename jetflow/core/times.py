"""Times as people and other programs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_iso(ms: int) -> str:
    """Return a time in ms since the epoch as ISO 8601 in UTC with milliseconds: ``2026-03-01T12:00:00.250Z``."""
    return f"{(_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec='milliseconds')[:-6]}Z"


def from_iso(text: str) -> int:
    """Return a time in ms since the epoch, from ISO 8601 in UTC as a server, a schedule or ``to_iso`` writes it."""
    return int(datetime.fromisoformat(text[:23].rstrip("Z")).replace(tzinfo=UTC).timestamp() * 1000)
