"""The job that the schedule launches, and that a backfill of the whole graph runs."""

import dagster as dg

from sim_pipeline.dagster_instance.names import UnresolvedAssetJobDefinition

SIMULATION_JOB = "simulation"


def build_simulation_job(
    metric_frames: dg.AssetsDefinition,
    benchmark_feed: dg.AssetsDefinition,
) -> UnresolvedAssetJobDefinition:
    """Return the job that simulates, stores, checks and publishes.

    It runs in one process: its steps take milliseconds, a process for each would take seconds.
    """
    return dg.define_asset_job(
        SIMULATION_JOB,
        selection=dg.AssetSelection.assets(metric_frames, benchmark_feed),
        executor_def=dg.in_process_executor,
        description="Simulate the windows of some partitions, store, check and publish them",
    )
