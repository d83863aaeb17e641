"""Durations as people write them: ``"250ms"``, ``"1h30m"``, ``timedelta`` or seconds."""

import math
import re
from datetime import timedelta

from jetflow.errors import InvalidInputError

Duration = str | int | float | timedelta

FOREVER = "forever"
"""The word for no limit, instead of a duration: in Python, on the command line, and on the wire."""

_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
_WHOLE = re.compile(rf"(?:{_PART.pattern}\s*)+")


def limit_ms(duration: Duration | None, what: str = "duration") -> int | None:
    """Return a duration in whole ms, as ``to_ms`` does, or None for ``"forever"`` and for None.

    Raises:
        InvalidInputError: the duration is negative, not finite, or malformed.
    """
    return None if duration is None or duration == FOREVER else to_ms(duration, what)


def to_ms(duration: Duration, what: str = "duration") -> int:
    """Return a duration in whole ms, rounded up so that a wait is never too short.

    Args:
        duration: text with units (ms, s, m, h, d, w, also combined: ``"1h30m"``), a ``timedelta``, or a number of seconds.

    Raises:
        InvalidInputError: the duration is negative, not finite, or malformed.
    """
    if isinstance(duration, str):
        if not _WHOLE.fullmatch(duration.strip()):
            raise InvalidInputError(f'{what} {duration!r} is not a duration; write it like "250ms", "30s", "10m", "1h30m" or "30d"')
        ms = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(duration))
    elif isinstance(duration, timedelta):
        ms = duration.total_seconds() * 1000
    elif isinstance(duration, (int, float)) and not isinstance(duration, bool):
        try:
            ms = float(duration) * 1000
        except OverflowError:
            ms = math.inf
    else:
        raise InvalidInputError(f"{what} must be text, timedelta or seconds, not {type(duration).__name__}")
    if not math.isfinite(ms) or ms < 0:
        raise InvalidInputError(f"{what} must be finite and not negative, not {duration!r}")
    return math.ceil(round(ms, 6))
