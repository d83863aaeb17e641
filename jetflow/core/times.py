"""Times as people and other programs read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


_CYCLE_YEARS, _CYCLE_MS = 400, 146_097 * 86_400_000
"""The calendar repeats itself after so many years, to the day."""


def civil(ms: int) -> tuple[int, datetime]:
    """Return the year of any time, ms since the epoch, and a time in UTC that is the same but for its year, which Python can hold."""
    try:
        time = _EPOCH + timedelta(milliseconds=ms)
    except OverflowError:
        cycles, rest = divmod(ms, _CYCLE_MS)
        time = _EPOCH + timedelta(milliseconds=rest)
        return time.year + cycles * _CYCLE_YEARS, time
    return time.year, time


def to_iso(ms: int) -> str:
    """Return a time in ms since the epoch as ISO 8601 in UTC with milliseconds: ``2026-03-01T12:00:00.250Z``.

    Years of more than four digits, and those before the year 1, have a sign and six digits, as in JavaScript:
    ``+012026-03-01T12:00:00.250Z``.
    """
    year, time = civil(ms)
    text = f"{time.isoformat(timespec='milliseconds')[:-6]}Z"
    return text if year == time.year else f"{year:+07d}{text[4:]}"


def from_iso(text: str) -> int:
    """Return a time in ms since the epoch, from ISO 8601 in UTC as a server, a schedule or ``to_iso`` writes it."""
    return int(datetime.fromisoformat(text[:23].rstrip("Z")).replace(tzinfo=UTC).timestamp() * 1000)
