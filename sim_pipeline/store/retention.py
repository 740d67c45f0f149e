"""Removal of old results: a window's rows and request counts together with its ledger entry.

A window is removed some time after its latest delivery. A window that was never delivered is kept.
A simulated event is removed with the last stored window that it overlaps.
A backfill over removed windows stores and sends them again, under the same message ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.events import EVENTS_LOCK

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

# A writer holds this lock until it has committed the ledger entries of the windows that an event
# overlaps. It holds every ledger lock that it needs before, so it does not wait for this process.
_LOCK_EVENTS = sa.text("SELECT pg_advisory_xact_lock(:events_lock, hashtext(:llm_name))")

_REMOVE_EVENTS = sa.text(
    """
    DELETE FROM simulated_events AS e
    WHERE llm_name = :llm_name
    AND window_starts && tstzrange(:first, :last, '[]')
    AND NOT EXISTS (
        SELECT FROM deliveries AS d WHERE d.llm_name = e.llm_name
        AND d."timestamp" BETWEEN lower(e.window_starts) AND upper(e.window_starts)
        AND d."timestamp" <@ e.window_starts
    )
    """
)

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class RemovedResults:
    """The number of windows, rows, request counts and events that were removed.

    Attributes:
        windows: windows, each of one model, and so ledger entries.
        rows: rows of results.
        counts: rows of request counts; a window stored before these existed has none.
        events: simulated events.
    """

    windows: int = 0
    rows: int = 0
    counts: int = 0
    events: int = 0


def remove_delivered(
    engine: sa.Engine, before: datetime, batch_windows: int = _BATCH_WINDOWS
) -> RemovedResults:
    """Remove every window delivered before a given time: rows, request counts and ledger entry.

    The events that overlap no stored window after that are removed with them.

    Each batch is one transaction. If the process is killed, the next call continues after the last
    batch. Entries that are locked at the time are skipped.

    Args:
        engine: of the results database.
        before: the time; a window that does not start before it is kept as well.
        batch_windows: number of windows to remove in one transaction.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached, or the connection is lost.
    """
    windows = rows = counts = events = 0
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
            events += removed.events
            if len(timestamps) < batch_windows:
                break
            after = timestamps[-1]
    return RemovedResults(windows, rows, counts, events)


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
    """Remove some windows of a model, given in order."""
    if not timestamps:
        return RemovedResults()
    windows = {"llm_name": llm_name, "timestamps": timestamps}
    rows = connection.execute(_REMOVE_ROWS, {**windows, "metrics": list(METRICS)}).rowcount
    counts = connection.execute(_REMOVE_COUNTS, windows).rowcount
    connection.execute(_REMOVE_ENTRIES, windows)
    connection.execute(_LOCK_EVENTS, {"events_lock": EVENTS_LOCK, "llm_name": llm_name})
    events = connection.execute(
        _REMOVE_EVENTS, {"llm_name": llm_name, "first": timestamps[0], "last": timestamps[-1]}
    ).rowcount
    return RemovedResults(len(timestamps), rows, counts, events)
