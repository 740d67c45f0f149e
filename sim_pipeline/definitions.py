"""The code location: reads the settings once and assembles the graph, nothing else."""

from datetime import timedelta

import dagster as dg

from sim_pipeline import logs
from sim_pipeline.config import Settings, load_settings
from sim_pipeline.orchestration.assets.benchmark_feed import build_benchmark_feed
from sim_pipeline.orchestration.assets.checks import build_frame_checks
from sim_pipeline.orchestration.assets.metric_frames import build_metric_frames
from sim_pipeline.orchestration.assets.model_comparison import build_model_comparison
from sim_pipeline.orchestration.freshness import freshness
from sim_pipeline.orchestration.io_manager import frames_io_manager
from sim_pipeline.orchestration.jobs.comparison import (
    COMPARISON_INTERVAL,
    build_comparison_job,
    build_comparison_schedule,
)
from sim_pipeline.orchestration.jobs.retention import build_retention_job, build_retention_schedule
from sim_pipeline.orchestration.jobs.simulation import (
    build_simulation_job,
    build_simulation_schedule,
)
from sim_pipeline.orchestration.partitions import build_partitions
from sim_pipeline.orchestration.resources import RunScope, settings_as_resources
from sim_pipeline.what_if.job import build_what_if_job
from sim_pipeline.windows import Cadence


def build_defs(settings: Settings) -> dg.Definitions:
    """Assemble the pipeline from the settings."""
    cadence = Cadence(settings.simulation_interval, settings.simulation_start)
    partitions_def = build_partitions(settings.llm_models, cadence)
    backfill_policy = dg.BackfillPolicy.multi_run(settings.backfill_days_per_run)
    interval = timedelta(seconds=settings.simulation_interval)
    catch_up = timedelta(hours=settings.catch_up_hours)
    freshness_policy = freshness(interval, catch_up)
    metric_frames = build_metric_frames(
        partitions_def, backfill_policy, freshness_policy, settings.postgres_db
    )
    benchmark_feed = build_benchmark_feed(
        metric_frames,
        partitions_def,
        backfill_policy,
        freshness_policy,
        database=settings.postgres_db,
        queue=settings.rabbitmq_queue,
    )
    job = build_simulation_job(metric_frames, benchmark_feed)
    event_days, results_days = settings.event_retention_days, settings.results_retention_days
    model_comparison = build_model_comparison(
        benchmark_feed,
        settings.llm_models,
        freshness(max(interval, COMPARISON_INTERVAL), catch_up),
        database=settings.postgres_db,
        retention=timedelta(days=results_days) if results_days else None,
    )
    comparison = build_comparison_job(model_comparison)
    retention = build_retention_job(event_days=event_days, results_days=results_days)
    what_if = build_what_if_job(
        settings.llm_models, seed=settings.random_seed, points=settings.num_data_points
    )
    return dg.Definitions(
        assets=dg.with_source_code_references([metric_frames, benchmark_feed, model_comparison]),
        asset_checks=[build_frame_checks(metric_frames)],
        jobs=[job, comparison, retention, what_if],
        schedules=[
            build_simulation_schedule(job, cadence, settings.llm_models, catch_up),
            build_comparison_schedule(comparison, cadence, settings.llm_models),
            build_retention_schedule(retention, running=event_days > 0 or results_days > 0),
        ],
        resources={
            **settings_as_resources(settings),
            "frames": frames_io_manager,
            "scope": RunScope.configure_at_launch(),
        },
        executor=dg.in_process_executor,
    )


_settings = load_settings()
logs.set_level(_settings)
defs = build_defs(_settings)
