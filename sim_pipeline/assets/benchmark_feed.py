"""`benchmark_feed`: each stored simulation, published to RabbitMQ once."""

import dagster as dg

from sim_pipeline.assets.faults import faults_handled
from sim_pipeline.assets.feed import publish_pending
from sim_pipeline.resources import Broker, ResultsDatabase, RunScope, SimulationInputs
from sim_pipeline.store.ledger import reopen


def build_benchmark_feed(
    metric_frames: dg.AssetsDefinition,
    partitions_def: dg.PartitionsDefinition,
    backfill_policy: dg.BackfillPolicy,
) -> dg.AssetsDefinition:
    """Return the asset for these partitions."""

    @dg.asset(
        partitions_def=partitions_def,
        backfill_policy=backfill_policy,
        deps=[metric_frames],
        kinds={"rabbitmq"},
        owners=["team:serving-metrics"],
        group_name="serving_metrics",
        code_version="1",
    )
    def benchmark_feed(
        context: dg.AssetExecutionContext,
        simulation: SimulationInputs,
        scope: RunScope,
        results: ResultsDatabase,
        broker: Broker,
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """One message a model and window, confirmed by the broker, in the benchmarking queue.

        What is sent is what the table `deliveries` holds as pending for the run's windows. What
        the broker did not confirm stays pending, for the next run over these windows.
        """
        span = scope.selection(context.partition_keys, simulation.cadence).span
        engine = results.postgres.engine
        reopened = 0
        with faults_handled(results.postgres, context.retry_number):
            if scope.resend:
                with engine.begin() as connection:
                    reopened = reopen(connection, span)
            sent = publish_pending(engine, broker.config, span, simulation.points)
        return dg.MaterializeResult(
            metadata={"messages sent": sent, "of these sent before": reopened}
        )

    return benchmark_feed
