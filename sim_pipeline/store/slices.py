"""A slice: the frames of some windows, and their bulk write.

A slice goes into the database in one transaction: its rows and its ledger entries, or nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from adbc_driver_postgresql import dbapi as adbc
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.postgres import Postgres
from sim_pipeline.store.tables import simulation_results

_STAGES = (
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
)

# The ledger comes first and in key order: its row locks are the only ones that two writers of the
# same windows meet at, so they queue up, and the second finds the entry as the first left it.
_ENTER = """
WITH entered AS (
    INSERT INTO deliveries AS d (llm_name, "timestamp", message_id)
    SELECT llm_name, "timestamp", message_id::uuid FROM stage_deliveries
    ORDER BY llm_name, "timestamp"
    ON CONFLICT (llm_name, "timestamp") DO UPDATE
    SET message_id = excluded.message_id, created_at = now(), published_at = NULL
    WHERE d.message_id <> excluded.message_id
    RETURNING llm_name, "timestamp"
)
INSERT INTO simulation_results (llm_name, metric, "values", "timestamp")
SELECT llm_name, metric, "values", "timestamp" FROM stage_results AS s
"""
# A row that is neither of a window just entered nor missing is left alone: an upsert that changes
# nothing would still take a value of the id's 32-bit sequence.
_WHERE_NEEDED = """
WHERE (llm_name, "timestamp") IN (SELECT llm_name, "timestamp" FROM entered) OR NOT EXISTS (
    SELECT FROM simulation_results AS r
    WHERE r.llm_name = s.llm_name AND r.metric = s.metric AND r."timestamp" = s."timestamp"
)
"""
_WHATEVER_STANDS = """
ON CONFLICT (llm_name, metric, "timestamp") DO UPDATE SET "values" = excluded."values"
"""
_WRITE_NEEDED = _ENTER + _WHERE_NEEDED + _WHATEVER_STANDS
# Without a WHERE, PostgreSQL would take ON CONFLICT for the condition of a join.
_WRITE_ALL = _ENTER + " WHERE true " + _WHATEVER_STANDS


@dataclass(frozen=True)
class Slice:
    """Some windows' rows, and the ledger entries that go with them.

    Attributes:
        results: columns llm_name, metric, values (list of float, seconds, tokens/s or requests/s
            by metric), timestamp (UTC); four rows a window, in the order of `METRICS`.
        deliveries: columns llm_name, timestamp, message_id; one row a window.
    """

    results: pd.DataFrame
    deliveries: pd.DataFrame

    @property
    def windows(self) -> int:
        """How many windows of a model the slice holds."""
        return len(self.deliveries)


def make_slice(
    llm_names: Sequence[str],
    timestamps: Sequence[datetime] | NDArray[np.datetime64],
    message_ids: Sequence[UUID],
    values: NDArray[np.float64],
) -> Slice:
    """Lay out simulated values as the frames of a slice.

    Args:
        llm_names: a name a window.
        timestamps: a label a window, UTC.
        message_ids: an id a window.
        values: shape (windows, 4, points), the second axis in the order of `METRICS`.

    Raises:
        ValueError: the arguments do not speak of the same windows.
    """
    windows = len(llm_names)
    if not windows == len(timestamps) == len(message_ids) == values.shape[0]:
        raise ValueError(
            f"a slice of {windows} names, {len(timestamps)} timestamps,"
            f" {len(message_ids)} message ids and values of shape {values.shape}:"
            " allowed is the same number of windows in each"
        )
    if values.ndim != 3 or values.shape[1] != len(METRICS):  # noqa: PLR2004 - windows, metrics, points
        raise ValueError(
            f"values has shape {values.shape}: allowed is (windows, {len(METRICS)}, points)"
        )
    points = values.shape[2]
    rows = windows * len(METRICS)
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * points)
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    names = pd.Series(llm_names, dtype="str")
    labels = pd.Series(pd.to_datetime(timestamps, utc=True).as_unit("us"))
    results = pd.DataFrame(
        {
            "llm_name": names.repeat(len(METRICS)).reset_index(drop=True),
            "metric": pd.Series(list(METRICS) * windows, dtype="str"),
            "values": pd.Series(
                pd.arrays.ArrowExtensionArray(pa.ListArray.from_arrays(offsets, flat))
            ),
            "timestamp": labels.repeat(len(METRICS)).reset_index(drop=True),
        }
    )
    deliveries = pd.DataFrame(
        {
            "llm_name": names,
            "timestamp": labels,
            "message_id": pd.Series([str(message_id) for message_id in message_ids], dtype="str"),
        }
    )
    return Slice(results, deliveries)


class SliceWriter:
    """Writes slices over one connection, each in a transaction of its own.

    The connection is opened at the first write: what is simulated before may take its time.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._connection: adbc.Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._connection is not None:
            self._connection.close()

    def write(self, part: Slice, *, force: bool = False) -> None:
        """Store a slice: all of it, committed, or, on an error, nothing of it.

        A window whose ledger entry is new or has another message_id is written and becomes
        pending; one that is there under the same message_id gets only the rows it lacks.

        Args:
            part: what to store.
            force: write every row, whatever stands there; the ledger is kept as above.

        Raises:
            adbc_driver_manager.dbapi.Error: the database refused it or can't be reached.
        """
        connection = self._connection or self._postgres.bulk_connection()
        try:
            with connection.cursor() as cursor:
                if self._connection is None:
                    for stage in _STAGES:
                        cursor.execute(stage)
                self._ingest(cursor, "stage_results", part.results)
                self._ingest(cursor, "stage_deliveries", part.deliveries)
                cursor.execute(_WRITE_ALL if force else _WRITE_NEEDED)
            connection.commit()
            self._connection = connection
        except BaseException:
            self._connection = None
            connection.close()
            raise

    @staticmethod
    def _ingest(cursor: adbc.Cursor, table: str, frame: pd.DataFrame) -> None:
        cursor.adbc_ingest(
            table,
            pa.Table.from_pandas(frame, preserve_index=False),
            mode="append",
            temporary=True,
        )


def read_frame(
    engine: sa.Engine, *, llm_names: Sequence[str], first_day: str, last_day: str
) -> pd.DataFrame:
    """Return the stored rows of some models and days: llm_name, metric, values, timestamp.

    Args:
        engine: of the results database.
        llm_names: the models.
        first_day: ISO 8601 date, UTC.
        last_day: ISO 8601 date, UTC, included.
    """
    rows = sa.select(
        simulation_results.c.llm_name,
        simulation_results.c.metric,
        simulation_results.c["values"],
        simulation_results.c.timestamp,
    ).where(
        simulation_results.c.llm_name.in_(llm_names),
        simulation_results.c.timestamp >= datetime.fromisoformat(f"{first_day}T00:00:00Z"),
        simulation_results.c.timestamp
        < datetime.fromisoformat(f"{last_day}T00:00:00Z") + timedelta(days=1),
    )
    order = rows.order_by(
        simulation_results.c.llm_name, simulation_results.c.timestamp, simulation_results.c.id
    )
    with engine.connect() as connection:
        return pd.read_sql(order, connection)
