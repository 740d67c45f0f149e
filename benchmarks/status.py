"""Benchmark: how fast the UI shows 233,600 partitions, all materialized by real runs.

64 models over ten years, with one window per day, so that our part of a run is short. For the code
location, the time from the start of its process until the webserver has reloaded it. For an asset,
the queries of the UI's partitions page and asset graph, first and repeated. Dagster caches an
asset's partition status in its storage; that cache is removed before each first query.
"""

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, date, datetime, timedelta

import dagster as dg
import sqlalchemy as sa

from benchmarks.dagster_service import PIPELINE, DagsterService
from benchmarks.figures import Limit, Row
from benchmarks.range_run import range_run
from sim_pipeline.local_servers.ports import free_port

_ASSET = "metric_frames"
_DAY_SECONDS = 86_400
_MODELS, _DAYS, _TIMES = 64, 3_650, 5
_QUICK_MODELS, _QUICK_DAYS, _QUICK_TIMES = 8, 10, 2
# Gives all processors enough runs, and no run so many events that they fill the memory.
_MODELS_PER_RUN = 4
_FIRST, _AGAIN, _LOAD = Limit(5), Limit(2), Limit(5)

# The queries of dagster-webserver's pages.
_PARTITION_HEALTH = """
query PartitionHealthQuery($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionKeysByDimension { name type partitionKeys }
      assetPartitionStatuses {
        ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } }
        ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions
        }
        ... on MultiPartitionStatuses {
          primaryDimensionName
          ranges {
            primaryDimStartKey primaryDimEndKey primaryDimStartTime primaryDimEndTime
            secondaryDim {
              ... on TimePartitionStatuses { ranges { status startTime endTime startKey endKey } }
              ... on DefaultPartitionStatuses {
                materializedPartitions materializingPartitions failedPartitions
              }
            }
          }
        }
      }
    }
  }
}
"""
_PARTITION_STATS = """
query PartitionStats($assetKey: AssetKeyInput!) {
  assetNodeOrError(assetKey: $assetKey) {
    ... on AssetNode {
      id
      partitionStats { numMaterialized numMaterializing numPartitions numFailed }
    }
  }
}
"""
_RELOAD = """
mutation Reload($name: String!) {
  reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename
    ... on WorkspaceLocationEntry { loadStatus }
    ... on PythonError { message }
  }
}
"""


def measure(*, quick: bool) -> Iterator[Row]:
    """Materialize all partitions, then measure the queries.

    Args:
        quick: use 80 partitions, twice, as a smoke test.
    """
    models, days, times = (
        (_QUICK_MODELS, _QUICK_DAYS, _QUICK_TIMES) if quick else (_MODELS, _DAYS, _TIMES)
    )
    start = datetime.now(UTC).date() - timedelta(days=days)
    names = tuple(f"model-{number}" for number in range(models))
    settings = {
        "llm_models": names,
        "simulation_interval": _DAY_SECONDS,
        "simulation_start": datetime(start.year, start.month, start.day, tzinfo=UTC),
    }
    with DagsterService(PIPELINE, settings) as service:
        what = f"{models} models over {days:,} days"
        loads = tuple(_load(service) for _ in range(times))
        yield Row(f"{what}, code location loaded", "s", loads, limit=_LOAD)

        _materialize(service, names, start, days)
        _require_materialized(service, models * days)
        for name, query in (
            ("partitions page", _PARTITION_HEALTH),
            ("asset graph's counts", _PARTITION_STATS),
        ):
            pairs = [_first_and_again(service, query) for _ in range(times)]
            for index, (when, limit) in enumerate((("first", _FIRST), ("again", _AGAIN))):
                yield Row(
                    f"{what}, {name}, {when}",
                    "s",
                    tuple(pair[index] for pair in pairs),
                    limit=limit,
                )


def _materialize(service: DagsterService, llm_names: Sequence[str], start: date, days: int) -> None:
    """Materialize all partitions, with one run per processor at a time."""
    # Dagster commits the planned event of each partition separately. Their durability is not part
    # of this benchmark.
    _set_in_storage(service, "synchronous_commit = off")
    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        runs = [
            executor.submit(
                range_run,
                llm_names[first : first + _MODELS_PER_RUN],
                start,
                start + timedelta(days=days - 1),
            )
            for first in range(0, len(llm_names), _MODELS_PER_RUN)
        ]
        for run in as_completed(runs):
            run.result()
    finally:
        executor.shutdown(cancel_futures=True)
    _set_in_storage(service, "synchronous_commit = on")


def _set_in_storage(service: DagsterService, setting: str) -> None:
    """Change a PostgreSQL setting for future connections to Dagster's storage."""
    with service.results.engine.begin() as connection:
        database = connection.dialect.identifier_preparer.quote(
            service.settings.dagster_postgres_db
        )
        connection.execute(sa.text(f"ALTER DATABASE {database} SET {setting}"))


def _load(service: DagsterService) -> float:
    """Start a code server and reload the location in the webserver; return the seconds."""
    (name, module), port = next(iter(PIPELINE.items())), free_port()
    start = time.perf_counter()
    service.start_code_server(f"{name} {port}", module, port)
    answer = service.graphql(_RELOAD, {"name": name})["reloadRepositoryLocation"]
    seconds = time.perf_counter() - start
    if answer.get("loadStatus") != "LOADED":
        raise RuntimeError(f"{name} was not loaded: {answer}")
    return seconds


def _first_and_again(service: DagsterService, query: str) -> tuple[float, float]:
    service.instance.event_log_storage.wipe_asset_cached_status(dg.AssetKey(_ASSET))

    def ask() -> float:
        start = time.perf_counter()
        service.graphql(query, {"assetKey": {"path": [_ASSET]}})
        return time.perf_counter() - start

    return ask(), ask()


def _require_materialized(service: DagsterService, partitions: int) -> None:
    answer = service.graphql(_PARTITION_STATS, {"assetKey": {"path": [_ASSET]}})
    found = answer["assetNodeOrError"]["partitionStats"]["numMaterialized"]
    if found != partitions:
        raise RuntimeError(f"{found} partitions of {_ASSET} are materialized, not {partitions}")
