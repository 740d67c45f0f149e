"""Pods wait until both databases are migrated, and for no longer than they are told to."""

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
def both(
    postgres_server: LocalPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Settings that name two empty databases; Dagster's instance is in the second."""
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


def test_both_databases_are_waited_for(both: Settings) -> None:
    results = results_database(both)
    assert missing_migrations(both) == f"{results} is not migrated yet"
    upgrade(results)
    assert missing_migrations(both) == "Dagster's storage is not migrated yet"
    migrate_dagster()
    assert missing_migrations(both) is None


def test_it_ends_once_they_are_migrated(both: Settings) -> None:
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(await_migrations, both, 60)
        upgrade(results_database(both))
        migrate_dagster()
        assert waiting.result()


def test_an_older_version_starts_on_a_newer_schema(both: Settings) -> None:
    results = results_database(both)
    upgrade(results)
    migrate_dagster()
    with results.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'of_tomorrow'"))
    assert missing_migrations(both) is None


def test_it_gives_up_and_says_why(both: Settings, caplog: pytest.LogCaptureFixture) -> None:
    assert not await_migrations(both, patience=0)
    assert "is not migrated yet. Does the Job migrate run?" in caplog.text


def test_a_server_that_cannot_be_reached_is_waited_for(both: Settings) -> None:
    reason = missing_migrations(both.model_copy(update={"postgres_port": 1}))
    assert reason is not None
    assert "Connection refused" in reason
