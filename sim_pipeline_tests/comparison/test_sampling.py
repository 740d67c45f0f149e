"""What a comparison reads: all there is of an ordinary feed, and never more than it may."""

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
from sim_pipeline_tests.store.windows import (
    HOUR,
    START,
    execute,
    labels,
    slice_of,
    store,
    table_reads,
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
    """The windows that were read."""
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
def test_every_value_is_read_as_long_as_there_are_few(
    *, interval: int, points: int, slot: int, values: int, complete: bool
) -> None:
    found = sampling(interval * SECOND, points)
    assert (found.slot, found.complete) == (slot * SECOND, complete)
    assert min(found.values, points) == min(values, points)
    assert found.values / (found.slot / HOUR) <= VALUES_PER_HOUR


def test_what_is_read_is_said() -> None:
    assert str(sampling(HOUR, 5)) == "every value of windows of 3600 seconds"
    assert str(sampling(10 * SECOND, 5)) == (
        "the first window of every 60 seconds, and of a window at most 5 values, evenly spaced"
    )


def test_all_values_come_in_the_order_of_time(postgres: Postgres) -> None:
    part = slice_of([MODEL], labels(30), seed=3)
    store(postgres, part)
    found = read(postgres, sampling(HOUR, 5), START + HOUR, START + 29 * HOUR)
    for place, metric in enumerate(METRICS):
        assert found[metric].values.tolist() == part.values[1:29, place].ravel().tolist()
        assert starts(found[metric]) == labels(28, start=START + HOUR)


def test_a_model_without_rows_has_four_empty_series(postgres: Postgres) -> None:
    found = read(postgres, sampling(HOUR, 5), START, START + HOUR)
    assert [(metric, len(series.values)) for metric, series in found.items()] == [
        (metric, 0) for metric in METRICS
    ]


def test_of_short_windows_the_first_of_each_slot_is_read_whenever_it_is_asked_for(
    postgres: Postgres,
) -> None:
    part = slice_of([MODEL], labels(720, step=10 * SECOND), seed=3)
    store(postgres, part)
    sampled = sampling(10 * SECOND, 5)
    for since in (START, START + 20 * SECOND, START + 30 * MINUTE):
        found = read(postgres, sampled, since, START + 2 * HOUR)
        wanted = [label for label in labels(120, step=MINUTE) if label >= since]
        for place, metric in enumerate(METRICS):
            assert starts(found[metric]) == wanted
            expected = part.values[::6, place][-len(wanted) :].ravel()
            assert found[metric].values.tolist() == expected.tolist()


def test_a_window_that_comes_late_takes_its_place(postgres: Postgres) -> None:
    sampled = sampling(10 * SECOND, 5)
    late, rest = START + MINUTE, [START, START + 80 * SECOND, START + 2 * MINUTE]
    store(postgres, slice_of([MODEL], rest))
    assert starts(read(postgres, sampled, START, START + HOUR)["RPS"]) == rest
    store(postgres, slice_of([MODEL], [late]))
    assert starts(read(postgres, sampled, START, START + HOUR)["RPS"]) == [START, late, rest[2]]


@pytest.mark.parametrize("points", [301, 1_000, 10_000])
def test_of_a_long_window_evenly_spaced_values_are_read(postgres: Postgres, points: int) -> None:
    part = slice_of([MODEL], labels(2), points=points)
    store(postgres, part)
    found = read(postgres, sampling(HOUR, points), START, START + 2 * HOUR)
    chosen = np.arange(VALUES_PER_HOUR) * points // VALUES_PER_HOUR
    for place, metric in enumerate(METRICS):
        assert found[metric].values.tolist() == part.values[:, place, chosen].ravel().tolist()


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize(
    ("stored", "points", "sampled", "windows"),
    [
        # A second, 5 points: one of 60 windows. The rest is not so much as looked at.
        (labels(7_200, step=SECOND), 5, sampling(SECOND, 5), 120),
        # 10,000 points: a window an hour, and 300 values of it.
        (labels(8, start=START + HOUR - 4 * SECOND, step=SECOND), 10_000,
         sampling(SECOND, 10_000), 2),
        # What another interval and number of points have left.
        (labels(7_200, step=SECOND), 5, sampling(HOUR, 5), 2),
        (labels(3), 1_000, sampling(SECOND, 5), 2),
    ],
)  # fmt: skip
def test_no_more_is_read_than_there_are_slots(
    postgres: Postgres,
    *,
    stored: list[datetime],
    points: int,
    sampled: Sampling,
    windows: int,
    analyzed: bool,
) -> None:
    """By the index, however long the history is: a scan of the table would read all of it."""
    store(postgres, slice_of([MODEL], stored, points=points))
    store(postgres, slice_of([MODEL], labels(500, start=START - 500 * HOUR)))
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
