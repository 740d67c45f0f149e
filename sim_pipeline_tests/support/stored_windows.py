"""Batches of windows to store, and queries for what the database then contains."""

from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.store.batches import SimulatedEvent, WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.schema import COUNTS
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline.windows import EPOCH

HOUR = timedelta(hours=1)
# The start of a window, and the number of that window at one an hour.
START = datetime(2026, 11, 24, tzinfo=UTC)
FIRST = (START - EPOCH) // HOUR


def window_starts(count: int, *, start: datetime = START, step: timedelta = HOUR) -> list[datetime]:
    return [start + index * step for index in range(count)]


def message_ids(count: int, version: str = "") -> list[UUID]:
    return [uuid5(NAMESPACE_OID, f"{version}{index}") for index in range(count)]


def consistent_values(windows: int, points: int = 5, seed: int = 0) -> NDArray[np.float64]:
    """Return values of possible requests: shape (windows, 4, points)."""
    rng = np.random.default_rng(seed)
    ttft = rng.lognormal(-1, 0.5, (windows, points))
    tps = rng.lognormal(4, 0.3, (windows, points))
    tokens = rng.integers(2, 2048, (windows, points))
    rps = rng.lognormal(2, 0.5, (windows, points))
    return np.stack([ttft, tps, ttft + (tokens - 1) / tps, rps], axis=1)


def random_counts(windows: int, seed: int = 0) -> NDArray[np.int64]:
    """Return counts of requests: shape (windows, 4)."""
    return np.random.default_rng(seed).integers(0, 2**40, (windows, len(COUNTS)))


def batch_of(
    llm_names: Sequence[str],
    starts: Sequence[datetime],
    *,
    version: str = "",
    seed: int = 0,
    points: int = 5,
    window_seconds: int = 3600,
    events: Sequence[SimulatedEvent] = (),
) -> WindowBatch:
    """Return a batch with every model at every window start, in this order."""
    count = len(llm_names) * len(starts)
    return WindowBatch(
        [name for name in llm_names for _ in starts],
        list(starts) * len(llm_names),
        [uuid5(NAMESPACE_OID, f"{name}{start}{version}") for name in llm_names for start in starts],
        consistent_values(count, points, seed),
        random_counts(count, seed),
        window_seconds,
        events,
    )


def event(
    started: float,
    ended: float | None,
    llm_name: str = "GPT-4o",
    *,
    kind: str = "incident",
    size: float = 0.5,
    metrics: tuple[str, ...] = ("TTFT", "TPS"),
) -> SimulatedEvent:
    """Return an event that starts and ends so many hours after `START`."""
    started_at = START + started * HOUR
    ended_at = None if ended is None else START + ended * HOUR
    content = (llm_name, kind, started_at, ended_at, size, metrics)
    return SimulatedEvent(
        uuid5(NAMESPACE_OID, str(content)), llm_name, kind, started_at, ended_at, size, metrics
    )


def store(postgres: Postgres, *batches: WindowBatch, force: bool = False) -> None:
    with BatchWriter(postgres) as writer:
        for batch in batches:
            writer.write(batch, force=force)


def fetch(postgres: Postgres, query: str, **parameters: Any) -> list[tuple[Any, ...]]:
    with postgres.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), parameters)]


def execute(postgres: Postgres, statement: str, **parameters: Any) -> None:
    with postgres.engine.begin() as connection:
        connection.execute(sa.text(statement), parameters)


def stored_rows(postgres: Postgres) -> list[tuple[Any, ...]]:
    """Return every row: id, llm_name, metric, timestamp, values."""
    return fetch(
        postgres,
        'SELECT id, llm_name, metric, "timestamp", "values" FROM simulation_results ORDER BY id',
    )


def stored_counts(postgres: Postgres) -> list[tuple[Any, ...]]:
    """Return every row of request counts: llm_name, timestamp, and the counts of `COUNTS`."""
    return fetch(
        postgres,
        f'SELECT llm_name, "timestamp", {", ".join(COUNTS)} FROM request_counts'
        ' ORDER BY llm_name, "timestamp"',
    )


def counts_of(*batches: WindowBatch) -> list[tuple[Any, ...]]:
    """Return the request counts of batches as `stored_counts` returns them."""
    return sorted(
        (name, start, *counts)
        for batch in batches
        for name, start, counts in zip(
            batch.llm_names, batch.window_starts, batch.counts.tolist(), strict=True
        )
    )


def ledger_entries(postgres: Postgres) -> list[tuple[Any, ...]]:
    """Return every entry: llm_name, timestamp, message_id, created_at, published_at."""
    return fetch(
        postgres,
        'SELECT llm_name, "timestamp", message_id::text, created_at, published_at'
        ' FROM deliveries ORDER BY "timestamp", llm_name',
    )


def pending_entries(postgres: Postgres) -> list[tuple[str, datetime]]:
    return [entry[:2] for entry in ledger_entries(postgres) if entry[4] is None]


def last_id_drawn(postgres: Postgres) -> int:
    """Return the last value of the sequence of ids."""
    ((value,),) = fetch(postgres, "SELECT last_value FROM simulation_results_id_seq")
    return int(value)


def publish_all(postgres: Postgres) -> None:
    execute(postgres, "UPDATE deliveries SET published_at = now()")


def sessions_waiting(postgres: Postgres) -> list[int]:
    """Return the server processes that wait for a lock in this database."""
    with (
        closing(postgres.engine.raw_connection()) as connection,
        closing(connection.cursor()) as cursor,
    ):
        cursor.execute(
            "SELECT pid FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock' ORDER BY pid"
        )
        return [pid for (pid,) in cursor.fetchall()]


def table_reads(connection: sa.Connection) -> tuple[int, int]:
    """Return how often the results were scanned, and how many rows were fetched by index."""
    connection.execute(sa.text("SELECT pg_stat_force_next_flush()"))
    connection.commit()
    row = connection.execute(
        sa.text(
            "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables"
            " WHERE relname = 'simulation_results'"
        )
    ).one()
    return row.seq_scan, row.idx_tup_fetch
