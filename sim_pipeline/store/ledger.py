"""The deliveries ledger: which windows are stored, under which message_id, and which were sent."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.tables import deliveries

_RECORDED = sa.text(
    """
    SELECT d."timestamp", d.message_id
    FROM deliveries AS d
    WHERE d.llm_name = :llm_name AND d."timestamp" >= :since AND d."timestamp" < :until
    AND (
        SELECT count(*) FROM simulation_results AS r
        WHERE r.llm_name = d.llm_name AND r."timestamp" = d."timestamp" AND r.metric = ANY(:metrics)
    ) = :rows
    """
)

_GAPS = sa.text(
    """
    WITH expected AS (
        SELECT llm_name, to_timestamp(k * :interval) AS "timestamp"
        FROM unnest(CAST(:llm_names AS text[])) AS llm_name
        CROSS JOIN generate_series(:first, CAST(:stop AS bigint) - 1) AS k
        UNION
        SELECT llm_name, "timestamp" FROM deliveries
        WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
        AND "timestamp" >= to_timestamp(:first * :interval)
        AND "timestamp" < to_timestamp(:stop * :interval)
    ), stored AS (
        SELECT llm_name, "timestamp" FROM simulation_results
        WHERE llm_name = ANY(:llm_names)
        AND "timestamp" >= to_timestamp(:first * :interval)
        AND "timestamp" < to_timestamp(:stop * :interval)
        GROUP BY llm_name, "timestamp" HAVING count(*) = :rows
    )
    SELECT llm_name, min("timestamp") AS earliest, max("timestamp") AS latest, count(*) AS windows
    FROM expected AS e
    LEFT JOIN deliveries AS d USING (llm_name, "timestamp")
    LEFT JOIN stored AS s USING (llm_name, "timestamp")
    WHERE (d.published_at IS NULL OR s.llm_name IS NULL)
    AND NOT EXISTS (
        SELECT FROM unnest(
            CAST(:busy_names AS text[]),
            CAST(:busy_since AS timestamptz[]),
            CAST(:busy_until AS timestamptz[])
        ) AS b (llm_name, since, until)
        WHERE b.llm_name = e.llm_name AND e."timestamp" >= b.since AND e."timestamp" < b.until
    )
    GROUP BY llm_name
    """
)


@dataclass(frozen=True)
class Span:
    """Some models over a stretch of time.

    Attributes:
        llm_names: the models.
        since: the first label that belongs to it.
        until: the first label that no longer does.
    """

    llm_names: tuple[str, ...]
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Gaps:
    """What is missing or undelivered.

    Attributes:
        span: the smallest one around all of it.
        windows: how many windows of a model it is.
    """

    span: Span
    windows: int


def recorded(
    connection: sa.Connection, llm_name: str, since: datetime, until: datetime
) -> Mapping[datetime, UUID]:
    """Return the message_id of each window of a model that is stored with all four rows.

    Args:
        connection: to the results database.
        llm_name: the model.
        since: the first label asked for.
        until: the first label no longer asked for.
    """
    rows = connection.execute(
        _RECORDED,
        {
            "llm_name": llm_name,
            "since": since,
            "until": until,
            "metrics": list(METRICS),
            "rows": len(METRICS),
        },
    )
    return {row.timestamp.astimezone(UTC): row.message_id for row in rows}


def latest(connection: sa.Connection, llm_names: Sequence[str]) -> datetime | None:
    """Return the label of the latest window recorded of any of these models, or None."""
    found: datetime | None = connection.execute(
        sa.select(sa.func.max(deliveries.c.timestamp)).where(deliveries.c.llm_name.in_(llm_names))
    ).scalar()
    return found.astimezone(UTC) if found else None


def gaps(
    connection: sa.Connection,
    llm_names: Sequence[str],
    windows: range,
    interval: timedelta,
    busy: Sequence[Span] = (),
) -> Gaps | None:
    """Return what is missing or undelivered among some windows, or None.

    A window counts as there when its four rows are stored and its ledger entry says published.
    Entries of these models that lie between the windows (left by another interval) count too.

    Args:
        connection: to the results database.
        llm_names: the models.
        windows: window numbers; a window's label is its number times the interval, from 1970.
        interval: length of a window, whole seconds.
        busy: what an unfinished run is at; left out of the answer.
    """
    busy_rows = [(name, span.since, span.until) for span in busy for name in span.llm_names]
    rows = connection.execute(
        _GAPS,
        {
            "llm_names": list(llm_names),
            "first": windows.start,
            "stop": windows.stop,
            "interval": interval // timedelta(seconds=1),
            "rows": len(METRICS),
            "busy_names": [name for name, _, _ in busy_rows],
            "busy_since": [since for _, since, _ in busy_rows],
            "busy_until": [until for _, _, until in busy_rows],
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
    return Gaps(span, sum(row.windows for row in rows))


def reopen(connection: sa.Connection, span: Span) -> int:
    """Make every delivered entry of a span pending again; return how many there were."""
    result = connection.execute(
        sa.text(
            """
            UPDATE deliveries SET published_at = NULL
            WHERE llm_name = ANY(:llm_names) AND "timestamp" >= :since AND "timestamp" < :until
            AND published_at IS NOT NULL
            """
        ),
        {"llm_names": list(span.llm_names), "since": span.since, "until": span.until},
    )
    return result.rowcount


@dataclass(frozen=True)
class Pending:
    """A window that is to be sent.

    Attributes:
        llm_name: the model.
        timestamp: the window's label, UTC.
        message_id: the id it is sent under.
        values: shape (4, points), in the order of `METRICS`.
    """

    llm_name: str
    timestamp: datetime
    message_id: UUID
    values: NDArray[np.float64]


_CLAIM = sa.text(
    """
    WITH claimed AS (
        SELECT llm_name, "timestamp", message_id FROM deliveries
        WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
        AND "timestamp" >= :since AND "timestamp" < :until
        ORDER BY "timestamp", llm_name LIMIT :limit
        FOR UPDATE SKIP LOCKED
    )
    SELECT c.llm_name, c."timestamp", c.message_id,
        array_agg(r."values" ORDER BY array_position(CAST(:metrics AS text[]), r.metric::text))
            AS data
    FROM claimed AS c JOIN simulation_results AS r USING (llm_name, "timestamp")
    GROUP BY c.llm_name, c."timestamp", c.message_id
    HAVING count(*) = :rows
    ORDER BY c."timestamp", c.llm_name
    """
)


class Claim:
    """Pending entries, locked for as long as the transaction around them is open."""

    def __init__(self, connection: sa.Connection, pending: Sequence[Pending]) -> None:
        self._connection = connection
        self.pending = pending

    def mark_published(self, message_ids: Collection[UUID]) -> None:
        """Enter as delivered what the broker confirmed; committed with the claim."""
        self._connection.execute(
            sa.text(
                """
                UPDATE deliveries AS d SET published_at = clock_timestamp()
                FROM unnest(
                    CAST(:llm_names AS text[]), CAST(:timestamps AS timestamptz[])
                ) AS c (llm_name, "timestamp")
                WHERE d.llm_name = c.llm_name AND d."timestamp" = c."timestamp"
                """
            ),
            self._keys(set(message_ids)),
        )

    def _keys(self, message_ids: set[UUID]) -> dict[str, list[str] | list[datetime]]:
        confirmed = [entry for entry in self.pending if entry.message_id in message_ids]
        return {
            "llm_names": [entry.llm_name for entry in confirmed],
            "timestamps": [entry.timestamp for entry in confirmed],
        }


@contextmanager
def claim(engine: sa.Engine, span: Span, limit: int) -> Iterator[Claim]:
    """Lock up to `limit` pending entries of a span, with the rows that are to be sent.

    Entries that another process has locked are passed over. What was marked published is
    committed at the end, also when the body raises: a confirm that was received stays received.

    Args:
        engine: of the results database.
        span: models and labels to look at.
        limit: how many entries at the most.
    """
    with engine.connect() as connection:
        rows = connection.execute(
            _CLAIM,
            {
                "llm_names": list(span.llm_names),
                "since": span.since,
                "until": span.until,
                "limit": limit,
                "metrics": list(METRICS),
                "rows": len(METRICS),
            },
        )
        pending = [
            Pending(
                row.llm_name,
                row.timestamp.astimezone(UTC),
                row.message_id,
                np.asarray(row.data, dtype=np.float64),
            )
            for row in rows
        ]
        try:
            yield Claim(connection, pending)
        finally:
            connection.commit()
