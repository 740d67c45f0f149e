"""The schedule: at each tick, one run for what is new together with what is missing.

Dagster does not make up for ticks that it missed, and a run may fail. So a tick does not ask what
is new; it asks the database what is missing or undelivered, the new window among it.
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
from sim_pipeline.dagster_instance.run_tags import WINDOWS_TAG
from sim_pipeline.orchestration.partitions import models_in_range, range_tags
from sim_pipeline.orchestration.resources import ResultsDatabase
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.ledger import MissingWindows, Span, find_missing
from sim_pipeline.windows import Cadence

SIMULATION_SCHEDULE = "simulation_schedule"

_STARTING = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING]
_UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    *_STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
# A run that has not begun after this part of the time that run monitoring gives it may never do:
# its process died, and nobody could tell. Should it begin after all, the two share the work.
_START_PATIENCE = 1 / 4
# Before every other run in the queue.
_PRIORITY = 100
# The time a run of the schedule may take: start-up and time-outs of the servers, and for each
# window of a model five times what one with the most values took (0.2 s, see benchmarks/README.md).
_MAX_RUNTIME_SECONDS = 600
_MAX_SECONDS_A_WINDOW = 1


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
        default_status=dg.DefaultScheduleStatus.RUNNING,
        description=(
            f"One run for every {cadence.interval} s window that has ended and is missing or"
            f" undelivered, at most {catch_up} back"
        ),
    )
    def simulation_schedule(
        context: dg.ScheduleEvaluationContext, results: dg.ResourceParam[ResultsDatabase]
    ) -> dg.RunRequest | dg.SkipReason:
        tick = context.scheduled_execution_time
        busy = tuple(_unfinished_spans(context.instance, llm_names))
        with translate_db_errors(results.postgres):
            missing = missing_windows(
                results.postgres.engine,
                cadence,
                llm_names,
                since=tick - catch_up,
                now=tick,
                busy=busy,
            )
        if missing is None:
            upcoming = cadence.start_of(cadence.window_at(tick) + 1)
            return dg.SkipReason(
                f"Every window that has ended is published or being worked on;"
                f" the next one ends at {upcoming:%Y-%m-%dT%H:%M:%SZ}"
            )
        context.log.info(
            "%s windows are missing or undelivered, the first at %s",
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
    busy: Sequence[Span] = (),
) -> MissingWindows | None:
    """Return what is missing or undelivered of the windows that ended from `since` to `now`.

    The latest window that has ended is always asked for, however long ago it began.
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
            busy,
        )


def run_request(span: Span, cadence: Cadence) -> dg.RunRequest:
    """Return the request for one run over the rectangle of partitions around a span.

    The run's config narrows it to the span. A tick repairs what is missing; it does not replace
    what was simulated from other inputs, which is for a materialization by hand.
    """
    interval = timedelta(seconds=cadence.interval)
    first_day = span.since.date()
    last_day = (span.until - interval).date()
    windows = len(span.llm_names) * ((span.until - span.since) // interval)
    return dg.RunRequest(
        tags={
            **range_tags(span.llm_names, first_day, last_day),
            # For people, and so that a later tick does not ask for the same again.
            WINDOWS_TAG: f"{_label(span.since)}/{_label(span.until)}",
            # If its process dies the next tick makes up for it, together with what is new by then.
            MAX_RETRIES_TAG: "0",
            PRIORITY_TAG: str(_PRIORITY),
            # A run that hangs is ended, and so does not keep its windows from being repaired.
            MAX_RUNTIME_SECONDS_TAG: str(_MAX_RUNTIME_SECONDS + windows * _MAX_SECONDS_A_WINDOW),
        },
        run_config=dg.RunConfig(
            resources={
                "scope": {
                    "config": {
                        "since": _label(span.since),
                        "until": _label(span.until),
                        "replace": False,
                    }
                }
            }
        ),
    )


def _unfinished_spans(instance: dg.DagsterInstance, llm_names: Sequence[str]) -> Iterator[Span]:
    now = datetime.now(UTC)
    for record in instance.get_run_records(dg.RunsFilter(statuses=_UNFINISHED)):
        tags = record.dagster_run.tags
        if WINDOWS_TAG in tags and not _is_overdue(record, instance, now):
            since, until = tags[WINDOWS_TAG].split("/")
            yield Span(
                models_in_range(tags, llm_names),
                datetime.fromisoformat(since),
                datetime.fromisoformat(until),
            )


def _is_overdue(record: dg.RunRecord, instance: dg.DagsterInstance, now: datetime) -> bool:
    """Tell whether a run should have begun, or ended, by now.

    Dagster ends such a run. That may fail, so a tick does not wait for it.
    """
    run = record.dagster_run
    if run.status is dg.DagsterRunStatus.QUEUED:
        return False
    if run.status in _STARTING:
        patience = instance.run_monitoring_start_timeout_seconds * _START_PATIENCE
        return now - record.update_timestamp > timedelta(seconds=patience)
    limit = float(_MAX_RUNTIME_SECONDS)
    with suppress(KeyError, ValueError):  # whoever launches it again by hand may edit the tag
        limit = float(run.tags[MAX_RUNTIME_SECONDS_TAG])
    # A run that was asked to end before it began has no start.
    began = record.start_time or record.create_timestamp.timestamp()
    return now.timestamp() - began > limit


def _label(timestamp: datetime) -> str:
    return timestamp.isoformat().replace("+00:00", "Z")
