"""Percentiles of a series, and their 95 % intervals.

An interval says where the percentile would be if the same period were observed again: under the
same slow state of the endpoint, with other bursts, heavy clients and requests. docs/comparison.md
has this definition in full, and the measured coverage.

The ends are order statistics (Hutson 1999) as if fewer values had been observed. Values that follow
each other are correlated, mostly through bursts of minutes to hours, so a share of values varies
more than that of independent ones. The factor is estimated from the differences of successive
blocks, as the Allan variance is. Differences leave out what changes slowly, such as the season.
"""

from datetime import timedelta
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.comparison.sampling import Series

QUANTILES: Final = (0.50, 0.95)
BLOCKS: Final = (timedelta(hours=3.4), timedelta(hours=4))
"""Length of the blocks that are compared, for each of `QUANTILES`. Longer blocks contain more of
the season, shorter ones less of the correlation; RPS depends most on both. The values around p95
are those of the daily peak, where the season is flat, so its blocks can be longer."""
FEWEST: Final = 6
"""Smallest number of independent values that have an interval: of five, even the smallest and the
largest enclose the median in 94 % of cases only."""
OUTSIDE: Final = 0.025
"""Probability that the truth is below the interval, and that it is above it."""

# Logits of shares at which a distribution is computed, in its standard deviations from the median.
# The upper side is longer: with few values, the distribution of p95 has a long tail there.
_GRID = np.linspace(-8.0, 16.0, 601)

Array = NDArray[np.float64]
Interval = tuple[float, float] | tuple[None, None]


def percentiles(ordered: Array) -> Array:
    """Return p50 and p95 like PostgreSQL's percentile_cont, shape (2,).

    Args:
        ordered: ascending values, at least one; NaN is above every number.
    """
    return _at(ordered, np.array(QUANTILES) * (len(ordered) - 1))


def dependence(series: Series, ordered: Array, slot: timedelta) -> Array | None:
    """Return the factor by which correlation multiplies the variance of a share of values.

    The share is that of the values up to a percentile. A factor below 1 counts as 1.

    Args:
        series: values of a model and metric.
        ordered: the same values, ascending.
        slot: distance of successive windows.

    Returns:
        The factor for each of `QUANTILES`, shape (2,); None if there are less than two blocks.
    """
    windows = 1 + np.count_nonzero(np.diff(series.starts))
    per_window = len(series.values) / windows
    blocks = [max(1, round(length / slot * per_window)) for length in BLOCKS]
    if len(series.values) < 2 * max(blocks):
        return None
    factors = []
    for share, level, block in zip(QUANTILES, percentiles(ordered), blocks, strict=True):
        counts = np.concatenate(([0], np.cumsum(series.values <= level)))
        of_blocks = counts[block:] - counts[:-block]
        changes = of_blocks[block:] - of_blocks[:-block]
        factors.append(np.mean(changes**2) / (2 * block * share * (1 - share)))
    return np.maximum(factors, 1.0)


def intervals(ordered: Array, factors: Array | None) -> tuple[Interval, ...]:
    """Return the 95 % interval of each percentile; (None, None) if there are too few values.

    Args:
        ordered: ascending values, at least one; NaN is above every number.
        factors: from `dependence`, of the same or a longer period.
    """
    if factors is None:
        return ((None, None),) * len(QUANTILES)
    return tuple(
        _interval(ordered, share, float(percentile), len(ordered) / float(factor))
        for share, percentile, factor in zip(QUANTILES, percentiles(ordered), factors, strict=True)
    )


def _interval(ordered: Array, share: float, percentile: float, independent: float) -> Interval:
    """Return the interval of a percentile from as many independent values."""
    if independent < FEWEST:
        return None, None
    places = (len(ordered) + 1) * _shares(share, independent) - 1.0
    low, high = _at(ordered, np.clip(places, 0.0, len(ordered) - 1.0)).tolist()
    if share**independent > OUTSIDE:
        # Too often, all values are below the truth. How far is unknown: as far from the largest
        # value as the lower end is from the percentile.
        high = float(ordered[-1]) + (percentile - low if percentile != low else 0.0)
    return low, high


def _shares(share: float, independent: float) -> Array:
    """Return the ends of the interval as shares of the values, shape (2,).

    They are the quantiles of a beta distribution. Its density is summed over the logit, where it is
    smooth for any parameters.
    """
    a, b = (independent + 1.0) * share, (independent + 1.0) * (1.0 - share)
    logits = np.log(a / b) + np.sqrt(1.0 / a + 1.0 / b) * _GRID
    # a log(x) + b log(1 - x) for x = 1 / (1 + exp(-logit)).
    logs = -a * np.logaddexp(0.0, -logits) - b * np.logaddexp(0.0, logits)
    density = np.exp(logs - logs.max())
    summed = np.cumsum(density) - 0.5 * density
    ends = np.interp(np.array([OUTSIDE, 1.0 - OUTSIDE]) * density.sum(), summed, logits)
    found: Array = 1.0 / (1.0 + np.exp(-ends))
    return found


def _at(ordered: Array, places: Array) -> Array:
    """Return interpolated order statistics; the first is at place 0."""
    below, above = np.floor(places).astype(np.intp), np.ceil(places).astype(np.intp)
    low, high = ordered[below], ordered[above]
    # Equal values are not subtracted: the difference of two infinities is NaN.
    step = np.subtract(high, low, out=np.zeros_like(low), where=high != low)
    found: Array = low + step * (places - below)
    return found
