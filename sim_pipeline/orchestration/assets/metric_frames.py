"""The asset `metric_frames`: the simulated metrics of each model and day, stored in PostgreSQL."""

from collections.abc import Iterator

import dagster as dg

from sim_pipeline.dagster_instance.partition_metadata import add_partition_metadata
from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.feed.progress import Progress
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.feed.slos import save_limits
from sim_pipeline.metrics import METRICS
from sim_pipeline.orchestration.io_manager import FrameBatches
from sim_pipeline.orchestration.resources import ResultsDatabase, RunScope
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.orchestration.table_schema import column_schema
from sim_pipeline.simulator.fingerprint import SIMULATOR_VERSION
from sim_pipeline.simulator.profiles import DERIVED
from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.schema import (
    deliveries,
    request_counts,
    simulated_events,
    simulation_results,
)


def build_metric_frames(
    partitions_def: dg.PartitionsDefinition,
    backfill_policy: dg.BackfillPolicy,
    freshness_policy: dg.FreshnessPolicy,
    database: str,
) -> dg.AssetsDefinition:
    """Return the asset.

    Args:
        partitions_def: models by days.
        backfill_policy: how a backfill of a range is split into runs.
        freshness_policy: when the asset is late.
        database: name of the results database, shown in the UI.
    """

    @dg.asset(
        partitions_def=partitions_def,
        backfill_policy=backfill_policy,
        io_manager_key="frames",
        kinds={"numpy", "postgres"},
        owners=["team:serving-metrics"],
        group_name="serving_metrics",
        code_version=str(SIMULATOR_VERSION),
        freshness_policy=freshness_policy,
        metadata={
            "dagster/table_name": f"{database}.public.{simulation_results.name}",
            "dagster/column_schema": column_schema(simulation_results),
            "request counts": dg.MetadataValue.text(f"{database}.public.{request_counts.name}"),
            "simulated events": dg.MetadataValue.text(f"{database}.public.{simulated_events.name}"),
            "ledger": dg.MetadataValue.text(f"{database}.public.{deliveries.name}"),
        },
    )
    def metric_frames(
        context: dg.AssetExecutionContext,
        simulation: dg.ResourceParam[SimulationInputs],
        scope: RunScope,
        results: dg.ResourceParam[ResultsDatabase],
    ) -> FrameBatches:
        """Simulated TTFT, TPS, e2e_latency and RPS of a model's windows that start on a UTC day.

        Stored as rows of the table `simulation_results`; loads as a pandas DataFrame. The table
        `request_counts` has the number of completed and failed requests of each window, and
        `simulated_events` has the events that moved the metrics. Windows already stored from the
        same inputs are skipped.
        """
        selection = scope.selection(context.partition_keys, simulation.cadence)
        profiles = simulation.profiles(selection.llm_names)
        for profile in profiles.values():
            if profile.source == DERIVED:
                context.log.info(
                    "%s has no published figures: its profile is %s", profile.name, DERIVED
                )
        with retry_transient_errors(results.postgres, context.retry_number):
            save_limits(results.postgres, profiles.values())
        frames = MetricFrames(
            selection,
            profiles,
            cadence=simulation.cadence,
            points=simulation.points,
            seed=simulation.seed,
            postgres=results.postgres,
            replace=scope.replace,
            force=scope.force,
        )

        def batches() -> Iterator[WindowBatch]:
            """Simulate the next batch once the one before is stored."""
            progress = Progress("Stored", "rows", frames.windows)
            stats = frames.stats
            for batch in frames:
                yield batch
                progress.report(stats.simulated + stats.skipped, len(METRICS) * stats.simulated)
            progress.end(stats.simulated + stats.skipped, len(METRICS) * stats.simulated)
            add_partition_metadata(
                context.op_execution_context.get_step_execution_context(),
                context.asset_key,
                frames.partition_metadata(),
            )

        return FrameBatches(batches(), force=scope.force)

    return metric_frames
