"""How the models compare: percentiles and ranks, computed where the rows are, and their history.

Every question reads a model's rows of one metric by the index on llm_name, metric and timestamp,
over eight days at the most, however long the history is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS

PERIODS: Final = (24, 168)
"""The lengths of what is compared [h]: a day and seven days."""
HISTORY: Final = timedelta(days=8)
"""How far back `read_history` looks."""
LOWER_IS_BETTER: Final = frozenset({"TTFT", "e2e_latency"})

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# A window belongs to the periods that its end lies in: so the latest one does, however long it is.
_PERCENTILES = """
    SELECT m.llm_name, k.metric, p.hours, d.hours AS earlier, s.points, s.p[1] AS p50, s.p[2] AS p95
    FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
    CROSS JOIN unnest(CAST(:metrics AS text[])) AS k (metric)
    CROSS JOIN unnest(CAST(:periods AS integer[])) AS p (hours)
    CROSS JOIN (VALUES (0), (24)) AS d (hours)
    CROSS JOIN LATERAL (
        SELECT count(*) AS points,
            percentile_cont(ARRAY[0.50, 0.95]) WITHIN GROUP (ORDER BY value) AS p
        FROM simulation_results AS r CROSS JOIN LATERAL unnest(r."values") AS value
        WHERE r.llm_name = m.llm_name AND r.metric = k.metric
        AND r."timestamp" > CAST(:latest AS timestamptz) - make_interval(hours => d.hours + p.hours)
        AND r."timestamp" <= CAST(:latest AS timestamptz) - make_interval(hours => d.hours)
    ) AS s
    WHERE s.points > 0
"""

# In the order of the key, so that two that compare at once wait for each other and nothing else.
_COMPARE = sa.text(
    f"""
    WITH percentiles AS ({_PERCENTILES}), compared AS (
        SELECT now.*, now.p50 / nullif(before.p50, 0) - 1 AS trend, rank() OVER (
            PARTITION BY now.hours, now.metric
            ORDER BY CASE WHEN now.metric = ANY(:lower) THEN now.p50 ELSE -now.p50 END
        ) AS rank
        FROM percentiles AS now LEFT JOIN percentiles AS before
        ON before.llm_name = now.llm_name AND before.metric = now.metric
        AND before.hours = now.hours AND before.earlier = 24
        WHERE now.earlier = 0
    )
    INSERT INTO model_comparison AS c
        (compared_at, hours, metric, llm_name, rank, points, p50, p95, trend)
    SELECT CAST(:compared_at AS timestamptz), hours, metric, llm_name, rank, points, p50, p95, trend
    FROM compared ORDER BY hours, metric, llm_name
    ON CONFLICT (compared_at, hours, metric, llm_name) DO UPDATE
    SET rank = excluded.rank, points = excluded.points, p50 = excluded.p50, p95 = excluded.p95,
        trend = excluded.trend
    RETURNING hours, metric, llm_name, rank, points, p50, p95, trend
    """
)

_FORGET = sa.text(
    "DELETE FROM model_comparison WHERE compared_at = :compared_at OR compared_at < :before"
)

_LAST_COMPARED = sa.text("SELECT max(compared_at) FROM model_comparison")

_HISTORY = sa.text(
    """
    SELECT m.place AS model, k.place AS metric, h.bucket, h.p[1] AS p50, h.p[2] AS p95
    FROM unnest(CAST(:llm_names AS text[])) WITH ORDINALITY AS m (llm_name, place)
    CROSS JOIN unnest(CAST(:metrics AS text[])) WITH ORDINALITY AS k (metric, place)
    CROSS JOIN LATERAL (
        SELECT floor(extract(epoch FROM r."timestamp") / :bucket) AS bucket,
            percentile_cont(ARRAY[0.50, 0.95]) WITHIN GROUP (ORDER BY value) AS p
        FROM simulation_results AS r CROSS JOIN LATERAL unnest(r."values") AS value
        WHERE r.llm_name = m.llm_name AND r.metric = k.metric
        AND r."timestamp" >= :since AND r."timestamp" < :until
        GROUP BY 1
    ) AS h
    """
)


@dataclass(frozen=True)
class Comparison:
    """A model's place in the ranking of a metric over a period.

    Attributes:
        hours: length of the period.
        metric: one of `METRICS`.
        llm_name: the model.
        rank: by p50, 1 the best; models that are equal share it.
        points: how many values were compared.
        p50: their median, in the metric's unit.
        p95: their 95th percentile.
        trend: p50 over that of the same period a day earlier, less 1; None if there is none.
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
    """Percentiles of each model and metric over time, a bucket an hour, or a window if longer.

    Attributes:
        llm_names: the models.
        starts: when the buckets start, ascending, one after the other, shape (buckets,).
        length: of a bucket.
        p50: medians, NaN where there is no value, shape (models, 4, buckets), metrics in the order
            of `METRICS`.
        p95: the same of 95th percentiles.
    """

    llm_names: tuple[str, ...]
    starts: list[datetime]
    length: timedelta
    p50: NDArray[np.float64]
    p95: NDArray[np.float64]


def last_compared(connection: sa.Connection) -> datetime | None:
    """Return up to when the models were compared last, or None if they never were."""
    found: datetime | None = connection.execute(_LAST_COMPARED).scalar()
    return found.astimezone(UTC) if found else None


def compare(
    connection: sa.Connection,
    llm_names: Sequence[str],
    latest: datetime,
    interval: timedelta,
    *,
    keep_from: datetime | None = None,
) -> list[Comparison]:
    """Rank the models by each metric over each of `PERIODS`, and store it under the latest end.

    What was stored under it before is replaced.

    Args:
        connection: to the results database, in a transaction that the caller commits.
        llm_names: the models.
        latest: label of the latest window to compare.
        interval: length of a window.
        keep_from: remove comparisons from before it; None keeps all.

    Returns:
        By period, metric, rank and model; nothing of a model that has no value in a period.
    """
    compared_at = latest + interval
    connection.execute(_FORGET, {"compared_at": compared_at, "before": keep_from or _EPOCH})
    rows = connection.execute(
        _COMPARE,
        {
            "llm_names": list(llm_names),
            "metrics": list(METRICS),
            "periods": list(PERIODS),
            "lower": sorted(LOWER_IS_BETTER),
            "latest": latest,
            "compared_at": compared_at,
        },
    )
    found = [Comparison(**row._mapping) for row in rows]  # noqa: SLF001 - public, despite its name
    return sorted(
        found, key=lambda one: (one.hours, METRICS.index(one.metric), one.rank, one.llm_name)
    )


def read_history(
    connection: sa.Connection, llm_names: Sequence[str], latest: datetime, interval: timedelta
) -> History:
    """Return the models' percentiles over the `HISTORY` that ends with a window.

    Only whole buckets are in it.

    Args:
        connection: to the results database.
        llm_names: the models.
        latest: label of the latest window.
        interval: length of a window.
    """
    length = max(interval, timedelta(hours=1))
    stop = (latest + interval - _EPOCH) // length
    first = stop - HISTORY // length
    rows = connection.execute(
        _HISTORY,
        {
            "llm_names": list(llm_names),
            "metrics": list(METRICS),
            "bucket": length.total_seconds(),
            "since": _EPOCH + first * length,
            "until": _EPOCH + stop * length,
        },
    ).all()
    percentiles = np.full((2, len(llm_names), len(METRICS), stop - first), np.nan)
    for row in rows:
        place = (row.model - 1, row.metric - 1, int(row.bucket) - first)
        percentiles[(slice(None), *place)] = row.p50, row.p95
    starts = [_EPOCH + bucket * length for bucket in range(first, stop)]
    return History(tuple(llm_names), starts, length, percentiles[0], percentiles[1])
