"""The ranking of the models by percentiles, and the history of their medians.

Both are computed from one read of eight days of results; `sampling` decides which values are read.
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

from sim_pipeline.comparison.sampling import Sampling, Series, read_series
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.schema import model_comparison
from sim_pipeline.windows import EPOCH

PERIODS: Final = (24, 168)
"""The lengths of the ranked periods [h]: a day and seven days."""
HISTORY: Final = timedelta(days=8)
"""The length of the history: the longest period, and a day more for its trend."""
LOWER_IS_BETTER: Final = frozenset({"TTFT", "e2e_latency"})

_QUANTILES = np.array([0.50, 0.95])

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
        rank: by p50, 1 is the best; equal models share a rank.
        points: number of values compared.
        p50: their median, in the metric's unit.
        p95: their 95th percentile.
        trend: relative change of p50 from the same period a day earlier; None if there is no value.
    """

    hours: int
    metric: str
    llm_name: str
    rank: int
    points: int
    p50: float
    p95: float
    trend: float | None


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
) -> tuple[list[Comparison], History]:
    """Return the ranking of the models by metric over each of `PERIODS`, and their history.

    Args:
        connection: to the results database, in a transaction.
        llm_names: the models.
        latest: start of the latest window to compare.
        interval: length of a window.
        sampled: which values to read.

    Returns:
        The ranking, ordered by period, metric, rank and model, without models that have no value in
        the period; and the history up to the end of the latest whole bucket.
    """
    length = max(interval, timedelta(hours=1))
    stop = (latest + interval - EPOCH) // length
    buckets = range(stop - HISTORY // length, stop)
    edges = np.array([*buckets, stop]) * length.total_seconds()
    since = min(EPOCH + buckets.start * length, latest - HISTORY)
    medians = np.full((len(llm_names), len(METRICS), len(buckets)), np.nan)
    unranked = []
    for model, llm_name in enumerate(llm_names):
        read = read_series(connection, llm_name, since, latest + interval, sampled)
        for place, (metric, series) in enumerate(read.items()):
            unranked += _over_periods(llm_name, metric, series, latest)
            parts = np.split(series.values, np.searchsorted(series.starts, edges))[1:-1]
            for bucket, part in enumerate(parts):
                if len(part):
                    medians[model, place, bucket] = _percentiles(part)[0]
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


def _over_periods(llm_name: str, metric: str, series: Series, latest: datetime) -> list[Comparison]:
    """Return a series' percentiles and trend over each period, with rank 0."""
    found = []
    for hours in PERIODS:
        now, before = (_before(series, latest - days * timedelta(days=1), hours) for days in (0, 1))
        if len(now):
            p50, p95 = _percentiles(now).tolist()
            earlier = float(_percentiles(before)[0]) if len(before) else 0.0
            trend = p50 / earlier - 1 if earlier else None
            found.append(Comparison(hours, metric, llm_name, 0, len(now), p50, p95, trend))
    return found


def _before(series: Series, latest: datetime, hours: int) -> NDArray[np.float64]:
    """Return the values of the hours up to the end of window `latest`.

    A window belongs to the period that contains its end, so the latest one always belongs to it.
    """
    bounds = latest - timedelta(hours=hours), latest
    first, stop = np.searchsorted(series.starts, [at.timestamp() for at in bounds], side="right")
    return series.values[first:stop]


def _percentiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p50 and p95 like PostgreSQL's percentile_cont, where NaN is above every number."""
    ordered = np.sort(values)
    places = _QUANTILES * (len(ordered) - 1)
    below, above = np.floor(places).astype(np.intp), np.ceil(places).astype(np.intp)
    low, high = ordered[below], ordered[above]
    # Equal values are not subtracted: the difference of two infinities is NaN.
    step = np.subtract(high, low, out=np.zeros_like(low), where=high != low)
    result: NDArray[np.float64] = low + step * (places - below)
    return result


def _ranked(unranked: Sequence[Comparison]) -> list[Comparison]:
    scores: dict[tuple[int, str], list[float]] = defaultdict(list)
    for one in unranked:
        insort(scores[one.hours, one.metric], _score(one))
    found = [
        replace(one, rank=1 + bisect_left(scores[one.hours, one.metric], _score(one)))
        for one in unranked
    ]
    return sorted(
        found, key=lambda one: (one.hours, METRICS.index(one.metric), one.rank, one.llm_name)
    )


def _score(one: Comparison) -> float:
    """Return the sort key of a rank: lower is better; NaN is the worst."""
    if math.isnan(one.p50):
        return math.inf
    return one.p50 if one.metric in LOWER_IS_BETTER else -one.p50
