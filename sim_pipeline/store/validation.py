"""Checks of stored windows before they are published: complete rows, consistent values.

PostgreSQL evaluates the checks. It returns the number of windows that fail and a few examples,
whatever the length of the range.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.ledger import ALL_ROWS, Span, range_parameters
from sim_pipeline.timestamps import format_timestamp

# Relative error allowed in 1 + (e2e - TTFT) * TPS, the number of output tokens. TPS is exact to a
# few parts in 1e15, and the subtraction loses far less than this tolerance.
_TOKEN_COUNT_TOLERANCE = 1e-6

_EXAMPLES = 3

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

# CASE tests the reasons in order. The product of the last one is computed only for values that pass
# the tests before it: PostgreSQL raises an error if a product overflows or underflows.
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
                    WHEN 7 THEN '1 + (e2e_latency - TTFT) * TPS is not a whole number >= 2'
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
    """The windows that fail a check.

    Attributes:
        windows: their number, each of one model.
        examples: the first few, each with model, window start and reason.
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
        windows: window numbers; a window starts at its number times the interval, from 1970.
        interval: length of a window, whole seconds.
    """
    rows = connection.execute(
        _INCOMPLETE,
        {
            "llm_names": list(llm_names),
            **range_parameters(windows, interval),
            **ALL_ROWS,
            "examples": _EXAMPLES,
        },
    ).all()
    return _result(rows, lambda row: f"{row.found} rows of {len(METRICS)}")


def inconsistent_windows(connection: sa.Connection, span: Span) -> ValidationResult:
    """Find the windows whose four metrics do not fit together.

    Every data point must have all four values, finite; TTFT and TPS above 0; RPS not below 0;
    e2e_latency above TTFT; and 1 + (e2e_latency - TTFT) * TPS a whole number of tokens, at least 2.
    Windows that lack rows are skipped; `incomplete_windows` finds them.

    Args:
        connection: to the results database.
        span: models and time range.
    """
    rows = connection.execute(
        _INCONSISTENT,
        {
            "llm_names": list(span.llm_names),
            "since": span.since,
            "until": span.until,
            **ALL_ROWS,
            "tolerance": _TOKEN_COUNT_TOLERANCE,
            "examples": _EXAMPLES,
        },
    ).all()
    return _result(rows, lambda row: row.reason)


def _result(rows: Sequence[sa.Row[Any]], reason: Callable[[sa.Row[Any]], str]) -> ValidationResult:
    return ValidationResult(
        rows[0].windows if rows else 0,
        tuple(f"{row.llm_name} {format_timestamp(row.timestamp)}: {reason(row)}" for row in rows),
    )
