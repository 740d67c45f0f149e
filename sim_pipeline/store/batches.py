"""A batch of windows, as arrays and as Arrow tables, and the stored rows as a pandas frame.

pandas and pyarrow are imported inside functions: importing them takes longer than the work of a
scheduled run, which needs neither.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import sqlalchemy as sa

from sim_pipeline.metrics import EVENT_KINDS, METRICS
from sim_pipeline.store.schema import COUNTS, simulation_results
from sim_pipeline.timestamps import format_timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray


@dataclass(frozen=True)
class SimulatedEvent:
    """An event of the simulation: the truth about why the metrics of a model moved.

    Attributes:
        event_id: made from the other attributes, so that an event never changes under its id.
        llm_name: the model.
        kind: one of `EVENT_KINDS`.
        started_at: aware, in any zone.
        ended_at: the first instant after the event, or None: what started lasts for good.
        size: a factor or a share, depending on the kind.
        metrics: those that the event moves, in the order of `METRICS`.

    Raises:
        ValueError: an attribute is not one of the allowed values.
    """

    event_id: UUID
    llm_name: str
    kind: str
    started_at: datetime
    ended_at: datetime | None
    size: float
    metrics: tuple[str, ...]

    def __post_init__(self) -> None:
        """Validate the attributes."""
        if self.kind not in EVENT_KINDS:
            raise ValueError(
                f"event of {self.llm_name}: kind is {self.kind!r}: allowed are"
                f" {', '.join(EVENT_KINDS)}"
            )
        event = f"{self.kind} of {self.llm_name}"
        if not set(self.metrics) <= set(METRICS):
            raise ValueError(
                f"{event}: metrics is {self.metrics}: allowed are {', '.join(METRICS)}"
            )
        if not 0 <= self.size < np.inf:
            raise ValueError(f"{event}: size is {self.size}: allowed are finite numbers from 0")
        for time in (self.started_at, self.ended_at):
            if time is not None and time.tzinfo is None:
                raise ValueError(f"{event}: {time} has no time zone: give it one, such as UTC")
        if self.ended_at is not None and self.ended_at <= self.started_at:
            raise ValueError(
                f"{event}: ended_at is {self.ended_at}: allowed are times after its start,"
                f" {self.started_at}"
            )


@dataclass(frozen=True, eq=False)
class WindowBatch:
    """Windows that are written in one transaction, with the events that touch them.

    The first five attributes have the same length, one item for each window of a model.

    Attributes:
        llm_names: the model of each window.
        window_starts: aware, in any zone.
        message_ids: the id of each window's message.
        values: shape (windows, 4, points), the second axis in the order of `METRICS`; seconds,
            tokens/s or requests/s, depending on the metric.
        counts: requests of each window by outcome, shape (windows, 4), the second axis in the order
            of `COUNTS`.
        window_seconds: length of the windows.
        events: all simulated events of these models that touch a window of the batch.

    Raises:
        ValueError: the attributes differ in length, the same window or event is in them twice, or
            an event is of another model.
    """

    llm_names: Sequence[str]
    window_starts: Sequence[datetime]
    message_ids: Sequence[UUID]
    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    window_seconds: int
    events: Sequence[SimulatedEvent] = ()

    def __post_init__(self) -> None:
        """Validate the attributes."""
        shape = self.values.shape
        if len(shape) != 3 or shape[1] != len(METRICS) or not shape[2]:  # noqa: PLR2004
            raise ValueError(
                f"values has shape {shape}: allowed is (windows, {len(METRICS)}, points),"
                " with at least one point"
            )
        if not shape[0] == len(self.llm_names) == len(self.window_starts) == len(self.message_ids):
            raise ValueError(
                f"the batch has {len(self.llm_names)} names, {len(self.window_starts)} window"
                f" starts, {len(self.message_ids)} message ids and values of shape {shape}:"
                " each must be for the same number of windows"
            )
        if self.counts.shape != (self.windows, len(COUNTS)):
            raise ValueError(
                f"counts has shape {self.counts.shape}: allowed is"
                f" {(self.windows, len(COUNTS))}, a row for each window with {', '.join(COUNTS)}"
            )
        naive = next((start for start in self.window_starts if start.tzinfo is None), None)
        if naive is not None:
            raise ValueError(f"window start {naive} has no time zone: give it one, such as UTC")
        seen: set[tuple[str, datetime]] = set()
        for window in zip(self.llm_names, self.window_starts, strict=True):
            if window in seen:
                raise ValueError(
                    f"{window[0]} {format_timestamp(window[1])} is in the batch more than once"
                )
            seen.add(window)
        if self.window_seconds < 1:
            raise ValueError(f"window_seconds is {self.window_seconds}: allowed are 1 and more")
        ids = Counter(event.event_id for event in self.events)
        twice = next((event for event in self.events if ids[event.event_id] > 1), None)
        if twice is not None:
            raise ValueError(
                f"the {twice.kind} of {twice.llm_name} at {format_timestamp(twice.started_at)} is"
                " in the batch more than once"
            )
        others = {event.llm_name for event in self.events}.difference(self.llm_names)
        if others:
            raise ValueError(
                f"the batch has events of {', '.join(sorted(others))} and no window of them"
            )

    @property
    def windows(self) -> int:
        """The number of windows, each of one model."""
        return len(self.llm_names)

    def results_table(self) -> pa.Table:
        """Return the rows as an Arrow table, four for each window; the values are not copied.

        Columns: llm_name, metric, values (list of double), timestamp (UTC, microseconds).
        """
        import pyarrow as pa  # noqa: PLC0415 - see the module's docstring

        rows = self.windows * len(METRICS)
        # Computed in 64 bits, so that pyarrow refuses offsets that do not fit into its 32 bits.
        offsets = pa.array(np.arange(rows + 1, dtype=np.int64) * self.values.shape[2], pa.int32())
        flat = pa.array(np.ascontiguousarray(self.values, dtype=np.float64).reshape(-1))
        of_window = pa.array(np.repeat(np.arange(self.windows), len(METRICS)))
        return pa.table(
            {
                "llm_name": pa.array(self.llm_names, pa.string()).take(of_window),
                "metric": pa.array(list(METRICS) * self.windows, pa.string()),
                "values": pa.ListArray.from_arrays(offsets, flat),
                "timestamp": self._timestamps().take(of_window),
            }
        )

    def windows_table(self) -> pa.Table:
        """Return the ledger entries and request counts as an Arrow table, one row for each window.

        Columns: llm_name, timestamp (UTC, microseconds), message_id (text), and those of `COUNTS`.
        """
        import pyarrow as pa  # noqa: PLC0415 - see the module's docstring

        return pa.table(
            {
                "llm_name": pa.array(self.llm_names, pa.string()),
                "timestamp": self._timestamps(),
                "message_id": pa.array(map(str, self.message_ids), pa.string()),
                **{
                    name: pa.array(column, pa.int64())
                    for name, column in zip(COUNTS, self.counts.T, strict=True)
                },
            }
        )

    def _timestamps(self) -> pa.Array:
        import pyarrow as pa  # noqa: PLC0415 - see the module's docstring

        return pa.array(self.window_starts, pa.timestamp("us", tz="UTC"))


def read_frame(
    engine: sa.Engine, *, llm_names: Sequence[str], first_day: str, last_day: str
) -> pd.DataFrame:
    """Return the stored rows of some models and days.

    Args:
        engine: of the results database.
        llm_names: the models.
        first_day: ISO 8601 date, UTC.
        last_day: ISO 8601 date, UTC, included.

    Returns:
        Columns llm_name, metric, values (list of float), timestamp (UTC), ordered by model, window
        and metric; metrics in the order of `METRICS`.
    """
    import pandas as pd  # noqa: PLC0415 - see the module's docstring

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
