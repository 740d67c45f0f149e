"""The commands `migrate`, with and without Dagster's storage, and `revision`."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.project_files import project_file
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.databases import database_in

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.usefixtures("settings")


@pytest.fixture
def dagster(postgres_server: LocalPostgres, monkeypatch: pytest.MonkeyPatch) -> Postgres:
    """An empty database that DAGSTER_POSTGRES_DB names."""
    name = f"dagster_{uuid.uuid4().hex}"
    postgres_server.ensure_database(name)
    monkeypatch.setenv("DAGSTER_POSTGRES_DB", name)
    return database_in(postgres_server, name)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DAGSTER_HOME with the service's dagster.yaml."""
    home = tmp_path / "home"
    home.mkdir()
    (home / "dagster.yaml").write_bytes((PROJECT / "dagster.yaml").read_bytes())
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


def migrate(*options: str) -> subprocess.CompletedProcess[str]:
    return command("migrate", *options)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sim_pipeline", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def tables(postgres: Postgres) -> list[str]:
    names = sa.inspect(postgres.engine).get_table_names()
    postgres.engine.dispose()
    return names


@pytest.mark.usefixtures("home")
def test_migrating_twice_is_harmless(dagster: Postgres, postgres: Postgres) -> None:
    for _ in range(2):
        done = migrate("--dagster")
        assert done.returncode == 0, done.stderr
    assert {"runs", "event_logs", "job_ticks", "alembic_version"} <= set(tables(dagster))
    assert "deliveries" in tables(postgres)


@pytest.mark.usefixtures("home")
def test_dagster_storage_needs_the_option(dagster: Postgres) -> None:
    assert migrate().returncode == 0
    assert tables(dagster) == []


@pytest.mark.usefixtures("dagster")
def test_invalid_dagster_home_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for value in ("", "relative", str(tmp_path / "missing")):
        monkeypatch.setenv("DAGSTER_HOME", value)
        done = migrate("--dagster")
        assert done.returncode == 1
        assert "DAGSTER_HOME: allowed is the absolute path" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("dagster")
def test_instance_with_another_storage_is_rejected(home: Path) -> None:
    (home / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    done = migrate("--dagster")
    assert done.returncode == 1
    assert "allowed is sim_pipeline.dagster_instance.storage" in done.stderr.splitlines()[-1]


@pytest.mark.usefixtures("home")
def test_missing_database_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_POSTGRES_DB", "nothing_of_this_name")
    done = migrate("--dagster")
    assert done.returncode == 1
    assert 'database "nothing_of_this_name" does not exist' in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_database_of_a_newer_version_is_named(postgres: Postgres) -> None:
    with postgres.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    postgres.engine.dispose()
    result = migrate()
    assert result.returncode == 1
    assert "was migrated by a newer version of sim_pipeline" in result.stderr
    assert "'9999'); install that version" in result.stderr
    assert "Traceback" not in result.stderr


def test_unchanged_tables_need_no_migration() -> None:
    before = sorted(project_file("migrations").rglob("*.py"))
    done = command("revision", "don't")
    try:
        assert done.returncode == 1
        assert (
            "No migration was written: the tables in sim_pipeline/store/schema.py have not changed"
            in done.stderr
        )
        assert """alembic revision -m 'don'"'"'t'`""" in done.stderr
        assert sorted(project_file("migrations").rglob("*.py")) == before
    finally:
        for file in set(project_file("migrations").rglob("*.py")).difference(before):
            file.unlink()
