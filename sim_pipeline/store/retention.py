"""Removal of old results: a window's rows and request counts together with its ledger entry.

A window is removed some time after its latest delivery. A window that was never delivered is kept.
A backfill over removed windows stores and sends them again, under the same message ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS

# Removed in one transaction, which then holds its locks for milliseconds only.
_BATCH_WINDOWS = 1_000

_NEXT_MODEL = sa.text("SELECT min(llm_name) FROM deliveries WHERE llm_name > :after")

# Entries are locked in key order, as by every writer of these rows. Entries that another process
# has locked are being sent or written; they are skipped until the next call.
_DELIVERED = sa.text(
    """
    SELECT "timestamp" FROM deliveries
    WHERE llm_name = :llm_name AND "timestamp" > :after AND "timestamp" < :before
    AND published_at < :before
    ORDER BY "timestamp"
    LIMIT :limit
    FOR UPDATE SKIP LOCKED
    """
)

# Separate statements: only a new statement sees the rows that were committed just before their
# entry was locked.
_REMOVE_ROWS = sa.text(
    """
    DELETE FROM simulation_results
    WHERE llm_name = :llm_name AND metric = ANY(:metrics)
    AND "timestamp" = ANY(CAST(:timestamps AS timestamptz[]))
    """
)
_REMOVE_COUNTS = sa.text(
    """
    DELETE FROM request_counts
    WHERE llm_name = :llm_name AND "timestamp" = ANY(CAST(:timestamps AS timestamptz[]))
    """
)
_REMOVE_ENTRIES = sa.text(
    """
    DELETE FROM deliveries
    WHERE llm_name = :llm_name AND "timestamp" = ANY(CAST(:timestamps AS timestamptz[]))
    """
)

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RemovedResults:
    """The number of windows, rows and request counts that were removed.

    Attributes:
        windows: windows, each of one model, and so ledger entries.
        rows: rows of results.
        counts: rows of request counts; a window stored before these existed has none.
    """

    windows: int = 0
    rows: int = 0
    counts: int = 0


def remove_delivered(
    engine: sa.Engine, before: datetime, batch_windows: int = _BATCH_WINDOWS
) -> RemovedResults:
    """Remove every window delivered before a given time: rows, request counts and ledger entry.

    Each batch is one transaction. If the process is killed, the next call continues after the last
    batch. Entries that are locked at the time are skipped.

    Args:
        engine: of the results database.
        before: the time; a window that does not start before it is kept as well.
        batch_windows: number of windows to remove in one transaction.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or the connection is lost.
    """
    windows = rows = counts = 0
    for llm_name in _models(engine):
        after = _BEGINNING
        while True:
            with engine.begin() as connection:
                timestamps = connection.scalars(
                    _DELIVERED,
                    {
                        "llm_name": llm_name,
                        "after": after,
                        "before": before,
                        "limit": batch_windows,
                    },
                ).all()
                removed = _remove(connection, llm_name, timestamps)
            windows += removed.windows
            rows += removed.rows
            counts += removed.counts
            if len(timestamps) < batch_windows:
                break
            after = timestamps[-1]
    return RemovedResults(windows, rows, counts)


def _models(engine: sa.Engine) -> Iterator[str]:
    """Return each model in the ledger, including those that are no longer simulated."""
    name: str | None = ""
    while True:
        with engine.connect() as connection:
            name = connection.scalar(_NEXT_MODEL, {"after": name})
        if name is None:
            return
        yield name


def _remove(connection: sa.Connection, llm_name: str, timestamps: Sequence[Any]) -> RemovedResults:
    """Remove some windows of a model."""
    windows = {"llm_name": llm_name, "timestamps": timestamps}
    rows = connection.execute(_REMOVE_ROWS, {**windows, "metrics": list(METRICS)}).rowcount
    counts = connection.execute(_REMOVE_COUNTS, windows).rowcount
    connection.execute(_REMOVE_ENTRIES, windows)
    return RemovedResults(len(timestamps), rows, counts)
