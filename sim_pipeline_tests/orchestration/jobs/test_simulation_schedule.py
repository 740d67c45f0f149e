"""A tick asks for what is missing, in one run, and for nothing that a run is at already."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings
from sim_pipeline.definitions import build_defs
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.orchestration.jobs.simulation_schedule import SIMULATION_SCHEDULE
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import SchemaError, StoreUnreachableError
from sim_pipeline_tests.support.exceptions import all_told
from sim_pipeline_tests.support.queue_reader import drain
from sim_pipeline_tests.support.waiting import wait_until

TICK = datetime(2026, 11, 20, 3, tzinfo=UTC)
START, END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The feed begins three windows before the tick."""
    return settings.model_copy(update={"simulation_start": TICK - timedelta(hours=3)})


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


def tick(
    settings: Settings, instance: dg.DagsterInstance, at: datetime = TICK
) -> dg.RunRequest | str:
    """Evaluate the schedule; return what it requests, or why it requests nothing."""
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
    """Leave in the instance a run for a request, as far as `status`."""
    instance.create_run_for_job(
        build_defs(settings).resolve_job_def(SIMULATION_JOB),
        run_config=request.run_config,
        tags=request.tags,
        status=dg.DagsterRunStatus(status),
    )


def test_the_schedule_runs_by_default_at_window_ends(settings: Settings) -> None:
    schedule = build_defs(settings).resolve_schedule_def(SIMULATION_SCHEDULE)
    assert schedule.default_status == dg.DefaultScheduleStatus.RUNNING
    assert schedule.cron_schedule == ["0 * * * *"]
    assert schedule.execution_timezone == "UTC"


def test_a_tick_requests_one_run_over_all_that_is_missing(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.tags[START] == "2026-11-20|GPT-4o"
    assert request.tags[END] == "2026-11-20|Llama-3.1-8B"
    assert scope(request) == {
        "since": "2026-11-20T00:00:00Z",
        "until": "2026-11-20T03:00:00Z",
        "replace": False,
    }


def test_the_run_it_requests_closes_the_gap_and_the_next_tick_skips(
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
        "Every window that has ended is published or being worked on;"
        " the next one ends at 2026-11-20T04:00:00Z"
    )


def test_downtime_of_three_windows_is_made_up_for_in_one_run(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
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
def test_a_window_that_lost_a_row_or_its_delivery_is_requested(
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
def test_what_an_unfinished_run_is_at_is_not_requested_again(
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
def test_a_run_that_does_not_begin_is_waited_for_a_while_only(
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


def test_its_run_goes_first_and_has_a_limit(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    request = tick(settings, instance)
    assert isinstance(request, dg.RunRequest)
    assert request.tags["dagster/priority"] == "100"
    # Ten minutes, and a second for each window of a model.
    assert request.tags["dagster/max_runtime"] == str(600 + 2 * 3)


@pytest.mark.parametrize(
    ("limit", "expected"), [("0", dg.RunRequest), ("60", str), ("a minute", str)]
)
@pytest.mark.parametrize("status", ["STARTED", "CANCELING"])
def test_a_run_is_not_waited_for_beyond_its_limit(
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
def test_what_a_run_failed_to_do_is_requested_again(
    settings: Settings, instance: dg.DagsterInstance, status: str
) -> None:
    first = tick(settings, instance)
    assert isinstance(first, dg.RunRequest)
    submitted(settings, instance, first, status)
    again = tick(settings, instance)
    assert isinstance(again, dg.RunRequest)
    assert scope(again) == scope(first)


def test_the_repair_reaches_back_no_further_than_catch_up_hours(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    request = tick(settings, instance, TICK + timedelta(days=2))
    assert isinstance(request, dg.RunRequest)
    assert scope(request)["since"] == "2026-11-21T03:00:00Z"
    assert request.tags[START] == "2026-11-21|GPT-4o"
    assert request.tags[END] == "2026-11-22|Llama-3.1-8B"


@pytest.mark.parametrize("hours", [0, 24])
def test_the_latest_window_is_requested_even_if_it_began_before_the_look_back(
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


def test_before_the_first_window_has_ended_there_is_nothing_to_do(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    assert isinstance(tick(settings, instance, TICK - timedelta(hours=3)), str)


def test_a_tick_does_not_replace_what_another_seed_made(
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


def test_a_tick_without_a_database_says_so(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    away = settings.model_copy(update={"postgres_port": 1})
    with pytest.raises(dg.DagsterError) as raised:
        tick(away, instance)
    cause = raised.value.__cause__
    assert isinstance(cause, StoreUnreachableError)
    assert str(cause).startswith("no connection to postgresql://127.0.0.1:1, database")
    assert settings.postgres_password.get_secret_value() not in all_told(raised.value)


def test_a_tick_before_the_migrations_says_so(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres
) -> None:
    with postgres.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE deliveries"))
    with pytest.raises(dg.DagsterError) as raised:
        tick(settings, instance)
    assert isinstance(raised.value.__cause__, SchemaError)
    assert str(raised.value.__cause__).endswith("run `make migrate`")


def test_a_tick_leaves_no_connection(
    settings: Settings, instance: dg.DagsterInstance, postgres: Postgres
) -> None:
    tick(settings, instance)
    other_sessions = sa.text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with postgres.engine.connect() as connection:
        # A session that was closed takes the server a moment to end.
        wait_until(lambda: _fresh(connection, other_sessions) == 0, "its sessions to end")


def _fresh(connection: sa.Connection, count: sa.TextClause) -> int:
    """Count anew: within a transaction PostgreSQL tells the sessions that there were at first."""
    connection.rollback()
    return int(connection.execute(count).scalar_one())
