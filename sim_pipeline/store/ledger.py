"""The deliveries ledger: which windows are stored, under which message id, and which are published.

Claims pending entries for the feed and marks them as published. The writer creates the entries
(`writer.py`); which windows are missing is found in `completeness.py`.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.windows import EPOCH


def complete_windows_sql(llm_name: str) -> str:
    """Return the query for a model's complete windows: four rows and a ledger entry.

    Its columns are timestamp, message_id and published_at. It is for one model, so that PostgreSQL
    groups the windows of one model at a time, which fit in memory even at one window a second.

    Call `plan_complete_windows` before it.

    Args:
        llm_name: SQL expression for the model. The query also has the parameters since, until,
            metrics and rows; the last two are `ALL_ROWS`.
    """
    return f"""
        SELECT "timestamp", d.message_id, d.published_at
        FROM (
            SELECT "timestamp" FROM simulation_results
            WHERE llm_name = {llm_name} AND metric = ANY(:metrics)
            AND "timestamp" >= :since AND "timestamp" < :until
            GROUP BY "timestamp" HAVING count(*) = :rows
        ) AS r
        JOIN deliveries AS d USING ("timestamp")
        WHERE d.llm_name = {llm_name} AND d."timestamp" >= :since AND d."timestamp" < :until
    """


ALL_ROWS: Mapping[str, Any] = {"metrics": list(METRICS), "rows": len(METRICS)}
"""Parameters of queries for windows that have all their rows."""

_PLAN_WITHOUT_STATISTICS = sa.text(
    "SELECT set_config('enable_nestloop', 'off', true), set_config('jit', 'off', true)"
)

_STORED = sa.text(f'SELECT "timestamp", message_id FROM ({complete_windows_sql(":llm_name")}) AS c')

_LATEST = sa.text(
    """
    SELECT max(d.latest)
    FROM unnest(CAST(:llm_names AS text[])) AS m (llm_name)
    CROSS JOIN LATERAL (
        SELECT max("timestamp") AS latest FROM deliveries WHERE llm_name = m.llm_name
    ) AS d
    """
)

_COUNT_PENDING = sa.text(
    """
    SELECT count(*) FROM deliveries
    WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
    AND "timestamp" >= :since AND "timestamp" < :until
    """
)

# Locks are taken in key order, as by every writer of these rows, so that no deadlock is possible.
# xmin is the id of the transaction that wrote a row version. It stays until the row is written
# again; locking the row does not change it.
_REOPEN = sa.text(
    """
    WITH delivered AS (
        SELECT llm_name, "timestamp" FROM deliveries
        WHERE llm_name = ANY(:llm_names) AND "timestamp" >= :since AND "timestamp" < :until
        AND published_at IS NOT NULL
        ORDER BY llm_name, "timestamp"
        FOR UPDATE
    ), reopened AS (
        UPDATE deliveries AS d SET published_at = NULL
        FROM delivered AS c WHERE d.llm_name = c.llm_name AND d."timestamp" = c."timestamp"
        RETURNING CAST(d.xmin AS text) AS transaction_id
    )
    SELECT DISTINCT transaction_id FROM reopened
    """
)

# A claim's transaction is idle while messages are published. If its machine disappears, the server
# must not keep the locks until TCP notices, hours later.
_LIMIT_IDLE_TIME = sa.text("SET LOCAL idle_in_transaction_session_timeout = '10min'")

# Read in pages: entries that lack rows cannot be sent, and entries after them may be complete. The
# rows are not checked here: PostgreSQL would check those of every pending entry before it sorts.
_CLAIM = sa.text(
    """
    SELECT llm_name, "timestamp", message_id,
        CAST(xmin AS text) = ANY(CAST(:reopen_transaction_ids AS text[])) AS reopened
    FROM deliveries
    WHERE published_at IS NULL AND llm_name = ANY(:llm_names)
    AND ("timestamp", llm_name) > (:after, :after_name) AND "timestamp" < :until
    ORDER BY "timestamp", llm_name
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
    """
)

# A separate statement: only a new statement sees the rows that were committed together with an
# entry just before it was claimed. The values come as JSON, which Python parses ten times faster
# than arrays. JSON has no negative zero; no metric has one either.
_CLAIMED_VALUES = sa.text(
    """
    SELECT CAST(json_agg(r."values" ORDER BY m.place) AS text)
    FROM unnest(CAST(:llm_names AS text[]), CAST(:timestamps AS timestamptz[]))
        WITH ORDINALITY AS c (llm_name, "timestamp", place)
    CROSS JOIN unnest(CAST(:metrics AS text[])) WITH ORDINALITY AS m (metric, place)
    LEFT JOIN simulation_results AS r
    ON r.llm_name = c.llm_name AND r.metric = m.metric AND r."timestamp" = c."timestamp"
    GROUP BY c.place ORDER BY c.place
    """
)

_MARK_PUBLISHED = sa.text(
    """
    UPDATE deliveries AS d SET published_at = clock_timestamp()
    FROM unnest(
        CAST(:llm_names AS text[]), CAST(:timestamps AS timestamptz[])
    ) AS c (llm_name, "timestamp")
    WHERE d.llm_name = c.llm_name AND d."timestamp" = c."timestamp"
    """
)


@dataclass(frozen=True)
class Span:
    """Some models over a time range.

    Attributes:
        llm_names: the models.
        since: the first window start in the range.
        until: the end of the range, not included.
    """

    llm_names: tuple[str, ...]
    since: datetime
    until: datetime


def plan_complete_windows(connection: sa.Connection) -> None:
    """Prepare the rest of a transaction for the query `complete_windows_sql`.

    Statistics lag behind while a table is filled. PostgreSQL then expects a single window and joins
    each row with each entry, which takes a minute for a year of hourly windows instead of a second.
    Without nested loops it hashes. Up to PostgreSQL 17, a plan that cannot avoid one costs so much
    that it would be compiled.
    """
    connection.execute(_PLAN_WITHOUT_STATISTICS)


def range_parameters(windows: range, interval: timedelta) -> dict[str, Any]:
    """Return the query parameters of a range of windows: first, stop, interval, since and until.

    Args:
        windows: window numbers; a window starts at its number times the interval, from 1970.
        interval: length of a window, whole seconds.
    """
    return {
        "first": windows.start,
        "stop": windows.stop,
        "interval": interval // timedelta(seconds=1),
        "since": EPOCH + windows.start * interval,
        "until": EPOCH + windows.stop * interval,
    }


def stored_message_ids(
    connection: sa.Connection, llm_name: str, since: datetime, until: datetime
) -> Mapping[datetime, UUID]:
    """Return the message id of each complete window of a model, by window start in UTC.

    Args:
        connection: to the results database.
        llm_name: the model.
        since: the first window start in the range.
        until: the end of the range, not included.
    """
    plan_complete_windows(connection)
    rows = connection.execute(
        _STORED, {"llm_name": llm_name, "since": since, "until": until, **ALL_ROWS}
    )
    return {row.timestamp.astimezone(UTC): row.message_id for row in rows}


def latest_window_start(connection: sa.Connection, llm_names: Sequence[str]) -> datetime | None:
    """Return the start of the latest window in the ledger of any of these models, or None."""
    found: datetime | None = connection.execute(_LATEST, {"llm_names": list(llm_names)}).scalar()
    return found.astimezone(UTC) if found else None


def count_pending(connection: sa.Connection, span: Span) -> int:
    """Return the number of pending entries of a span, including those that others have claimed."""
    return int(
        connection.execute(
            _COUNT_PENDING,
            {"llm_names": list(span.llm_names), "since": span.since, "until": span.until},
        ).scalar_one()
    )


def reopen(connection: sa.Connection, span: Span) -> Sequence[str]:
    """Make every delivered entry of a span pending again.

    Args:
        connection: to the results database, in a transaction that the caller commits.
        span: models and time range.

    Returns:
        The ids of the transactions that reopened entries, by which `claim` recognises these
        entries until they are written again: none or one.
    """
    return connection.scalars(
        _REOPEN,
        {"llm_names": list(span.llm_names), "since": span.since, "until": span.until},
    ).all()


@dataclass(frozen=True)
class Pending:
    """A window whose message is to be sent.

    Attributes:
        llm_name: the model.
        window_start: UTC.
        message_id: the id of the message.
        values: shape (4, points), in the order of `METRICS`.
        reopened: whether the window was delivered under this id before and was reopened by one of
            the transactions that `claim` was given.
    """

    llm_name: str
    window_start: datetime
    message_id: UUID
    values: NDArray[np.float64]
    reopened: bool


class Claim:
    """Pending entries, locked until the surrounding transaction ends.

    Attributes:
        pending: the entries, ordered by window start and model.
    """

    def __init__(self, connection: sa.Connection, pending: Sequence[Pending]) -> None:
        self._connection = connection
        self.pending = pending

    def mark_published(self, message_ids: Collection[UUID]) -> None:
        """Mark entries as published; committed with the claim.

        Args:
            message_ids: of the messages that the broker confirmed.

        Raises:
            sqlalchemy.exc.OperationalError: the connection is lost; the entries stay pending.
        """
        wanted = set(message_ids)
        confirmed = [entry for entry in self.pending if entry.message_id in wanted]
        self._connection.execute(
            _MARK_PUBLISHED,
            {
                "llm_names": [entry.llm_name for entry in confirmed],
                "timestamps": [entry.window_start for entry in confirmed],
            },
        )


@contextmanager
def claim(
    engine: sa.Engine, span: Span, limit: int, reopen_transaction_ids: Collection[str] = ()
) -> Iterator[Claim]:
    """Lock up to `limit` pending entries of a span and read their values.

    Entries that another process has locked are skipped, and so are entries that lack rows. Entries
    that are marked as published are committed at the end, even if the body raises: the broker has
    confirmed them.

    Args:
        engine: of the results database.
        span: models and time range.
        limit: largest number of entries; all are held in memory with their values.
        reopen_transaction_ids: from `reopen`; entries that these transactions reopened are
            returned with `reopened` set.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or the connection is lost
            before the end; the entries stay pending.
        ValueError: the four metrics of a window have different numbers of values.
    """
    with engine.connect() as connection:
        pending = _claim(connection, span, limit, reopen_transaction_ids)
        try:
            yield Claim(connection, pending)
        finally:
            # If the connection is lost, an error that says so is already being raised.
            if not connection.invalidated:
                connection.commit()


def _claim(
    connection: sa.Connection, span: Span, limit: int, reopen_transaction_ids: Collection[str]
) -> list[Pending]:
    connection.execute(_LIMIT_IDLE_TIME)
    pending: list[Pending] = []
    after, after_name = span.since, ""
    while wanted := limit - len(pending):
        entries = connection.execute(
            _CLAIM,
            {
                "llm_names": list(span.llm_names),
                "after": after,
                "after_name": after_name,
                "until": span.until,
                "limit": wanted,
                "reopen_transaction_ids": list(reopen_transaction_ids),
            },
        ).all()
        texts = connection.execute(
            _CLAIMED_VALUES,
            {
                "llm_names": [entry.llm_name for entry in entries],
                "timestamps": [entry.timestamp for entry in entries],
                "metrics": list(METRICS),
            },
        ).scalars()
        for entry, text in zip(entries, texts, strict=True):
            rows = orjson.loads(text)
            if None not in rows:
                window_start = entry.timestamp.astimezone(UTC)
                values = _values(entry.llm_name, window_start, rows)
                pending.append(
                    Pending(entry.llm_name, window_start, entry.message_id, values, entry.reopened)
                )
        if len(entries) < wanted:
            break
        after, after_name = entries[-1].timestamp, entries[-1].llm_name
    return pending


def _values(
    llm_name: str, window_start: datetime, rows: list[list[float | str]]
) -> NDArray[np.float64]:
    counts = [len(row) for row in rows]
    if len(set(counts)) > 1:
        raise ValueError(
            f"{llm_name} {format_timestamp(window_start)}: {', '.join(METRICS)} have {counts}"
            " values: each must have the same number; materialize the window again with `force`"
        )
    # JSON has no NaN or infinity: PostgreSQL writes them as text, which NumPy parses.
    return np.array(rows, dtype=np.float64)
