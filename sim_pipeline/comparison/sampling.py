"""What a comparison reads: every value, or, of a feed with many, evenly spaced ones.

At most `VALUES_PER_HOUR` of a model and metric are read for each hour of history, so that reading
costs the same at an interval of a second as at a minute, and of 10,000 points little more than of
300. Up to there it is every value, of windows of a minute or longer: of 5 points a window from
intervals of a minute on, of hourly windows up to 300 points. Beyond it

- time is cut into slots, the longer the more points a window has, and the first window stored in
  each slot is read. Which one that is does not depend on when it is asked for: the next
  comparison reads the same ones, and, where one was replaced or came late, what stands there then.
- of a window that has too many values, as many as there is room for are read, evenly spaced: they
  are in the order of time, and a window is meant as a whole.

What that costs in accuracy was measured with the nine built-in models at an interval of 10 s, where
a sixth of the values is read: see `benchmarks/README.md`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final

import numpy as np
import orjson
import sqlalchemy as sa
from numpy.typing import NDArray

from sim_pipeline.metrics import METRICS

VALUES_PER_HOUR: Final = 300
"""The most that is read of a model and metric for an hour of history."""
SHORTEST_SLOT: Final = timedelta(minutes=1)
"""At the most a window of each minute is read, however few values it has."""

_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Each slot must be one look into the index, whatever the statistics say of a table that is being
# filled: a plan that sorts would read more than it needs. And what is estimated to cost much is not
# worth compiling when it is many small steps.
_PLAN = (sa.text("SET LOCAL enable_sort = off"), sa.text("SET LOCAL jit = off"))

# What is stored out of line is fetched once, by the concatenation, since each subscript would fetch
# all of it. As JSON, which is read ten times as fast as arrays are.
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
    """Which values of a feed are read.

    Attributes:
        slot: the first window that starts in each slot is read; slots tile the time line from 1970.
            A window of this interval is never longer.
        values: at most so many values of a window are read, evenly spaced.
        complete: whether that is every value of the feed.
    """

    slot: timedelta
    values: int
    complete: bool

    def __str__(self) -> str:
        """What is compared, for people."""
        if self.complete:
            return f"every value of windows of {self.slot // _SECOND} seconds"
        return (
            f"the first window of every {self.slot // _SECOND} seconds, and of a window at most"
            f" {self.values} values, evenly spaced"
        )


def sampling(interval: timedelta, points: int) -> Sampling:
    """Return what is read of a feed.

    Args:
        interval: length of a window.
        points: values per metric and window.
    """
    # Whole windows as long as they fit, and slots that an hour is a multiple of.
    needed = max(SHORTEST_SLOT, _HOUR * points / VALUES_PER_HOUR)
    lengths = (timedelta(seconds=seconds) for seconds in range(1, 3600) if 3600 % seconds == 0)
    slot = max(interval, next((length for length in lengths if length >= needed), _HOUR))
    values = VALUES_PER_HOUR * slot // _HOUR
    return Sampling(slot, values, complete=interval == slot and points <= values)


@dataclass(frozen=True, eq=False)
class Series:
    """Values of a model and metric, in the order of time.

    Attributes:
        starts: when each value's window starts [s since 1970], shape (values,).
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
    """Return what is read of a model, by metric; a metric without values has an empty series.

    Args:
        connection: to the results database, in a transaction.
        llm_name: the model.
        since: the first label that is wanted.
        until: the first label that is no longer.
        sampled: which values.
    """
    for statement in _PLAN:
        connection.execute(statement)
    rows = connection.execute(
        _SAMPLE,
        {
            "llm_name": llm_name,
            "metrics": list(METRICS),
            # From the start of its slot on, so that the window it gives does not hang on `since`.
            "since": since - (since - _EPOCH) % sampled.slot,
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
    # NaN and the infinities, which JSON lacks, come as text.
    flat = np.fromiter(map(float, chain.from_iterable(windows)), np.float64, len(each))
    order = np.argsort(each, kind="stable")
    wanted = order[each[order] >= since.timestamp()]
    return Series(each[wanted], flat[wanted])
