"""Times as people and other programs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_iso(ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond: ``2026-03-01T12:00:00.250Z``; ``ms`` since the epoch."""
    return f"{(_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec='milliseconds')[:-6]}Z"


def from_iso(text: str) -> int:
    """A time as a server, a schedule or ``to_iso`` has it, ISO 8601 in UTC, in ms since the epoch."""
    return int(datetime.fromisoformat(text[:23].rstrip("Z")).replace(tzinfo=UTC).timestamp() * 1000)
