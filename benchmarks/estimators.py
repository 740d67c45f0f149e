"""Estimators of how a series of a model's metrics moves: functions of arrays.

Each docstring defines the figure. The same definitions apply to a public series of a real endpoint:
a probe every three hours, of which the median of the last 72 hours is published.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

Array = npt.NDArray[np.float64]

HOUR: Final = 3_600
DAY: Final = 24 * HOUR
SATURDAY: Final = 5
"""Monday is 0."""
PROBE_SPACING: Final = 3 * HOUR
"""Time between two probes of a public series [s]."""
PUBLISHED: Final = 24
"""Probes of which the median is published: those of 72 hours."""
MOST_PROBERS: Final = 3
"""Series of probes taken at different times of the spacing, and again of the window."""
BLOCK_WEEKS: Final = 4
QUANTILES: Final = (0.05, 0.25, 0.75, 0.95)
RATE_SPACING: Final = 600
"""Length of the intervals of the ten-minute rate [s]."""
RATE_DAYS: Final = 14
SPANS: Final = (1, 10, 60)
"""Lengths of the intervals in which requests are counted [s]."""
LEVEL_DAYS: Final = 14
SHIFT_DAYS: Final = 70
WORST: Final = 0.05
CONCURRENCIES: Final = (1, 2, 4, 8, 16, 32, 64, 128)
GLM_ITL_MS: Final = (53.7, 54.9, 59.9, 59.9, 80.9, 101.0, 124.0, 167.0)
"""ITL [ms] of GLM-4.7 on Gaudi 3 at `CONCURRENCIES`, 1024 input and 1024 output tokens."""


def sample(values: Array, interval: int, spacing: int) -> Array:
    """Take single values of contiguous windows, one every ``spacing`` seconds.

    A prober reads the same slice of every (spacing / interval)-th window. Up to `MOST_PROBERS`
    first windows times `MOST_PROBERS` slices give as many independent probers.

    Args:
        values: shape (n_windows, points).
        interval: length of a window [s], a divisor of ``spacing``.
        spacing: time between two values of a prober [s].

    Returns:
        The values, shape (probers, n). Value i is of a window in [i, i + 1) * spacing.

    Raises:
        ValueError: the interval does not divide the spacing.
    """
    if spacing % interval:
        raise ValueError(f"windows of {interval} s do not divide the {spacing} s between probes")
    step = spacing // interval
    count, points = values.shape[0] // step, values.shape[1]
    spaced = values[: count * step].reshape(count, step, points)
    taken: Array = spaced[:, _spread(step)][:, :, _spread(points)]
    return np.ascontiguousarray(taken.reshape(count, -1).T)


def _spread(size: int) -> npt.NDArray[np.int64]:
    """Return up to `MOST_PROBERS` evenly spaced positions in ``size``."""
    count = min(size, MOST_PROBERS)
    return np.arange(count) * size // count


def require(found: int, needed: int, unit: str) -> None:
    """Raise a ValueError if fewer than ``needed`` of something are available."""
    if found < needed:
        raise ValueError(f"{found} {unit} are available, {needed} are needed")


def weekend_effect(tps: Array, start: int, interval: int) -> float:
    """Slope of the log of the published median of TPS on the share of weekend hours in its 72 h.

    A value is published with every probe. The slope is fitted for each prober; the result is the
    mean over the probers.

    Args:
        tps: shape (n_windows, points).
        start: start of the first window [s since the Unix epoch].
        interval: length of a window [s].

    Raises:
        ValueError: the series is shorter than two weeks, or too coarse for the probes.
    """
    require(tps.shape[0] * interval // DAY, 14, "days")
    probers = sample(tps, interval, PROBE_SPACING)
    times = start + PROBE_SPACING * np.arange(probers.shape[1])
    weekend = ((times // DAY + 3) % 7 >= SATURDAY).astype(float)
    share = sliding_window_view(weekend, PUBLISHED).mean(axis=1)
    published = np.median(sliding_window_view(probers, PUBLISHED, axis=1), axis=2)
    slopes = np.polyfit(share, np.log(published).T, 1)[0]
    return float(np.mean(slopes))


def hour_of_day_share(tps: Array, interval: int) -> float:
    """Adjusted R2 of 24 hour-of-day dummies for the log of TPS, with one probe an hour.

    It is computed in blocks of four weeks; the result is the mean over blocks and probers.

    Args:
        tps: shape (n_windows, points).
        interval: length of a window [s].

    Raises:
        ValueError: the series is shorter than four weeks, or too coarse for a probe an hour.
    """
    probers = sample(np.log(tps), interval, HOUR)
    weeks = probers.shape[1] // (7 * 24)
    require(weeks, BLOCK_WEEKS, "weeks")
    length = BLOCK_WEEKS * 7 * 24
    blocks = probers[:, : weeks // BLOCK_WEEKS * length].reshape(-1, length // 24, 24)
    # The last axis is the hour of the day, counted from the first probe.
    residuals = blocks - blocks.mean(axis=1, keepdims=True)
    unexplained = (residuals**2).sum(axis=(1, 2)) / (length - 24)
    return float(np.mean(1.0 - unexplained / blocks.var(axis=(1, 2), ddof=1)))


def probe_ratios(values: Array, interval: int) -> Array:
    """p05, p25, p75 and p95 of the 24 probes of 72 hours, relative to their median.

    The blocks of 72 hours do not overlap; the result is the median over blocks and probers.

    Args:
        values: shape (n_windows, points).
        interval: length of a window [s].

    Returns:
        Shape (4,).

    Raises:
        ValueError: the series is shorter than 72 hours, or too coarse for the probes.
    """
    blocks = _blocks(values, interval)
    ratios = np.quantile(blocks, QUANTILES, axis=-1) / np.median(blocks, axis=-1)
    result: Array = np.median(ratios, axis=(1, 2))
    return result


def _blocks(values: Array, interval: int) -> Array:
    """Return the probes in blocks of 72 hours, shape (probers, blocks, 24)."""
    probers = sample(values, interval, PROBE_SPACING)
    count = probers.shape[1] // PUBLISHED
    require(count, 1, "blocks of 72 hours")
    return probers[:, : count * PUBLISHED].reshape(-1, count, PUBLISHED)


def fano_factors(counts: Array, spans: Sequence[int] = SPANS) -> Array:
    """Variance of the number of requests over its mean, by length of the counted interval.

    It is computed within each hour, without removing a trend; the result is the median over hours.

    Args:
        counts: requests in each second, shape (hours, 3600).
        spans: lengths of the counted intervals [s], divisors of 3600.

    Returns:
        Shape (len(spans),). A Poisson process has 1 at any length.
    """
    factors = []
    for span in spans:
        sums = counts.reshape(counts.shape[0], -1, span).sum(axis=2)
        factors.append(np.median(sums.var(axis=1, ddof=1) / sums.mean(axis=1)))
    return np.array(factors)


def rate_variability(rates: Array, start: int) -> tuple[float, float]:
    """Log-sd of the ten-minute rate that hour and day leave, and log-sd of its steps.

    The log of the rate is fitted by 24 hour-of-day dummies and one dummy per day. A step is the
    difference of two consecutive residuals. Both are computed in blocks of two weeks; the result is
    the median over the blocks.

    Args:
        rates: requests per second in contiguous intervals of ten minutes, shape (n,).
        start: start of the first interval [s since the Unix epoch].

    Raises:
        ValueError: there are less than two weeks from midnight on, or an interval has no requests.
    """
    rates = rates[-start % DAY // RATE_SPACING :]
    require(rates.size * RATE_SPACING // DAY, RATE_DAYS, "days from midnight on")
    if not rates.all():
        raise ValueError("an interval of ten minutes has no requests")
    per_hour = HOUR // RATE_SPACING
    blocks = rates.size * RATE_SPACING // (RATE_DAYS * DAY)
    days = np.log(rates[: blocks * RATE_DAYS * 24 * per_hour])
    days = days.reshape(blocks, RATE_DAYS, 24, per_hour)
    # All days are whole, so the least-squares fit of both kinds of dummies is the sum of the means.
    residuals = days - days.mean(axis=(1, 3), keepdims=True) - days.mean(axis=(2, 3), keepdims=True)
    residuals += days.mean(axis=(1, 2, 3), keepdims=True)
    residuals = residuals.reshape(blocks, -1)
    steps = np.diff(residuals, axis=1)
    return float(np.median(residuals.std(axis=1))), float(np.median(steps.std(axis=1)))


def load_season(rps: Array, start: int, interval: int) -> tuple[float, float]:
    """Peak to trough of a weekday's mean hourly RPS, and mean RPS of weekend over weekday.

    Args:
        rps: shape (n_windows, points).
        start: start of the first window [s since the Unix epoch].
        interval: length of a window [s], at most an hour.

    Raises:
        ValueError: the series is shorter than a week, or its windows are longer than an hour.
    """
    week = mean_week(rps, start, interval)
    weekday, weekend = week[:SATURDAY].mean(axis=0), week[SATURDAY:].mean()
    return float(weekday.max() / weekday.min()), float(weekend / weekday.mean())


def mean_week(rps: Array, start: int, interval: int) -> Array:
    """Mean RPS by day of the week and hour of the day (UTC), shape (7, 24); Monday is first.

    Args and Raises: as for `load_season`.
    """
    if interval > HOUR:
        raise ValueError(f"windows of {interval} s are longer than an hour")
    require(rps.shape[0] * interval // (7 * DAY), 1, "weeks")
    # The epoch was a Thursday: 72 hours after a Monday.
    hours = ((start + interval * np.arange(rps.shape[0])) // HOUR + 72) % 168
    sums = np.bincount(hours, weights=rps.mean(axis=1), minlength=168)
    week: Array = sums / np.bincount(hours, minlength=168)
    return week.reshape(7, 24)


def lasting_shifts(values: Array, interval: int) -> Array:
    """Absolute log ratios of a model's level at the two ends of ten weeks.

    The level is the median of all probes of two weeks: the first two, and the last two, of the ten.
    A span of ten weeks begins every week.

    Args:
        values: shape (n_windows, points).
        interval: length of a window [s].

    Returns:
        One per prober and start, shape (n,).

    Raises:
        ValueError: the series is shorter than ten weeks, or too coarse for the probes.
    """
    probers = sample(values, interval, PROBE_SPACING)
    per_day = DAY // PROBE_SPACING
    require(probers.shape[1] // per_day, SHIFT_DAYS, "days")
    levels = np.log(
        np.median(
            sliding_window_view(probers, LEVEL_DAYS * per_day, axis=1)[:, :: 7 * per_day], axis=2
        )
    )
    weeks = (SHIFT_DAYS - LEVEL_DAYS) // 7
    shifts: Array = np.abs(levels[:, weeks:] - levels[:, :-weeks])
    return shifts.ravel()


def change_correlations(
    tps: Mapping[str, Array], creators: Mapping[str, str], interval: int
) -> tuple[float, float]:
    """Correlation of the 3-day changes of TPS: between creators, and within one creator.

    A change is the difference of the logs of two consecutive published medians that share no probe.
    The correlation of two models is the mean over the probers. The result is the median over the
    pairs of models with different creators, and over the pairs with the same creator; NaN if there
    is no such pair.

    Args:
        tps: TPS of the same windows by model, each of shape (n_windows, points).
        creators: creator by model, "" if unknown. Pairs with an unknown creator are left out.
        interval: length of a window [s].

    Raises:
        ValueError: the series is shorter than 30 days, or too coarse for the probes.
    """
    changes = {}
    for name, values in tps.items():
        medians = np.log(np.median(_blocks(values, interval), axis=2))
        require(3 * medians.shape[1], 30, "days")
        changes[name] = np.diff(medians, axis=1)
    pairs: dict[bool, list[float]] = {True: [], False: []}
    for one, other in combinations(changes, 2):
        if creators[one] and creators[other]:
            each = [
                float(np.corrcoef(first, second)[0, 1])
                for first, second in zip(changes[one], changes[other], strict=True)
            ]
            pairs[creators[one] == creators[other]].append(statistics.mean(each))
    different, same = (
        statistics.median(pairs[equal]) if pairs[equal] else float("nan") for equal in (False, True)
    )
    return different, same


def failure_figures(failed: Array, completed: Array) -> tuple[float, float]:
    """Share of requests that fail, and share of the failures in the worst 5 % of the hours.

    Args:
        failed: failed requests by hour, outside incidents, shape (hours,).
        completed: completed requests, shape (hours,).
    """
    worst = np.sort(failed)[::-1][: round(WORST * failed.size)]
    total = failed.sum()
    return float(total / (total + completed.sum())), float(worst.sum() / total)


def published_ratio(values: Array, reference: float, interval: int) -> float:
    """Median of four weeks over the published median; the median over blocks of four weeks.

    Args:
        values: TPS or TTFT, shape (n_windows, points).
        reference: the published median.
        interval: length of a window [s].

    Raises:
        ValueError: the series is shorter than four weeks.
    """
    return float(np.median(np.median(_four_weeks(values, interval), axis=1)) / reference)


def tail_ratio(ttft: Array, interval: int) -> float:
    """p99 over p50 of all values of four weeks; the median over blocks of four weeks.

    Args:
        ttft: shape (n_windows, points).
        interval: length of a window [s].

    Raises:
        ValueError: the series is shorter than four weeks.
    """
    blocks = _four_weeks(ttft, interval)
    return float(np.median(np.quantile(blocks, 0.99, axis=1) / np.median(blocks, axis=1)))


def _four_weeks(values: Array, interval: int) -> Array:
    """Return all values of each block of four weeks, shape (blocks, n)."""
    require(values.shape[0] * interval // (7 * DAY), BLOCK_WEEKS, "weeks")
    length = BLOCK_WEEKS * 7 * DAY // interval
    blocks = values.shape[0] // length
    return values[: blocks * length].reshape(blocks, -1)


def itl_growth(itl: Callable[[Array], Array]) -> tuple[Array, float]:
    """ITL at `CONCURRENCIES` relative to that of a single request, and the curve's bend.

    The bend is the mean slope from 32 to 128 requests over the mean slope from 1 to 32: 1 for a
    straight line, less for a concave curve, 0.45 for GLM-4.7 on Gaudi 3.

    Args:
        itl: the inter-token latency as a function of the number of requests in the batch.
    """
    curve = itl(np.array(CONCURRENCIES, dtype=np.float64))
    low, middle, high = (CONCURRENCIES.index(count) for count in (1, 32, 128))
    steep = (curve[middle] - curve[low]) / (CONCURRENCIES[middle] - CONCURRENCIES[low])
    flat = (curve[high] - curve[middle]) / (CONCURRENCIES[high] - CONCURRENCIES[middle])
    return curve / curve[0], float(flat / steep)
