"""The ranking: percentiles and trends like NumPy's, ranks by interval, stored once per end."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import numpy as np
import pytest

from sim_pipeline.comparison.intervals import dependence, intervals
from sim_pipeline.comparison.ranking import (
    Comparison,
    History,
    last_compared,
    rank_models,
    save_ranking,
)
from sim_pipeline.comparison.sampling import VALUES_PER_HOUR, Series, sampling
from sim_pipeline.metrics import METRICS
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    execute,
    fetch,
    sessions_waiting,
    store,
    table_reads,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B", "日本's 100% {x}")
DAY = 24 * HOUR
FIRST = START - 9 * DAY
LATEST = START - HOUR


@pytest.fixture
def filled(postgres: Postgres) -> Postgres:
    """Nine days of hourly windows of three models, up to START."""
    store(postgres, batch_of(MODELS, window_starts(9 * 24, start=FIRST), seed=3))
    return postgres


def compared(
    postgres: Postgres, *models: str, latest: datetime = LATEST, interval: timedelta = HOUR
) -> list[Comparison]:
    with postgres.engine.begin() as connection:
        ranking, _ = rank_models(
            connection, models or MODELS, latest, interval, sampling(interval, points=5)
        )
        return ranking


def history(postgres: Postgres, latest: datetime, interval: timedelta) -> History:
    with postgres.engine.begin() as connection:
        return rank_models(connection, MODELS, latest, interval, sampling(interval, points=5))[1]


def kept(postgres: Postgres, at: datetime) -> set[Comparison]:
    rows = fetch(
        postgres,
        "SELECT hours, metric, llm_name, rank, points, p50, p95, trend,"
        " p50_low, p50_high, p95_low, p95_high FROM model_comparison WHERE compared_at = :at",
        at=at,
    )
    return {Comparison(*row) for row in rows}


def values(llm_name: str, metric: str, since: datetime, until: datetime) -> np.ndarray:
    """Return what the fixture stored for windows that start in [since, until)."""
    batch = batch_of(MODELS, window_starts(9 * 24, start=FIRST), seed=3)
    wanted = [
        name == llm_name and since <= start < until
        for name, start in zip(batch.llm_names, batch.window_starts, strict=True)
    ]
    return batch.values[wanted, METRICS.index(metric)].ravel()


def test_percentiles_and_trend_match_numpy(filled: Postgres) -> None:
    found = compared(filled)
    assert len(found) == 2 * len(METRICS) * len(MODELS)
    for one in found:
        period = one.hours * HOUR
        now = values(one.llm_name, one.metric, START - period, START)
        before = values(one.llm_name, one.metric, START - DAY - period, START - DAY)
        assert one.points == len(now) == one.hours * 5
        assert [one.p50, one.p95] == pytest.approx(np.percentile(now, [50, 95]), rel=1e-12)
        assert one.trend == pytest.approx(np.median(now) / np.median(before) - 1, rel=1e-9)


def test_intervals_use_the_correlation_of_the_week(filled: Postgres) -> None:
    # Of every second window, the values of the one before.
    execute(
        filled,
        """
        UPDATE simulation_results AS r SET "values" = b."values" FROM simulation_results AS b
        WHERE b.llm_name = r.llm_name AND b.metric = r.metric
        AND b."timestamp" = r."timestamp" - interval '1 hour'
        AND extract(hour FROM r."timestamp" AT TIME ZONE 'UTC')::int % 2 = 1
        """,
    )
    for one in compared(filled):
        day, week = (
            values(one.llm_name, one.metric, START - hours * HOUR, START).reshape(-1, 2, 5)[
                :, [0, 0]
            ]
            for hours in (24, 168)
        )
        starts = np.repeat(np.arange(168.0) * 3600, 5)
        factors = dependence(Series(starts, week.ravel()), np.sort(week, axis=None), HOUR)
        now = day if one.hours == 24 else week
        of_p50, of_p95 = intervals(np.sort(now, axis=None), factors)
        assert (one.p50_low, one.p50_high) == pytest.approx(of_p50, rel=1e-12)
        assert (one.p95_low, one.p95_high) == pytest.approx(of_p95, rel=1e-12)
        ends = np.array(
            [[one.p50_low, one.p50, one.p50_high], [one.p95_low, one.p95, one.p95_high]], float
        )
        assert (np.diff(ends) > 0).all()


def multiply(postgres: Postgres, llm_name: str, factor: float) -> None:
    execute(
        postgres,
        """
        UPDATE simulation_results
        SET "values" = ARRAY(SELECT value * :factor FROM unnest("values") AS value)
        WHERE llm_name = :name
        """,
        name=llm_name,
        factor=factor,
    )


def test_best_model_comes_first(filled: Postgres) -> None:
    for factor, llm_name in enumerate(MODELS, 1):
        multiply(filled, llm_name, 4.0**factor)
    found = compared(filled)
    for hours in (24, 168):
        for metric in METRICS:
            places = [one for one in found if (one.hours, one.metric) == (hours, metric)]
            assert [one.rank for one in places] == [1, 2, 3]
            medians = [one.p50 for one in places]
            assert medians == sorted(medians, reverse=metric in {"TPS", "RPS"})


def test_rank_counts_the_models_that_are_wholly_better(filled: Postgres) -> None:
    multiply(filled, MODELS[1], 1.1)
    multiply(filled, MODELS[2], 1.2)
    found = compared(filled)
    ranks = set()
    for hours in (24, 168):
        for metric in METRICS:
            sign = -1 if metric in {"TPS", "RPS"} else 1
            places = [one for one in found if (one.hours, one.metric) == (hours, metric)]
            # A sign turns the ends around.
            ends = np.sort(sign * np.array([(one.p50_low, one.p50_high) for one in places], float))
            better = [sum(high < low for _, high in ends) for low, _ in ends]
            assert [one.rank for one in places] == [1 + number for number in better]
            assert places == sorted(places, key=lambda one: (one.rank, sign * one.p50))
            ranks.add(tuple(one.rank for one in places))
    # Some intervals overlap, some do not.
    assert len(ranks) > 1
    assert any(len(set(of_metric)) < len(of_metric) for of_metric in ranks)


def test_equal_models_share_a_rank(filled: Postgres) -> None:
    execute(filled, """UPDATE simulation_results SET "values" = '{1, 2}' WHERE metric = 'TTFT'""")
    assert {one.rank for one in compared(filled) if one.metric == "TTFT"} == {1}


def test_nan_median_ranks_last(filled: Postgres) -> None:
    for metric in ("TTFT", "TPS"):
        execute(
            filled,
            """
            UPDATE simulation_results SET "values" = '{NaN}'
            WHERE llm_name = :name AND metric = :metric
            """,
            name=MODELS[0],
            metric=metric,
        )
    found = [one for one in compared(filled) if one.metric in {"TTFT", "TPS"}]
    assert {one.rank for one in found if one.llm_name == MODELS[0]} == {3}
    assert {one.rank for one in found if one.llm_name != MODELS[0]} <= {1, 2}


def test_infinite_values_have_infinite_percentiles(filled: Postgres) -> None:
    execute(
        filled, """UPDATE simulation_results SET "values" = '{Infinity}' WHERE metric = 'RPS'"""
    )
    found = [one for one in compared(filled) if one.metric == "RPS"]
    assert {(one.p50, one.p95) for one in found} == {(np.inf, np.inf)}
    assert {(one.p50_low, one.p50_high, one.rank) for one in found} == {(np.inf, np.inf, 1)}


def test_saving_again_replaces_the_ranking(filled: Postgres) -> None:
    ranking, fewer = compared(filled), compared(filled, *MODELS[:2])
    with filled.engine.begin() as connection:
        save_ranking(connection, ranking, START - HOUR)
        save_ranking(connection, ranking, START)
        assert last_compared(connection) == START
    assert kept(filled, START) == set(ranking)
    with filled.engine.begin() as connection:
        save_ranking(connection, fewer, START)
    assert kept(filled, START) == set(fewer)
    assert kept(filled, START - HOUR) == set(ranking)
    with filled.engine.begin() as connection:
        save_ranking(connection, [], START)
        assert last_compared(connection) == START - HOUR


def test_old_rankings_are_removed(filled: Postgres) -> None:
    ranking = compared(filled)
    with filled.engine.begin() as connection:
        save_ranking(connection, ranking, START - 3 * HOUR)
        save_ranking(connection, ranking, START - HOUR)
        save_ranking(connection, ranking, START, keep_from=START - HOUR)
    times = fetch(filled, "SELECT DISTINCT compared_at FROM model_comparison ORDER BY 1")
    assert times == [(START - HOUR,), (START,)]


def test_concurrent_saves_wait_for_each_other(filled: Postgres) -> None:
    """Without the table lock each could hold a row that the other waits for."""
    first, second = compared(filled), compared(filled, *MODELS[:2])
    with filled.engine.begin() as connection:
        save_ranking(connection, first, START)
        with ThreadPoolExecutor(1) as executor:
            other = executor.submit(save, filled, second)
            wait_until(lambda: bool(sessions_waiting(filled)), "the second save to wait")
            connection.commit()
            other.result(timeout=60)
    assert kept(filled, START) == set(second)


def save(postgres: Postgres, ranking: list[Comparison]) -> None:
    with postgres.engine.begin() as connection:
        save_ranking(connection, ranking, START, keep_from=START)


def test_only_eight_days_are_read_and_only_once(filled: Postgres) -> None:
    with filled.engine.connect() as connection:
        before = table_reads(connection)
        rank_models(connection, MODELS, LATEST, HOUR, sampling(HOUR, points=5))
        scans, by_index = np.subtract(table_reads(connection), before)
    # The first window starts eight days before the latest one.
    assert (scans, by_index) == (0, len(MODELS) * len(METRICS) * (8 * 24 + 1))


def test_one_second_windows_are_sampled(postgres: Postgres) -> None:
    second = timedelta(seconds=1)
    batch = batch_of(MODELS[:1], window_starts(7_200, start=START - 2 * HOUR, step=second), seed=3)
    store(postgres, batch)
    found = compared(postgres, MODELS[0], latest=START - second, interval=second)
    for one in found:
        read = batch.values[::60, METRICS.index(one.metric)]
        assert one.points == read.size == 2 * VALUES_PER_HOUR
        assert [one.p50, one.p95] == pytest.approx(np.percentile(read, [50, 95]), rel=1e-12)
    assert found == compared(postgres, MODELS[0], latest=START - second, interval=second)


def test_missing_values_give_no_rank_and_no_trend(
    postgres: Postgres,
) -> None:
    store(postgres, batch_of(["GPT-4o"], window_starts(3, start=START - 3 * HOUR)))
    found = compared(postgres)
    assert {one.llm_name for one in found} == {"GPT-4o"}
    assert {one.trend for one in found} == {None}
    assert {one.points for one in found} == {15}
    assert {(one.p50_low, one.p50_high, one.p95_low, one.p95_high) for one in found} == {
        (None, None, None, None)
    }
    assert compared(postgres, "Llama-3.1-8B") == []


def test_models_with_too_few_values_share_the_first_rank(postgres: Postgres) -> None:
    """Eight hours are two blocks of the estimated correlation."""
    store(postgres, batch_of(MODELS, window_starts(7, start=START - 7 * HOUR)))
    for factor, llm_name in enumerate(MODELS, 1):
        multiply(postgres, llm_name, 100.0**factor)
    found = compared(postgres)
    assert {one.rank for one in found} == {1}
    medians = [one.p50 for one in found if (one.hours, one.metric) == (24, "TPS")]
    assert medians == sorted(medians, reverse=True)
    store(postgres, batch_of(MODELS, window_starts(1, start=START - 8 * HOUR)))
    assert {one.rank for one in compared(postgres)} == {1, 2, 3}


def test_latest_window_is_in_both_periods(postgres: Postgres) -> None:
    week = 7 * DAY
    store(postgres, batch_of(["GPT-4o"], window_starts(3, start=START - 3 * week, step=week)))
    found = compared(postgres, "GPT-4o", latest=START - week, interval=week)
    assert {(one.hours, one.points) for one in found} == {(24, 5), (168, 5)}


def test_empty_database_has_no_last_comparison(postgres: Postgres) -> None:
    with postgres.engine.connect() as connection:
        assert last_compared(connection) is None


def test_history_has_a_bucket_per_hour(filled: Postgres) -> None:
    execute(
        filled,
        'DELETE FROM simulation_results WHERE llm_name = :name AND "timestamp" = :at',
        name=MODELS[1],
        at=START - 5 * HOUR,
    )
    found = history(filled, LATEST, HOUR)
    assert found.starts == window_starts(8 * 24, start=START - 8 * DAY)
    assert found.p50.shape == (3, 4, 8 * 24)
    assert np.argwhere(np.isnan(found.p50)).tolist() == [[1, metric, 187] for metric in range(4)]
    expected = np.median(values(MODELS[2], "TPS", LATEST, START))
    assert found.p50[2, 1, -1] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("minutes", "length", "buckets"), [(20, 60, 192), (60, 60, 192), (90, 90, 128), (7, 60, 192)]
)
def test_bucket_is_an_hour_or_a_window(
    postgres: Postgres, minutes: int, length: int, buckets: int
) -> None:
    interval = timedelta(minutes=minutes)
    # The latest window ends within an hour; the history leaves out that hour.
    number = (START + timedelta(minutes=50)).timestamp() // interval.total_seconds()
    latest = datetime.fromtimestamp(number * interval.total_seconds(), START.tzinfo)
    store(postgres, batch_of(MODELS, [latest - index * interval for index in range(40)]))
    found = history(postgres, latest, interval)
    assert (found.length, len(found.starts)) == (timedelta(minutes=length), buckets)
    assert latest + interval - found.length < found.starts[-1] + found.length <= latest + interval
    assert np.isfinite(found.p50[..., -3:]).all()
    assert np.isnan(found.p50[..., 0]).all()


def test_nan_is_above_every_number(filled: Postgres) -> None:
    execute(
        filled,
        """
        UPDATE simulation_results SET "values" = '{NaN, 2, 1, Infinity, 1}'
        WHERE metric = 'TTFT' AND "timestamp" = :at
        """,
        at=LATEST,
    )
    found = history(filled, LATEST, HOUR)
    assert found.p50[:, 0, -1].tolist() == [2, 2, 2]
    assert {
        one.metric for one in compared(filled) if not np.isfinite([one.p50, one.p95]).all()
    } == (set())


def test_late_and_replaced_windows_are_compared(filled: Postgres) -> None:
    late = START - 30 * HOUR
    gone = 'DELETE FROM simulation_results WHERE "timestamp" = :at'
    execute(filled, gone, at=late)
    before = compared(filled)
    assert {one.points for one in before} == {24 * 5, 167 * 5}
    replaced = window_starts(24, start=START - DAY)
    batch = batch_of(MODELS, [late, *replaced], version="another seed", seed=9)
    store(filled, batch)
    after = compared(filled)
    assert {one.points for one in after} == {24 * 5, 168 * 5}
    for one in after:
        if one.hours == 24:
            first = 25 * MODELS.index(one.llm_name) + 1
            now = batch.values[first : first + 24, METRICS.index(one.metric)]
            assert [one.p50, one.p95] == pytest.approx(np.percentile(now, [50, 95]), rel=1e-12)
