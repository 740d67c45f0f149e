"""The asset `model_comparison`: the models ranked over 24 hours and 7 days, with a check."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from sim_pipeline.comparison.attainment import attainment_table, read_attainment
from sim_pipeline.comparison.charts import history_plot, ranges_plot, table
from sim_pipeline.comparison.ranking import PERIODS, rank_models, save_ranking
from sim_pipeline.comparison.regressions import STRETCH, find_regressions
from sim_pipeline.comparison.sampling import sampling
from sim_pipeline.feed.inputs import SimulationInputs
from sim_pipeline.feed.slos import save_limits
from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.orchestration.retries import retry_transient_errors
from sim_pipeline.orchestration.table_schema import column_schema
from sim_pipeline.store import ledger
from sim_pipeline.store.events import read_events
from sim_pipeline.store.schema import model_comparison as comparison_table

CHECK_NAME = "p50_regression"


def build_model_comparison(
    benchmark_feed: dg.AssetsDefinition,
    llm_names: Sequence[str],
    freshness_policy: dg.FreshnessPolicy,
    *,
    database: str,
    retention: timedelta | None,
) -> dg.AssetsDefinition:
    """Return the asset, with its check.

    Args:
        benchmark_feed: the upstream asset.
        llm_names: the models to compare.
        freshness_policy: when the asset is late.
        database: name of the results database, shown in the UI.
        retention: how long comparisons are kept; None keeps all.
    """
    regression = dg.AssetCheckSpec(
        CHECK_NAME,
        asset="model_comparison",
        description=(
            f"No model's median over the last {STRETCH} hours (or windows, if longer) is worse than"
            " the model's usual range over the past 8 days at a similar load. Warns, does not block"
        ),
    )

    @dg.asset(
        deps=[benchmark_feed],
        kinds={"postgres", "matplotlib"},
        owners=["team:serving-metrics"],
        group_name="serving_metrics",
        code_version="1",
        check_specs=[regression],
        freshness_policy=freshness_policy,
        metadata={
            "dagster/table_name": f"{database}.public.{comparison_table.name}",
            "dagster/column_schema": column_schema(comparison_table),
        },
    )
    def model_comparison(
        context: dg.AssetExecutionContext,
        simulation: dg.ResourceParam[SimulationInputs],
        results: dg.ResourceParam[ResultsDatabase],
    ) -> dg.MaterializeResult:  # type: ignore[type-arg]
        """The models ranked by each metric over the 24 hours and 7 days up to the latest window.

        The table `model_comparison` stores each comparison: p50 and p95 with their 95 % intervals,
        and the change of p50 against the same period a day earlier. The rank of a model is 1 more
        than the number of models whose interval of p50 is wholly better. All values are read, up to
        300 per model, metric and hour and one window per minute; beyond that, evenly spaced ones.
        The metadata also shows how well each model keeps its limits (SLO); the view
        `slo_attainment` has this window by window.
        """
        interval = timedelta(seconds=simulation.cadence.interval)
        sampled = sampling(interval, simulation.points)
        keep_from = datetime.now(UTC) - retention if retention else None
        profiles = simulation.profiles(llm_names)
        with retry_transient_errors(results.postgres, context.retry_number):
            save_limits(results.postgres, profiles.values())
        with (
            retry_transient_errors(results.postgres, context.retry_number),
            results.postgres.engine.begin() as connection,
        ):
            latest = ledger.latest_window_start(connection, llm_names)
            if latest is None:
                raise dg.Failure(
                    f"no window of {', '.join(llm_names)} is stored: materialize metric_frames",
                    allow_retries=False,
                )
            ranking, history = rank_models(connection, llm_names, latest, interval, sampled)
            events = read_events(connection, llm_names, history.starts[0], latest + interval)
            attainment = read_attainment(connection, llm_names, latest, sampled)
            save_ranking(connection, ranking, latest + interval, keep_from=keep_from)
        found = find_regressions(history)
        day, week = PERIODS
        return dg.MaterializeResult(
            metadata={
                "compared up to": dg.MetadataValue.timestamp(latest + interval),
                "values compared": str(sampled),
                "last 24 hours, plot": dg.MetadataValue.md(ranges_plot(ranking, day)),
                "last 7 days, plot": dg.MetadataValue.md(history_plot(history, events)),
                **{
                    f"{metric} [{UNITS[metric]}], {period}": dg.MetadataValue.md(
                        table(ranking, hours, metric)
                    )
                    for metric in METRICS
                    for hours, period in ((day, "last 24 hours"), (week, "last 7 days"))
                },
                "SLO attainment, last 24 hours": dg.MetadataValue.md(
                    attainment_table(attainment, day)
                ),
                "SLO attainment, last 7 days": dg.MetadataValue.md(
                    attainment_table(attainment, week)
                ),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=CHECK_NAME,
                    passed=not found,
                    severity=dg.AssetCheckSeverity.WARN,
                    description="; ".join(map(str, found)) or None,
                    metadata={
                        f"{one.llm_name} {one.metric} p50 / limit": one.p50 / one.limit
                        for one in found
                    },
                )
            ],
        )

    return model_comparison
