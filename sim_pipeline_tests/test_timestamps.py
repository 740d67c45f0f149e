"""What a person may write as a time."""

from datetime import UTC, datetime

import pytest

from sim_pipeline.timestamps import parse_optional_timestamp, parse_timestamp


@pytest.mark.parametrize(
    "text",
    ["2026-11-24T05:00:00Z", "2026-11-24T07:00+02:00", "20261124T050000.000Z", "2026-11-24 05:00"],
)
def test_a_time_is_the_instant_it_names_in_utc_unless_it_names_its_zone(text: str) -> None:
    assert parse_timestamp(text) == datetime(2026, 11, 24, 5, tzinfo=UTC)
    assert parse_timestamp(text).tzinfo is UTC


def test_a_date_is_its_first_instant() -> None:
    assert parse_timestamp("2026-11-24") == datetime(2026, 11, 24, tzinfo=UTC)


def test_an_empty_text_is_no_bound() -> None:
    assert parse_optional_timestamp("") is None
    assert parse_optional_timestamp("2026-11-24") == parse_timestamp("2026-11-24")


@pytest.mark.parametrize("text", ["24.11.2026", "now", " ", "", "0001-01-01T00:00+23:00"])
def test_anything_else_is_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*': allowed is an ISO 8601 date or time, UTC unless"):
        parse_timestamp(text)
