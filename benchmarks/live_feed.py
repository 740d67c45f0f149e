"""Benchmark: how long scheduled runs wait for a slot during a backfill of 75 runs.

The whole service runs with one window per minute. A backfill is launched as the UI's dialog does;
each of its runs processes one day of one model. Dagster's records give the times from a run's
creation to its launch, when it gets a slot, and to its start.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.dagster_api import (
    BACKFILL_RUNNING,
    BACKFILL_SUCCEEDED,
    BACKFILL_TAG,
    launch_backfill,
)
from benchmarks.figures import Limit, Row, markdown
from benchmarks.service_under_test import ServiceUnderTest

_MODELS = ("GPT-4o", "DeepSeek-V3", "Llama-3.1-8B")
_INTERVAL = 60
_DAYS, _QUICK_DAYS = 25, 2
# Enough values that a run of the backfill takes longer than several ticks.
_POINTS = 100
_SLOT_SECONDS = 15.0
_SECONDS, _POLL_SECONDS = 3600.0, 1.0
_ASSETS = ("metric_frames", "benchmark_feed")

_STATE = """
query State($id: String!, $tags: [ExecutionTag!]!) {
  partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status }
  }
  runsOrError(filter: {tags: $tags}) { ... on Runs { count } }
}
"""
_SCHEDULED = """
query Scheduled($tags: [ExecutionTag!]!) {
  runsOrError(filter: {tags: $tags}, limit: 1000) {
    ... on Runs {
      results {
        creationTime
        stats { ... on RunStatsSnapshot { launchTime startTime } }
      }
    }
  }
}
"""


def measure(*, quick: bool) -> Iterator[Row]:
    """Run a backfill, and measure the scheduled runs during it.

    Args:
        quick: use two days instead of 25, as a smoke test.
    """
    days = _QUICK_DAYS if quick else _DAYS
    first = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(
        days=days
    )
    overrides = {
        "llm_models": _MODELS,
        "simulation_interval": _INTERVAL,
        "simulation_start": first,
        "num_data_points": _POINTS,
        "catch_up_hours": 1,
        "backfill_days_per_run": 1,
    }
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-") as directory,
        ServiceUnderTest(Path(directory), overrides) as service,
    ):
        began = time.time()
        runs = _backfill(service, [first + timedelta(days=day) for day in range(days)])
        seconds = time.time() - began
        scheduled = _scheduled(service, since=began)
    note = f"during a backfill of {runs} runs, which took {seconds:.0f} s"
    for what, key in (("its launch", "launchTime"), ("its start", "startTime")):
        waits = tuple(run["stats"][key] - run["creationTime"] for run in scheduled)
        yield Row(f"a scheduled run, created to {what}", "s", waits, note=note)
        if key == "launchTime":
            longest, limit = (max(waits),), Limit(_SLOT_SECONDS)
            yield Row(f"the longest wait for {what}", "s", longest, limit=limit, note=note)


def _backfill(service: ServiceUnderTest, days: Sequence[datetime]) -> int:
    """Backfill some days of all models; return the number of runs when it is complete.

    Raises:
        RuntimeError: the backfill was not launched, failed, or is not complete in time.
    """
    keys = [f"{day:%Y-%m-%d}|{name}" for name in _MODELS for day in days]
    backfill_id = launch_backfill(service.graphql, _ASSETS, keys)
    variables: Mapping[str, Any] = {
        "id": backfill_id,
        "tags": [{"key": BACKFILL_TAG, "value": backfill_id}],
    }
    deadline = time.monotonic() + _SECONDS
    while True:
        service.require_running()
        state = service.graphql(_STATE, variables)
        status = state["partitionBackfillOrError"]["status"]
        if status == BACKFILL_SUCCEEDED:
            return int(state["runsOrError"]["count"])
        if status != BACKFILL_RUNNING or time.monotonic() > deadline:
            raise RuntimeError(
                f"the backfill has status {status} and is not complete within {_SECONDS:g} s"
            )
        # Polled slowly: each query takes CPU time from the service.
        time.sleep(_POLL_SECONDS)


def _scheduled(service: ServiceUnderTest, since: float) -> list[dict[str, Any]]:
    """Return the scheduled runs that were created since a time and have started."""
    tags = [{"key": "dagster/schedule_name", "value": "simulation_schedule"}]
    runs = service.graphql(_SCHEDULED, {"tags": tags})["runsOrError"]["results"]
    return [run for run in runs if run["creationTime"] >= since and run["stats"].get("startTime")]


if __name__ == "__main__":
    print(markdown(list(measure(quick=False))))
