"""A tick of `simulation_schedule` requests missing windows that no run is working on."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings
from sim_pipeline.definitions import build_defs
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB, SIMULATION_SCHEDULE
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import StoreError
from sim_pipeline_tests.support.assertions import exception_text, wait_until
from sim_pipeline_tests.support.queue_reader import drain

TICK = datetime(2026, 11, 20, 3, tzinfo=UTC)
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The feed starts three windows before the tick."""
    return settings.model_copy(update={"simulation_start": TICK - timedelta(hours=3)})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def tick(
    settings: Settings, instance: dg.DagsterInstance, at: datetime = TICK
) -> dg.RunRequest | str:
    """Evaluate the schedule; return its run request or its skip message."""
    defs = build_defs(settings)
    schedule = defs.resolve_schedule_def(SIMULATION_SCHEDULE)
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=at,
        repository_def=defs.get_repository_def(),
        resources={"results": (defs.resources or {})["results"]},
    ) as context:
        data = schedule.evaluate_tick(context)
    if data.skip_message is not None:
        return data.skip_message
    assert data.run_requests is not None
    (request,) = data.run_requests
    return request


def scope(request: dg.RunRequest) -> dict[str, Any]:
    return dict(request.run_config["resources"]["scope"]["config"])


def execute(settings: Settings, instance: dg.DagsterInstance, request: dg.RunRequest) -> None:
    build_defs(settings).resolve_job_def(SIMULATION_JOB).execute_in_process(
        instance=instance, tags=request.tags, run_config=request.run_config
    )


def submitted(
    settings: Settings, instance: dg.DagsterInstance, request: dg.RunRequest, status: str
) -> None:
    """Create a run for a request, with this status."""
    instance.create_run_for_job(
        build_defs(settings).resolve_job_def(SIMULATION_JOB),
        run_config=request.run_config,
        tags=request.tags,
        status=dg.DagsterRunStatus(status),
    )


def test_schedule_runs_by_default_at_window_ends(settings: Settings) -> None:
    schedule = build_defs(settings).resolve_schedule_def(SIMULATION_SCHEDULE)
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == ["0 * * * *"]
    assert schedule.execution_timezone == "UTC"


def test_one_run_for_all_missing_windows(settings: Settings, instance: dg.DagsterInstance) -> None:
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.tags[START] == "2026-11-20|GPT-4o"
    assert request.tags[END] == "2026-11-20|Llama-3.1-8B"
    assert scope(request) == {
        "since": "2026-11-20T00:00:00Z",
        "until": "2026-11-20T03:00:00Z",
        "replace": False,
    }


def test_next_tick_skips_after_the_run(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres
) -> None:
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    execute(settings, instance, request)
    assert len(drain(settings)) == 2 * 3
    with postgres.engine.connect() as connection:
        stored = connection.execute(sa.text("SELECT count(*) FROM simulation_results"))
        assert stored.scalar_one() == 2 * 3 * 4
    assert tick(settings, instance) == (
        "Every window that has ended is published or in progress;"
        " the next one ends at 2026-11-20T04:00:00Z"
    )


def test_downtime_is_caught_up_in_one_run(settings: Settings, instance: dg.DagsterInstance) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    execute(settings, instance, first)
    drain(settings)
    request = tick(settings, instance, TICK + timedelta(hours=3))
    assert isinstance(request, dg.RunRequest)
    assert (scope(request)["since"], scope(request)["until"]) == (
        "2026-11-20T03:00:00Z",
        "2026-11-20T06:00:00Z",
    )
    execute(settings, instance, request)
    assert len(drain(settings)) == 2 * 3


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM simulation_results WHERE metric = 'TPS' AND {where}",
        "UPDATE deliveries SET published_at = NULL WHERE {where}",
        "DELETE FROM deliveries WHERE {where}",
    ],
)
def test_damaged_window_is_requested(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres, damage: str
) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    execute(settings, instance, first)
    where = """llm_name = 'Llama-3.1-8B' AND "timestamp" = '2026-11-20T01:00:00Z'"""
    with postgres.engine.begin() as connection:
        connection.execute(sa.text(damage.format(where=where)))
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.tags[START] == request.tags[END] == "2026-11-20|Llama-3.1-8B"
    assert (scope(request)["since"], scope(request)["until"]) == (
        "2026-11-20T01:00:00Z",
        "2026-11-20T02:00:00Z",
    )


@pytest.mark.parametrize("status", ["NOT_STARTED", "STARTING", "STARTED", "CANCELING"])
def test_windows_in_progress_are_not_requested(
    settings: Settings, instance: dg.DagsterInstance, status: str
) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    submitted(settings, instance, first, status)
    assert isinstance(tick(settings, instance), str)
    later = tick(settings, instance, TICK + timedelta(hours=1))
    assert isinstance(later, dg.RunRequest)
    assert scope(later)["since"] == "2026-11-20T03:00:00Z"


@pytest.mark.parametrize(("timeout", "expected"), [(0, dg.RunRequest), (600, str)])
def test_run_that_does_not_start_is_ignored(
    settings: Settings, timeout: int, expected: type
) -> None:
    monitoring = {"enabled": True, "start_timeout_seconds": timeout}
    with dg.instance_for_test(overrides={"run_monitoring": monitoring}) as instance:
        first = tick(settings, instance)
        assert isinstance(first, dg.RunRequest)
        submitted(settings, instance, first, "STARTING")
        second = tick(settings, instance)
        assert isinstance(second, expected)
        if isinstance(second, dg.RunRequest):
            assert scope(second) == scope(first)


def test_run_has_priority_and_a_time_limit(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/priority"] == "100"
    # Ten minutes, and a second per window and model.
    assert request.tags["dagster/max_runtime"] == str(600 + 2 * 3)


@pytest.mark.parametrize(
    ("limit", "expected"), [("0", dg.RunRequest), ("60", str), ("a minute", str)]
)
@pytest.mark.parametrize("status", ["STARTED", "CANCELING"])
def test_run_beyond_its_time_limit_is_ignored(
    settings: Settings, instance: dg.DagsterInstance, status: str, limit: str, expected: type
) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    hanging = first.with_replaced_attrs(tags={**first.tags, "dagster/max_runtime": limit})
    submitted(settings, instance, hanging, status)
    second = tick(settings, instance)
    assert isinstance(second, expected)
    if isinstance(second, dg.RunRequest):
        assert scope(second) == scope(first)


@pytest.mark.parametrize("status", ["FAILURE", "CANCELED"])
def test_windows_of_a_failed_run_are_requested(
    settings: Settings, instance: dg.DagsterInstance, status: str
) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    submitted(settings, instance, first, status)
    again = tick(settings, instance)
    assert isinstance(again, dg.RunRequest)
    assert scope(again) == scope(first)


def test_catch_up_hours_limit_the_repair(settings: Settings, instance: dg.DagsterInstance) -> None:
    settings = settings.model_copy(update={"catch_up_hours": 24})
    request = tick(settings, instance, TICK + timedelta(days=2))
    assert isinstance(request, dg.RunRequest)
    assert scope(request)["since"] == "2026-11-21T03:00:00Z"
    assert request.tags[START] == "2026-11-21|GPT-4o"
    assert request.tags[END] == "2026-11-22|Llama-3.1-8B"


@pytest.mark.parametrize("hours", [0, 24])
def test_latest_window_is_always_requested(
    settings: Settings, instance: dg.DagsterInstance, hours: int
) -> None:
    weekly = settings.model_copy(
        update={
            "simulation_interval": 604_800,
            "simulation_start": datetime(2026, 11, 1, tzinfo=UTC),
            "catch_up_hours": hours,
        }
    )
    request = tick(weekly, instance, datetime(2026, 11, 19, tzinfo=UTC))
    assert isinstance(request, dg.RunRequest)
    assert scope(request)["since"] == "2026-11-12T00:00:00Z"
    assert request.tags[START].startswith("2026-11-12|")


def test_tick_before_the_first_window_ends_skips(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    assert isinstance(tick(settings, instance, TICK - timedelta(hours=3)), str)


def test_tick_does_not_replace_another_seed(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres
) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    execute(settings, instance, first)
    drain(settings)
    reseeded = settings.model_copy(update={"random_seed": 7})
    assert isinstance(tick(reseeded, instance), str)
    with postgres.engine.begin() as connection:
        connection.execute(
            sa.text("""DELETE FROM deliveries WHERE "timestamp" = '2026-11-20T01:00:00Z'""")
        )
    request = tick(reseeded, instance)
    assert isinstance(request, dg.RunRequest)
    execute(reseeded, instance, request)
    assert len(drain(reseeded)) == 2


def test_unreachable_database_is_reported(settings: Settings, instance: dg.DagsterInstance) -> None:
    away = settings.model_copy(update={"postgres_port": 1})
    with pytest.raises(dg.DagsterError) as raised:
        tick(away, instance)
    cause = raised.value.__cause__
    assert isinstance(cause, StoreError)
    assert str(cause).startswith("no connection to postgresql://127.0.0.1:1, database")
    assert settings.postgres_password.get_secret_value() not in exception_text(raised.value)


def test_missing_migrations_are_reported(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres
) -> None:
    with postgres.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE deliveries CASCADE"))
    with pytest.raises(dg.DagsterError) as raised:
        tick(settings, instance)
    assert isinstance(raised.value.__cause__, StoreError)
    assert str(raised.value.__cause__).endswith("run `make migrate`")


def test_tick_closes_its_connections(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres
) -> None:
    tick(settings, instance)
    other_sessions = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with postgres.engine.connect() as connection:
        # The server needs a moment to end a closed session.
        wait_until(lambda: _count_again(connection, other_sessions) == 0, "its sessions to end")


def _count_again(connection: sa.Connection, count: sa.TextClause) -> int:
    """Count in a new transaction: within one, PostgreSQL repeats its first answer."""
    connection.rollback()
    return int(connection.execute(count).scalar_one())
