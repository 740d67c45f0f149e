"""Timestamps that users write, and the form in which the project writes them."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sim_pipeline.timestamps import (
    format_duration,
    format_timestamp,
    parse_optional_timestamp,
    parse_timestamp,
)


@pytest.mark.parametrize(
    "text",
    ["2026-11-24T05:00:00Z", "2026-11-24T07:00+02:00", "20261124T050000.000Z", "2026-11-24 05:00"],
)
def test_time_without_zone_is_utc(text: str) -> None:
    assert parse_timestamp(text) == datetime(2026, 11, 24, 5, tzinfo=UTC)
    assert parse_timestamp(text).tzinfo is UTC


def test_date_is_its_midnight() -> None:
    assert parse_timestamp("2026-11-24") == datetime(2026, 11, 24, tzinfo=UTC)


def test_empty_text_is_no_bound() -> None:
    assert parse_optional_timestamp("") is None
    assert parse_optional_timestamp("2026-11-24") == parse_timestamp("2026-11-24")


@pytest.mark.parametrize("text", ["24.11.2026", "now", " ", "", "0001-01-01T00:00+23:00"])
def test_invalid_timestamp_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^'.*': allowed is an ISO 8601 date or time, UTC unless"):
        parse_timestamp(text)


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        (datetime(2026, 1, 1, 6, tzinfo=UTC), "2026-01-01T06:00:00Z"),
        (datetime(2026, 1, 1, 6, 0, 0, 5, tzinfo=UTC), "2026-01-01T06:00:00.000005Z"),
        (datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=5))), "2025-12-31T21:00:00Z"),
    ],
)
def test_format_timestamp_writes_utc(timestamp: datetime, text: str) -> None:
    assert format_timestamp(timestamp) == text
    assert parse_timestamp(text) == timestamp


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "0 s"), (59.4, "59 s"), (59.6, "1:00 min"), (125, "2:05 min"), (7260, "2:01 h")],
)
def test_format_duration(seconds: float, words: str) -> None:
    assert format_duration(seconds) == words
