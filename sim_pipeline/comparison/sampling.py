"""The values that a comparison reads: all of them, or evenly spaced ones of a feed with many.

At most `VALUES_PER_HOUR` values are read per model, metric and hour, so the cost has a bound for
any interval and number of points. Up to that number, in windows of at least a minute, all values
are read. Beyond it:

- Time is divided into slots, and the first window stored in each slot is read. The slots do not
  depend on the time of the query, so the next comparison reads the same windows, unless one was
  replaced or stored late.
- Of a window with too many values, evenly spaced ones are read: they are in order of time.

`benchmarks/README.md` has the measured loss of accuracy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Final

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS
from sim_pipeline.windows import EPOCH

VALUES_PER_HOUR: Final = 300
"""Maximum number of values read per model, metric and hour."""
SHORTEST_SLOT: Final = timedelta(minutes=1)
"""At most one window per minute is read, however few values it has."""

_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)

# Each slot must be one index lookup, whatever the statistics of a growing table say: a plan that
# sorts reads more rows than needed. JIT is off because many small steps are not worth compiling.
_PLAN = (sa.text("SET LOCAL enable_sort = off"), sa.text("SET LOCAL jit = off"))

# The concatenation `|| '{}'` fetches a value stored out of line (TOAST) once; each subscript would
# fetch it again. The result is JSON: it is parsed ten times as fast as arrays.
_SAMPLE = sa.text(
    """
    SELECT m.metric, CAST(json_agg(extract(epoch FROM w."timestamp")) AS text) AS starts,
        CAST(json_agg(CASE
            WHEN cardinality(w.whole) <= :most THEN w.whole
            ELSE ARRAY(
                SELECT w.whole[1 + number * cardinality(w.whole) / :most]
                FROM generate_series(0, :most - 1) AS number
            )
        END) AS text) AS "values"
    FROM unnest(CAST(:metrics AS text[])) AS m (metric)
    CROSS JOIN make_interval(secs => :seconds) AS length
    CROSS JOIN generate_series(
        CAST(:since AS timestamptz), CAST(:until AS timestamptz), length
    ) AS slot
    CROSS JOIN LATERAL (
        SELECT r."timestamp", r."values" || '{}' AS whole
        FROM simulation_results AS r
        WHERE r.llm_name = :llm_name AND r.metric = m.metric
        AND r."timestamp" >= slot AND r."timestamp" < slot + length AND r."timestamp" < :until
        ORDER BY r."timestamp" LIMIT 1
    ) AS w
    GROUP BY m.metric
    """
)


@dataclass(frozen=True)
class Sampling:
    """The selection of values to read.

    Attributes:
        slot: the first window that starts in each slot is read; slots follow each other from 1970
            on. A slot is at least as long as a window.
        values: maximum number of values read per window, evenly spaced.
        complete: whether all values of the feed are read.
    """

    slot: timedelta
    values: int
    complete: bool

    def __str__(self) -> str:
        """Return a description for the UI."""
        if self.complete:
            return f"all values of windows of {self.slot // _SECOND} seconds"
        return (
            f"the first window of every {self.slot // _SECOND} seconds,"
            f" at most {self.values} evenly spaced values of each"
        )


def sampling(interval: timedelta, points: int) -> Sampling:
    """Return the selection of values for a feed.

    Args:
        interval: length of a window.
        points: values per metric and window.
    """
    # The shortest slot that divides an hour and leaves room for whole windows.
    needed = max(SHORTEST_SLOT, _HOUR * points / VALUES_PER_HOUR)
    lengths = (timedelta(seconds=seconds) for seconds in range(1, 3600) if 3600 % seconds == 0)
    slot = max(interval, next((length for length in lengths if length >= needed), _HOUR))
    values = VALUES_PER_HOUR * slot // _HOUR
    return Sampling(slot, values, complete=interval == slot and points <= values)


@dataclass(frozen=True, eq=False)
class Series:
    """Values of a model and metric, in order of time.

    Attributes:
        starts: start of each value's window [s since 1970], shape (values,).
        values: in the metric's unit, shape (values,).
    """

    starts: NDArray[np.float64]
    values: NDArray[np.float64]


def read_series(
    connection: sa.Connection,
    llm_name: str,
    since: datetime,
    until: datetime,
    sampled: Sampling,
) -> Mapping[str, Series]:
    """Read a model's values by metric; a metric without values has an empty series.

    Args:
        connection: to the results database, in a transaction.
        llm_name: the model.
        since: earliest window start, included.
        until: latest window start, excluded.
        sampled: which values to read.
    """
    for statement in _PLAN:
        connection.execute(statement)
    rows = connection.execute(
        _SAMPLE,
        {
            "llm_name": llm_name,
            "metrics": list(METRICS),
            # From the start of the slot, so that the window chosen does not depend on `since`.
            "since": since - (since - EPOCH) % sampled.slot,
            "until": until,
            "seconds": sampled.slot.total_seconds(),
            "most": sampled.values,
        },
    )
    found = {row.metric: _series(row.starts, row.values, since) for row in rows}
    nothing = Series(np.empty(0), np.empty(0))
    return {metric: found.get(metric, nothing) for metric in METRICS}


def _series(starts: str, values: str, since: datetime) -> Series:
    windows: Sequence[Sequence[float | str]] = orjson.loads(values)
    of_window = np.array(orjson.loads(starts), dtype=np.float64)
    each = np.repeat(of_window, [len(window) for window in windows])
    # JSON has no NaN or infinity: they come as strings.
    flat = np.fromiter(map(float, chain.from_iterable(windows)), np.float64, len(each))
    order = np.argsort(each, kind="stable")
    wanted = order[each[order] >= since.timestamp()]
    return Series(each[wanted], flat[wanted])
