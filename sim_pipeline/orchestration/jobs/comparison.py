"""The job that compares the models, and its schedule, which runs it after each feed.

Why a schedule of its own, a little after the feed's ticks:

- Not a step of the feed's job: importing matplotlib and drawing takes as long as a whole scheduled
  run, and each run of a backfill would do it.
- Not an automation condition: the sensor that evaluates it runs twice a minute, over partitions by
  the thousand, and every run of a backfill over the feed would set it off.
- Not a run-status sensor: it asks for events twice a minute, all day, to find one an hour.

A tick asks one question by an index: has a window been stored since the last comparison? If none
has, it skips. So a feed that was late is compared a quarter of an hour later, a backfill over
history sets nothing off, and at short intervals there is a comparison every quarter of an hour,
not one a window: each is an event with two plots. The run is launched as any other one is, by a
process here and by a pod in Kubernetes.
"""

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

import dagster as dg

from sim_pipeline.comparison.ranking import last_compared
from sim_pipeline.dagster_instance.names import (
    IN_PROGRESS_RUN_STATUSES,
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
    UnresolvedAssetJobDefinition,
)
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.ledger import latest_window_start
from sim_pipeline.windows import Cadence

COMPARISON_JOB = "comparison"
COMPARISON_SCHEDULE = "comparison_schedule"
COMPARISON_INTERVAL: Final = timedelta(minutes=15)

# From minute 2 on: windows end at the full minutes of an hour, and a scheduled run takes seconds.
_CRON = "2-59/15 * * * *"
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    *IN_PROGRESS_RUN_STATUSES,
]


def build_comparison_job(model_comparison: dg.AssetsDefinition) -> UnresolvedAssetJobDefinition:
    """Return the job that compares the models; it runs in one process."""
    return dg.define_asset_job(
        COMPARISON_JOB,
        selection=dg.AssetSelection.assets(model_comparison),
        executor_def=dg.in_process_executor,
        description="Compare the models over the last day and the last seven",
        # Runs by hand come first: a person waits for them. The next run replaces one that died, and
        # starts only once one that hangs is ended; a comparison takes seconds.
        tags={PRIORITY_TAG: "-1", MAX_RUNTIME_SECONDS_TAG: "900", MAX_RETRIES_TAG: "0"},
    )


def build_comparison_schedule(
    job: UnresolvedAssetJobDefinition, cadence: Cadence, llm_names: Sequence[str]
) -> dg.ScheduleDefinition:
    """Return the schedule that compares what has been stored since the last comparison."""
    interval = timedelta(seconds=cadence.interval)

    @dg.schedule(
        name=COMPARISON_SCHEDULE,
        job=job,
        cron_schedule=_CRON,
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description="After each feed, at most every 15 minutes, compare the models",
    )
    def comparison_schedule(
        context: dg.ScheduleEvaluationContext, results: dg.ResourceParam[ResultsDatabase]
    ) -> dg.RunRequest | dg.SkipReason:
        with translate_db_errors(results.postgres), results.postgres.engine.connect() as connection:
            stored, compared = latest_window_start(connection, llm_names), last_compared(connection)
        if stored is None:
            return dg.SkipReason("Nothing is stored yet")
        if compared is not None and stored + interval <= compared:
            return dg.SkipReason(
                f"Nothing new is stored since what was compared up to {compared.isoformat()}"
            )
        waiting = dg.RunsFilter(job_name=COMPARISON_JOB, statuses=_UNFINISHED)
        if context.instance.get_runs_count(waiting):
            return dg.SkipReason("A comparison is under way")
        return dg.RunRequest()

    return comparison_schedule
