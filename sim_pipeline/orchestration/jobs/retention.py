"""The job `retention`, which removes old data, and its nightly schedule.

- EVENT_RETENTION_DAYS applies to Dagster's history; `run_history` says what is kept, and why.
- RESULTS_RETENTION_DAYS applies to results, request counts, ledger entries and simulated events:
  see `store.retention`.

Both remove small batches and block no writer, so the feed keeps running. If a run fails or is
killed, the next night's run continues.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from sim_pipeline.dagster_instance.names import (
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
)
from sim_pipeline.dagster_instance.run_history import remove_history
from sim_pipeline.orchestration.jobs import DEFAULT_STATUS
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.store.retention import remove_delivered
from sim_pipeline.store.server_facts import ids_running_out
from sim_pipeline.timestamps import format_timestamp

RETENTION_JOB = "retention"
RETENTION_SCHEDULE = "retention_schedule"

# Windows of the usual intervals do not end at minute 17.
_CRON = "17 3 * * *"


def build_retention_job(*, event_days: int, results_days: int) -> dg.JobDefinition:
    """Return the job that removes old data.

    Args:
        event_days: age of runs and events to remove [days]; 0 keeps all.
        results_days: time since delivery of results to remove [days]; 0 keeps all.
    """

    @dg.op(description=f"Remove results delivered more than {results_days} days ago; 0 keeps all")
    def remove_old_results(
        context: dg.OpExecutionContext, results: dg.ResourceParam[ResultsDatabase]
    ) -> None:
        with results.postgres.engine.connect() as connection:
            warning = ids_running_out(connection)
        if warning:
            context.log.warning(warning)
        if results_days == 0:
            context.log.info("RESULTS_RETENTION_DAYS is 0: all results are kept")
            return
        before = datetime.now(UTC) - timedelta(days=results_days)
        removed = remove_delivered(results.postgres.engine, before)
        context.log.info(
            "Removed %s windows (%s rows, %s request counts, %s events) delivered before %s",
            removed.windows,
            removed.rows,
            removed.counts,
            removed.events,
            format_timestamp(before, "seconds"),
        )
        context.add_output_metadata(
            {
                "windows removed": removed.windows,
                "rows removed": removed.rows,
                "request counts removed": removed.counts,
                "simulated events removed": removed.events,
            }
        )

    @dg.op(description=f"Remove runs and events older than {event_days} days; 0 keeps all")
    def remove_old_runs(context: dg.OpExecutionContext) -> None:
        if event_days == 0:
            context.log.info("EVENT_RETENTION_DAYS is 0: all runs and their events are kept")
            return
        now = datetime.now(UTC)
        before = now - timedelta(days=event_days)
        removed = remove_history(
            context.instance,
            before,
            now - timedelta(days=max(event_days, results_days)) if results_days else None,
        )
        context.log.info(
            "Removed %s runs and %s events older than %s, %s backfills, %s tick logs",
            removed.runs,
            removed.events,
            format_timestamp(before, "seconds"),
            removed.backfills,
            removed.tick_logs,
        )
        context.add_output_metadata(
            {
                "runs removed": removed.runs,
                "events removed": removed.events,
                "backfills removed": removed.backfills,
                "tick logs removed": removed.tick_logs,
            }
        )

    @dg.job(
        name=RETENTION_JOB,
        executor_def=dg.in_process_executor,
        description="Remove old results, runs and events, so that the databases stop growing",
        # Manual runs go first. Run monitoring ends a run that hangs. A run that died is not
        # retried: the next night's run continues.
        tags={PRIORITY_TAG: "-1", MAX_RUNTIME_SECONDS_TAG: "7200", MAX_RETRIES_TAG: "0"},
    )
    def retention() -> None:
        remove_old_results()
        remove_old_runs()

    return retention


def build_retention_schedule(job: dg.JobDefinition, *, running: bool) -> dg.ScheduleDefinition:
    """Return the nightly schedule.

    Args:
        job: the retention job.
        running: whether the schedule runs by default.
    """
    return dg.ScheduleDefinition(
        name=RETENTION_SCHEDULE,
        job=job,
        cron_schedule=_CRON,
        execution_timezone="UTC",
        default_status=DEFAULT_STATUS if running else dg.DefaultScheduleStatus.STOPPED,
        description="Each night, removes data older than EVENT_ and RESULTS_RETENTION_DAYS",
    )
