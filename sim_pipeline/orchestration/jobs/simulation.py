"""The job `simulation` and its schedule.

At each tick the schedule asks the database which windows are missing or undelivered, and requests
one run for all of them. Dagster does not repeat missed ticks, and runs fail: this repairs both.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import dagster as dg
import sqlalchemy as sa

from sim_pipeline.dagster_instance.names import (
    MAX_RETRIES_TAG,
    MAX_RUNTIME_SECONDS_TAG,
    PRIORITY_TAG,
    UnresolvedAssetJobDefinition,
)
from sim_pipeline.dagster_instance.run_tags import WINDOWS_TAG, models_in_range, range_tags
from sim_pipeline.orchestration.jobs import DEFAULT_STATUS, UNFINISHED
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.store.completeness import MissingWindows, find_missing
from sim_pipeline.store.errors import translate_db_errors
from sim_pipeline.store.ledger import Span
from sim_pipeline.timestamps import format_timestamp
from sim_pipeline.windows import Cadence

SIMULATION_JOB = "simulation"
SIMULATION_SCHEDULE = "simulation_schedule"

_STARTING = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
# A run that has not started within this share of run monitoring's timeout may never start: its
# process may have died unnoticed. If it does start later, the two runs share the work.
_START_TIMEOUT_SHARE = 1 / 4
# Ahead of every other run in the queue.
_PRIORITY = 100
# Time limit of a scheduled run: start-up and server timeouts, and for each window of a model five
# times the 0.2 s that one with the most values takes (see benchmarks/README.md).
_MAX_RUNTIME_SECONDS = 600
_MAX_SECONDS_PER_WINDOW = 1


def build_simulation_job(
    metric_frames: dg.AssetsDefinition,
    benchmark_feed: dg.AssetsDefinition,
) -> UnresolvedAssetJobDefinition:
    """Return the job that simulates, stores, checks and publishes.

    All steps run in one process: a step takes milliseconds, starting a process takes seconds.
    """
    return dg.define_asset_job(
        SIMULATION_JOB,
        selection=dg.AssetSelection.assets(metric_frames, benchmark_feed),
        executor_def=dg.in_process_executor,
        description="Simulate, store, check and publish the windows of the selected partitions",
    )


def build_simulation_schedule(
    job: UnresolvedAssetJobDefinition,
    cadence: Cadence,
    llm_names: Sequence[str],
    catch_up: timedelta,
) -> dg.ScheduleDefinition:
    """Return the schedule that keeps the feed complete over the last `catch_up`."""

    @dg.schedule(
        name=SIMULATION_SCHEDULE,
        job=job,
        cron_schedule=list(cadence.cron_schedule),
        execution_timezone="UTC",
        default_status=DEFAULT_STATUS,
        description=(
            f"Requests one run for all {cadence.interval} s windows that have ended and are missing"
            f" or undelivered, up to {catch_up} back"
        ),
    )
    def simulation_schedule(
        context: dg.ScheduleEvaluationContext, results: dg.ResourceParam[ResultsDatabase]
    ) -> dg.RunRequest | dg.SkipReason:
        tick = context.scheduled_execution_time
        in_progress = tuple(_unfinished_spans(context.instance, llm_names))
        with translate_db_errors(results.postgres):
            missing = missing_windows(
                results.postgres.engine,
                cadence,
                llm_names,
                since=tick - catch_up,
                now=tick,
                in_progress=in_progress,
            )
        if missing is None:
            upcoming = cadence.start_of(cadence.window_at(tick) + 1)
            return dg.SkipReason(
                f"Every window that has ended is published or in progress;"
                f" the next one ends at {upcoming:%Y-%m-%dT%H:%M:%SZ}"
            )
        context.log.info(
            "%s windows are missing or undelivered, the first starts at %s",
            missing.windows,
            missing.span.since,
        )
        return run_request(missing.span, cadence)

    return simulation_schedule


def missing_windows(
    engine: sa.Engine,
    cadence: Cadence,
    llm_names: Sequence[str],
    *,
    since: datetime,
    now: datetime,
    in_progress: Sequence[Span] = (),
) -> MissingWindows | None:
    """Return the missing or undelivered windows among those that ended from `since` to `now`.

    The latest window that has ended is always included, however long ago it started.

    Args:
        engine: of the results database.
        cadence: the windows of the feed.
        llm_names: the models.
        since: earliest end of a window.
        now: latest end of a window.
        in_progress: spans that unfinished runs are working on; they are left out.
    """
    stop = cadence.window_at(now)
    first = max(cadence.first_window, min(cadence.window_at(since), stop - 1))
    if first >= stop:
        return None
    with engine.connect() as connection:
        return find_missing(
            connection,
            llm_names,
            range(first, stop),
            timedelta(seconds=cadence.interval),
            in_progress,
        )


def run_request(span: Span, cadence: Cadence) -> dg.RunRequest:
    """Return the request for one run over the partitions that a span touches.

    The run's config narrows the partitions to the span. A scheduled run repairs missing windows. It
    does not replace windows simulated from other inputs; a manual materialization does.
    """
    interval = timedelta(seconds=cadence.interval)
    first_day = span.since.date()
    last_day = (span.until - interval).date()
    windows = len(span.llm_names) * ((span.until - span.since) // interval)
    since, until = format_timestamp(span.since), format_timestamp(span.until)
    return dg.RunRequest(
        tags={
            **range_tags(span.llm_names, first_day, last_day),
            # Shown in the UI, and read by later ticks so that they do not request the same windows.
            WINDOWS_TAG: f"{since}/{until}",
            # If the run's process dies, the next tick requests these windows again.
            MAX_RETRIES_TAG: "0",
            PRIORITY_TAG: str(_PRIORITY),
            # Ends a run that hangs, so that its windows can be requested again.
            MAX_RUNTIME_SECONDS_TAG: str(_MAX_RUNTIME_SECONDS + windows * _MAX_SECONDS_PER_WINDOW),
        },
        run_config=dg.RunConfig(
            resources={
                "scope": {"config": {"since": since, "until": until, "replace": False}},
            }
        ),
    )


def _unfinished_spans(instance: dg.DagsterInstance, llm_names: Sequence[str]) -> Iterator[Span]:
    now = datetime.now(UTC)
    for record in instance.get_run_records(dg.RunsFilter(statuses=UNFINISHED)):
        tags = record.dagster_run.tags
        if WINDOWS_TAG in tags and not _is_overdue(record, instance, now):
            since, until = tags[WINDOWS_TAG].split("/")
            yield Span(
                models_in_range(tags, llm_names),
                datetime.fromisoformat(since),
                datetime.fromisoformat(until),
            )


def _is_overdue(record: dg.RunRecord, instance: dg.DagsterInstance, now: datetime) -> bool:
    """Return whether a run should have started, or ended, by now.

    Dagster ends such a run. That may fail, so a tick does not wait for it.
    """
    run = record.dagster_run
    if run.status is dg.DagsterRunStatus.QUEUED:
        return False
    if run.status in _STARTING:
        timeout = instance.run_monitoring_start_timeout_seconds * _START_TIMEOUT_SHARE
        return now - record.update_timestamp > timedelta(seconds=timeout)
    limit = float(_MAX_RUNTIME_SECONDS)
    with suppress(KeyError, ValueError):  # a user who re-executes the run may edit the tag
        limit = float(run.tags[MAX_RUNTIME_SECONDS_TAG])
    # A run that was cancelled before it started has no start time.
    started = record.start_time or record.create_timestamp.timestamp()
    return now.timestamp() - started > limit
