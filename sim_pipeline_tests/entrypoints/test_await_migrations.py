"""The wait of a pod for the migration of both databases, and its timeout."""

import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.entrypoints.await_migrations import await_migrations, missing_migrations
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.migrations import upgrade

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def empty_databases(
    postgres_server: LocalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings with two empty databases; the second is for Dagster's instance."""
    names = [f"{kind}_{uuid.uuid4().hex}" for kind in ("results", "dagster")]
    for name in names:
        postgres_server.ensure_database(name)
    shutil.copyfile(PROJECT / "dagster.yaml", tmp_path / "dagster.yaml")
    settings = Settings(
        postgres_host=postgres_server.host,
        postgres_port=postgres_server.port,
        postgres_user=postgres_server.user,
        postgres_password=SecretStr(postgres_server.password),
        postgres_db=names[0],
        dagster_postgres_db=names[1],
        log_file=tmp_path / "log",
    )
    for name, value in {**settings.environment(), "DAGSTER_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return settings


def migrate_dagster() -> None:
    with dg.DagsterInstance.get() as instance:
        create_tables(instance)


def test_waits_for_both_databases(empty_databases: Settings) -> None:
    results = results_database(empty_databases)
    assert missing_migrations(empty_databases) == f"{results} is not migrated yet"
    upgrade(results)
    assert missing_migrations(empty_databases) == "Dagster's storage is not migrated yet"
    migrate_dagster()
    assert missing_migrations(empty_databases) is None


def test_ends_after_the_migrations(empty_databases: Settings) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(await_migrations, empty_databases, 60)
        upgrade(results_database(empty_databases))
        migrate_dagster()
        assert waiting.result()


def test_newer_schema_is_accepted(empty_databases: Settings) -> None:
    results = results_database(empty_databases)
    upgrade(results)
    migrate_dagster()
    with results.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'of_tomorrow'"))
    assert missing_migrations(empty_databases) is None


def test_timeout_is_logged(empty_databases: Settings, caplog: pytest.LogCaptureFixture) -> None:
    assert not await_migrations(empty_databases, timeout=0)
    assert "is not migrated yet; check that the Job migrate runs" in caplog.text


def test_waits_for_unreachable_server(empty_databases: Settings) -> None:
    reason = missing_migrations(empty_databases.model_copy(update={"postgres_port": 1}))
    assert reason is not None
    assert "Connection refused" in reason
