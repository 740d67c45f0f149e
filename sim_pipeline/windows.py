"""Windows: SIMULATION_INTERVAL as numbered windows, the days that hold them, and cron schedules.

A window is the time span that one simulation covers. Window number k is [k * interval,
(k + 1) * interval) seconds since the Unix epoch, UTC. Its window start is the `timestamp` of its
rows. This module computes with window numbers: integers are exact, and `range(a, b)` names
consecutive windows.

Nothing here reads a clock or imports Dagster: every time comes in as an argument.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache

MINUTE = 60
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY

MAX_INTERVAL = WEEK
"""Largest SIMULATION_INTERVAL [s]."""

# Dagster keeps one iterator per cron string and rebuilds them at every poll for due ticks. Some
# multiples of seven minutes need up to 140 strings. Above this limit, a schedule that ticks every
# minute and skips is cheaper, and easier to read in the UI.
MAX_CRON_STRINGS = 32

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WEEKDAY = 4  # Thursday; cron counts from Sunday = 0


@dataclass(frozen=True)
class Cadence:
    """The windows of one interval, from a start time on, and the cron schedule that matches them.

    Methods take aware datetimes in any zone, exact to the microsecond, and return UTC.

    Attributes:
        interval: length of a window [s], 1 to 604800 (a week).
        start: no window starts before this time. Aware, in any zone, not before 1970 UTC. It need
            not be a window boundary: the first window is the first that starts at or after it.

    Raises:
        ValueError: an attribute is out of range, or a method receives a naive datetime.
    """

    interval: int
    start: datetime

    def __post_init__(self) -> None:
        if (
            not isinstance(self.interval, int)
            or isinstance(self.interval, bool)
            or not 1 <= self.interval <= MAX_INTERVAL
        ):
            raise ValueError(
                f"interval must be a whole number of seconds from 1 to {MAX_INTERVAL}, "
                f"not {self.interval!r}"
            )
        if _since_epoch("start", self.start) < timedelta(0):
            raise ValueError(
                f"start must not be before {EPOCH.isoformat()}, not {self.start.isoformat()}"
            )

    @property
    def first_window(self) -> int:
        """Number of the first window: the first that starts at or after `start`."""
        return self._first_from(_since_epoch("start", self.start))

    def window_at(self, timestamp: datetime) -> int:
        """Return the number of the window that contains `timestamp`.

        At that time, every window with a smaller number has ended; this one and all later ones
        have not. The number may be smaller than `first_window`.
        """
        return _since_epoch("timestamp", timestamp) // self._length

    def start_of(self, window: int) -> datetime:
        """Return the window start, in UTC. A window ends where the next one starts."""
        return EPOCH + window * self._length

    def day_of(self, window: int) -> date:
        """Return the UTC day that holds the window: the day it starts in, wherever it ends."""
        return self.start_of(window).date()

    def windows_of_day(self, day: date) -> range:
        """Return the windows that start in the UTC day, ended or not; empty if there are none."""
        midnight = timedelta(days=day.toordinal() - EPOCH.toordinal())
        return self._from_first_window(
            self._first_from(midnight), self._first_from(midnight + timedelta(days=1))
        )

    def windows_between(self, since: datetime, until: datetime) -> range:
        """Return the windows whose window start is in [since, until), ended or not."""
        return self._from_first_window(
            self._first_from(_since_epoch("since", since)),
            self._first_from(_since_epoch("until", until)),
        )

    @property
    def tick_interval(self) -> int:
        """Seconds between two ticks of `cron_schedule`.

        This is the interval if cron can express it in at most `MAX_CRON_STRINGS` strings. For
        that, the interval must be whole minutes and divide a week, cron's longest regular period.
        Otherwise it is a minute, the shortest that cron can express: a tick then comes within a
        minute of each window's end, and some ticks find nothing to do.
        """
        exact = self.interval % MINUTE == 0 and WEEK % self.interval == 0
        if exact and len(_cron_strings(self.interval)) <= MAX_CRON_STRINGS:
            return self.interval
        return MINUTE

    @property
    def cron_schedule(self) -> tuple[str, ...]:
        """Cron strings, in UTC, that together tick every `tick_interval` seconds.

        There are 1 to `MAX_CRON_STRINGS` of them, and no two tick in the same minute. Ticks are
        multiples of `tick_interval` since the epoch, as window ends are multiples of `interval`.
        """
        return _cron_strings(self.tick_interval)

    @property
    def _length(self) -> timedelta:
        return timedelta(seconds=self.interval)

    def _first_from(self, since_epoch: timedelta) -> int:
        """Return the number of the first window that starts at this time or later."""
        return -(-since_epoch // self._length)

    def _from_first_window(self, start: int, stop: int) -> range:
        return range(max(self.first_window, start), max(self.first_window, stop))


def _since_epoch(name: str, timestamp: datetime) -> timedelta:
    """Return the time from the epoch to `timestamp`, exact: a timedelta is whole microseconds."""
    if timestamp.utcoffset() is None:
        raise ValueError(
            f"{name} must have a time zone, as in {EPOCH.isoformat()}, not {timestamp}"
        )
    return timestamp - EPOCH


@cache
def _cron_strings(period: int) -> tuple[str, ...]:
    """Return cron strings that tick at every multiple of `period` since the epoch.

    Cron restarts a step in each field, so a step that does not divide its field is wrong: `*/90`
    is accepted and fires hourly, `*/7` restarts every hour. This function therefore lists the
    minutes of a week and groups them into as few strings as possible, by equal minutes and hours:
    every 90 minutes is `0 */3 * * *` and `30 1,4,...,22 * * *`.

    Args:
        period: seconds; whole minutes; divides a week.

    Returns:
        The strings, in the order of their first tick in a week that begins on Thursday, the
        weekday of the epoch.
    """
    weekdays: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for day in range(7):
        hours: dict[tuple[int, ...], list[int]] = {}
        for hour in range(24):
            begin = day * DAY + hour * HOUR
            minutes = tuple(m for m in range(60) if (begin + m * MINUTE) % period == 0)
            if minutes:
                hours.setdefault(minutes, []).append(hour)
        for minutes, same in hours.items():
            weekdays.setdefault((minutes, tuple(same)), []).append((day + _EPOCH_WEEKDAY) % 7)
    return tuple(
        f"{_cron_field(minutes, 60)} {_cron_field(same, 24)} * * {_cron_field(sorted(days), 7)}"
        for (minutes, same), days in weekdays.items()
    )


def _cron_field(values: Sequence[int], size: int) -> str:
    """Return a cron field for ascending values of range(size), with a step where possible."""
    if len(values) > 1:
        step = values[1]
        if size % step == 0 and tuple(values) == tuple(range(0, size, step)):
            return "*" if step == 1 else f"*/{step}"
    return ",".join(map(str, values))
