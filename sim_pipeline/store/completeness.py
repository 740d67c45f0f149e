"""Which windows are missing, and how many are stored, published and complete.

The schedule and the backfills ask this. A window is complete when its four rows are stored and its
ledger entry says published.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, timedelta

import sqlalchemy as sa

from sim_pipeline.store.ledger import (
    ALL_ROWS,
    Span,
    complete_windows_sql,
    plan_complete_windows,
    range_parameters,
)

# Entries of another interval that lie between the windows are not counted.
_COMPLETE = sa.text(
    f"""
    SELECT CAST("timestamp" AT TIME ZONE 'UTC' AS date) AS day, count(*) AS windows
    FROM ({complete_windows_sql(":llm_name")}) AS c
    WHERE published_at IS NOT NULL AND extract(epoch FROM "timestamp") % :interval = 0
    GROUP BY day
    """
)

_ENTRIES = sa.text(
    """
    SELECT count(*) AS stored, count(published_at) AS published FROM deliveries
    WHERE llm_name = ANY(:llm_names) AND "timestamp" >= :since AND "timestamp" < :until
    AND extract(epoch FROM "timestamp") % :interval = 0
    """
)


# A pending entry between the windows was left by another interval. No run writes its rows, it can
# only be sent. So it counts as missing only if its rows are stored.
_MISSING = sa.text(
    f"""
    SELECT m.llm_name, g.earliest, g.latest, g.windows
    FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
    CROSS JOIN LATERAL (
        WITH complete AS ({complete_windows_sql("m.llm_name")}), missing AS (
            SELECT to_timestamp(k * :interval) AS "timestamp"
            FROM generate_series(:first, CAST(:stop AS bigint) - 1) AS k
            EXCEPT
            SELECT "timestamp" FROM complete
            UNION ALL
            SELECT "timestamp" FROM complete WHERE published_at IS NULL
        )
        SELECT min("timestamp") AS earliest, max("timestamp") AS latest, count(*) AS windows
        FROM missing AS w
        WHERE NOT EXISTS (
            SELECT FROM unnest(
                CAST(:in_progress_names AS text[]),
                CAST(:in_progress_since AS timestamptz[]),
                CAST(:in_progress_until AS timestamptz[])
            ) AS p (llm_name, since, until)
            WHERE p.llm_name = m.llm_name AND w."timestamp" >= p.since AND w."timestamp" < p.until
        )
    ) AS g
    WHERE g.windows > 0
    """
)


@dataclass(frozen=True)
class MissingWindows:
    """The windows that are missing or undelivered.

    Attributes:
        span: the smallest span that contains all of them.
        windows: their number, each of one model.
    """

    span: Span
    windows: int


@dataclass(frozen=True)
class EntryCounts:
    """The number of ledger entries of a span.

    Attributes:
        stored: all of them, one for each window of a model.
        published: those whose message the broker confirmed.
    """

    stored: int
    published: int


def find_missing(
    connection: sa.Connection,
    llm_names: Sequence[str],
    windows: range,
    interval: timedelta,
    in_progress: Sequence[Span] = (),
) -> MissingWindows | None:
    """Return which windows of a range are missing or undelivered, or None if none is.

    A window is delivered when its four rows are stored and its ledger entry says published.
    Undelivered entries of these models that lie between the windows, left by another interval,
    count too.

    Args:
        connection: to the results database.
        llm_names: the models.
        windows: window numbers; a window starts at its number times the interval, from 1970.
        interval: length of a window, whole seconds.
        in_progress: spans that unfinished runs are working on; they do not count as missing.
    """
    plan_complete_windows(connection)
    spans = [(name, span.since, span.until) for span in in_progress for name in span.llm_names]
    rows = connection.execute(
        _MISSING,
        {
            "llm_names": list(llm_names),
            **range_parameters(windows, interval),
            **ALL_ROWS,
            "in_progress_names": [name for name, _, _ in spans],
            "in_progress_since": [since for _, since, _ in spans],
            "in_progress_until": [until for _, _, until in spans],
        },
    ).all()
    if not rows:
        return None
    incomplete = {row.llm_name for row in rows}
    span = Span(
        llm_names=tuple(name for name in llm_names if name in incomplete),
        since=min(row.earliest for row in rows).astimezone(UTC),
        until=max(row.latest for row in rows).astimezone(UTC) + interval,
    )
    return MissingWindows(span, sum(row.windows for row in rows))


def count_complete_windows(
    connection: sa.Connection, span: Span, interval: timedelta
) -> Mapping[tuple[str, date], int]:
    """Count the windows with four rows and a published entry, by model and UTC day.

    Args:
        connection: to the results database.
        span: models and time range.
        interval: length of a window, whole seconds; windows start at multiples of it from 1970.

    Returns:
        The counts; a model and day without a complete window is not a key.
    """
    plan_complete_windows(connection)
    # One query for each model, so that the windows it groups fit in memory.
    return {
        (llm_name, row.day): row.windows
        for llm_name in span.llm_names
        for row in connection.execute(
            _COMPLETE,
            {
                "llm_name": llm_name,
                "since": span.since,
                "until": span.until,
                "interval": interval // timedelta(seconds=1),
                **ALL_ROWS,
            },
        )
    }


def count_entries(connection: sa.Connection, span: Span, interval: timedelta) -> EntryCounts:
    """Count the ledger entries of a span's windows; the rows are not read.

    Args:
        connection: to the results database.
        span: models and time range.
        interval: length of a window, whole seconds. Entries of another interval that lie between
            the windows are not counted.
    """
    row = connection.execute(
        _ENTRIES,
        {
            "llm_names": list(span.llm_names),
            "since": span.since,
            "until": span.until,
            "interval": interval // timedelta(seconds=1),
        },
    ).one()
    return EntryCounts(row.stored, row.published)
