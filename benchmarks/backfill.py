"""Benchmark: backfill a year of history through Dagster's daemon.

365 days of hourly windows of eight models: 2,920 partitions, 70,080 windows, 280,320 rows, 70,080
messages. The backfill is launched through GraphQL, as the UI's dialog does, and timed from there
until its status is COMPLETED_SUCCESS. Then all rows must be stored and all messages in the queue.
The service is configured as in `make run`, with at most four runs at a time.

Two baselines are measured in turn with it:

floor   the same backfill of `benchmarks/empty_graph.py`, with the same daemon and storage.
script  `benchmarks/plain_script.py` over a tenth of the windows; its time grows linearly.

The daemon polls for backfills every 30 s. Each backfill is launched right after the previous one
has ended, which is right after such a poll, so that all of them wait equally long.
"""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from statistics import median
from typing import Any

import dagster as dg
import sqlalchemy as sa

from benchmarks.dagster_api import (
    BACKFILL_RUNNING,
    BACKFILL_SUCCEEDED,
    BACKFILL_TAG,
    launch_backfill,
)
from benchmarks.dagster_service import PIPELINE, DagsterService
from benchmarks.figures import Limit, Row
from benchmarks.plain_script import seconds_taken
from benchmarks.workers import RunWorkers
from sim_pipeline.config import DEFAULT_MODELS, read_settings
from sim_pipeline.metrics import METRICS
from sim_pipeline.windows import Cadence

_ASSETS = ("metric_frames", "benchmark_feed")
_FLOOR_ASSETS = ("empty_frames", "empty_feed")
# Read by benchmarks/empty_graph.py.
_PARTITIONS_PER_RUN = "BENCHMARK_PARTITIONS_PER_RUN"
_MODELS = DEFAULT_MODELS[:8]
_DAYS = 365
_TIMES = 3
# The script processes the first tenth of the days.
_SCRIPT_SHARE = 10
_SECONDS = 3600.0
_POLL_SECONDS = 1.0
_MEMORY = Limit(512)
_TIMES_FLOOR = Limit(1.5)
_TIMES_SCRIPT = Limit(1.0)

_STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } }
  }
}
"""


@dataclass(frozen=True)
class Backfill:
    """The measurements of a backfill.

    Attributes:
        seconds: from launch to completion.
        waiting: seconds from launch to the creation of the first run.
        running: seconds from then to the end of the last run.
        closing: seconds from then to completion.
        runs: the number of runs.
        memory: peak resident memory of a run worker, in MiB.
    """

    seconds: float
    waiting: float
    running: float
    closing: float
    runs: int
    memory: float


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the backfill and its baselines in turn.

    Args:
        quick: use five days of two models, once, as a smoke test.
    """
    days, models, times = (5, _MODELS[:2], 1) if quick else (_DAYS, _MODELS, _TIMES)
    first = datetime.now(UTC).date() - timedelta(days=days + 1)
    settings = {
        "llm_models": models,
        "simulation_start": datetime(first.year, first.month, first.day, tzinfo=UTC),
    }
    service = DagsterService(
        PIPELINE | {"empty": "benchmarks.empty_graph"},
        settings,
        {_PARTITIONS_PER_RUN: str(_partitions_per_run(settings))},
    )
    with service:
        benchmark = _Benchmark(service, first, days)
        ours: list[Backfill] = []
        floor: list[Backfill] = []
        script: list[float] = []
        for turn in range(times):
            # So that the measured backfill starts right after another one, with warm caches.
            benchmark.floor(days=1)
            if turn % 2:
                floor.append(benchmark.floor())
                ours.append(benchmark.ours())
                script.append(benchmark.script())
            else:
                ours.append(benchmark.ours())
                script.append(benchmark.script())
                benchmark.floor(days=1)
                floor.append(benchmark.floor())
    yield from _rows(f"backfill of {benchmark.windows:,} windows", ours, floor, script)


def _rows(
    what: str, ours: Sequence[Backfill], floor: Sequence[Backfill], script: Sequence[float]
) -> Iterator[Row]:
    def row(part: str, field: str, unit: str = "s", limit: Limit | None = None) -> Row:
        return Row(
            f"{what}{part}",
            unit,
            tuple(getattr(each, field) for each in ours),
            "an empty graph",
            tuple(getattr(each, field) for each in floor),
            limit,
            f"{ours[0].runs} and {floor[0].runs} runs" if field == "running" else "",
        )

    yield row("", "seconds", limit=_TIMES_FLOOR)
    yield row(", from launch to the first run's creation", "waiting")
    yield row(", from then to the last run's end", "running")
    yield row(", from then to completion", "closing")
    yield Row(
        what,
        "s",
        tuple(each.seconds for each in ours),
        "a plain script",
        tuple(script),
        _TIMES_SCRIPT,
        f"from 1/{_SCRIPT_SHARE} of the windows",
    )
    yield Row(
        f"{what}, a run worker's peak memory",
        "MiB",
        tuple(each.memory for each in ours),
        limit=_MEMORY,
        note=f"{median(each.memory for each in floor):.0f} for the empty graph",
    )


class _Benchmark:
    """Runs the backfills and the script over the same days."""

    def __init__(self, service: DagsterService, first: date, days: int) -> None:
        self._service = service
        self._days = [first + timedelta(days=day) for day in range(days)]
        self._models = service.settings.llm_models
        self._cadence = Cadence(
            service.settings.simulation_interval, service.settings.simulation_start
        )

    @cached_property
    def windows(self) -> int:
        """The number of windows of all models."""
        return len(self._models) * sum(len(self._cadence.windows_of_day(day)) for day in self._days)

    def ours(self) -> Backfill:
        """Run our backfill, check its results, and delete them."""
        backfill = self._backfill(_ASSETS, self._days)
        self._require_all()
        self._service.clear()
        return backfill

    def floor(self, days: int | None = None) -> Backfill:
        """Run the backfill of the empty graph."""
        return self._backfill(_FLOOR_ASSETS, self._days[:days])

    def script(self) -> float:
        """Return the seconds that the script needs for all windows."""
        last = max(1, len(self._days) // _SCRIPT_SHARE) - 1
        windows = range(
            self._cadence.windows_of_day(self._days[0]).start,
            self._cadence.windows_of_day(self._days[last]).stop,
        )
        settings = self._service.settings
        seconds = seconds_taken(
            self._service.results,
            self._service.broker,
            self._models,
            windows,
            self._cadence,
            points=settings.num_data_points,
            seed=settings.random_seed,
        )
        self._service.clear()
        return seconds * self.windows / (len(self._models) * len(windows))

    def _backfill(self, assets: Sequence[str], days: Sequence[date]) -> Backfill:
        with RunWorkers() as workers:
            clock, start = time.time(), time.perf_counter()
            keys = [f"{day}|{name}" for day in days for name in self._models]
            backfill_id = launch_backfill(self._service.graphql, assets, keys)
            self._service.await_condition(
                lambda: self._is_complete(backfill_id), "the backfill did not complete", _SECONDS
            )
            seconds = time.perf_counter() - start
        records = self._service.instance.get_run_records(
            dg.RunsFilter(tags={BACKFILL_TAG: backfill_id})
        )
        created = min(record.create_timestamp.replace(tzinfo=UTC).timestamp() for record in records)
        ended = max(record.end_time or 0.0 for record in records)
        return Backfill(
            seconds=seconds,
            waiting=created - clock,
            running=ended - created,
            closing=clock + seconds - ended,
            runs=len(records),
            memory=max(workers.peaks.values(), default=math.nan),
        )

    def _is_complete(self, backfill_id: str) -> bool:
        # Each query takes CPU time from the backfill.
        time.sleep(_POLL_SECONDS)
        answer: dict[str, Any] = self._service.graphql(_STATUS, {"id": backfill_id})[
            "partitionBackfillOrError"
        ]
        if answer["status"] not in (BACKFILL_RUNNING, BACKFILL_SUCCEEDED):
            raise RuntimeError(f"backfill {backfill_id}: {answer}")
        return bool(answer["status"] == BACKFILL_SUCCEEDED)

    def _require_all(self) -> None:
        """Check the numbers of rows, published ledger entries and messages.

        Raises:
            RuntimeError: a number is wrong.
        """
        with self._service.results.engine.connect() as connection:
            rows = connection.scalar(sa.text("SELECT count(*) FROM simulation_results"))
            sent = connection.scalar(sa.text("SELECT count(published_at) FROM deliveries"))
        with self._service.channel() as channel:
            messages = channel.queue_declare(
                self._service.broker.queue, passive=True
            ).method.message_count
        expected = (len(METRICS) * self.windows, self.windows, self.windows)
        if (rows, sent, messages) != expected:
            raise RuntimeError(
                f"{(rows, sent, messages)} rows, published entries and messages, not {expected}"
            )


def _partitions_per_run(overrides: Mapping[str, Any]) -> int:
    """Return our backfill policy's number of partitions per run.

    Raises:
        RuntimeError: the policy has no such number.
    """
    # Imported here, because the module reads the settings on import.
    from sim_pipeline.definitions import build_defs  # noqa: PLC0415

    defs = build_defs(read_settings({"_env_file": None, **overrides}))
    policy = defs.resolve_asset_graph().get(dg.AssetKey(_ASSETS[0])).backfill_policy
    if policy is None or policy.max_partitions_per_run is None:
        raise RuntimeError(
            f"{_ASSETS[0]} has the backfill policy {policy}, without max_partitions_per_run"
        )
    return policy.max_partitions_per_run
