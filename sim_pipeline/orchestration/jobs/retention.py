"""The job that keeps what is stored from growing forever, and its schedule.

EVENT_RETENTION_DAYS is for Dagster's history: `run_history` says what of it stays and why. It does
nothing to the deliveries ledger, whose entries are needed for as long as their rows are there.
RESULTS_RETENTION_DAYS is for both, rows and entries: see `store.retention`.

Both remove in small batches that hold no lock anyone waits for, so the feed goes on meanwhile. A
run that fails or is killed has removed what it has; the next night's goes on from there.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from sim_pipeline.dagster_instance.names import (
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
)
from sim_pipeline.dagster_instance.run_history import remove_history
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.store.retention import remove_delivered
from sim_pipeline.store.server_facts import ids_running_out

RETENTION_JOB = "retention"
RETENTION_SCHEDULE = "retention_schedule"

# A minute at which no interval that divides an hour ends.
_CRON = "17 3 * * *"


def build_retention_job(*, event_days: int, results_days: int) -> dg.JobDefinition:
    """Return the job that removes what is older than so many days; 0 keeps all."""

    @dg.op(description=f"Remove results delivered over {results_days} days ago; 0 keeps all")
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
            "Removed %s windows, %s rows, that were delivered before %s",
            removed.windows,
            removed.rows,
            before.isoformat(timespec="seconds"),
        )
        context.add_output_metadata(
            {"windows removed": removed.windows, "rows removed": removed.rows}
        )

    @dg.op(description=f"Remove what Dagster knows of runs over {event_days} days old; 0 keeps all")
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
            "Removed %s runs and %s events from before %s, %s backfills, %s logs of ticks",
            removed.runs,
            removed.events,
            before.isoformat(timespec="seconds"),
            removed.backfills,
            removed.tick_logs,
        )
        context.add_output_metadata(
            {
                "runs removed": removed.runs,
                "events removed": removed.events,
                "backfills removed": removed.backfills,
                "logs of ticks removed": removed.tick_logs,
            }
        )

    @dg.job(
        name=RETENTION_JOB,
        executor_def=dg.in_process_executor,
        description="Remove old results, runs and events, so that nothing grows forever",
        # Runs by hand come first. One that hangs is ended by run monitoring; one that died is
        # not launched anew, for the next night's goes on from there.
        tags={PRIORITY_TAG: "-1", MAX_RUNTIME_SECONDS_TAG: "7200", MAX_RETRIES_TAG: "0"},
    )
    def retention() -> None:
        remove_old_results()
        remove_old_runs()

    return retention


def build_retention_schedule(job: dg.JobDefinition, *, running: bool) -> dg.ScheduleDefinition:
    """Return the schedule that runs the job each night, by default only if there is a reason."""
    return dg.ScheduleDefinition(
        name=RETENTION_SCHEDULE,
        job=job,
        cron_schedule=_CRON,
        execution_timezone="UTC",
        default_status=(
            dg.DefaultScheduleStatus.RUNNING if running else dg.DefaultScheduleStatus.STOPPED
        ),
        description="Each night, remove what EVENT_ and RESULTS_RETENTION_DAYS no longer keep",
    )
