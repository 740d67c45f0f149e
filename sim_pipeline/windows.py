"""When things happen: SIMULATION_INTERVAL as windows, the days that hold them, and cron.

A window is the stretch of time one simulation stands for. Windows tile the time line from the Unix
epoch: window number k is [k * interval, (k + 1) * interval) seconds after it, UTC, and its label,
the `timestamp` of its rows, is its start. Numbers, not labels, are what this module computes with:
integers are exact, and `range(a, b)` names any run of windows.

Nothing here reads a clock or knows Dagster: every moment comes in as an argument.
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

# Dagster keeps an iterator per cron string and builds them anew whenever it looks for due ticks. A
# schedule that needs more strings than this (some multiples of seven minutes do, up to 140) is
# cheaper, and more readable in the UI, as one that ticks each minute and skips.
MAX_CRON_STRINGS = 32

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_WEEKDAY = 4  # a Thursday; cron counts from Sunday, 0


@dataclass(frozen=True)
class Cadence:
    """The windows of one interval from one start on, and the cron schedule that follows them.

    Every moment given to a method is an aware datetime, in any zone: it is taken as the instant it
    is, to the microsecond. What comes back is in UTC.

    Attributes:
        interval: Length of a window [s], 1 to 604800 (a week).
        start: No window that starts earlier exists. Aware, in any zone, not before 1970 UTC. Need
            not be a boundary: the first window is the first one that starts at or after it.

    Raises:
        ValueError: An attribute is none of what is allowed, or a method is given a naive datetime.
    """

    interval: int
    start: datetime

    def __post_init__(self) -> None:
        """Refuse what would only fail, or be silently wrong, later."""
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
                f"start must not be before {_EPOCH.isoformat()}, not {self.start.isoformat()}"
            )

    @property
    def first_window(self) -> int:
        """Number of the first window, the first one that starts at or after `start`."""
        return self._first_from(_since_epoch("start", self.start))

    def window_at(self, moment: datetime) -> int:
        """Number of the window that `moment` lies in.

        It is also the bound of what has ended: every window below it has (its end is at or before
        `moment`), it and those above have not. The number may be below `first_window`.
        """
        return _since_epoch("moment", moment) // self._length

    def start_of(self, window: int) -> datetime:
        """First instant of the window, its label, in UTC. Its end is the start of the next."""
        return _EPOCH + window * self._length

    def day_of(self, window: int) -> date:
        """UTC day that holds the window: the one it starts in, wherever it ends."""
        return self.start_of(window).date()

    def windows_of_day(self, day: date) -> range:
        """Windows that start in the UTC day, ended or not. Empty if there is none."""
        midnight = timedelta(days=day.toordinal() - _EPOCH.toordinal())
        return self._from_first_window(
            self._first_from(midnight), self._first_from(midnight + timedelta(days=1))
        )

    def windows_between(self, since: datetime, until: datetime) -> range:
        """Windows whose label is in [since, until), ended or not."""
        return self._from_first_window(
            self._first_from(_since_epoch("since", since)),
            self._first_from(_since_epoch("until", until)),
        )

    def ended_between(self, after: datetime, until: datetime) -> range:
        """Windows whose end is in (after, until].

        What a look back wants: `windows_between` would, on a look back shorter than the interval,
        miss the window that has just ended, for its label is a whole interval ago.
        """
        return self._from_first_window(
            _since_epoch("after", after) // self._length,
            _since_epoch("until", until) // self._length,
        )

    def due(self, tick: datetime) -> range:
        """Windows that are new at this tick of `cron_schedule`: those not due at the one before.

        They ended in the minute up to the tick, the tick itself included. That holds for every
        schedule: one that ticks less often than each minute has all window ends on its ticks.
        Over all ticks, each window is due once. Empty: nothing has ended since the last tick.
        """
        until = _since_epoch("tick", tick)
        return self._from_first_window(
            (until - timedelta(seconds=MINUTE)) // self._length, until // self._length
        )

    @property
    def tick_interval(self) -> int:
        """Seconds from one tick of `cron_schedule` to the next.

        The interval itself wherever cron can say it in a bearable number of strings: it divides a
        week, since cron knows no longer period that is regular. Else a minute, the finest that
        cron knows, so that a window is due within a minute of its end and a gap found as soon,
        at the price of ticks that find nothing.
        """
        exact = self.interval % MINUTE == 0 and WEEK % self.interval == 0
        if exact and len(_cron_strings(self.interval)) <= MAX_CRON_STRINGS:
            return self.interval
        return MINUTE

    @property
    def ticks_only_at_ends(self) -> bool:
        """Whether the schedule ticks at window ends and at no other time, once for each."""
        return self.tick_interval == self.interval

    @property
    def cron_schedule(self) -> tuple[str, ...]:
        """Cron strings, to be read in UTC, that together tick every `tick_interval` seconds.

        One to `MAX_CRON_STRINGS` of them; no two name the same minute. The ticks are whole
        multiples of `tick_interval` from the epoch, as window ends are of `interval`.
        """
        return _cron_strings(self.tick_interval)

    @property
    def _length(self) -> timedelta:
        return timedelta(seconds=self.interval)

    def _first_from(self, since_epoch: timedelta) -> int:
        """Number of the first window that starts then or after: the quotient, rounded up."""
        return -(-since_epoch // self._length)

    def _from_first_window(self, start: int, stop: int) -> range:
        return range(max(self.first_window, start), max(self.first_window, stop))


def _since_epoch(name: str, moment: datetime) -> timedelta:
    """Time from the epoch to `moment`. A timedelta holds, and divides, whole microseconds."""
    if moment.utcoffset() is None:
        raise ValueError(f"{name} must have a time zone, as in {_EPOCH.isoformat()}, not {moment}")
    return moment - _EPOCH


@cache
def _cron_strings(period: int) -> tuple[str, ...]:
    """Cron strings for every multiple of `period` since the epoch.

    Never a step that does not divide its field: `*/90` is accepted and fires hourly, `*/7` starts
    anew each hour. The minutes of a week are enumerated instead and gathered into as few strings as
    share their minutes and hours: every 90 minutes is `0 */3 * * *` and `30 1,4,...,22 * * *`.

    Args:
        period: Seconds, whole minutes, divides a week.

    Returns:
        The strings, in the order in which they first tick in a week from Thursday (the epoch's).
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
    """One field of a cron string for ascending values of range(size), as short as is plain."""
    if len(values) > 1:
        step = values[1]
        if size % step == 0 and tuple(values) == tuple(range(0, size, step)):
            return "*" if step == 1 else f"*/{step}"
    return ",".join(map(str, values))
