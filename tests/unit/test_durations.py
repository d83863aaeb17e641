"""Durations as people write them."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetflow.core.durations import to_ms
from jetflow.errors import InvalidInputError


@pytest.mark.parametrize(
    ("duration", "ms"),
    [
        ("250ms", 250), ("30s", 30_000), ("10m", 600_000), ("1h30m", 5_400_000), ("1h 30m", 5_400_000), ("30d", 2_592_000_000),
        ("2w", 1_209_600_000), ("1.5s", 1500), ("0s", 0), (" 5s ", 5000), ("0.1ms", 1), (0, 0), (1, 1000), (0.25, 250), (0.0001, 1),
        (0.1 + 0.2, 300), (timedelta(minutes=2), 120_000), (timedelta(microseconds=1), 1),
    ],
)  # fmt: skip
def test_durations_are_whole_milliseconds_never_too_short(duration: object, ms: int) -> None:
    assert to_ms(duration) == ms  # type: ignore[arg-type]


@pytest.mark.parametrize("duration", ["", "5", "5 apples", "-5s", "s", "1h-5m", "1e3s", "5s5"])
def test_text_that_is_no_duration_is_refused_with_examples(duration: str) -> None:
    with pytest.raises(InvalidInputError, match=r'timeout .* is not a duration; write it like "250ms"'):
        to_ms(duration, "timeout")


@pytest.mark.parametrize("duration", [-1, math.inf, -math.inf, math.nan, timedelta(seconds=-1), "9" * 400 + "s", 10**400])
def test_negative_and_endless_durations_are_refused(duration: object) -> None:
    with pytest.raises(InvalidInputError, match="finite and not negative"):
        to_ms(duration)  # type: ignore[arg-type]


@pytest.mark.parametrize("duration", [None, True, b"5s", [5]])
def test_other_types_are_refused(duration: object) -> None:
    with pytest.raises(InvalidInputError, match="must be text, timedelta or seconds"):
        to_ms(duration)  # type: ignore[arg-type]


@given(st.lists(st.tuples(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d", "w"])), min_size=1, max_size=5))
def test_joined_parts_add_up(parts: list[tuple[int, str]]) -> None:
    assert to_ms("".join(f"{number}{unit}" for number, unit in parts)) == sum(to_ms(f"{number}{unit}") for number, unit in parts)


@given(st.floats(0, 1e9))
def test_seconds_are_rounded_up(seconds: float) -> None:
    assert seconds * 1000 - 1e-3 <= to_ms(seconds) < seconds * 1000 + 1 + 1e-3
