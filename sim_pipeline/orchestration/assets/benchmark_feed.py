"""The asset `benchmark_feed`: the stored windows, published to RabbitMQ."""

import dagster as dg

from sim_pipeline.dagster_instance.partition_metadata import add_partition_metadata
from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.feed.publish import publish_pending
from sim_pipeline.feed.selection import days_and_models
from sim_pipeline.orchestration.resources import Broker, ResultsDatabase, RunScope
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.orchestration.table_schema import column_schema
from sim_pipeline.store.ledger import reopen
from sim_pipeline.store.schema import deliveries


def build_benchmark_feed(
    metric_frames: dg.AssetsDefinition,
    partitions_def: dg.PartitionsDefinition,
    backfill_policy: dg.BackfillPolicy,
    freshness_policy: dg.FreshnessPolicy,
    *,
    database: str,
    queue: str,
) -> dg.AssetsDefinition:
    """Return the asset.

    Args:
        metric_frames: the asset to publish.
        partitions_def: models by days.
        backfill_policy: how a backfill of a range is split into runs.
        freshness_policy: when the asset is late.
        database: name of the results database, shown in the UI.
        queue: name of the queue, shown in the UI.
    """

    @dg.asset(
        partitions_def=partitions_def,
        backfill_policy=backfill_policy,
        deps=[metric_frames],
        kinds={"rabbitmq"},
        owners=["team:serving-metrics"],
        group_name="serving_metrics",
        code_version="1",
        freshness_policy=freshness_policy,
        metadata={
            "queue": dg.MetadataValue.text(queue),
            "message": dg.MetadataValue.path("docs/message.schema.json"),
            "dagster/table_name": f"{database}.public.{deliveries.name}",
            "dagster/column_schema": column_schema(deliveries),
        },
    )
    def benchmark_feed(
        context: dg.AssetExecutionContext,
        simulation: dg.ResourceParam[SimulationInputs],
        scope: RunScope,
        results: dg.ResourceParam[ResultsDatabase],
        broker: dg.ResourceParam[Broker],
    ) -> None:
        """One message per model and window in the benchmarking queue, confirmed by the broker.

        A run publishes the windows that are pending in the table `deliveries`. A window that the
        broker does not confirm stays pending, and the next run over it publishes it.
        """
        span = scope.selection(context.partition_keys, simulation.cadence).span
        engine, sent = results.postgres.engine, scope.sent
        with retry_transient_errors(results.postgres, context.retry_number):
            if scope.resend and not sent.reopened:
                with engine.begin() as connection:
                    sent.reopen_transaction_ids.extend(reopen(connection, span))
                sent.reopened = True
            publish_pending(engine, broker.config, span, simulation.points, sent)
        # For every partition of the run, also those without pending windows.
        days, llm_names = days_and_models(context.partition_keys)
        counts = {"messages sent": sent.messages}
        if scope.resend:
            counts["messages sent again"] = sent.resent
        add_partition_metadata(
            context.op_execution_context.get_step_execution_context(),
            context.asset_key,
            {
                (day, name): {title: count[day, name] for title, count in counts.items()}
                for day in days
                for name in llm_names
            },
        )

    return benchmark_feed
