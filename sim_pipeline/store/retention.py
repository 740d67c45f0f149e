"""The end of old results: rows and their ledger entries, which go together or not at all.

The ledger is what recognises a stored window: without its entry a window counts as missing, and
the next run over it would simulate it and send it again. So an entry is kept for as long as its
rows are (it takes some hundred bytes, one a model and window), and is never removed by itself.

What goes was delivered before a given moment; that it was simulated before then follows. A window
that was never delivered stays, however old it is. One that was made or sent anew (a backfill over
a range that had been removed, a run with `resend`) starts a new life: it is kept for as long again
from its latest delivery. Such a backfill does send again what was removed, under the message ids
that it had.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS

# Removed in one transaction. What holds its locks for milliseconds keeps nobody waiting.
BATCH_WINDOWS = 1_000

_NEXT_MODEL = sa.text("SELECT min(llm_name) FROM deliveries WHERE llm_name > :after")

# Locked, and in key order, as every writer of these rows does it. What another one has locked is
# about to be sent, or written; the next time will find it as it then is.
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

# Statements of their own, since only a new one sees the rows that were committed just before their
# entry was locked.
_REMOVE_ROWS = sa.text(
    """
    DELETE FROM simulation_results
    WHERE llm_name = :llm_name AND metric = ANY(:metrics)
    AND "timestamp" = ANY(CAST(:timestamps AS timestamptz[]))
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
    """What is gone.

    Attributes:
        windows: windows of a model, and so ledger entries.
        rows: rows of results.
    """

    windows: int = 0
    rows: int = 0


def remove_delivered(
    engine: sa.Engine, before: datetime, batch_windows: int = BATCH_WINDOWS
) -> RemovedResults:
    """Remove every window that was delivered before a moment: its rows and its ledger entry.

    Each batch is a transaction of its own; what is removed when the process is killed stays
    removed, and the next call goes on from there. Entries that are locked at the time are left.

    Args:
        engine: of the results database.
        before: the moment; a window whose label is not before it stays as well.
        batch_windows: how many windows go in one transaction.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or the connection is lost.
    """
    windows = rows = 0
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
                rows += _remove(connection, llm_name, timestamps)
            windows += len(timestamps)
            if len(timestamps) < batch_windows:
                break
            after = timestamps[-1]
    return RemovedResults(windows, rows)


def _models(engine: sa.Engine) -> Iterator[str]:
    """Name each model in the ledger, also those that are no longer simulated."""
    name: str | None = ""
    while True:
        with engine.connect() as connection:
            name = connection.scalar(_NEXT_MODEL, {"after": name})
        if name is None:
            return
        yield name


def _remove(connection: sa.Connection, llm_name: str, timestamps: Sequence[Any]) -> int:
    """Remove some windows of a model; return how many rows that were."""
    found = {"llm_name": llm_name, "timestamps": timestamps}
    rows = connection.execute(_REMOVE_ROWS, {**found, "metrics": list(METRICS)}).rowcount
    connection.execute(_REMOVE_ENTRIES, found)
    return rows
