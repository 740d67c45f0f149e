"""A year of history through Dagster's daemon, next to its floor and to a plain script.

365 days of hourly windows of eight models: 2,920 partitions, 70,080 windows, 280,320 rows, 70,080
messages. The backfill is launched through GraphQL as the UI's dialog does it, and timed from there
until it is COMPLETED_SUCCESS; then everything must be stored, and in the queue. The service is that
of `make run`: servers, code server, daemon, webserver, Dagster's configuration and the limit of
four runs at once.

Next to it, by turns:

floor   the same backfill of `benchmarks/empty_graph.py`, in the same daemon and storage.
script  `benchmarks/plain_script.py` over a tenth of the windows; its time is proportional to them.

The daemon looks for backfills every 30 s. Each is launched right after one has ended, which the
daemon has seen then at such a look: so all wait for the next one equally long.
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
# The script does every tenth of the windows, those of the first days.
_SCRIPT_SHARE = 10
_SECONDS = 3600.0
_POLL_SECONDS = 1.0
_MEMORY = Limit(512)
_TIMES_FLOOR = Limit(1.5)
_TIMES_SCRIPT = Limit(1.0)

_LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
_STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } }
  }
}
"""
_UNDER_WAY = "REQUESTED"
_SUCCESS = "COMPLETED_SUCCESS"
_BACKFILL_TAG = "dagster/backfill"


@dataclass(frozen=True)
class Backfill:
    """What a backfill took.

    Attributes:
        seconds: from its launch until it was over.
        waiting: seconds until its first run was created.
        running: seconds from then to the end of its last run.
        closing: seconds from then until it was over.
        runs: how many there were.
        memory: largest resident memory of a run worker, MiB.
    """

    seconds: float
    waiting: float
    running: float
    closing: float
    runs: int
    memory: float


def measure(*, quick: bool) -> Iterator[Row]:
    """Launch backfills by turns.

    Args:
        quick: five days of two models, once, to see that it works.
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
            # Right after the end of a backfill, the first time with everything warm, as those are
            # that come next.
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
            tuple(getattr(one, field) for one in ours),
            "a graph that does nothing",
            tuple(getattr(one, field) for one in floor),
            limit,
            f"{ours[0].runs} and {floor[0].runs} runs" if field == "running" else "",
        )

    yield row("", "seconds", limit=_TIMES_FLOOR)
    yield row(", launched until the first run is created", "waiting")
    yield row(", from then until the last run has ended", "running")
    yield row(", from then until it is over", "closing")
    yield Row(
        what,
        "s",
        tuple(one.seconds for one in ours),
        "a plain script",
        tuple(script),
        _TIMES_SCRIPT,
        f"from 1/{_SCRIPT_SHARE} of the windows",
    )
    yield Row(
        f"{what}, a run worker's peak memory",
        "MiB",
        tuple(one.memory for one in ours),
        limit=_MEMORY,
        note=f"{median(one.memory for one in floor):.0f} doing nothing",
    )


class _Benchmark:
    """Backfills of one service over the same days, and the script."""

    def __init__(self, service: DagsterService, first: date, days: int) -> None:
        self._service = service
        self._days = [first + timedelta(days=day) for day in range(days)]
        self._models = service.settings.llm_models
        self._cadence = Cadence(
            service.settings.simulation_interval, service.settings.simulation_start
        )

    @cached_property
    def windows(self) -> int:
        """How many windows of a model there are."""
        return len(self._models) * sum(len(self._cadence.windows_of_day(day)) for day in self._days)

    def ours(self) -> Backfill:
        """Backfill, see that everything is there, and remove it."""
        backfill = self._backfill(_ASSETS, self._days)
        self._require_all()
        self._service.clear()
        return backfill

    def floor(self, days: int | None = None) -> Backfill:
        """Backfill what does nothing."""
        return self._backfill(_FLOOR_ASSETS, self._days[:days])

    def script(self) -> float:
        """Return how many seconds the script takes for all windows."""
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
            backfill_id = self._launch(assets, days)
            self._service.await_condition(lambda: self._over(backfill_id), "backfill", _SECONDS)
            seconds = time.perf_counter() - start
        records = self._service.instance.get_run_records(
            dg.RunsFilter(tags={_BACKFILL_TAG: backfill_id})
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

    def _launch(self, assets: Sequence[str], days: Sequence[date]) -> str:
        """Launch as the dialog does: the assets, and the keys of all their partitions."""
        answer = self._service.graphql(
            _LAUNCH,
            {
                "params": {
                    "assetSelection": [{"path": [asset]} for asset in assets],
                    "partitionNames": [f"{day}|{name}" for day in days for name in self._models],
                    "fromFailure": False,
                    "tags": [],
                }
            },
        )["launchPartitionBackfill"]
        if answer["__typename"] != "LaunchBackfillSuccess":
            raise RuntimeError(f"the backfill of {', '.join(assets)} was not launched: {answer}")
        return str(answer["backfillId"])

    def _over(self, backfill_id: str) -> bool:
        # Each answer takes the webserver, and so the backfill, some time.
        time.sleep(_POLL_SECONDS)
        answer: dict[str, Any] = self._service.graphql(_STATUS, {"id": backfill_id})[
            "partitionBackfillOrError"
        ]
        if answer["status"] not in (_UNDER_WAY, _SUCCESS):
            raise RuntimeError(f"backfill {backfill_id}: {answer}")
        return bool(answer["status"] == _SUCCESS)

    def _require_all(self) -> None:
        """Count rows, ledger entries and messages.

        Raises:
            RuntimeError: there are more or fewer than there should be.
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
                f"{(rows, sent, messages)} rows, entries sent and messages, not {expected}"
            )


def _partitions_per_run(overrides: Mapping[str, Any]) -> int:
    """Return how many partitions our backfill policy gives a run.

    Raises:
        RuntimeError: it gives all of them to one run, or has none.
    """
    # Reads the settings of its own accord when it is imported.
    from sim_pipeline.definitions import build_defs  # noqa: PLC0415

    defs = build_defs(read_settings({"_env_file": None, **overrides}))
    policy = defs.resolve_asset_graph().get(dg.AssetKey(_ASSETS[0])).backfill_policy
    if policy is None or policy.max_partitions_per_run is None:
        raise RuntimeError(
            f"{_ASSETS[0]} has the backfill policy {policy}: the floor needs a number"
        )
    return policy.max_partitions_per_run
