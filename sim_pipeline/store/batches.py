"""A slice: some windows of some models, as arrays, as Arrow tables and as pandas frames.

pandas and pyarrow take longer to import than a scheduled run takes to do its work, and such a run
needs neither: they are imported where a frame or a table is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.schema import simulation_results

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Slice:
    """Some windows' rows, and the ledger entries that go with them.

    Attributes:
        llm_names: a name a window.
        timestamps: a label a window; aware.
        message_ids: an id a window.
        values: shape (windows, 4, points), the second axis in the order of `METRICS`; seconds,
            tokens/s or requests/s by metric.

    Raises:
        ValueError: the attributes do not speak of the same windows, or name one twice.
    """

    llm_names: Sequence[str]
    timestamps: Sequence[datetime]
    message_ids: Sequence[UUID]
    values: NDArray[np.float64]

    def __post_init__(self) -> None:
        """Refuse what would be stored wrongly or not at all."""
        shape = self.values.shape
        if len(shape) != 3 or shape[1] != len(METRICS) or not shape[2]:  # noqa: PLR2004
            raise ValueError(
                f"values has shape {shape}: allowed is (windows, {len(METRICS)}, points),"
                " at least one point"
            )
        if not shape[0] == len(self.llm_names) == len(self.timestamps) == len(self.message_ids):
            raise ValueError(
                f"a slice of {len(self.llm_names)} names, {len(self.timestamps)} timestamps,"
                f" {len(self.message_ids)} message ids and values of shape {shape}:"
                " allowed is the same number of windows in each"
            )
        naive = next((label for label in self.timestamps if label.tzinfo is None), None)
        if naive is not None:
            raise ValueError(f"timestamp {naive} has no zone: allowed are aware ones")
        seen: set[tuple[str, datetime]] = set()
        for window in zip(self.llm_names, self.timestamps, strict=True):
            if window in seen:
                raise ValueError(
                    f"{window[0]} {window[1].isoformat()} is in the slice more than once"
                )
            seen.add(window)

    @property
    def windows(self) -> int:
        """How many windows of a model the slice holds."""
        return len(self.llm_names)

    @property
    def results(self) -> pd.DataFrame:
        """The rows: columns llm_name, metric, values, timestamp; four a window."""
        return _frame(self.results_table())

    @property
    def deliveries(self) -> pd.DataFrame:
        """The ledger entries: columns llm_name, timestamp, message_id; one a window."""
        return _frame(self.deliveries_table())

    def results_table(self) -> pa.Table:
        """Return the rows as an Arrow table; the values are not copied."""
        import pyarrow as pa  # noqa: PLC0415 - see the top

        rows = self.windows * len(METRICS)
        # Made as 64 bits, so that more values than a list of Arrow's can hold are refused.
        offsets = pa.array(np.arange(rows + 1, dtype=np.int64) * self.values.shape[2], pa.int32())
        flat = pa.array(np.ascontiguousarray(self.values, dtype=np.float64).reshape(-1))
        of_window = np.repeat(np.arange(self.windows), len(METRICS))
        return pa.table(
            {
                "llm_name": pa.array(self.llm_names, pa.string()).take(pa.array(of_window)),
                "metric": pa.array(list(METRICS) * self.windows, pa.string()),
                "values": pa.ListArray.from_arrays(offsets, flat),
                "timestamp": _labels(self.timestamps).take(pa.array(of_window)),
            }
        )

    def deliveries_table(self) -> pa.Table:
        """Return the ledger entries as an Arrow table, ids as text."""
        import pyarrow as pa  # noqa: PLC0415 - see the top

        return pa.table(
            {
                "llm_name": pa.array(self.llm_names, pa.string()),
                "timestamp": _labels(self.timestamps),
                "message_id": pa.array([str(one) for one in self.message_ids], pa.string()),
            }
        )


def _labels(timestamps: Sequence[datetime]) -> pa.Array:
    import pyarrow as pa  # noqa: PLC0415 - see the top

    return pa.array(timestamps, pa.timestamp("us", tz="UTC"))


def _frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - see the top
    import pyarrow as pa  # noqa: PLC0415

    # Lists stay as they are in Arrow; without that, each would become an array object.
    frame: pd.DataFrame = table.to_pandas(
        types_mapper=lambda kind: pd.ArrowDtype(kind) if pa.types.is_list(kind) else None
    )
    return frame


def read_frame(
    engine: sa.Engine, *, llm_names: Sequence[str], first_day: str, last_day: str
) -> pd.DataFrame:
    """Return the stored rows of some models and days, a window's in the order of `METRICS`.

    Columns llm_name, metric, values (list of float), timestamp (UTC).

    Args:
        engine: of the results database.
        llm_names: the models.
        first_day: ISO 8601 date, UTC.
        last_day: ISO 8601 date, UTC, included.
    """
    import pandas as pd  # noqa: PLC0415 - see the top

    rows = simulation_results.c
    query = (
        sa.select(rows.llm_name, rows.metric, rows["values"], rows.timestamp)
        .where(
            rows.llm_name.in_(llm_names),
            rows.metric.in_(METRICS),
            rows.timestamp >= datetime.fromisoformat(f"{first_day}T00:00:00Z"),
            rows.timestamp < datetime.fromisoformat(f"{last_day}T00:00:00Z") + timedelta(days=1),
        )
        .order_by(rows.llm_name, rows.timestamp, sa.func.array_position(list(METRICS), rows.metric))
    )
    with engine.connect() as connection:
        frame = pd.read_sql(query, connection)
    frame["timestamp"] = pd.to_datetime(frame["timestamp"], utc=True)
    return frame
