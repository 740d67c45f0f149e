"""Windows, days and cron schedules for every interval; ticks come from Dagster's own cron code."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from itertools import islice, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._utils.schedules import (
    has_out_of_range_cron_interval,
    is_valid_cron_schedule,
    schedule_execution_time_iterator,
)
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sim_pipeline.windows import EPOCH, MAX_CRON_STRINGS, MAX_INTERVAL, WEEK, Cadence

SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

TYPICAL_INTERVALS = [
    *(1, 7, 10, 59, 60, 61, 90, 119, 120, 420, 421, 840, 900, 1800, 2700, 3360, 3600, 3780, 5400),
    *(6300, 7200, 43200, 86400, 86460, 90000, 100800, 172800, 302400, 432000, 604740, 604799),
    604800,
]
intervals = st.one_of(
    st.integers(1, MAX_INTERVAL),
    st.sampled_from(TYPICAL_INTERVALS),
    st.sampled_from([seconds for seconds in range(1, WEEK + 1) if WEEK % seconds == 0]),
)
moments = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 - bounds are naive, the zone is drawn separately
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from(
        [UTC, ZoneInfo("America/New_York"), timezone(timedelta(hours=5, minutes=45))]
    ),
)
cadences = st.builds(Cadence, interval=intervals, start=moments)
# The same examples in every run, without a time limit.
reproducible = settings(derandomize=True, deadline=None)


def cadence_of(interval: int, start: datetime = EPOCH) -> Cadence:
    return Cadence(interval=interval, start=start)


def ticks_of(schedule: Sequence[str], since: datetime) -> Iterator[datetime]:
    """Iterate over the ticks at which Dagster fires a cron schedule, from `since` on."""
    return schedule_execution_time_iterator(since.timestamp(), schedule, "UTC")


# --- windows -------------------------------------------------------------------------------------


@given(cadences)
@reproducible
def test_first_window_starts_at_or_after_start(cadence: Cadence) -> None:
    first = cadence.first_window
    assert cadence.start_of(first - 1) < cadence.start <= cadence.start_of(first)


@given(intervals, st.integers(0, 6_000_000_000))
@reproducible
def test_window_start_is_multiple_of_interval(interval: int, second: int) -> None:
    window = second // interval
    start = cadence_of(interval).start_of(window)
    assert start.utcoffset() == timedelta(0)
    assert (start.toordinal() - EPOCH.toordinal(), start.microsecond) == (
        window * interval // 86400,
        0,
    )
    assert (start.hour * 60 + start.minute) * 60 + start.second == window * interval % 86400


@given(intervals, moments)
@reproducible
def test_window_at_contains_the_moment(interval: int, moment: datetime) -> None:
    cadence = cadence_of(interval)
    window = cadence.window_at(moment)
    assert cadence.start_of(window) <= moment < cadence.start_of(window + 1)


@given(intervals, moments)
@reproducible
def test_window_ends_exactly_at_its_end(interval: int, moment: datetime) -> None:
    cadence = cadence_of(interval)
    window = cadence.window_at(moment)
    end = cadence.start_of(window + 1)
    assert cadence.window_at(end - MICROSECOND) == window
    assert cadence.window_at(end) == window + 1


@given(cadences, moments, st.timedeltas(timedelta(0), timedelta(days=20)))
@reproducible
def test_windows_between_is_half_open(cadence: Cadence, since: datetime, length: timedelta) -> None:
    until = since.astimezone(UTC) + length
    assert_exactly(
        cadence,
        cadence.windows_between(since, until),
        lambda window: since <= cadence.start_of(window) < until,
        since,
        until,
    )


def assert_exactly(
    cadence: Cadence,
    found: range,
    wanted: Callable[[int], bool],
    since: datetime,
    until: datetime,
) -> None:
    """Check `found` against `wanted` near both ends of the range and near the first window.

    Checking every window would be too slow: 20 days have 1,728,000 windows of a second.
    """
    assert found.step == 1
    middles = {cadence.window_at(since), cadence.window_at(until), cadence.first_window}
    for middle in middles:
        for window in range(middle - 3, middle + 4):
            exists = window >= cadence.first_window
            assert (window in found) == (exists and wanted(window)), window


def test_reversed_range_has_no_windows() -> None:
    later = datetime(2026, 1, 2, tzinfo=UTC)
    assert not cadence_of(60).windows_between(later, EPOCH)


# --- days ----------------------------------------------------------------------------------------


@given(cadences, moments)
@reproducible
def test_window_belongs_to_exactly_one_day(cadence: Cadence, moment: datetime) -> None:
    window = max(cadence.first_window, cadence.window_at(moment))
    day = cadence.day_of(window)
    assert day == cadence.start_of(window).date()
    week_around = [day + timedelta(days=offset) for offset in range(-8, 9)]
    assert [d for d in week_around if window in cadence.windows_of_day(d)] == [day]


@given(intervals, st.dates(date(1970, 1, 1), date(2200, 1, 1)), st.integers(-20, 20))
@reproducible
def test_days_partition_the_windows(interval: int, day: date, days_to_start: int) -> None:
    start = max(
        EPOCH,
        datetime(day.year, day.month, day.day, 5, 43, 21, tzinfo=UTC)
        + timedelta(days=days_to_start),
    )
    cadence = cadence_of(interval, start)
    days = [cadence.windows_of_day(day + timedelta(days=n)) for n in range(15)]
    assert all(left.stop == right.start for left, right in pairwise(days))
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    assert range(days[0].start, days[-1].stop) == cadence.windows_between(
        midnight, midnight + timedelta(days=15)
    )


@pytest.mark.parametrize(
    ("interval", "day", "starts"),
    [
        (86400, date(2028, 2, 29), ["2028-02-29T00:00:00"]),
        (43200, date(2026, 12, 31), ["2026-12-31T00:00:00", "2026-12-31T12:00:00"]),
        (604800, date(2026, 1, 1), ["2026-01-01T00:00:00"]),  # a Thursday, like the epoch
        (604800, date(2026, 1, 2), []),
        (50000, date(1970, 1, 2), ["1970-01-02T03:46:40", "1970-01-02T17:40:00"]),
        (86400, date.max, ["9999-12-31T00:00:00"]),
    ],
)
def test_windows_of_a_day(interval: int, day: date, starts: list[str]) -> None:
    cadence = cadence_of(interval)
    found = [cadence.start_of(window) for window in cadence.windows_of_day(day)]
    assert [start.isoformat() for start in found] == [f"{start}+00:00" for start in starts]


def test_no_windows_before_start() -> None:
    cadence = cadence_of(3600, datetime(2026, 1, 1, 21, 30, tzinfo=UTC))
    assert not cadence.windows_of_day(date(2025, 12, 31))
    today = cadence.windows_of_day(date(2026, 1, 1))
    assert [cadence.start_of(window).hour for window in today] == [22, 23]


# --- cron ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("interval", "strings"),
    [
        (1, ["* * * * *"]),
        (60, ["* * * * *"]),
        (61, ["* * * * *"]),
        (90, ["* * * * *"]),
        (420, ["* * * * *"]),  # exact would take 49 strings
        (900, ["*/15 * * * *"]),
        (2400, ["0,40 */2 * * *", "20 1,3,5,7,9,11,13,15,17,19,21,23 * * *"]),
        (3600, ["0 * * * *"]),
        (5400, ["0 */3 * * *", "30 1,4,7,10,13,16,19,22 * * *"]),
        (43200, ["0 */12 * * *"]),
        (86400, ["0 0 * * *"]),
        (90000, ["* * * * *"]),  # 25 hours do not divide a week
        (172800, ["* * * * *"]),  # two days do not either
        (201600, ["0 0 * * 4", "0 8 * * 6", "0 16 * * 1"]),
        (302400, ["0 0 * * 4", "0 12 * * 0"]),
        (604740, ["* * * * *"]),
        (604800, ["0 0 * * 4"]),
    ],
)
def test_cron_strings(interval: int, strings: list[str]) -> None:
    assert cadence_of(interval).cron_schedule == tuple(strings)


@pytest.fixture(scope="module")
def grids() -> dict[tuple[str, ...], int]:
    """Every cron schedule that an interval can have, with the seconds between its ticks."""
    cadences_of_all = map(cadence_of, range(1, MAX_INTERVAL + 1))
    return {cadence.cron_schedule: cadence.tick_interval for cadence in cadences_of_all}


@pytest.mark.parametrize(
    "since",
    [
        datetime(2026, 12, 22, 23, 59, 59, tzinfo=UTC),  # month and year end
        datetime(2028, 2, 21, tzinfo=UTC),  # Feb 29
        datetime(2100, 2, 20, 7, 7, 7, 7, tzinfo=UTC),  # no Feb 29
    ],
    ids=str,
)
def test_dagster_ticks_match_tick_interval(
    since: datetime, grids: dict[tuple[str, ...], int]
) -> None:
    until = since + timedelta(days=15)
    for schedule, apart in grids.items():
        first = -(-(since - EPOCH) // (apart * SECOND))
        last = (until - EPOCH) // (apart * SECOND)
        wanted = [EPOCH + k * apart * SECOND for k in range(first, last + 1)]
        # One tick more than wanted: it must come after `until`.
        *found, beyond = islice(ticks_of(schedule, since), len(wanted) + 1)
        assert found == wanted, schedule
        assert beyond == EPOCH + (last + 1) * apart * SECOND, schedule


def test_dagster_accepts_every_schedule(
    grids: dict[tuple[str, ...], int],
) -> None:
    for schedule in grids:
        assert all(map(is_valid_cron_schedule, schedule)), schedule
        assert not has_out_of_range_cron_interval(schedule), schedule
        assert 1 <= len(set(schedule)) == len(schedule) <= MAX_CRON_STRINGS, schedule
        dg.ScheduleDefinition(name="at_window_ends", job_name="simulate", cron_schedule=schedule)


def test_cron_steps_divide_their_field(grids: dict[tuple[str, ...], int]) -> None:
    for schedule in grids:
        for string in schedule:
            minute, hour, *rest = string.split()
            assert rest[:2] == ["*", "*"]
            for field, size in ((minute, 60), (hour, 24)):
                for step in re.findall(r"/(\d+)", field):
                    assert size % int(step) == 0, string


def test_tick_interval_is_interval_or_minute() -> None:
    for cadence in map(cadence_of, range(1, MAX_INTERVAL + 1)):
        assert cadence.tick_interval in (cadence.interval, 60), cadence


def test_intervals_with_exact_cron() -> None:
    exact = [
        interval
        for interval in range(1, MAX_INTERVAL + 1)
        if cadence_of(interval).tick_interval == interval
    ]
    whole = [60 * minutes for minutes in range(1, 10081) if 10080 % minutes == 0]
    too_many_strings = [7, 14, 21, 28, 35, 42, 56, 63, 70, 84, 112, 126, 168, 224, 252]
    assert exact == [seconds for seconds in whole if seconds // 60 not in too_many_strings]


@given(intervals, moments)
@example(604800, datetime(2028, 2, 29, 12, tzinfo=UTC))
@example(1, datetime(2026, 12, 31, 23, 50, 0, 1, tzinfo=UTC))
@example(61, datetime(2026, 12, 31, 23, 50, tzinfo=UTC))
@reproducible
def test_tick_follows_window_end_within_a_minute(interval: int, moment: datetime) -> None:
    cadence = cadence_of(interval)
    # Begin shortly before a window's end, so that the ticks include some that follow an end.
    window = cadence.window_at(moment)
    since = cadence.start_of(window + 1) - timedelta(minutes=7)
    ticks = list(islice(ticks_of(cadence.cron_schedule, since), 15))
    for before, tick in pairwise(ticks):
        ended = range(cadence.window_at(before), cadence.window_at(tick))
        for each in ended:
            delay = tick - cadence.start_of(each + 1)
            assert timedelta(0) <= delay < timedelta(minutes=1)
        if cadence.tick_interval == interval:
            assert len(ended) == 1


def test_six_ten_second_windows_end_per_tick() -> None:
    cadence = cadence_of(10)
    before, tick = islice(ticks_of(cadence.cron_schedule, datetime(2026, 1, 1, tzinfo=UTC)), 2)
    ended = range(cadence.window_at(before), cadence.window_at(tick))
    assert [cadence.start_of(window).second for window in ended] == [0, 10, 20, 30, 40, 50]


# --- invalid arguments ---------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0, -1, 604801, 3600.0, True, "3600", None])
def test_interval_out_of_range_is_refused(interval: Any) -> None:
    allowed = re.escape(
        f"interval must be a whole number of seconds from 1 to 604800, not {interval!r}"
    )
    with pytest.raises(ValueError, match=allowed):
        Cadence(interval=interval, start=EPOCH)


def test_start_before_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"start must not be before 1970-01-01.*1969-12-31"):
        Cadence(interval=60, start=EPOCH - MICROSECOND)


def test_naive_datetime_is_refused() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - a naive datetime is the case
    cadence = cadence_of(60)
    with pytest.raises(ValueError, match=r"start must have a time zone.*not 2026-01-01"):
        cadence_of(60, naive)
    with pytest.raises(ValueError, match="timestamp must have a time zone"):
        cadence.window_at(naive)
    with pytest.raises(ValueError, match="since must have a time zone"):
        cadence.windows_between(naive, EPOCH)
    with pytest.raises(ValueError, match="until must have a time zone"):
        cadence.windows_between(EPOCH, naive)
