"""When a failed activity is tried again."""

import math
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetflow import NonRetryableError, RetryPolicy
from jetflow.core.definitions import ActivityOptions, activity_options
from jetflow.core.failures import is_retryable
from jetflow.errors import InvalidInputError


def test_delays_grow_by_the_coefficient_up_to_the_longest() -> None:
    policy = RetryPolicy(initial_interval="1s", backoff_coefficient=2, maximum_interval="10s")
    assert [policy.delay_ms(retry) for retry in range(1, 7)] == [1000, 2000, 4000, 8000, 10_000, 10_000]


@given(st.integers(1, 10**7), st.floats(0, 1), st.floats(1, 1000), st.integers(0, 10**6), st.integers(0, 10**6))
def test_jitter_is_a_tenth_either_way_however_many_retries(retry: int, jitter: float, coefficient: float, initial: int, longest: int) -> None:
    policy = RetryPolicy(
        initial_interval=timedelta(milliseconds=initial), backoff_coefficient=coefficient, maximum_interval=timedelta(milliseconds=longest)
    )
    middle = policy.delay_ms(retry)
    assert 0 <= middle <= longest
    assert 0.9 * middle - 1 <= policy.delay_ms(retry, jitter) <= 1.1 * middle + 1


@pytest.mark.parametrize(("maximum", "attempt", "allowed"), [(0, 10**9, True), (1, 1, False), (3, 2, True), (3, 3, False)])
def test_attempts_are_limited(maximum: int, attempt: int, allowed: bool) -> None:
    assert RetryPolicy(maximum_attempts=maximum).allows(attempt) is allowed


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("maximum_attempts", -1), ("backoff_coefficient", 0.5), ("backoff_coefficient", math.nan), ("backoff_coefficient", math.inf),
        ("initial_interval", "soon"), ("maximum_interval", -1), ("non_retryable", "ValueError"), ("non_retryable", [3]),
        ("non_retryable", ValueError), ("non_retryable", [int]),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=field):
        RetryPolicy(**{field: value})


def test_errors_are_retried_unless_they_or_a_base_class_are_named() -> None:
    assert is_retryable(KeyError("x"), ["ValueError"])
    assert not is_retryable(UnicodeError("x"), ["ValueError"])
    assert not is_retryable(KeyError("x"), ["LookupError"])
    assert not is_retryable(NonRetryableError("x"), [])


def test_options_are_put_on_top_of_those_of_the_activity() -> None:
    base = activity_options(start_to_close_timeout="5s", task_queue="mail")
    assert activity_options(base, heartbeat_timeout="1s") == ActivityOptions(start_to_close=5000, heartbeat=1000, task_queue="mail")
    assert activity_options(base) is base
    with pytest.raises(InvalidInputError, match="unknown activity option 'timeout'"):
        activity_options(timeout=5)
    with pytest.raises(InvalidInputError, match="retry must be a RetryPolicy"):
        activity_options(retry=5)
