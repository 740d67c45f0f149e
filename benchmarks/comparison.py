"""Benchmark: compare the models at a short interval, and measure the error of sampling.

Eight days of windows every 10 s of the built-in models, with 5 points each, are compared:

ours        `rank_models`, which reads a sixth of the values: both periods, trends and history.
PostgreSQL  `percentile_cont` over every value of seven days, which is a part of that result.

PostgreSQL's exact percentiles also show the error of ours.
"""

import multiprocessing
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from benchmarks.figures import Limit, Row
from benchmarks.servers import postgres_server, results_database
from benchmarks.workers import peak_memory
from sim_pipeline.comparison.ranking import HISTORY, PERIODS, Comparison, rank_models
from sim_pipeline.comparison.sampling import sampling
from sim_pipeline.feed.selection import Selection
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import Span
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline.windows import Cadence

_END = datetime(2026, 3, 1, tzinfo=UTC)
_POINTS = 5
_TIMES = 5
_INTERVAL = timedelta(seconds=10)
_QUICK_INTERVAL = timedelta(minutes=10)
_MEMORY = Limit(256)

_EVERY_VALUE = sa.text(
    """
    SELECT llm_name, metric, percentile_cont(ARRAY[0.50, 0.95]) WITHIN GROUP (ORDER BY value)
    FROM simulation_results CROSS JOIN LATERAL unnest("values") AS value
    WHERE "timestamp" > :since AND "timestamp" <= :latest
    GROUP BY llm_name, metric
    """
)


def measure(*, quick: bool) -> Iterator[Row]:
    """Store the windows, then measure our comparison and PostgreSQL's in turn.

    Args:
        quick: use windows of ten minutes, twice, as a smoke test; ours then reads every value.
    """
    interval = _QUICK_INTERVAL if quick else _INTERVAL
    with postgres_server() as server, results_database(server) as postgres:
        fill(postgres, interval, _POINTS)
        ours, every = [], []
        for _ in range(2 if quick else _TIMES):
            start = time.perf_counter()
            ranking = ranked(postgres, interval, _POINTS)
            ours.append(time.perf_counter() - start)
            start = time.perf_counter()
            exact = percentiles_of_all(postgres, interval)
            every.append(time.perf_counter() - start)
        what = f"compare {len(MODELS)} models of windows every {interval.seconds} s, eight days"
        baseline = "PostgreSQL, p50 and p95 of every value of seven days"
        yield Row(what, "s", tuple(ours), baseline, tuple(every))
        for index, name in enumerate(("p50", "p95")):
            found = errors(ranking, exact, index)
            yield Row(
                f"{name} over seven days, relative difference from the exact value",
                "%",
                tuple(100 * error for error in found),
                note="for each model and metric",
            )
        # Spawned, because a forked process would start with our memory.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
            peak = executor.submit(_peak, replace(postgres), interval).result()
        yield Row("peak memory of a process that compares", "MiB", (peak,), limit=_MEMORY)


def fill(
    postgres: Postgres,
    interval: timedelta,
    points: int,
    llm_names: tuple[str, ...] = tuple(MODELS),
) -> None:
    """Simulate and store the windows of a comparison, then vacuum the table."""
    cadence = Cadence(interval.seconds, _END - HISTORY)
    windows = cadence.windows_between(_END - HISTORY, _END)
    frames = MetricFrames(
        Selection(llm_names, windows, Span(llm_names, _END - HISTORY, _END)),
        {name: MODELS[name] for name in llm_names},
        cadence=cadence,
        points=points,
        seed=42,
        postgres=postgres,
        force=True,
    )
    with BatchWriter(postgres) as writer:
        for part in frames:
            writer.write(part)
    with postgres.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(
            sa.text("VACUUM ANALYZE simulation_results")
        )


def ranked(
    postgres: Postgres,
    interval: timedelta,
    points: int,
    llm_names: tuple[str, ...] = tuple(MODELS),
) -> list[Comparison]:
    """Compare as the asset does."""
    with postgres.engine.begin() as connection:
        ranking, _ = rank_models(
            connection, llm_names, _END - interval, interval, sampling(interval, points)
        )
        return ranking


def percentiles_of_all(
    postgres: Postgres, interval: timedelta
) -> dict[tuple[str, str], tuple[float, float]]:
    """Return p50 and p95 of every value of the longest period, by model and metric."""
    latest = _END - interval
    with postgres.engine.connect() as connection:
        rows = connection.execute(
            _EVERY_VALUE, {"since": latest - timedelta(hours=PERIODS[-1]), "latest": latest}
        )
        return {(name, metric): tuple(found) for name, metric, found in rows}


def errors(
    ranking: list[Comparison], exact: dict[tuple[str, str], tuple[float, float]], index: int
) -> list[float]:
    """Return the relative errors in the longest period, of p50 (index 0) or p95 (index 1)."""
    return [
        abs((entry.p50, entry.p95)[index] / exact[entry.llm_name, entry.metric][index] - 1)
        for entry in ranking
        if entry.hours == PERIODS[-1]
    ]


def _peak(postgres: Postgres, interval: timedelta) -> float:
    ranked(postgres, interval, _POINTS)
    return peak_memory()
