"""The ranking of the models by percentiles, and the history of their medians.

Both are computed from one read of the results of eight days, or of the longest period and a day.
`sampling` decides which values are read.
Models are read one at a time, so memory does not grow with their number.
"""

import math
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.comparison.intervals import dependence, intervals, percentiles
from sim_pipeline.comparison.sampling import Sampling, Series, read_series
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.schema import model_comparison
from sim_pipeline.windows import EPOCH

PERIODS: Final = (24, 168)
"""The lengths of the ranked periods [h]: a day and seven days."""
HISTORY: Final = timedelta(days=8)
"""The length of the history: the longest period, and a day more for its trend."""
LOWER_IS_BETTER: Final = frozenset({"TTFT", "e2e_latency"})

# Makes concurrent comparisons wait for each other before they lock rows. It does not block readers.
_ONE_AT_A_TIME = sa.text(f"LOCK TABLE {model_comparison.name} IN SHARE ROW EXCLUSIVE MODE")

_FORGET = sa.text(
    "DELETE FROM model_comparison WHERE compared_at = :compared_at OR compared_at < :before"
)

_LAST_COMPARED = sa.text("SELECT max(compared_at) FROM model_comparison")


@dataclass(frozen=True)
class Comparison:
    """A model's place in the ranking of a metric over a period.

    Attributes:
        hours: length of the period.
        metric: one of `METRICS`.
        llm_name: the model.
        rank: 1 more than the number of models whose interval of p50 lies wholly on the better side
            of this model's. Models whose intervals overlap may share a rank.
        points: number of values compared.
        p50: their median, in the metric's unit.
        p95: their 95th percentile.
        trend: relative change of p50 from the same period a day earlier; None if there is no value.
        p50_low: lower end of the 95 % interval of p50; None if there are too few values.
        p50_high: its upper end.
        p95_low: lower end of the 95 % interval of p95; None if there are too few values.
        p95_high: its upper end.
    """

    hours: int
    metric: str
    llm_name: str
    rank: int
    points: int
    p50: float
    p95: float
    trend: float | None
    p50_low: float | None
    p50_high: float | None
    p95_low: float | None
    p95_high: float | None


@dataclass(frozen=True, eq=False)
class History:
    """Medians of each model and metric over time, in buckets of an hour, or a window if longer.

    Attributes:
        llm_names: the models.
        starts: start of each bucket, ascending, without gaps, shape (buckets,).
        length: length of a bucket.
        p50: medians, NaN without a value, shape (models, 4, buckets), metrics in the order of
            `METRICS`.
    """

    llm_names: tuple[str, ...]
    starts: list[datetime]
    length: timedelta
    p50: NDArray[np.float64]


def last_compared(connection: sa.Connection) -> datetime | None:
    """Return the end of the latest window of the last comparison; None if there is none."""
    found: datetime | None = connection.execute(_LAST_COMPARED).scalar()
    return found.astimezone(UTC) if found else None


def rank_models(
    connection: sa.Connection,
    llm_names: Sequence[str],
    latest: datetime,
    interval: timedelta,
    sampled: Sampling,
    *,
    periods: Sequence[int] = PERIODS,
) -> tuple[list[Comparison], History]:
    """Return the ranking of the models by metric over some periods, and their history.

    Args:
        connection: to the results database, in a transaction.
        llm_names: the models.
        latest: start of the latest window to compare.
        interval: length of a window.
        sampled: which values to read.
        periods: the lengths of the periods [h].

    Returns:
        The ranking, ordered by period, metric, rank, p50 (the best first) and model, without models
        that have no value in the period; and the history up to the end of the latest whole bucket.
    """
    length = max(interval, timedelta(hours=1))
    stop = (latest + interval - EPOCH) // length
    buckets = range(stop - HISTORY // length, stop)
    edges = np.array([*buckets, stop]) * length.total_seconds()
    since = min(
        EPOCH + buckets.start * length,
        latest - max(HISTORY, timedelta(hours=max(periods) + 24)),
    )
    medians = np.full((len(llm_names), len(METRICS), len(buckets)), np.nan)
    unranked = []
    for model, llm_name in enumerate(llm_names):
        read = read_series(connection, llm_name, since, latest + interval, sampled)
        for place, (metric, series) in enumerate(read.items()):
            unranked += _over_periods(
                llm_name, metric, series, latest, slot=sampled.slot, periods=periods
            )
            parts = np.split(series.values, np.searchsorted(series.starts, edges))[1:-1]
            for bucket, part in enumerate(parts):
                if len(part):
                    medians[model, place, bucket] = percentiles(np.sort(part))[0]
    starts = [EPOCH + bucket * length for bucket in buckets]
    return _ranked(unranked), History(tuple(llm_names), starts, length, medians)


def save_ranking(
    connection: sa.Connection,
    ranking: Sequence[Comparison],
    compared_at: datetime,
    *,
    keep_from: datetime | None = None,
) -> None:
    """Store a ranking; replace the one stored for the same `compared_at`.

    Args:
        connection: to the results database, in a transaction that the caller commits soon: until
            then a concurrent `save_ranking` waits.
        ranking: the ranking.
        compared_at: end of the latest window that was compared.
        keep_from: remove rankings older than this; None keeps all.
    """
    connection.execute(_ONE_AT_A_TIME)
    connection.execute(_FORGET, {"compared_at": compared_at, "before": keep_from or EPOCH})
    if ranking:
        connection.execute(
            sa.insert(model_comparison),
            [{"compared_at": compared_at, **vars(one)} for one in ranking],
        )


def _over_periods(
    llm_name: str,
    metric: str,
    series: Series,
    latest: datetime,
    *,
    slot: timedelta,
    periods: Sequence[int],
) -> list[Comparison]:
    """Return a series' percentiles, their intervals and the trend over each period, with rank 0."""
    found = []
    # Of a week or more, because the factors of a day would vary too much.
    longest = max(*PERIODS, *periods)
    of_longest = _before(series, latest, longest)
    ordered = np.sort(of_longest.values)
    factors = dependence(of_longest, ordered, slot)
    for hours in periods:
        now = ordered if hours == longest else np.sort(_before(series, latest, hours).values)
        before = np.sort(_before(series, latest - timedelta(days=1), hours).values)
        if len(now):
            p50, p95 = percentiles(now).tolist()
            earlier = float(percentiles(before)[0]) if len(before) else 0.0
            trend = p50 / earlier - 1 if earlier else None
            of_p50, of_p95 = intervals(now, factors)
            found.append(
                Comparison(hours, metric, llm_name, 0, len(now), p50, p95, trend, *of_p50, *of_p95)
            )
    return found


def _before(series: Series, latest: datetime, hours: int) -> Series:
    """Return the values of the hours up to the end of window `latest`.

    A window belongs to the period that contains its end, so the latest one always belongs to it.
    """
    bounds = latest - timedelta(hours=hours), latest
    first, stop = np.searchsorted(series.starts, [at.timestamp() for at in bounds], side="right")
    return Series(series.starts[first:stop], series.values[first:stop])


def _ranked(unranked: Sequence[Comparison]) -> list[Comparison]:
    worst_ends: dict[tuple[int, str], list[float]] = defaultdict(list)
    for one in unranked:
        insort(worst_ends[one.hours, one.metric], _ends(one)[1])
    found = [
        replace(one, rank=1 + bisect_left(worst_ends[one.hours, one.metric], _ends(one)[0]))
        for one in unranked
    ]
    return sorted(
        found,
        key=lambda one: (
            one.hours,
            METRICS.index(one.metric),
            one.rank,
            _score(one.metric, one.p50),
            one.llm_name,
        ),
    )


def _ends(one: Comparison) -> tuple[float, float]:
    """Return the scores of the best and the worst end of the interval of p50.

    An interval that is unknown overlaps all others.
    """
    if one.p50_low is None or one.p50_high is None:
        return -math.inf, math.inf
    low, high = _score(one.metric, one.p50_low), _score(one.metric, one.p50_high)
    return min(low, high), max(low, high)


def _score(metric: str, value: float) -> float:
    """Return the sort key of a value: lower is better; NaN is the worst."""
    if math.isnan(value):
        return math.inf
    return value if metric in LOWER_IS_BETTER else -value
