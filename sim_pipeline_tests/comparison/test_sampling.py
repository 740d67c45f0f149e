"""Sampling: all values of an ordinary feed are read, and never more than the maximum."""

from datetime import datetime, timedelta

import numpy as np
import pytest

from sim_pipeline.comparison.sampling import (
    VALUES_PER_HOUR,
    Sampling,
    Series,
    read_series,
    sampling,
)
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    execute,
    store,
    table_reads,
    window_starts,
)

MODEL = "日本's 100% {x}"
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def read(
    postgres: Postgres, sampled: Sampling, since: datetime, until: datetime
) -> dict[str, Series]:
    with postgres.engine.begin() as connection:
        return dict(read_series(connection, MODEL, since, until, sampled))


def starts(series: Series) -> list[datetime]:
    """Return the starts of the windows read."""
    return [
        datetime.fromtimestamp(start, START.tzinfo) for start in np.unique(series.starts).tolist()
    ]


@pytest.mark.parametrize(
    ("interval", "points", "slot", "values", "complete"),
    [
        (3600, 5, 3600, 300, True),
        (3600, 300, 3600, 300, True),
        (3600, 301, 3600, 300, False),
        (3600, 10_000, 3600, 300, False),
        (300, 25, 300, 25, True),
        (60, 5, 60, 5, True),
        (60, 6, 72, 6, False),
        (59, 5, 60, 5, False),
        (10, 5, 60, 5, False),
        (1, 1, 60, 5, False),
        (1, 10_000, 3600, 300, False),
        (604_800, 10_000, 604_800, 50_400, True),
    ],
)
def test_sampling_is_complete_up_to_the_maximum(
    *, interval: int, points: int, slot: int, values: int, complete: bool
) -> None:
    found = sampling(interval * SECOND, points)
    assert (found.slot, found.complete) == (slot * SECOND, complete)
    assert min(found.values, points) == min(values, points)
    assert found.values / (found.slot / HOUR) <= VALUES_PER_HOUR


def test_sampling_has_a_description() -> None:
    assert str(sampling(HOUR, 5)) == "all values of windows of 3600 seconds"
    assert str(sampling(10 * SECOND, 5)) == (
        "the first window of every 60 seconds, at most 5 evenly spaced values of each"
    )


def test_values_are_in_order_of_time(postgres: Postgres) -> None:
    batch = batch_of([MODEL], window_starts(30), seed=3)
    store(postgres, batch)
    found = read(postgres, sampling(HOUR, 5), START + HOUR, START + 29 * HOUR)
    for place, metric in enumerate(METRICS):
        assert found[metric].values.tolist() == batch.values[1:29, place].ravel().tolist()
        assert starts(found[metric]) == window_starts(28, start=START + HOUR)


def test_model_without_rows_has_empty_series(postgres: Postgres) -> None:
    found = read(postgres, sampling(HOUR, 5), START, START + HOUR)
    assert [(metric, len(series.values)) for metric, series in found.items()] == [
        (metric, 0) for metric in METRICS
    ]


def test_first_window_of_each_slot_is_read(
    postgres: Postgres,
) -> None:
    batch = batch_of([MODEL], window_starts(720, step=10 * SECOND), seed=3)
    store(postgres, batch)
    sampled = sampling(10 * SECOND, 5)
    for since in (START, START + 20 * SECOND, START + 30 * MINUTE):
        found = read(postgres, sampled, since, START + 2 * HOUR)
        wanted = [start for start in window_starts(120, step=MINUTE) if start >= since]
        for place, metric in enumerate(METRICS):
            assert starts(found[metric]) == wanted
            expected = batch.values[::6, place][-len(wanted) :].ravel()
            assert found[metric].values.tolist() == expected.tolist()


def test_late_window_replaces_its_slots_window(postgres: Postgres) -> None:
    sampled = sampling(10 * SECOND, 5)
    late, rest = START + MINUTE, [START, START + 80 * SECOND, START + 2 * MINUTE]
    store(postgres, batch_of([MODEL], rest))
    assert starts(read(postgres, sampled, START, START + HOUR)["RPS"]) == rest
    store(postgres, batch_of([MODEL], [late]))
    assert starts(read(postgres, sampled, START, START + HOUR)["RPS"]) == [START, late, rest[2]]


@pytest.mark.parametrize("points", [301, 1_000, 10_000])
def test_values_of_a_long_window_are_evenly_spaced(postgres: Postgres, points: int) -> None:
    batch = batch_of([MODEL], window_starts(2), points=points)
    store(postgres, batch)
    found = read(postgres, sampling(HOUR, points), START, START + 2 * HOUR)
    chosen = np.arange(VALUES_PER_HOUR) * points // VALUES_PER_HOUR
    for place, metric in enumerate(METRICS):
        assert found[metric].values.tolist() == batch.values[:, place, chosen].ravel().tolist()


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize(
    ("stored", "points", "sampled", "windows"),
    [
        # 1 s, 5 points: one of 60 windows is read. The others are not touched.
        (window_starts(7_200, step=SECOND), 5, sampling(SECOND, 5), 120),
        # 10,000 points: one window per hour, and 300 of its values.
        (window_starts(8, start=START + HOUR - 4 * SECOND, step=SECOND), 10_000,
         sampling(SECOND, 10_000), 2),
        # Rows stored with another interval and number of points.
        (window_starts(7_200, step=SECOND), 5, sampling(HOUR, 5), 2),
        (window_starts(3), 1_000, sampling(SECOND, 5), 2),
    ],
)  # fmt: skip
def test_one_window_per_slot_is_read(
    postgres: Postgres,
    *,
    stored: list[datetime],
    points: int,
    sampled: Sampling,
    windows: int,
    analyzed: bool,
) -> None:
    """By index lookups, whatever the table's size: a scan would read all of it."""
    store(postgres, batch_of([MODEL], stored, points=points))
    store(postgres, batch_of([MODEL], window_starts(500, start=START - 500 * HOUR)))
    if analyzed:
        execute(postgres, "ANALYZE simulation_results")
    with postgres.engine.connect() as connection:
        before = table_reads(connection)
        found = read_series(connection, MODEL, START, START + 2 * HOUR, sampled)
        scans, by_index = np.subtract(table_reads(connection), before)
    assert scans == 0, "the table was scanned"
    assert by_index == len(METRICS) * windows
    for series in found.values():
        assert len(starts(series)) == windows
        assert len(series.values) <= 2 * VALUES_PER_HOUR
