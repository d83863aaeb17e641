"""Times of any year can be shown: a wait may end in ten thousand years, and a record may say anything."""

import pytest

from jetflow.cli.output import ago, local_time, short_duration, use_utc
from jetflow.cli.times import shown_time
from jetflow.core.durations import LONGEST_MS
from jetflow.core.times import from_iso, to_iso

TEN_THOUSAND_YEARS = 315_569_520_000_000
FAR = [TEN_THOUSAND_YEARS, LONGEST_MS, 2**63, -(2**63), -62_135_596_800_000, -62_135_596_800_001, 253_402_300_799_999, 253_402_300_800_000, -1, 0]


@pytest.mark.parametrize("ms", FAR)
def test_any_time_is_shown(ms: int) -> None:
    for utc in (True, False):
        use_utc(utc)
        assert local_time(ms)
        assert ago(ms)
        assert shown_time(to_iso(ms), utc=utc)
    use_utc(False)


@pytest.mark.parametrize(
    ("ms", "iso"),
    [
        (0, "1970-01-01T00:00:00.000Z"), (1_772_366_400_250, "2026-03-01T12:00:00.250Z"), (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "+010000-01-01T00:00:00.000Z"), (TEN_THOUSAND_YEARS, "+011970-01-01T00:00:00.000Z"),
        (-62_135_596_800_001, "+000000-12-31T23:59:59.999Z"), (LONGEST_MS, "+287396-10-12T08:59:00.992Z"),
    ],
)  # fmt: skip
def test_a_year_of_more_than_four_digits_has_a_sign_and_six(ms: int, iso: str) -> None:
    assert to_iso(ms) == iso
    if not iso.startswith("+"):
        assert from_iso(iso) == ms


def test_a_wait_of_ages_is_said_in_years() -> None:
    use_utc(True)
    assert local_time(TEN_THOUSAND_YEARS) == "11970-01-01 00:00:00 UTC"
    assert short_duration(TEN_THOUSAND_YEARS) == "10,000 years"
    assert short_duration(86_400_000 * 400) == "400d"
    assert "in " in ago(2 * TEN_THOUSAND_YEARS) and " years)" in ago(2 * TEN_THOUSAND_YEARS)  # noqa: PT018
    use_utc(False)
