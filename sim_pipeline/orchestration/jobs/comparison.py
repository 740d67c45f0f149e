"""The job `comparison`, which compares the models, and its schedule.

A tick skips unless a window newer than the last comparison is stored. docs/decisions.md says why
this is a schedule of its own.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import dagster as dg

from sim_pipeline.comparison.ranking import last_compared
from sim_pipeline.dagster_instance.names import (
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
    UnresolvedAssetJobDefinition,
)
from sim_pipeline.orchestration.jobs import DEFAULT_STATUS, UNFINISHED
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.store.errors import translate_db_errors
from sim_pipeline.store.ledger import latest_window_start
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.windows import Cadence

COMPARISON_JOB = "comparison"
COMPARISON_SCHEDULE = "comparison_schedule"
COMPARISON_INTERVAL: Final = timedelta(minutes=15)

# Starts at minute 2: most windows end on the hour, and a scheduled run takes seconds.
_CRON = "2-59/15 * * * *"


def build_comparison_job(model_comparison: dg.AssetsDefinition) -> UnresolvedAssetJobDefinition:
    """Return the job that compares the models. It runs in one process."""
    return dg.define_asset_job(
        COMPARISON_JOB,
        selection=dg.AssetSelection.assets(model_comparison),
        executor_def=dg.in_process_executor,
        description="Compare the models over the last 24 hours and the last 7 days",
        # Manual runs go first: a user waits for them. A run that died is not retried: the next tick
        # requests another one. A comparison takes seconds; one that hangs is ended.
        tags={PRIORITY_TAG: "-1", MAX_RUNTIME_SECONDS_TAG: "900", MAX_RETRIES_TAG: "0"},
    )


def build_comparison_schedule(
    job: UnresolvedAssetJobDefinition, cadence: Cadence, llm_names: Sequence[str]
) -> dg.ScheduleDefinition:
    """Return the schedule that requests a comparison when new windows are stored."""
    interval = timedelta(seconds=cadence.interval)

    @dg.schedule(
        name=COMPARISON_SCHEDULE,
        job=job,
        cron_schedule=_CRON,
        execution_timezone="UTC",
        default_status=DEFAULT_STATUS,
        description="Compares the models when new windows are stored, at most every 15 minutes",
    )
    def comparison_schedule(
        context: dg.ScheduleEvaluationContext, results: dg.ResourceParam[ResultsDatabase]
    ) -> dg.RunRequest | dg.SkipReason:
        with translate_db_errors(results.postgres), results.postgres.engine.connect() as connection:
            stored, compared = latest_window_start(connection, llm_names), last_compared(connection)
        if stored is None:
            return dg.SkipReason("No window is stored yet")
        if compared is not None and stored + interval <= compared:
            return dg.SkipReason(
                f"No new window is stored since the comparison up to {format_timestamp(compared)}"
            )
        unfinished = dg.RunsFilter(job_name=COMPARISON_JOB, statuses=UNFINISHED)
        if context.instance.get_runs_count(unfinished):
            return dg.SkipReason("A comparison is in progress")
        return dg.RunRequest()

    return comparison_schedule
