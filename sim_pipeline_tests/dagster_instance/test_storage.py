"""The storage stores the same rows as Dagster's, in batches and without catalog queries."""

import shutil
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import dagster_postgres
import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from dagster_postgres.utils import pg_alembic_config

from sim_pipeline.config import Settings
from sim_pipeline.dagster_instance import storage as dagster_storage
from sim_pipeline.dagster_instance.run_tags import range_tags
from sim_pipeline.definitions import build_defs
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.orchestration.jobs.simulation import SIMULATION_JOB
from sim_pipeline.store.connection import SESSION_SETTINGS, Postgres
from sim_pipeline_tests.support.databases import instance_in
from sim_pipeline_tests.support.ports import free_port

DAYS = date(2026, 11, 1), date(2026, 11, 5)
PARTITIONS = 2 * 5


@pytest.fixture(autouse=True)
def batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make Dagster pass events to the storage in batches, as the service does."""
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")


def create_run(settings: Settings, instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Create a run over a range of partitions, without executing it."""
    job = build_defs(settings).resolve_job_def(SIMULATION_JOB)
    return instance.create_run_for_job(job, tags=range_tags(settings.llm_models, *DAYS))


def stored_rows(database: Postgres, run: dg.DagsterRun) -> dict[str, list[Any]]:
    """Return the rows of the database without times, row ids and the run id."""
    queries = {
        "events": "SELECT dagster_event_type, asset_key, partition, step_key,"
        " (event::jsonb - 'timestamp' - 'run_id') #- '{dagster_event,pid}' FROM event_logs",
        "assets": "SELECT asset_key, last_run_id IS NOT NULL, last_materialization IS NULL"
        " FROM asset_keys",
        "tags": "SELECT asset_key, key, value FROM asset_event_tags",
        "checks": "SELECT asset_key, check_name, partition, execution_status"
        " FROM asset_check_executions",
    }
    with database.engine.connect() as connection:
        return {
            name: sorted(
                str(tuple(row)).replace(run.run_id, "")
                for row in connection.execute(sa.text(query))
            )
            for name, query in queries.items()
        }


@pytest.mark.parametrize("rows", [2_000, 3])
def test_rows_equal_those_of_dagsters_storage(
    settings: Settings,
    postgres_server: LocalPostgres,
    monkeypatch: pytest.MonkeyPatch,
    rows: int,
) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", str(rows))
    with instance_in(postgres_server, stock=True) as (instance, database):
        expected = stored_rows(database, create_run(settings, instance))
    with instance_in(postgres_server) as (instance, database):
        assert stored_rows(database, create_run(settings, instance)) == expected
    assert len(expected["events"]) >= 2 * PARTITIONS


def test_planned_partitions_are_known_to_dagster(
    settings: Settings, postgres_server: LocalPostgres
) -> None:
    with instance_in(postgres_server) as (instance, _):
        run = create_run(settings, instance)
        key = dg.AssetKey("benchmark_feed")
        latest = instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        )
        assert len(latest) == PARTITIONS
        (record,) = instance.get_asset_records([key])
        assert record.asset_entry.last_run_id == run.run_id


def test_unfinished_partitions_equal_those_of_dagsters_storage(
    settings: Settings, postgres_server: LocalPostgres
) -> None:
    """Planned, some of them materialized, planned again, and after a wipe of the asset."""
    key = dg.AssetKey("benchmark_feed")
    found = []
    with instance_in(postgres_server) as (instance, _):
        storage = instance.event_log_storage
        assert isinstance(storage, dagster_storage.BatchingEventLogStorage)

        def compare(after: int | None = None) -> int:
            name = "get_latest_asset_partition_materialization_attempts_without_materializations"
            ours = getattr(storage, name)(key, after)
            theirs = getattr(super(type(storage), storage), name)(key, after)
            assert ours == theirs
            found.append(len(ours))
            return max((event_id for _, event_id in ours.values()), default=0)

        create_run(settings, instance)
        first = compare()
        for model in settings.llm_models[:2]:
            partition = f"{DAYS[0]}|{model}"
            instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=partition))
        compare()
        compare(first)
        create_run(settings, instance)
        compare(first)
        compare()
        instance.wipe_assets([key])
        compare()
    assert found == [PARTITIONS, PARTITIONS - 2, 0, PARTITIONS, PARTITIONS, 0]


@pytest.mark.parametrize("stock", [True, False])
def test_storage_does_not_query_the_catalog(
    settings: Settings, postgres_server: LocalPostgres, *, stock: bool
) -> None:
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    with instance_in(postgres_server, stock=stock) as (instance, _):
        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            run = create_run(settings, instance)
            instance.report_run_failed(run)
            (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
            (asset,) = instance.get_asset_records([dg.AssetKey("benchmark_feed")])
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert record.end_time is not None
    assert asset.asset_entry.last_run_id == run.run_id
    assert any("pg_attribute" in statement for statement in statements) == stock


def test_opening_the_instance_does_not_connect(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("POSTGRES_PORT", str(free_port()))
    with dg.DagsterInstance.from_config(str(Path(__file__).parents[2])) as instance:
        assert isinstance(instance.event_log_storage, dagster_storage.BatchingEventLogStorage)


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/Los_Angeles"])
def test_times_are_utc_in_any_database_zone(
    settings: Settings, postgres_server: LocalPostgres, zone: str
) -> None:
    with instance_in(postgres_server) as (instance, database):
        with database.engine.connect().execution_options(
            isolation_level="AUTOCOMMIT"
        ) as connection:
            connection.exec_driver_sql(
                f"ALTER DATABASE {database.database} SET timezone = '{zone}'"
            )
        run = create_run(settings, instance)
        (record,) = instance.get_run_records(dg.RunsFilter(run_ids=[run.run_id]))
        assert abs(datetime.now(UTC) - record.create_timestamp) < timedelta(minutes=5)


def test_sessions_have_the_settings_of_the_results(postgres_server: LocalPostgres) -> None:
    with instance_in(postgres_server) as (instance, _):
        storage = instance.event_log_storage
        assert isinstance(storage, dagster_storage.BatchingEventLogStorage)
        with storage.index_connection() as connection:
            found = {
                name: connection.exec_driver_sql(f"SHOW {name}").scalar_one().partition(",")[0]
                for name in SESSION_SETTINGS
            }
    assert found == SESSION_SETTINGS


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_host_can_be_an_ipv6_address(host: str) -> None:
    parts = {"username": "u@", "password": "p:w", "hostname": host, "port": "1", "db_name": "d"}
    storage = dagster_storage.BatchingPostgresStorage.from_config_value(
        None, {"postgres_db": parts, "should_autocreate_tables": False}
    )
    url = sa.make_url(storage.postgres_url)
    assert (url.host, url.port, url.username, url.password) == ("::1", 1, "u@", "p:w")


def test_create_tables_refuses_other_storage(
    postgres_server: LocalPostgres,
) -> None:
    with (
        instance_in(postgres_server, stock=True) as (instance, _),
        pytest.raises(TypeError, match="its events in a PostgresEventLogStorage"),
    ):
        dagster_storage.create_tables(instance)


def test_migrations_can_be_in_any_directory(tmp_path: Path) -> None:
    ini = Path(dagster_postgres.__file__).parent / "alembic" / "alembic.ini"
    package = tmp_path / "Документы 100% $x #1"
    (package / "alembic").mkdir(parents=True)
    shutil.copy(ini, package / "alembic")
    config = pg_alembic_config(str(package / "event_log" / "event_log.py"))
    assert ScriptDirectory.from_config(config).get_heads()
