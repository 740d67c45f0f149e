"""Writes a batch of windows: rows, request counts, ledger entries and events in one transaction."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import orjson
from psycopg2.extras import execute_values

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.events import EVENTS_LOCK
from sim_pipeline.store.schema import COUNTS

if TYPE_CHECKING:
    from types import TracebackType

    from sim_pipeline.store.batches import WindowBatch
    from sim_pipeline.store.connection import Postgres

_METRICS = ", ".join(f"'{metric}'" for metric in METRICS)
_COUNTS = ", ".join(COUNTS)

# Sets up a writer's session. Plans must not depend on statistics, which lag behind while a table is
# filled. With these settings every lookup uses an index, one row at a time, and its cost does not
# depend on the size of the table.
_SESSION = (
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    # Up to PostgreSQL 17, disabled plan types cost so much that every plan would be compiled.
    "SET jit = off",
    # Memory for the hash table of stage_entered, which a condition of MERGE reads.
    "SET work_mem = '64MB'",
    # If a writer's machine disappears, the server must not keep its locks until TCP notices, hours
    # later.
    "SET idle_in_transaction_session_timeout = '60s'",
    """
    CREATE TEMPORARY TABLE stage_results (
        llm_name text, metric text, "values" double precision[], "timestamp" timestamptz
    ) ON COMMIT DELETE ROWS
    """,
    f"""
    CREATE TEMPORARY TABLE stage_windows (
        llm_name text, "timestamp" timestamptz, message_id text, {" bigint, ".join(COUNTS)} bigint
    ) ON COMMIT DELETE ROWS
    """,
    """
    CREATE TEMPORARY TABLE stage_entered (
        llm_name text, "timestamp" timestamptz
    ) ON COMMIT DELETE ROWS
    """,
)

# The ledger is written first and in key order. Its row locks, which unchanged entries get too, are
# the only place where writers of the same windows wait for each other. The rows are written by a
# separate statement: only a new statement sees what the previous writer committed.
_WRITE_LEDGER = """
WITH entered AS (
    INSERT INTO deliveries AS d (llm_name, "timestamp", message_id)
    SELECT llm_name, "timestamp", message_id::uuid FROM stage_windows
    ORDER BY llm_name, "timestamp"
    ON CONFLICT (llm_name, "timestamp") DO UPDATE
    SET message_id = excluded.message_id, created_at = excluded.created_at, published_at = NULL
    WHERE d.message_id <> excluded.message_id
    RETURNING llm_name, "timestamp"
)
INSERT INTO stage_entered SELECT llm_name, "timestamp" FROM entered
"""

_ANY_PRESENT = f"""
WITH s AS (
    SELECT llm_name, min("timestamp") AS earliest, max("timestamp") AS latest
    FROM stage_windows GROUP BY llm_name
)
SELECT EXISTS (
    SELECT FROM s JOIN simulation_results AS r
    ON r.llm_name = s.llm_name AND r.metric IN ({_METRICS})
    AND r."timestamp" BETWEEN s.earliest AND s.latest
) OR EXISTS (
    SELECT FROM s JOIN request_counts AS c
    ON c.llm_name = s.llm_name AND c."timestamp" BETWEEN s.earliest AND s.latest
)
"""

# Not INSERT ... ON CONFLICT, which consumes a sequence value (there are 2**31) even for conflicting
# rows.
_MERGE = """
MERGE INTO simulation_results AS r USING stage_results AS s
ON r.llm_name = s.llm_name AND r.metric = s.metric AND r."timestamp" = s."timestamp"
WHEN NOT MATCHED THEN
    INSERT (llm_name, metric, "values", "timestamp")
    VALUES (s.llm_name, s.metric, s."values", s."timestamp")
"""
_MERGE_NEEDED = f"""{_MERGE}
WHEN MATCHED AND (s.llm_name, s."timestamp") IN (SELECT llm_name, "timestamp" FROM stage_entered)
THEN UPDATE SET "values" = s."values"
"""
_MERGE_ALL = f"""{_MERGE}
WHEN MATCHED THEN UPDATE SET "values" = s."values"
"""

_INSERT_COUNTS = f"""
INSERT INTO request_counts AS c (llm_name, "timestamp", {_COUNTS})
SELECT llm_name, "timestamp", {_COUNTS} FROM stage_windows
"""
_UPSERT_COUNTS_ALL = f"""{_INSERT_COUNTS}
ON CONFLICT (llm_name, "timestamp") DO UPDATE
SET ({_COUNTS}) = ROW (excluded.{", excluded.".join(COUNTS)})
"""
_UPSERT_COUNTS_NEEDED = f"""{_UPSERT_COUNTS_ALL}
WHERE (c.llm_name, c."timestamp") IN (SELECT llm_name, "timestamp" FROM stage_entered)
"""

# A span is a run of consecutive windows of a model. An event overlaps it if it ends after its start
# and starts before its end. `window_starts` ends with the event, and begins before it.
_OVERLAPPING_EVENTS = """
(
    SELECT llm_name, min("timestamp") AS since, max("timestamp") + {length} AS until
    FROM (
        SELECT llm_name, "timestamp", "timestamp" - {length} * row_number() OVER (
            PARTITION BY llm_name ORDER BY "timestamp"
        ) AS run
        FROM stage_windows
    ) AS w
    GROUP BY llm_name, run
) AS s
JOIN simulated_events AS e ON e.llm_name = s.llm_name
    AND e.window_starts && tstzrange(s.since, s.until)
    AND e.started_at < s.until
"""
_ANY_EVENTS = f"SELECT EXISTS (SELECT FROM {_OVERLAPPING_EVENTS})"

# Writers of different windows share events, and only one transaction may change the events of a
# model at a time. The locks are taken in the order of their keys, after every other lock, and held
# until the commit.
_LOCK_EVENTS = f"""
SELECT count(pg_advisory_xact_lock({EVENTS_LOCK}, key))
FROM (SELECT DISTINCT hashtext(llm_name) AS key FROM stage_windows ORDER BY key) AS k
"""

# Events that overlap a window of the batch and are not in the batch are of other inputs.
_WRITE_EVENTS = f"""
WITH written AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(CAST({{parameter}} AS text) AS json)) AS w (
        event_id uuid, llm_name text, kind text, started_at timestamptz, ended_at timestamptz,
        size double precision, metrics text[]
    )
), removed AS (
    DELETE FROM simulated_events WHERE event_id IN (
        SELECT e.event_id FROM {_OVERLAPPING_EVENTS}
        WHERE e.event_id NOT IN (SELECT event_id FROM written)
    )
)
INSERT INTO simulated_events AS e (
    event_id, llm_name, kind, started_at, ended_at, size, metrics, window_seconds
)
SELECT w.*, {{window_seconds}} FROM written AS w
ON CONFLICT (event_id) DO UPDATE SET window_seconds = excluded.window_seconds
WHERE e.window_seconds <> excluded.window_seconds
"""

_RESULTS = "simulation_results"
_STAGE = "stage_results"

# Up to this many values, INSERTs are as fast as COPY, and save the import of its driver.
MAX_INSERT_VALUES = 5_000
_PAGE = 1_000
# One MB. While the server reads a chunk of a COPY, the driver encodes the next one.
_CHUNK_VALUES = 100_000


class _Session(ABC):
    """A connection that holds the stage tables, with an open transaction.

    Attributes:
        parameter: the placeholder of the only parameter of a statement.
    """

    parameter: ClassVar[str]

    def __init__(self, connection: Any) -> None:
        """Set up a DB-API connection, which is closed with the session."""
        self._connection = connection
        self._cursor = connection.cursor()
        try:
            for statement in _SESSION:
                self.execute(statement)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def stage_windows(self, batch: WindowBatch) -> None:
        """Insert a batch's ledger entries and request counts into their stage table."""

    @abstractmethod
    def insert_results(self, batch: WindowBatch, table: str) -> None:
        """Insert a batch's rows into a table that contains none of them."""

    def execute(self, statement: str, *parameters: str) -> None:
        self._cursor.execute(statement, parameters or None)

    def scalar(self, statement: str) -> Any:
        self._cursor.execute(statement)
        return self._cursor.fetchall()[0][0]

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        self._cursor.close()
        self._connection.close()


class _InsertSession(_Session):
    """INSERTs by psycopg2, for few rows."""

    parameter = "%s"

    def __init__(self, postgres: Postgres) -> None:
        connection = postgres.engine.raw_connection()
        # Not returned to the pool: its settings are for this writer only.
        connection.detach()
        super().__init__(connection)

    def insert_results(self, batch: WindowBatch, table: str) -> None:
        execute_values(
            self._cursor,
            f'INSERT INTO {table} (llm_name, metric, "values", "timestamp") VALUES %s',
            [
                # As text: the driver would write -0.0 as a numeric, which has no negative zero.
                (name, metric, f"{{{','.join(map(repr, row))}}}", window_start)
                for name, window_start, rows in zip(
                    batch.llm_names, batch.window_starts, batch.values.tolist(), strict=True
                )
                for metric, row in zip(METRICS, rows, strict=True)
            ],
            template="(%s, %s, %s::double precision[], %s)",
            page_size=_PAGE,
        )

    def stage_windows(self, batch: WindowBatch) -> None:
        execute_values(
            self._cursor,
            f'INSERT INTO stage_windows (llm_name, "timestamp", message_id, {_COUNTS}) VALUES %s',
            [
                (name, window_start, str(message_id), *counts)
                for name, window_start, message_id, counts in zip(
                    batch.llm_names,
                    batch.window_starts,
                    batch.message_ids,
                    batch.counts.tolist(),
                    strict=True,
                )
            ],
            page_size=_PAGE,
        )


class _CopySession(_Session):
    """COPY of Arrow tables by ADBC, for many rows."""

    parameter = "$1"

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres.bulk_connection())

    def insert_results(self, batch: WindowBatch, table: str) -> None:
        import pyarrow as pa  # noqa: PLC0415 - see `batches.py`

        rows = batch.results_table()
        chunks = rows.to_batches(max_chunksize=max(1, _CHUNK_VALUES // batch.values.shape[2]))
        reader = pa.RecordBatchReader.from_batches(rows.schema, chunks)
        self._cursor.adbc_ingest(table, reader, mode="append", temporary=table == _STAGE)

    def stage_windows(self, batch: WindowBatch) -> None:
        self._cursor.adbc_ingest(
            "stage_windows", batch.windows_table(), mode="append", temporary=True
        )


class BatchWriter:
    """Writes batches, each in one transaction.

    It connects at the first write: no connection is idle while the first batch is simulated.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._sessions: dict[type[_Session], _Session] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        while self._sessions:
            self._sessions.popitem()[1].close()

    def write(self, batch: WindowBatch, *, force: bool = False) -> None:
        """Store a batch and commit it; on an error, nothing of it is stored.

        A window whose ledger entry is new or has another message id is written and becomes
        pending. A window that is stored under the same message id gets only the rows and the
        request counts it lacks. Rows that are replaced keep their ids.

        The events of the batch are written. Other events of the same models that overlap a window
        of the batch are removed: they are of other inputs.

        Args:
            batch: the windows to store.
            force: replace the rows and counts that are already stored; the ledger is written as
                above.

        Raises:
            psycopg2.Error: the database refused a small batch or can't be reached.
            adbc_driver_manager.dbapi.Error: the same for a large batch.
        """
        kind = _InsertSession if batch.values.size <= MAX_INSERT_VALUES else _CopySession
        session = self._sessions.pop(kind, None) or kind(self._postgres)
        try:
            session.stage_windows(batch)
            session.execute(_WRITE_LEDGER)
            if session.scalar(_ANY_PRESENT):
                session.insert_results(batch, _STAGE)
                session.execute(_MERGE_ALL if force else _MERGE_NEEDED)
                session.execute(_UPSERT_COUNTS_ALL if force else _UPSERT_COUNTS_NEEDED)
            else:
                # The usual case. Without the stage table the server has half the work.
                session.insert_results(batch, _RESULTS)
                session.execute(_INSERT_COUNTS)
            _write_events(session, batch)
            session.commit()
        except BaseException:
            session.close()
            raise
        self._sessions[kind] = session


def _write_events(session: _Session, batch: WindowBatch) -> None:
    names = {
        "window_seconds": batch.window_seconds,
        "length": f"make_interval(secs => {batch.window_seconds})",
        "parameter": session.parameter,
    }
    if batch.events or session.scalar(_ANY_EVENTS.format(**names)):
        session.scalar(_LOCK_EVENTS)
        events = orjson.dumps(list(batch.events), option=orjson.OPT_SERIALIZE_NUMPY)
        session.execute(_WRITE_EVENTS.format(**names), events.decode())
