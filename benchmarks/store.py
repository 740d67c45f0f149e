"""Benchmark: our idempotent insert, PostgreSQL's own insert, and common Python alternatives.

Each variant writes the same rows in one transaction, commit included, to an empty table with the
same columns, constraints and indexes. A checkpoint follows, so that no variant pays for another:

ours        `BatchWriter`, from a batch of arrays: rows, and also request counts and the ledger,
            which the others do not write. Its session is already open, as for all batches of a run
            but the first. It is measured again with all rows already stored.
PostgreSQL  `INSERT ... SELECT generate_series`: the server's own time, without data from a client.
            It is measured again with `ON CONFLICT DO NOTHING` and all rows already stored.
SQLAlchemy  `insert()` with a list of parameters (executemany).
pandas      `DataFrame.to_sql`.

The inputs of the last two, lists and a frame, are created before the measurement.
"""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import numpy as np
import pandas as pd
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY

from benchmarks.figures import Limit, Row
from benchmarks.servers import postgres_server, results_database
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.schema import COUNTS, deliveries, request_counts, simulation_results
from sim_pipeline.store.writer import MAX_INSERT_VALUES, BatchWriter

_HOUR = timedelta(hours=1)
_START = datetime(2025, 1, 1, tzinfo=UTC)
_BEFORE = datetime(2015, 1, 1, tzinfo=UTC)
_MODEL = "GPT-4o"
_NAMESPACE = UUID(int=0)
_FLOOR = "floor"
_TIMES = 5
# Rows, values per row, and the limit of our time relative to PostgreSQL's own insert.
_SIZES = ((50_000, 5, Limit(2.2)), (20_000, 100, Limit(2.3)))
_QUICK_SIZES = ((4_000, 5, None), (2_000, 100, None))

_EQUAL_TABLE = f"CREATE TABLE {_FLOOR} (LIKE {simulation_results.name} INCLUDING ALL)"
# The rows of a window follow each other, as in ours. Each row has a random value, so that rows
# differ; drawing it takes almost no time.
_INSERT = f"""
INSERT INTO {_FLOOR} (llm_name, metric, "values", "timestamp")
SELECT :model, m.metric, array_fill(random(), ARRAY[CAST(:points AS integer)]),
    CAST(:start AS timestamptz) + w * interval '1 hour'
FROM generate_series(0, :windows - 1) AS w
CROSS JOIN unnest(CAST(:metrics AS text[])) AS m (metric)
"""  # noqa: S608 - built from constants
_INSERT_AGAIN = f"{_INSERT} ON CONFLICT DO NOTHING"


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure all variants in turn.

    Args:
        quick: use a few thousand rows, twice, as a smoke test.
    """
    with postgres_server() as server, results_database(server) as postgres:
        _execute(postgres, _EQUAL_TABLE)
        for rows, points, limit in _QUICK_SIZES if quick else _SIZES:
            yield from _Store(postgres, rows // len(METRICS), points).measure(
                2 if quick else _TIMES, limit
            )


class _Store:
    """Stores the same windows with each variant."""

    def __init__(self, postgres: Postgres, windows: int, points: int) -> None:
        self._postgres = postgres
        self._points = points
        self._batch = _batch_of(_START, windows, points)
        self._parameters = [
            {"llm_name": _MODEL, "metric": metric, "values": values, "timestamp": timestamp}
            for timestamp, rows in zip(
                self._batch.window_starts,
                self._batch.values.tolist(),  # noqa: PD011 - not pandas
                strict=True,
            )
            for metric, values in zip(METRICS, rows, strict=True)
        ]
        self._frame = pd.DataFrame(self._parameters)
        self._floor = {
            "model": _MODEL,
            "points": points,
            "start": _START,
            "windows": windows,
            "metrics": list(METRICS),
        }

    def measure(self, times: int, limit: Limit | None) -> Iterator[Row]:
        ours: list[float] = []
        again: list[float] = []
        floor: list[float] = []
        floor_again: list[float] = []
        executemany: list[float] = []
        to_sql: list[float] = []
        for turn in range(times):
            if turn % 2:
                self._floors(floor, floor_again)
                self._ours(ours, again)
            else:
                self._ours(ours, again)
                self._floors(floor, floor_again)
            executemany.append(self._timed(_FLOOR, self._executemany))
            to_sql.append(self._timed(_FLOOR, self._to_sql))
        what = f"store {len(self._parameters):,} rows of {self._points} values"
        own = "PostgreSQL's own insert"
        yield _row(what, ours, own, floor, limit=limit)
        yield _row(f"{what}, already stored", again, own, floor, limit=limit)
        yield _row(f"{what}, already stored", again, f"{own}, already stored", floor_again)
        yield _row(what, ours, "SQLAlchemy executemany", executemany)
        yield _row(what, ours, "pandas.to_sql", to_sql)

    def _ours(self, first: list[float], again: list[float]) -> None:
        with BatchWriter(self._postgres) as writer:
            # Opens the session, in the variant for large batches.
            writer.write(_batch_of(_BEFORE, MAX_INSERT_VALUES // self._points, self._points))
            first.append(
                self._timed(
                    f"{simulation_results.name}, {request_counts.name}, {deliveries.name}",
                    lambda: writer.write(self._batch),
                    simulation_results.name,
                )
            )
            _execute(self._postgres, "CHECKPOINT")
            again.append(_seconds(lambda: writer.write(self._batch)))
            self._require_all(simulation_results.name)

    def _floors(self, first: list[float], again: list[float]) -> None:
        first.append(self._timed(_FLOOR, lambda: self._insert(_INSERT)))
        _execute(self._postgres, "CHECKPOINT")
        again.append(_seconds(lambda: self._insert(_INSERT_AGAIN)))

    def _insert(self, statement: str) -> None:
        with self._postgres.engine.begin() as connection:
            connection.execute(sa.text(statement), self._floor)

    def _executemany(self) -> None:
        # Our table's definition, with the name of the floor's table.
        table = simulation_results.to_metadata(sa.MetaData(), name=_FLOOR)
        with self._postgres.engine.begin() as connection:
            connection.execute(sa.insert(table), self._parameters)

    def _to_sql(self) -> None:
        with self._postgres.engine.begin() as connection:
            self._frame.to_sql(
                _FLOOR,
                connection,
                if_exists="append",
                index=False,
                dtype={"values": ARRAY(sa.DOUBLE_PRECISION)},
            )

    def _timed(self, tables: str, store: Callable[[], None], filled: str = _FLOOR) -> float:
        """Empty the tables, store, and check that all rows are stored; return the seconds."""
        _execute(self._postgres, f"TRUNCATE {tables}")
        _execute(self._postgres, "CHECKPOINT")
        # Makes sure that the pool has an open connection, so that opening one is not measured.
        _execute(self._postgres, "SELECT 1")
        seconds = _seconds(store)
        self._require_all(filled)
        return seconds

    def _require_all(self, table: str) -> None:
        with self._postgres.engine.connect() as connection:
            stored = connection.scalar(sa.text(f"SELECT count(*) FROM {table}"))  # noqa: S608
        if stored != len(self._parameters):
            raise RuntimeError(f"{table} holds {stored} rows, not {len(self._parameters)}")


def _row(
    what: str,
    ours: list[float],
    baseline: str,
    baseline_values: list[float],
    *,
    limit: Limit | None = None,
) -> Row:
    return Row(what, "s", tuple(ours), baseline, tuple(baseline_values), limit)


def _batch_of(start: datetime, windows: int, points: int) -> WindowBatch:
    window_starts = [start + window * _HOUR for window in range(windows)]
    rng = np.random.default_rng(0)
    return WindowBatch(
        [_MODEL] * windows,
        window_starts,
        [uuid5(_NAMESPACE, window_start.isoformat()) for window_start in window_starts],
        rng.lognormal(size=(windows, len(METRICS), points)),
        rng.integers(0, 20_000, size=(windows, len(COUNTS))),
        _HOUR // timedelta(seconds=1),
    )


def _execute(postgres: Postgres, statement: str) -> None:
    with postgres.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(statement))


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
