"""Times as people and other programs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def to_iso(ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond: ``2026-03-01T12:00:00.250Z``; ``ms`` since the epoch."""
    return f"{(_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec='milliseconds')[:-6]}Z"
