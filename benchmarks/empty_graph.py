"""The floor of a backfill: a graph of the shape of ours, over its partitions, that does nothing.

Two assets, the two blocking checks between them in one step, one process for a run. How many
partitions a run takes is ours, handed over by the benchmark in the environment. Nothing of ours is
imported but the settings: the floor does not pay for what our work needs.
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
    """Stand where `metric_frames` does."""


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(name, asset=empty_frames, blocking=True)
        for name in ("windows_complete", "values_consistent")
    ]
)
def empty_checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
    """Stand where the checks do."""
    for key in context.selected_asset_check_keys:
        yield dg.AssetCheckResult(asset_key=key.asset_key, check_name=key.name, passed=True)


@dg.asset(partitions_def=_partitions, backfill_policy=_policy, deps=[empty_frames])
def empty_feed() -> None:
    """Stand where `benchmark_feed` does."""


defs = dg.Definitions(
    assets=[empty_frames, empty_feed],
    asset_checks=[empty_checks],
    executor=dg.in_process_executor,
)
