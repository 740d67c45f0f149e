"""A code location with an empty graph of our graph's shape: the floor of a backfill's time.

It has two assets, the two blocking checks between them in one step, and one process per run. The
benchmark passes our number of partitions per run in the environment. This module imports only the
settings of the pipeline, so that the floor does not include the import time of our code.
"""

import os
from collections.abc import Iterator

import dagster as dg

from sim_pipeline.config import load_settings

_settings = load_settings()
_partitions = dg.MultiPartitionsDefinition(
    {
        "day": dg.DailyPartitionsDefinition(
            start_date=_settings.simulation_start.date().isoformat(), timezone="UTC", end_offset=1
        ),
        "llm": dg.StaticPartitionsDefinition(list(_settings.llm_models)),
    }
)
_policy = dg.BackfillPolicy.multi_run(
    max_partitions_per_run=int(os.environ["BENCHMARK_PARTITIONS_PER_RUN"])
)


@dg.asset(partitions_def=_partitions, backfill_policy=_policy)
def empty_frames() -> None:
    """Take the place of `metric_frames`."""


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset=empty_frames, blocking=True)
        for name in ("windows_complete", "values_consistent")
    ]
)
def empty_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """Take the place of the checks."""
    for key in context.selected_asset_check_keys:
        yield dg.AssetCheckResult(asset_key=key.asset_key, check_name=key.name, passed=True)


@dg.asset(partitions_def=_partitions, backfill_policy=_policy, deps=[empty_frames])
def empty_feed() -> None:
    """Take the place of `benchmark_feed`."""


defs = dg.Definitions(
    assets=[empty_frames, empty_feed],
    asset_checks=[empty_checks],
    executor=dg.in_process_executor,
)
