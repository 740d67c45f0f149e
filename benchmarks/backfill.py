"""Benchmark: the backfill command, over eight days of nine models and over a year of eight.

The whole service runs as in `make run`. The command is timed from its start to its summary, in its
own process. Then all rows must be stored and all messages in the queue. Two baselines are measured
in turn with it, over the same days:

library  `benchmarks/without_dagster.py`, in as many processes as the command launched runs.
UI       a backfill launched through GraphQL, as the UI's dialog does, until its status is
         COMPLETED_SUCCESS. Dagster's daemon polls for it every 30 s.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from itertools import pairwise
from pathlib import Path
from typing import Any

import pika
import sqlalchemy as sa

from benchmarks import without_dagster
from benchmarks.dagster_api import BACKFILL_RUNNING, BACKFILL_SUCCEEDED, launch_backfill
from benchmarks.figures import Limit, Row, markdown
from benchmarks.service_under_test import ServiceUnderTest
from benchmarks.workers import RunWorkers
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.metrics import METRICS

_ASSETS = ("metric_frames", "benchmark_feed")
_SECONDS, _POLL_SECONDS = 3600.0, 1.0
_WINDOWS_A_DAY = 24
_MEMORY = Limit(512)
_TIMES_LIBRARY = Limit(1.6)

_STATUS = """
query Status($id: String!) {
  partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } }
}
"""


@dataclass(frozen=True)
class _Case:
    """A range to backfill.

    Attributes:
        what: the range in words.
        days: its length.
        models: the number of models.
        times: how often it is measured.
        limit: the limit of the command's seconds.
        times_library: the limit of the command's time in that of the library.
    """

    what: str
    days: int
    models: int
    times: int
    limit: Limit
    times_library: Limit | None = None


_CASES = (
    _Case("eight days of nine models", 8, 9, 5, Limit(10)),
    _Case("a year of eight models", 365, 8, 3, Limit(30), _TIMES_LIBRARY),
)
_QUICK = (_Case("five days of two models", 5, 2, 1, Limit(10)),)


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the command and its baselines in turn.

    Args:
        quick: use five days of two models, once, as a smoke test.
    """
    for case in _QUICK if quick else _CASES:
        first = datetime.now(UTC).date() - timedelta(days=case.days + 1)
        overrides = {
            "llm_models": DEFAULT_MODELS[: case.models],
            "simulation_start": datetime.combine(first, clock(), UTC),
            # Keeps the schedule's runs away from these days.
            "catch_up_hours": 0,
        }
        with (
            tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-") as directory,
            ServiceUnderTest(Path(directory), overrides) as service,
        ):
            days = [first + timedelta(days=day) for day in range(case.days)]
            yield from _rows(case, _Benchmark(service, days))


def _rows(case: _Case, benchmark: "_Benchmark") -> Iterator[Row]:
    command: list[float] = []
    library: list[float] = []
    runs = 1
    with RunWorkers() as workers:
        for turn in range(case.times):
            if turn % 2:
                library.append(benchmark.library(runs))
            seconds, runs = benchmark.command()
            command.append(seconds)
            if not turn % 2:
                library.append(benchmark.library(runs))
        peaks = tuple(workers.peaks.values())
    ui = [benchmark.ui() for _ in range(case.times)]
    processes = f"without Dagster, {runs} process{'es' if runs > 1 else ''}"
    what = f"`make backfill`, {case.what}"
    yield Row(what, "s", tuple(command), limit=case.limit)
    yield Row(what, "s", tuple(command), processes, tuple(library), case.times_library)
    yield Row(what, "s", tuple(command), "the UI's backfill", tuple(ui))
    yield Row(f"{what}, a run worker's peak memory", "MiB", peaks, limit=_MEMORY)


class _Benchmark:
    """Runs the command and its baselines over the same days."""

    def __init__(self, service: ServiceUnderTest, days: Sequence[date]) -> None:
        self._service = service
        self._days = days
        self._postgres = results_database(service.settings)
        self._broker = message_broker(service.settings)
        self._clear()

    def command(self) -> tuple[float, int]:
        """Run the command; return its seconds and the number of runs that it launched."""
        until = self._days[-1] + timedelta(days=1)
        start = time.perf_counter()
        completed = subprocess.run(  # noqa: S603 - our own command
            [
                *(sys.executable, "-m", "sim_pipeline", "backfill"),
                *("--from", self._days[0].isoformat(), "--to", until.isoformat()),
            ],
            cwd=self._service.directory,
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - start
        launched = re.search(r"^Launched (\d+) run", completed.stdout, re.MULTILINE)
        if completed.returncode or launched is None:
            raise RuntimeError(f"the command failed:\n{completed.stdout}{completed.stderr}")
        self._require_all()
        return seconds, int(launched[1])

    def library(self, processes: int) -> float:
        """Do the same work without Dagster; return the seconds."""
        cuts = [part * len(self._days) // processes for part in range(processes + 1)]
        seconds = without_dagster.seconds_taken(
            self._service.directory,
            [self._days[first:stop] for first, stop in pairwise(cuts)],
        )
        self._require_all()
        return seconds

    def ui(self) -> float:
        """Run a backfill as the UI does; return the seconds."""
        start = time.perf_counter()
        keys = [f"{day}|{name}" for day in self._days for name in self._service.settings.llm_models]
        backfill_id = launch_backfill(self._service.graphql, _ASSETS, keys)
        while (status := self._status(backfill_id)) == BACKFILL_RUNNING:
            if time.perf_counter() > start + _SECONDS:
                raise RuntimeError(f"backfill {backfill_id} is not complete after {_SECONDS:g} s")
            self._service.require_running()
            # Each query takes CPU time from the backfill.
            time.sleep(_POLL_SECONDS)
        if status != BACKFILL_SUCCEEDED:
            raise RuntimeError(f"backfill {backfill_id} has status {status}")
        seconds = time.perf_counter() - start
        self._require_all()
        return seconds

    def _status(self, backfill_id: str) -> Any:
        answer = self._service.graphql(_STATUS, {"id": backfill_id})
        return answer["partitionBackfillOrError"]["status"]

    def _require_all(self) -> None:
        """Check the numbers of rows, published ledger entries and messages; delete them.

        Raises:
            RuntimeError: a number is wrong.
        """
        windows = _WINDOWS_A_DAY * len(self._days) * len(self._service.settings.llm_models)
        # Ticks of the schedule add later windows.
        until = {"until": datetime.combine(self._days[-1] + timedelta(days=1), clock(), UTC)}
        with self._postgres.engine.connect() as connection:
            rows, sent = (
                connection.scalar(sa.text(f'SELECT {what} WHERE "timestamp" < :until'), until)
                for what in (
                    "count(*) FROM simulation_results",
                    "count(published_at) FROM deliveries",
                )
            )
        messages = self._clear()
        if (rows, sent) != (len(METRICS) * windows, windows) or messages < windows:
            raise RuntimeError(
                f"{rows} rows, {sent} published entries and {messages} messages for {windows}"
                " windows"
            )

    def _clear(self) -> int:
        """Delete all results and messages; return the number of messages."""
        with self._postgres.engine.begin() as results:
            results.execute(
                sa.text(
                    "TRUNCATE simulation_results, request_counts, deliveries, simulated_events,"
                    " model_comparison"
                )
            )
        credentials = pika.PlainCredentials(self._broker.user, self._broker.password)
        with pika.BlockingConnection(
            pika.ConnectionParameters(
                self._broker.host, self._broker.port, self._broker.vhost, credentials
            )
        ) as connection:
            deleted = connection.channel().queue_delete(self._broker.queue)
        return deleted.method.message_count or 0


if __name__ == "__main__":
    print(markdown(list(measure(quick=False))))
