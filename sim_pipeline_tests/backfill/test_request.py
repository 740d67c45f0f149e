"""The values of FROM, TO and MODELS: parsing, defaults and errors."""

from datetime import UTC, date, datetime, timedelta

import pytest

from sim_pipeline.backfill.request import Request, RequestError, days_of, read_request
from sim_pipeline.windows import Cadence

KNOWN = ("GPT-4o", "Llama-3.1-8B", "Mistral-Large")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOURLY = Cadence(3600, START)
NOW = datetime(2026, 11, 24, 11, 30, tzinfo=UTC)


def read(
    since: str | None, until: str | None, models: str = "", cadence: Cadence = HOURLY
) -> Request:
    return read_request(since, until, models, known=KNOWN, cadence=cadence, now=NOW)


@pytest.mark.parametrize(
    ("text", "timestamp"),
    [
        ("2026-02-01", datetime(2026, 2, 1, tzinfo=UTC)),
        ("2026-02-01T06:30", datetime(2026, 2, 1, 6, 30, tzinfo=UTC)),
        ("2026-02-01T06:30:00Z", datetime(2026, 2, 1, 6, 30, tzinfo=UTC)),
        ("2026-02-01 06:30:00.5", datetime(2026, 2, 1, 6, 30, 0, 500_000, tzinfo=UTC)),
        ("2026-02-01T06:30:00+02:00", datetime(2026, 2, 1, 4, 30, tzinfo=UTC)),
    ],
)
def test_time_without_zone_is_utc(text: str, timestamp: datetime) -> None:
    request = read(text, "2026-03-01")
    assert request.since == timestamp
    assert request.since.utcoffset() == timedelta(0)
    assert read("2026-01-01", text).until == timestamp


def test_default_range_is_last_eight_days() -> None:
    latest = NOW.replace(minute=0)
    assert read(None, None) == Request(
        KNOWN, latest - timedelta(days=8), latest, since_given=False, until_given=False
    )
    assert read("2026-11-01", None) == Request(
        KNOWN, datetime(2026, 11, 1, tzinfo=UTC), latest, until_given=False
    )
    february = datetime(2026, 2, 1, tzinfo=UTC)
    assert read(None, "2026-02-01").since == february - timedelta(days=8)
    assert read(None, "2026-01-05").since == START


def test_same_command_has_the_same_name_later() -> None:
    later = NOW + timedelta(days=2)
    names = []
    for since, until in ((None, None), ("2026-11-01", None), (None, "2026-11-20")):
        first, second = (
            read_request(since, until, "", known=KNOWN, cadence=HOURLY, now=now)
            for now in (NOW, later)
        )
        assert first.name == second.name
        names.append(first.name)
    names += [read("2026-11-01", "2026-11-20").name, read(None, None, "GPT-4o").name]
    assert len(set(names)) == 5


@pytest.mark.parametrize("models", ["", "  ", ","])
def test_default_is_all_models(models: str) -> None:
    assert read("2026-01-01", "2026-01-02", models).llm_names == KNOWN


def test_models_follow_order_of_settings() -> None:
    request = read("2026-01-01", "2026-01-02", "Mistral-Large, GPT-4o,GPT-4o")
    assert request.llm_names == ("GPT-4o", "Mistral-Large")


@pytest.mark.parametrize(
    ("since", "until", "models", "words"),
    [
        ("yesterday", "2026-01-02", "", ["FROM='yesterday'", "an ISO 8601 date or time"]),
        ("", "2026-01-02", "", ["FROM=''", "an ISO 8601 date or time"]),
        ("2026-01-01", "2026-02-30", "", ["TO='2026-02-30'", "an ISO 8601 date or time"]),
        ("0001-01-01T00:00+14:00", "2026-01-02", "", ["FROM='0001-01-01T00:00+14:00'"]),
        ("2026-01-02", "2026-01-02", "", ["TO='2026-01-02'", "after FROM", "TO is excluded"]),
        ("2026-01-03", "2026-01-02", "", ["TO='2026-01-02'", "after FROM"]),
        ("2025-12-31", "2026-01-02", "", ["FROM='2025-12-31'", "2026-01-01T00:00:00Z"]),
        ("2026-12-01", "2026-12-02", "", ["FROM='2026-12-01'", "2026-11-24T11:00:00Z"]),
        # The current hour, and a range of less than an hour.
        ("2026-11-24T11:00", "2026-11-24T12:00", "", ["no window that starts there has ended"]),
        ("2026-01-01T00:10", "2026-01-01T00:50", "", ["no window that starts there has ended"]),
        ("2026-01-01", "2026-01-02", "GPT-5,gpt-4o", ["'GPT-5', 'gpt-4o'", ", ".join(KNOWN)]),
        ("today", "now", "GPT-5", ["FROM='today'", "TO='now'", "'GPT-5'"]),
    ],
)
def test_error_names_value_and_what_is_allowed(
    since: str, until: str, models: str, words: list[str]
) -> None:
    with pytest.raises(RequestError) as caught:
        read(since, until, models)
    for word in words:
        assert word in str(caught.value)


def test_windows_ended_start_in_range() -> None:
    request = read("2026-11-24T08:30", "2027-01-01")
    windows = request.windows_ended(HOURLY, NOW)
    assert [HOURLY.start_of(window).hour for window in windows] == [9, 10]
    assert len(request.windows_ended(HOURLY, NOW + timedelta(minutes=30))) == 3
    assert len(request.windows_ended(HOURLY, START)) == 0


def test_to_is_excluded() -> None:
    windows = read("2026-01-01", "2026-01-02").windows_ended(HOURLY, NOW)
    assert len(windows) == 24
    assert HOURLY.start_of(windows[-1]) == datetime(2026, 1, 1, 23, tzinfo=UTC)


def test_days_of_counts_windows_per_day() -> None:
    windows = read("2026-01-01T22:00", "2026-01-03T01:00").windows_ended(HOURLY, NOW)
    assert list(days_of(windows, HOURLY)) == [
        (date(2026, 1, 1), 2),
        (date(2026, 1, 2), 24),
        (date(2026, 1, 3), 1),
    ]


def test_days_of_skips_days_without_window() -> None:
    weekly = Cadence(7 * 24 * 3600, START)
    windows = read("2026-01-01", "2026-02-01", cadence=weekly).windows_ended(weekly, NOW)
    assert [count for _, count in days_of(windows, weekly)] == [1] * 5
    assert [day for day, _ in days_of(windows, weekly)][:2] == [date(2026, 1, 1), date(2026, 1, 8)]


def test_equal_requests_have_equal_names() -> None:
    name = read("2026-01-01", "2026-01-02", "GPT-4o,Mistral-Large").name
    assert name == read("2026-01-01T00:00Z", "2026-01-02", "Mistral-Large, GPT-4o").name
    assert name != read("2026-01-01", "2026-01-02", "GPT-4o").name
    assert name != read("2026-01-01", "2026-01-03", "GPT-4o,Mistral-Large").name
    assert len(name) < 100
