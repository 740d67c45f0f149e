"""How far a stretch of windows is: what a backfill asks before, while and after it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.ledger import Span

# Labels between the windows, left by another interval, are none of the windows.
_COMPLETE = sa.text(
    """
    SELECT CAST(d."timestamp" AT TIME ZONE 'UTC' AS date) AS day, count(*) AS windows
    FROM deliveries AS d
    JOIN (
        SELECT "timestamp" FROM simulation_results
        WHERE llm_name = :llm_name AND metric = ANY(:metrics)
        AND "timestamp" >= :since AND "timestamp" < :until
        GROUP BY "timestamp" HAVING count(*) = :rows
    ) AS r USING ("timestamp")
    WHERE d.llm_name = :llm_name AND d."timestamp" >= :since AND d."timestamp" < :until
    AND d.published_at IS NOT NULL AND extract(epoch FROM d."timestamp") % :interval = 0
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


@dataclass(frozen=True)
class Entries:
    """What the ledger holds of a span.

    Attributes:
        stored: windows of a model that are recorded.
        published: those of them whose message the broker confirmed.
    """

    stored: int
    published: int


def complete_windows(
    connection: sa.Connection, span: Span, interval: timedelta
) -> Mapping[tuple[str, date], int]:
    """Count the windows with their four rows and a published entry, by model and UTC day.

    A model and day without any is not in the answer.

    Args:
        connection: to the results database.
        span: models and labels.
        interval: length of a window, whole seconds; windows start at multiples of it from 1970.
    """
    # Model by model: what is compared then fits in memory, however many models there are.
    return {
        (llm_name, row.day): row.windows
        for llm_name in span.llm_names
        for row in connection.execute(
            _COMPLETE,
            {
                "llm_name": llm_name,
                "since": span.since,
                "until": span.until,
                "metrics": list(METRICS),
                "rows": len(METRICS),
                "interval": interval // timedelta(seconds=1),
            },
        )
    }


def ledger_entries(connection: sa.Connection, span: Span, interval: timedelta) -> Entries:
    """Count the ledger's entries of a span's windows; reads no row of results.

    Args:
        connection: to the results database.
        span: models and labels.
        interval: length of a window, whole seconds. Entries of another interval, between the
            windows, are not counted.
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
    return Entries(row.stored, row.published)
