"""What stands between store and feed: questions to the stored rows that a good feed answers "none".

Everything is asked of PostgreSQL, which looks at the rows where they are; a range of any length
comes back as a handful of examples.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.ledger import Span

# 1 + (e2e - TTFT) * TPS is the number of output tokens, which TPS carries to a few parts in 1e15;
# what is lost in e2e - TTFT leaves room to spare.
TOKEN_COUNT_TOLERANCE = 1e-6

_EXAMPLES = 3
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_INCOMPLETE = sa.text(
    """
    WITH stored AS (
        SELECT llm_name, "timestamp", count(*) AS found FROM simulation_results
        WHERE llm_name = ANY(:llm_names) AND metric = ANY(:metrics)
        AND "timestamp" >= :since AND "timestamp" < :until
        GROUP BY llm_name, "timestamp"
    )
    SELECT llm_name, "timestamp", coalesce(found, 0) AS found, count(*) OVER () AS windows
    FROM (
        SELECT llm_name, to_timestamp(k * :interval) AS "timestamp"
        FROM unnest(CAST(:llm_names AS text[])) AS llm_name
        CROSS JOIN generate_series(:first, CAST(:stop AS bigint) - 1) AS k
    ) AS expected
    LEFT JOIN stored USING (llm_name, "timestamp")
    WHERE found IS DISTINCT FROM :rows
    ORDER BY "timestamp", llm_name
    LIMIT :examples
    """
)

# The reasons stand in the order in which they are asked, each where those before it do not hold:
# PostgreSQL raises an error for a product that is too large or too small to be written, so the
# last is only asked of values whose product can be.
_INCONSISTENT = sa.text(
    """
    WITH windows AS (
        SELECT llm_name, "timestamp",
            max("values") FILTER (WHERE metric = 'TTFT') AS ttft,
            max("values") FILTER (WHERE metric = 'TPS') AS tps,
            max("values") FILTER (WHERE metric = 'e2e_latency') AS e2e,
            max("values") FILTER (WHERE metric = 'RPS') AS rps
        FROM simulation_results
        WHERE llm_name = ANY(:llm_names) AND metric = ANY(:metrics)
        AND "timestamp" >= :since AND "timestamp" < :until
        GROUP BY llm_name, "timestamp" HAVING count(*) = :rows
    ), judged AS (
        SELECT llm_name, "timestamp", CASE
            WHEN cardinality(ttft) = 0 AND cardinality(tps) = 0
                AND cardinality(e2e) = 0 AND cardinality(rps) = 0
            THEN 'there are no values'
            ELSE (
                SELECT CASE min(
                    CASE
                        WHEN ttft IS NULL OR tps IS NULL OR e2e IS NULL OR rps IS NULL THEN 1
                        WHEN NOT (
                            abs(ttft) < 'Infinity' AND abs(tps) < 'Infinity'
                            AND abs(e2e) < 'Infinity' AND abs(rps) < 'Infinity'
                        ) THEN 2
                        WHEN ttft <= 0 THEN 3
                        WHEN tps <= 0 THEN 4
                        WHEN rps < 0 THEN 5
                        WHEN e2e <= ttft THEN 6
                        WHEN tps NOT BETWEEN 1e-100 AND 1e100
                            OR e2e - ttft NOT BETWEEN 1e-100 AND 1e100 THEN 7
                        WHEN round((e2e - ttft) * tps) < 1 OR
                            abs((e2e - ttft) * tps - round((e2e - ttft) * tps))
                                > :tolerance * (1 + (e2e - ttft) * tps) THEN 7
                    END
                )
                    WHEN 1 THEN 'the four metrics have different numbers of values'
                    WHEN 2 THEN 'a value is not finite'
                    WHEN 3 THEN 'a TTFT is not above 0'
                    WHEN 4 THEN 'a TPS is not above 0'
                    WHEN 5 THEN 'an RPS is below 0'
                    WHEN 6 THEN 'an e2e_latency is not above its TTFT'
                    WHEN 7 THEN '1 + (e2e_latency - TTFT) * TPS is not a number of tokens from 2 on'
                END
                FROM unnest(w.ttft, w.tps, w.e2e, w.rps) AS v (ttft, tps, e2e, rps)
            )
        END AS reason
        FROM windows AS w
    )
    SELECT llm_name, "timestamp", reason, count(*) OVER () AS windows
    FROM judged WHERE reason IS NOT NULL
    ORDER BY "timestamp", llm_name
    LIMIT :examples
    """
)


@dataclass(frozen=True)
class ValidationResult:
    """Windows that fail a question.

    Attributes:
        windows: how many windows of a model.
        examples: the earliest few, in words.
    """

    windows: int
    examples: tuple[str, ...]


def incomplete_windows(
    connection: sa.Connection, llm_names: Sequence[str], windows: range, interval: timedelta
) -> ValidationResult:
    """Find the windows that do not have exactly their four rows.

    Args:
        connection: to the results database.
        llm_names: the models.
        windows: window numbers; a window's label is its number times the interval, from 1970.
        interval: length of a window, whole seconds.
    """
    rows = connection.execute(
        _INCOMPLETE,
        {
            "llm_names": list(llm_names),
            "first": windows.start,
            "stop": windows.stop,
            "interval": interval // timedelta(seconds=1),
            "since": _EPOCH + windows.start * interval,
            "until": _EPOCH + windows.stop * interval,
            "metrics": list(METRICS),
            "rows": len(METRICS),
            "examples": _EXAMPLES,
        },
    ).all()
    return _finding(rows, lambda row: f"{row.found} rows of {len(METRICS)}")


def inconsistent_windows(connection: sa.Connection, span: Span) -> ValidationResult:
    """Find the windows whose values can't be of the same requests.

    What is asked of every data point: all four values there, and finite; TTFT, TPS above 0; RPS
    not below 0; e2e_latency above TTFT; 1 + (e2e_latency - TTFT) * TPS a whole number of tokens
    from 2 on. Windows that lack rows are `incomplete_windows`' business.

    Args:
        connection: to the results database.
        span: models and labels.
    """
    rows = connection.execute(
        _INCONSISTENT,
        {
            "llm_names": list(span.llm_names),
            "since": span.since,
            "until": span.until,
            "metrics": list(METRICS),
            "rows": len(METRICS),
            "tolerance": TOKEN_COUNT_TOLERANCE,
            "examples": _EXAMPLES,
        },
    ).all()
    return _finding(rows, lambda row: row.reason)


def _finding(rows: Sequence[sa.Row[Any]], reason: Callable[[sa.Row[Any]], str]) -> ValidationResult:
    return ValidationResult(
        rows[0].windows if rows else 0,
        tuple(f"{row.llm_name} {_label(row.timestamp)}: {reason(row)}" for row in rows),
    )


def _label(timestamp: datetime) -> str:
    return timestamp.astimezone(UTC).isoformat().replace("+00:00", "Z")
