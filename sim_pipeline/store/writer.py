"""The write of a slice: its rows and its ledger entries in one transaction, or nothing of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

from psycopg2.extras import execute_values

from sim_pipeline.metrics import METRICS

if TYPE_CHECKING:
    from types import TracebackType

    from sim_pipeline.store.batches import Slice
    from sim_pipeline.store.connection import Postgres

_METRICS = ", ".join(f"'{metric}'" for metric in METRICS)

# The session of a writer. Its plans must not hang on statistics, which for a table that is being
# filled are always those of yesterday: every lookup goes through an index, one row at a time, and
# costs the same whether the table holds nothing or years.
_SESSION = (
    "SET enable_seqscan = off",
    "SET enable_hashjoin = off",
    "SET enable_mergejoin = off",
    # Up to PostgreSQL 17 what is off costs so much that any plan would seem worth compiling.
    "SET jit = off",
    # Room for stage_entered as a hash table: a condition of MERGE looks into it.
    "SET work_mem = '64MB'",
    # A writer whose machine is gone must not hold its locks until TCP notices, hours later.
    "SET idle_in_transaction_session_timeout = '60s'",
    """
    CREATE TEMPORARY TABLE stage_results (
        llm_name text, metric text, "values" double precision[], "timestamp" timestamptz
    ) ON COMMIT DELETE ROWS
    """,
    """
    CREATE TEMPORARY TABLE stage_deliveries (
        llm_name text, "timestamp" timestamptz, message_id text
    ) ON COMMIT DELETE ROWS
    """,
    """
    CREATE TEMPORARY TABLE stage_entered (
        llm_name text, "timestamp" timestamptz
    ) ON COMMIT DELETE ROWS
    """,
)

# The ledger comes first, in key order: its row locks, which an entry that is left as it is gets
# too, are what two writers of the same windows meet at. They queue up there and nowhere else.
# Rows come in a statement of their own, since only a new statement sees what the writer before
# has committed meanwhile.
_ENTER = """
WITH entered AS (
    INSERT INTO deliveries AS d (llm_name, "timestamp", message_id)
    SELECT llm_name, "timestamp", message_id::uuid FROM stage_deliveries
    ORDER BY llm_name, "timestamp"
    ON CONFLICT (llm_name, "timestamp") DO UPDATE
    SET message_id = excluded.message_id, created_at = excluded.created_at, published_at = NULL
    WHERE d.message_id <> excluded.message_id
    RETURNING llm_name, "timestamp"
)
INSERT INTO stage_entered SELECT llm_name, "timestamp" FROM entered
"""

_ANY_PRESENT = f"""
SELECT EXISTS (
    SELECT FROM (
        SELECT llm_name, min("timestamp") AS earliest, max("timestamp") AS latest
        FROM stage_deliveries GROUP BY llm_name
    ) AS s
    JOIN simulation_results AS r
    ON r.llm_name = s.llm_name AND r.metric IN ({_METRICS})
    AND r."timestamp" BETWEEN s.earliest AND s.latest
)
"""

# Not INSERT ... ON CONFLICT: that draws an id, of which there are 2**31, for every row it meets.
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

_RESULTS = "simulation_results"
_STAGE = "stage_results"

# Up to so many values, plain statements are as fast as a bulk load and spare its imports.
FEW_VALUES = 5_000
_PAGE = 1_000
# Of a bulk load, a MB: while the server takes in one batch, the driver encodes the next.
_BATCH_VALUES = 100_000


class _Session(ABC):
    """A connection with the stages in it, whose transaction is open."""

    def __init__(self, connection: Any) -> None:
        """Take over a connection of Python's database API and set it up."""
        self._connection = connection
        self._cursor = connection.cursor()
        try:
            for statement in _SESSION:
                self.execute(statement)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def stage_deliveries(self, part: Slice) -> None:
        """Put a slice's ledger entries into their stage."""

    @abstractmethod
    def put_results(self, part: Slice, table: str) -> None:
        """Put a slice's rows into a table that holds none of them."""

    def execute(self, statement: str) -> None:
        self._cursor.execute(statement)

    def scalar(self, statement: str) -> Any:
        self._cursor.execute(statement)
        return self._cursor.fetchall()[0][0]

    def commit(self) -> None:
        self._connection.commit()

    def close(self) -> None:
        self._cursor.close()
        self._connection.close()


class _Plain(_Session):
    """By psycopg2: for few rows."""

    def __init__(self, postgres: Postgres) -> None:
        connection = postgres.engine.raw_connection()
        # Not back into the pool: the session is set up for this writer alone.
        connection.detach()
        super().__init__(connection)

    def put_results(self, part: Slice, table: str) -> None:
        execute_values(
            self._cursor,
            f'INSERT INTO {table} (llm_name, metric, "values", "timestamp") VALUES %s',
            [
                # As text: the driver would write -0.0 as a number, which has no such zero.
                (name, metric, f"{{{','.join(map(repr, row))}}}", label)
                for name, label, rows in zip(
                    part.llm_names, part.timestamps, part.values.tolist(), strict=True
                )
                for metric, row in zip(METRICS, rows, strict=True)
            ],
            template="(%s, %s, %s::double precision[], %s)",
            page_size=_PAGE,
        )

    def stage_deliveries(self, part: Slice) -> None:
        execute_values(
            self._cursor,
            'INSERT INTO stage_deliveries (llm_name, "timestamp", message_id) VALUES %s',
            [
                (name, label, str(message_id))
                for name, label, message_id in zip(
                    part.llm_names, part.timestamps, part.message_ids, strict=True
                )
            ],
            page_size=_PAGE,
        )


class _Bulk(_Session):
    """By ADBC, whose COPY takes Arrow's tables as they are: for many rows."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres.bulk_connection())

    def put_results(self, part: Slice, table: str) -> None:
        import pyarrow as pa  # noqa: PLC0415 - as in `Slice`

        rows = part.results_table()
        batches = rows.to_batches(max_chunksize=max(1, _BATCH_VALUES // part.values.shape[2]))
        reader = pa.RecordBatchReader.from_batches(rows.schema, batches)
        self._cursor.adbc_ingest(table, reader, mode="append", temporary=table == _STAGE)

    def stage_deliveries(self, part: Slice) -> None:
        self._cursor.adbc_ingest(
            "stage_deliveries", part.deliveries_table(), mode="append", temporary=True
        )


class SliceWriter:
    """Writes slices, each in a transaction of its own.

    A connection is opened at the first write: what is simulated before may take its time.
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

    def write(self, part: Slice, *, force: bool = False) -> None:
        """Store a slice: all of it, committed, or, on an error, nothing of it.

        A window whose ledger entry is new or has another message_id is written and becomes
        pending; one that is there under the same message_id gets only the rows it lacks. Rows
        that are replaced keep their ids.

        Args:
            part: what to store.
            force: write every row, whatever stands there; the ledger is kept as above.

        Raises:
            psycopg2.Error: the database refused a small slice or can't be reached.
            adbc_driver_manager.dbapi.Error: the same for a large one.
        """
        kind = _Plain if part.values.size <= FEW_VALUES else _Bulk
        session = self._sessions.pop(kind, None) or kind(self._postgres)
        try:
            session.stage_deliveries(part)
            session.execute(_ENTER)
            if session.scalar(_ANY_PRESENT):
                session.put_results(part, _STAGE)
                session.execute(_MERGE_ALL if force else _MERGE_NEEDED)
            else:
                # Nearly always. It spares the server half of its work.
                session.put_results(part, _RESULTS)
            session.commit()
        except BaseException:
            session.close()
            raise
        self._sessions[kind] = session
