"""How long runs of the schedule wait for a slot while a backfill of 75 runs is under way.

The whole service runs, with a window a minute. A backfill is launched as the UI's dialog does it;
each of its runs takes one day of one model. The figures are from Dagster's own records and events:
from the moment a run is created to its launch, which is when it has a slot, and to its start.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.figures import Limit, Row, markdown
from benchmarks.service_under_test import ServiceUnderTest

_MODELS = ("GPT-4o", "DeepSeek-V3", "Llama-3.1-8B")
_INTERVAL = 60
_DAYS, _QUICK_DAYS = 25, 2
# So many values that a run of the backfill takes as long as several ticks are apart.
_POINTS = 100
_SLOT_SECONDS = 15.0
_SECONDS, _POLL_SECONDS = 3600.0, 1.0
_ASSETS = ("metric_frames", "benchmark_feed")
_UNDER_WAY = "REQUESTED"

_LAUNCH = """
mutation Launch($params: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $params) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on PythonError { message }
  }
}
"""
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
    """Backfill, and look at the runs of the ticks meanwhile.

    Args:
        quick: two days instead of 25, to see that it works.
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
    note = f"beside {runs} runs of a backfill, which took {seconds:.0f} s"
    for what, key in (("its launch", "launchTime"), ("its start", "startTime")):
        waits = tuple(run["stats"][key] - run["creationTime"] for run in scheduled)
        yield Row(f"a scheduled run, created to {what}", "s", waits, note=note)
        if key == "launchTime":
            longest, limit = (max(waits),), Limit(_SLOT_SECONDS)
            yield Row(f"the longest wait for {what}", "s", longest, limit=limit, note=note)


def _backfill(service: ServiceUnderTest, days: Sequence[datetime]) -> int:
    """Backfill some days of all models, to the end; return how many runs that were.

    Raises:
        RuntimeError: it was not launched, failed or takes too long.
    """
    answer = service.graphql(
        _LAUNCH,
        {
            "params": {
                "assetSelection": [{"path": [asset]} for asset in _ASSETS],
                "partitionNames": [f"{day:%Y-%m-%d}|{name}" for name in _MODELS for day in days],
                "fromFailure": False,
                "tags": [],
            }
        },
    )["launchPartitionBackfill"]
    if answer["__typename"] != "LaunchBackfillSuccess":
        raise RuntimeError(f"the backfill was not launched: {answer}")
    variables: Mapping[str, Any] = {
        "id": answer["backfillId"],
        "tags": [{"key": "dagster/backfill", "value": answer["backfillId"]}],
    }
    deadline = time.monotonic() + _SECONDS
    while True:
        service.require_running()
        state = service.graphql(_STATE, variables)
        status = state["partitionBackfillOrError"]["status"]
        if status == "COMPLETED_SUCCESS":
            return int(state["runsOrError"]["count"])
        if status != _UNDER_WAY or time.monotonic() > deadline:
            raise RuntimeError(f"the backfill is {status}, not complete within {_SECONDS:g} s")
        # Nothing but the UI's API tells; each answer takes the webserver some time.
        time.sleep(_POLL_SECONDS)


def _scheduled(service: ServiceUnderTest, since: float) -> list[dict[str, Any]]:
    """Return the runs that the schedule launched from a moment on, and that have started."""
    tags = [{"key": "dagster/schedule_name", "value": "simulation_schedule"}]
    runs = service.graphql(_SCHEDULED, {"tags": tags})["runsOrError"]["results"]
    return [run for run in runs if run["creationTime"] >= since and run["stats"].get("startTime")]


if __name__ == "__main__":
    print(markdown(list(measure(quick=False))))
