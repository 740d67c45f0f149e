"""How well the models keep their service level objectives (SLOs), from the view `slo_attainment`.

docs/slo.md has the definitions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa

from sim_pipeline import markdown
from sim_pipeline.comparison.ranking import PERIODS
from sim_pipeline.comparison.sampling import Sampling
from sim_pipeline.windows import EPOCH

# One window a slot, as the ranking reads them. As there, a window belongs to the period that
# contains its end.
_ATTAINMENT = sa.text(
    """
    WITH windows AS MATERIALIZED (
        SELECT w.*, c.completed, c.rate_limited + c.overloaded + c.timeout AS failed
        FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
        CROSS JOIN make_interval(secs => :seconds) AS length
        CROSS JOIN generate_series(
            CAST(:since AS timestamptz), CAST(:latest AS timestamptz), length
        ) AS slot
        CROSS JOIN LATERAL (
            SELECT a.llm_name, a."timestamp", a.points, a.good, a.goodput
            FROM slo_attainment AS a
            WHERE a.llm_name = m.llm_name AND a."timestamp" >= slot
            AND a."timestamp" < slot + length AND a."timestamp" <= :latest
            ORDER BY a."timestamp" LIMIT 1
        ) AS w
        LEFT JOIN request_counts AS c
        ON c.llm_name = w.llm_name AND c."timestamp" = w."timestamp"
    )
    SELECT period.hours, s.llm_name, s.workload, s.ttft, s.itl, s.e2e,
        CAST(sum(w.good) / sum(w.points) AS double precision) AS attainment,
        avg(w.goodput) AS goodput,
        CAST(
            sum(w.failed) / nullif(sum(w.completed + w.failed), 0) AS double precision
        ) AS failed
    FROM unnest(CAST(:periods AS integer[])) AS period (hours)
    JOIN windows AS w ON w."timestamp" > :latest - make_interval(hours => period.hours)
    JOIN slos AS s ON s.llm_name = w.llm_name
    GROUP BY period.hours, s.llm_name
    ORDER BY period.hours, attainment DESC, s.llm_name
    """
)


@dataclass(frozen=True)
class Attainment:
    """How well a model keeps its limits over a period.

    Attributes:
        hours: length of the period.
        llm_name: the model.
        workload: the class of workload that it serves.
        ttft: highest TTFT [s]; None: no limit, as for the next two.
        itl: highest 1 / TPS [s].
        e2e: highest e2e_latency [s].
        attainment: share of the data points within all limits.
        goodput: RPS times attainment, mean over the windows [requests/s].
        failed: share of the requests that failed; None if no window has counts or requests.
    """

    hours: int
    llm_name: str
    workload: str
    ttft: float | None
    itl: float | None
    e2e: float | None
    attainment: float
    goodput: float
    failed: float | None


def read_attainment(
    connection: sa.Connection,
    llm_names: Sequence[str],
    latest: datetime,
    sampled: Sampling,
    periods: Sequence[int] = PERIODS,
) -> list[Attainment]:
    """Return how well the models keep their limits over some periods.

    Args:
        connection: to the results database.
        llm_names: the models.
        latest: start of the latest window.
        sampled: which windows to read; all of their values are read.
        periods: the lengths of the periods [h].

    Returns:
        Ordered by period, attainment from the best on, and model; without models that have no
        limits or no window in the period.
    """
    since = latest - timedelta(hours=max(periods))
    rows = connection.execute(
        _ATTAINMENT,
        {
            "llm_names": list(llm_names),
            # From the start of the slot, so that the window chosen does not depend on `since`.
            "since": since - (since - EPOCH) % sampled.slot,
            "latest": latest,
            "seconds": sampled.slot.total_seconds(),
            "periods": list(periods),
        },
    )
    return [Attainment(*row) for row in rows]


def attainment_table(found: Sequence[Attainment], hours: int) -> str:
    """Return the attainment over a period as a Markdown table.

    Up to a dozen models it has less than 1,000 characters. The UI shows longer text only on a
    click.
    """
    rows = [
        (
            markdown.literal(one.llm_name),
            markdown.literal(one.workload),
            "/".join(map(_limit, (one.ttft, one.itl, one.e2e))),
            f"{one.attainment:.2%}",
            f"{one.goodput:.4g}",
            "" if one.failed is None else f"{one.failed:.2%}",
        )
        for one in found
        if one.hours == hours
    ]
    heads = ("model", "class", "TTFT/ITL/e2e [s]", "attainment", "goodput [requests/s]", "failed")
    return markdown.table(heads, "lllrrr", rows)


def _limit(limit: float | None) -> str:
    return "-" if limit is None else f"{limit:g}"
