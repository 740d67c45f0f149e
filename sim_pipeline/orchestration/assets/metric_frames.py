"""`metric_frames`: the simulated metrics of each model and day, stored in PostgreSQL."""

import dagster as dg

from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.orchestration.resources import ResultsDatabase, RunScope
from sim_pipeline.orchestration.table_schema import column_schema
from sim_pipeline.simulator.fingerprint import SIMULATOR_VERSION
from sim_pipeline.simulator.profiles import DERIVED
from sim_pipeline.store.schema import deliveries, simulation_results


def build_metric_frames(
    partitions_def: dg.PartitionsDefinition,
    backfill_policy: dg.BackfillPolicy,
    freshness_policy: dg.FreshnessPolicy,
    database: str,
) -> dg.AssetsDefinition:
    """Return the asset for these partitions.

    Args:
        partitions_def: models by days.
        backfill_policy: how a range becomes runs.
        freshness_policy: when it is late.
        database: the name of the results database, for people.
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
            "ledger": dg.MetadataValue.text(f"{database}.public.{deliveries.name}"),
        },
    )
    def metric_frames(
        context: dg.AssetExecutionContext,
        simulation: dg.ResourceParam[SimulationInputs],
        scope: RunScope,
        results: dg.ResourceParam[ResultsDatabase],
    ) -> MetricFrames:
        """Simulated TTFT, TPS, e2e_latency and RPS of a model's windows that start in a day.

        Stored as rows of the table `simulation_results`. A window that is there already from the
        same inputs is left alone.
        """
        selection = scope.selection(context.partition_keys, simulation.cadence)
        profiles = simulation.profiles(selection.llm_names)
        for profile in profiles.values():
            if profile.source == DERIVED:
                context.log.info(
                    "%s has no published figures; its profile is %s", profile.name, DERIVED
                )
        return MetricFrames(
            selection,
            profiles,
            cadence=simulation.cadence,
            points=simulation.points,
            seed=simulation.seed,
            postgres=results.postgres,
            replace=scope.replace,
            force=scope.force,
        )

    return metric_frames
