"""Windows, days and cron for every interval, held to Dagster's own reading of cron."""

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

from sim_pipeline.windows import MAX_CRON_STRINGS, MAX_INTERVAL, WEEK, Cadence

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
MICROSECOND = timedelta(microseconds=1)

TELLING_INTERVALS = [
    *(1, 7, 10, 59, 60, 61, 90, 119, 120, 420, 421, 840, 900, 1800, 2700, 3360, 3600, 3780, 5400),
    *(6300, 7200, 43200, 86400, 86460, 90000, 100800, 172800, 302400, 432000, 604740, 604799),
    604800,
]
intervals = st.one_of(
    st.integers(1, MAX_INTERVAL),
    st.sampled_from(TELLING_INTERVALS),
    st.sampled_from([seconds for seconds in range(1, WEEK + 1) if WEEK % seconds == 0]),
)
moments = st.datetimes(
    datetime(1970, 1, 2),  # noqa: DTZ001 - the strategy's bounds are naive, its zones a strategy
    datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.sampled_from(
        [UTC, ZoneInfo("America/New_York"), timezone(timedelta(hours=5, minutes=45))]
    ),
)
cadences = st.builds(Cadence, interval=intervals, start=moments)
# The same examples each time, however slow the machine.
reproducible = settings(derandomize=True, deadline=None)


def cadence_of(interval: int, start: datetime = EPOCH) -> Cadence:
    return Cadence(interval=interval, start=start)


def ticks_of(schedule: Sequence[str], since: datetime) -> Iterator[datetime]:
    """What Dagster makes of a cron schedule, from `since` on."""
    return schedule_execution_time_iterator(since.timestamp(), schedule, "UTC")


# --- windows -------------------------------------------------------------------------------------


@given(cadences)
@reproducible
def test_first_window_is_the_first_to_start_at_or_after_the_start(cadence: Cadence) -> None:
    first = cadence.first_window
    assert cadence.start_of(first - 1) < cadence.start <= cadence.start_of(first)


@given(intervals, st.integers(0, 6_000_000_000))
@reproducible
def test_a_window_starts_at_a_whole_multiple_of_the_interval(interval: int, second: int) -> None:
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
def test_every_moment_lies_in_exactly_one_window(interval: int, moment: datetime) -> None:
    cadence = cadence_of(interval)
    window = cadence.window_at(moment)
    assert cadence.start_of(window) <= moment < cadence.start_of(window + 1)


@given(intervals, moments)
@reproducible
def test_a_window_has_ended_at_its_end_and_not_a_microsecond_before(
    interval: int, moment: datetime
) -> None:
    cadence = cadence_of(interval)
    window = cadence.window_at(moment)
    end = cadence.start_of(window + 1)
    assert cadence.window_at(end - MICROSECOND) == window
    assert cadence.window_at(end) == window + 1


@given(cadences, moments, st.timedeltas(timedelta(0), timedelta(days=20)))
@reproducible
def test_windows_between_are_those_whose_label_is_in_the_half_open_stretch(
    cadence: Cadence, since: datetime, length: timedelta
) -> None:
    until = since.astimezone(UTC) + length
    assert_exactly(
        cadence,
        cadence.windows_between(since, until),
        lambda window: since <= cadence.start_of(window) < until,
        since,
        until,
    )


@given(cadences, moments, st.timedeltas(timedelta(0), timedelta(days=20)))
@reproducible
def test_ended_between_are_those_whose_end_is_in_the_stretch_open_at_its_start(
    cadence: Cadence, after: datetime, length: timedelta
) -> None:
    until = after.astimezone(UTC) + length
    assert_exactly(
        cadence,
        cadence.ended_between(after, until),
        lambda window: after < cadence.start_of(window + 1) <= until,
        after,
        until,
    )


def assert_exactly(
    cadence: Cadence,
    found: range,
    wanted: Callable[[int], bool],
    since: datetime,
    until: datetime,
) -> None:
    """`found` is what `wanted` says of each window around both ends of a stretch, and of `start`.

    Every window in the stretch would be too many to look at: 20 days are 1,728,000 seconds.
    """
    assert found.step == 1
    middles = {cadence.window_at(since), cadence.window_at(until), cadence.first_window}
    for middle in middles:
        for window in range(middle - 3, middle + 4):
            exists = window >= cadence.first_window
            assert (window in found) == (exists and wanted(window)), window


def test_a_stretch_that_runs_backwards_holds_no_window() -> None:
    later = datetime(2026, 1, 2, tzinfo=UTC)
    assert not cadence_of(60).windows_between(later, EPOCH)
    assert not cadence_of(60).ended_between(later, EPOCH)


# --- days ----------------------------------------------------------------------------------------


@given(cadences, moments)
@reproducible
def test_every_window_belongs_to_exactly_one_day(cadence: Cadence, moment: datetime) -> None:
    window = max(cadence.first_window, cadence.window_at(moment))
    day = cadence.day_of(window)
    assert day == cadence.start_of(window).date()
    week_around = [day + timedelta(days=offset) for offset in range(-8, 9)]
    assert [d for d in week_around if window in cadence.windows_of_day(d)] == [day]


@given(intervals, st.dates(date(1970, 1, 1), date(2200, 1, 1)), st.integers(-20, 20))
@reproducible
def test_days_tile_the_windows(interval: int, day: date, days_to_start: int) -> None:
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
    ("interval", "day", "labels"),
    [
        (86400, date(2028, 2, 29), ["2028-02-29T00:00:00"]),
        (43200, date(2026, 12, 31), ["2026-12-31T00:00:00", "2026-12-31T12:00:00"]),
        (604800, date(2026, 1, 1), ["2026-01-01T00:00:00"]),  # a Thursday, as the epoch was
        (604800, date(2026, 1, 2), []),
        (50000, date(1970, 1, 2), ["1970-01-02T03:46:40", "1970-01-02T17:40:00"]),
        (86400, date.max, ["9999-12-31T00:00:00"]),
    ],
)
def test_windows_of_a_day(interval: int, day: date, labels: list[str]) -> None:
    cadence = cadence_of(interval)
    found = [cadence.start_of(window) for window in cadence.windows_of_day(day)]
    assert [label.isoformat() for label in found] == [f"{label}+00:00" for label in labels]


def test_a_day_before_the_start_is_empty_and_the_day_of_the_start_begins_with_it() -> None:
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
        (420, ["* * * * *"]),  # 49 strings would say it
        (900, ["*/15 * * * *"]),
        (2400, ["0,40 */2 * * *", "20 1,3,5,7,9,11,13,15,17,19,21,23 * * *"]),
        (3600, ["0 * * * *"]),
        (5400, ["0 */3 * * *", "30 1,4,7,10,13,16,19,22 * * *"]),
        (43200, ["0 */12 * * *"]),
        (86400, ["0 0 * * *"]),
        (90000, ["* * * * *"]),  # 25 hours do not divide a week
        (172800, ["* * * * *"]),  # nor do two days
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
    """Every cron schedule that any interval gets, and the seconds its ticks shall be apart."""
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
def test_dagster_ticks_at_every_multiple_of_the_tick_interval_and_no_other_time(
    since: datetime, grids: dict[tuple[str, ...], int]
) -> None:
    until = since + timedelta(days=15)
    for schedule, apart in grids.items():
        first = -(-(since - EPOCH) // (apart * SECOND))
        last = (until - EPOCH) // (apart * SECOND)
        wanted = [EPOCH + k * apart * SECOND for k in range(first, last + 1)]
        # One more than wanted: the next tick must lie beyond.
        *found, beyond = islice(ticks_of(schedule, since), len(wanted) + 1)
        assert found == wanted, schedule
        assert beyond == EPOCH + (last + 1) * apart * SECOND, schedule


def test_every_schedule_is_one_dagster_accepts_and_a_bearable_number_of_strings(
    grids: dict[tuple[str, ...], int],
) -> None:
    for schedule in grids:
        assert all(map(is_valid_cron_schedule, schedule)), schedule
        assert not has_out_of_range_cron_interval(schedule), schedule
        assert 1 <= len(set(schedule)) == len(schedule) <= MAX_CRON_STRINGS, schedule
        dg.ScheduleDefinition(name="at_window_ends", job_name="simulate", cron_schedule=schedule)


def test_steps_divide_what_they_step_through(grids: dict[tuple[str, ...], int]) -> None:
    for schedule in grids:
        for string in schedule:
            minute, hour, *rest = string.split()
            assert rest[:2] == ["*", "*"]
            for field, size in ((minute, 60), (hour, 24)):
                for step in re.findall(r"/(\d+)", field):
                    assert size % int(step) == 0, string


def test_every_interval_ticks_at_its_ends_or_each_minute() -> None:
    for cadence in map(cadence_of, range(1, MAX_INTERVAL + 1)):
        assert cadence.tick_interval in (cadence.interval, 60), cadence


def test_schedules_tick_at_ends_only_where_the_interval_divides_a_week_in_few_strings() -> None:
    at_ends_only = [
        interval
        for interval in range(1, MAX_INTERVAL + 1)
        if cadence_of(interval).ticks_only_at_ends
    ]
    whole = [60 * minutes for minutes in range(1, 10081) if 10080 % minutes == 0]
    too_many_strings = [7, 14, 21, 28, 35, 42, 56, 63, 70, 84, 112, 126, 168, 224, 252]
    assert at_ends_only == [seconds for seconds in whole if seconds // 60 not in too_many_strings]


@given(intervals, moments)
@example(604800, datetime(2028, 2, 29, 12, tzinfo=UTC))
@example(1, datetime(2026, 12, 31, 23, 50, 0, 1, tzinfo=UTC))
@example(61, datetime(2026, 12, 31, 23, 50, tzinfo=UTC))
@reproducible
def test_every_window_is_due_at_exactly_one_tick_within_a_minute_of_its_end(
    interval: int, moment: datetime
) -> None:
    cadence = cadence_of(interval)
    # From a little before an end, so that the ticks looked at include some that have one.
    window = cadence.window_at(moment)
    since = cadence.start_of(window + 1) - timedelta(minutes=7)
    ticks = list(islice(ticks_of(cadence.cron_schedule, since), 15))
    due = [w for tick in ticks[1:] for w in cadence.due(tick)]
    assert due == [*cadence.ended_between(ticks[0], ticks[-1])]
    for tick in ticks:
        for each in cadence.due(tick):
            lateness = tick - cadence.start_of(each + 1)
            assert timedelta(0) <= lateness < timedelta(minutes=1)
    if cadence.ticks_only_at_ends:
        assert [len(cadence.due(tick)) for tick in ticks] == [1] * len(ticks)


def test_ten_second_windows_are_due_six_at_a_tick() -> None:
    cadence = cadence_of(10)
    due = cadence.due(datetime(2026, 1, 1, 0, 1, tzinfo=UTC))
    assert [cadence.start_of(window).second for window in due] == [0, 10, 20, 30, 40, 50]


def test_nothing_is_due_before_the_first_window_has_ended() -> None:
    cadence = cadence_of(3600, datetime(2026, 1, 1, tzinfo=UTC))
    assert not cadence.due(datetime(2026, 1, 1, 0, tzinfo=UTC))
    assert cadence.due(datetime(2026, 1, 1, 1, tzinfo=UTC)) == range(
        cadence.first_window, cadence.first_window + 1
    )


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("interval", [0, -1, 604801, 3600.0, True, "3600", None])
def test_an_interval_that_is_not_a_second_to_a_week_is_refused(interval: Any) -> None:
    allowed = re.escape(
        f"interval must be a whole number of seconds from 1 to 604800, not {interval!r}"
    )
    with pytest.raises(ValueError, match=allowed):
        Cadence(interval=interval, start=EPOCH)


def test_a_start_before_the_epoch_is_refused() -> None:
    with pytest.raises(ValueError, match=r"start must not be before 1970-01-01.*1969-12-31"):
        Cadence(interval=60, start=EPOCH - MICROSECOND)


def test_a_moment_without_a_zone_is_refused_by_name() -> None:
    naive = datetime(2026, 1, 1)  # noqa: DTZ001 - the case
    cadence = cadence_of(60)
    with pytest.raises(ValueError, match=r"start must have a time zone.*not 2026-01-01"):
        cadence_of(60, naive)
    with pytest.raises(ValueError, match="moment must have a time zone"):
        cadence.window_at(naive)
    with pytest.raises(ValueError, match="since must have a time zone"):
        cadence.windows_between(naive, EPOCH)
    with pytest.raises(ValueError, match="until must have a time zone"):
        cadence.ended_between(EPOCH, naive)
    with pytest.raises(ValueError, match="tick must have a time zone"):
        cadence.due(naive)
