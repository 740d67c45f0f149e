"""The job `retention`: what it removes for each setting, without effect on the feed."""

from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from sim_pipeline.config import Settings
from sim_pipeline.definitions import build_defs
from sim_pipeline.orchestration.jobs.retention import RETENTION_JOB, RETENTION_SCHEDULE
from sim_pipeline.orchestration.jobs.simulation import missing_windows
from sim_pipeline.store.connection import Postgres
from sim_pipeline.windows import Cadence
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    event,
    execute,
    fetch,
    ledger_entries,
    store,
    stored_counts,
    stored_rows,
)


def retain(settings: Settings, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return build_defs(settings).resolve_job_def(RETENTION_JOB).execute_in_process(instance=instance)


def metadata(result: dg.ExecuteInProcessResult, op: str) -> dict[str, object]:
    """Return the output metadata of an op."""
    (output,) = (
        event.step_output_data
        for event in result.filter_events(lambda event: event.is_successful_output)
        if event.step_key == op
    )
    return {name: value.value for name, value in output.metadata.items()}


def old_run(instance: dg.DagsterInstance, storage: Postgres, days: int) -> str:
    """Create a run that ended `days` days ago; return its id."""

    @dg.job
    def some_job() -> None:
        pass

    run_id = some_job.execute_in_process(instance=instance).run_id
    execute(
        storage,
        "UPDATE runs SET update_timestamp = :at WHERE run_id = :id",
        at=(datetime.now(UTC) - timedelta(days=days)).replace(tzinfo=None),
        id=run_id,
    )
    return run_id


@pytest.fixture
def now() -> datetime:
    """The hour in which the test starts; the job may run in the next one."""
    return datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def stored_hours(postgres: Postgres, settings: Settings, days: int, now: datetime) -> None:
    """Store every window of the last `days` days, each delivered a minute after its end."""
    labels = [now - hours * HOUR for hours in range(1, 24 * days + 1)]
    store(postgres, batch_of(settings.llm_models, labels))
    execute(
        postgres,
        """UPDATE deliveries SET published_at = "timestamp" + interval '61 minutes'""",
    )


def test_default_removes_runs_and_keeps_results(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    storage: Postgres,
    now: datetime,
) -> None:
    stored_hours(postgres, settings, 2, now)
    execute(postgres, "UPDATE deliveries SET published_at = published_at - interval '5 years'")
    gone, kept = old_run(instance, storage, 31), old_run(instance, storage, 29)
    events = fetch(storage, "SELECT count(*) FROM event_logs WHERE run_id = :id", id=gone)[0][0]
    result = retain(settings, instance)
    assert metadata(result, "remove_old_runs") == {
        "runs removed": 1,
        "events removed": events,
        "backfills removed": 0,
        "tick logs removed": 0,
    }
    assert metadata(result, "remove_old_results") == {}
    assert {run.run_id for run in instance.get_runs()} == {kept, result.run_id}
    assert len(ledger_entries(postgres)) == 48 * 2
    assert len(stored_rows(postgres)) == 48 * 2 * 4


def test_removed_results_are_not_missing(
    settings: Settings, postgres: Postgres, instance: dg.DagsterInstance, now: datetime
) -> None:
    settings = settings.model_copy(
        update={"results_retention_days": 2, "event_retention_days": 0, "catch_up_hours": 24}
    )
    stored_hours(postgres, settings, 4, now)
    for ago in (80, 3):
        (name, *_), window_start = settings.llm_models, now - ago * HOUR
        hours = (window_start - START) / HOUR
        events = [event(hours + 0.2, hours + 0.4, name)]
        store(postgres, batch_of([name], [window_start], events=events))
    execute(
        postgres,
        'UPDATE deliveries SET published_at = NULL WHERE llm_name = :name AND "timestamp" = :t',
        name=settings.llm_models[0],
        t=now - 90 * HOUR,
    )
    published = fetch(postgres, "SELECT published_at FROM deliveries")

    def delivered_before(moment: datetime) -> int:
        return sum(at is not None and at < moment for (at,) in published)

    age = timedelta(days=2)
    began = datetime.now(UTC)
    result = retain(settings, instance)
    removed = metadata(result, "remove_old_results")
    assert delivered_before(began - age) > 0
    assert removed["windows removed"] in range(
        delivered_before(began - age), delivered_before(datetime.now(UTC) - age) + 1
    )
    assert removed["rows removed"] == 4 * int(str(removed["windows removed"]))
    assert removed["request counts removed"] == removed["windows removed"]
    assert removed["simulated events removed"] == 1
    assert metadata(result, "remove_old_runs") == {}
    entries = {entry[:2] for entry in ledger_entries(postgres)}
    assert {(row[1], row[3]) for row in stored_rows(postgres)} == entries
    assert {row[:2] for row in stored_counts(postgres)} == entries
    assert (settings.llm_models[0], now - 90 * HOUR) in entries, "it is still pending"
    missing = missing_windows(
        postgres.engine,
        Cadence(settings.simulation_interval, settings.simulation_start),
        settings.llm_models,
        since=datetime.now(UTC) - timedelta(hours=settings.catch_up_hours),
        now=now,
    )
    assert missing is None


def test_zero_days_keep_everything(
    settings: Settings,
    postgres: Postgres,
    instance: dg.DagsterInstance,
    storage: Postgres,
    now: datetime,
) -> None:
    stored_hours(postgres, settings, 1, now)
    execute(postgres, "UPDATE deliveries SET published_at = published_at - interval '5 years'")
    run_id = old_run(instance, storage, 4000)
    result = retain(settings.model_copy(update={"event_retention_days": 0}), instance)
    assert {run.run_id for run in instance.get_runs()} == {run_id, result.run_id}
    assert len(ledger_entries(postgres)) == 48


def test_runs_are_removed_without_results_database(
    settings: Settings, instance: dg.DagsterInstance, storage: Postgres
) -> None:
    gone = old_run(instance, storage, 31)
    away = settings.model_copy(update={"results_retention_days": 2, "postgres_port": 1})
    result = (
        build_defs(away)
        .resolve_job_def(RETENTION_JOB)
        .execute_in_process(instance=instance, raise_on_error=False)
    )
    assert not result.success
    assert instance.get_run_by_id(gone) is None


@pytest.mark.parametrize(
    ("events", "results", "status"), [(30, 0, "RUNNING"), (0, 9, "RUNNING"), (0, 0, "STOPPED")]
)
def test_schedule_runs_only_if_days_are_set(
    settings: Settings, events: int, results: int, status: str
) -> None:
    settings = settings.model_copy(
        update={"event_retention_days": events, "results_retention_days": results}
    )
    schedule = build_defs(settings).resolve_schedule_def(RETENTION_SCHEDULE)
    assert schedule.default_status == dg.DefaultScheduleStatus(status)
    assert schedule.cron_schedule == "17 3 * * *"
    assert schedule.execution_timezone == "UTC"
    assert schedule.job_name == RETENTION_JOB
