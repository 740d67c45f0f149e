"""Dagster's storage works through a PgBouncer that the component's start.sh configures."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.local_servers.ports import listens
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.privileges import unprivileged_user
from sim_pipeline.local_servers.processes import launch
from sim_pipeline.store.connection import SESSION_SETTINGS, Postgres
from sim_pipeline_tests.k8s.rendering import K8S
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.databases import database_in
from sim_pipeline_tests.support.ports import free_port

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
PASSWORD = """a "quoted" pass'word \\ $HOME %s ; # with blanks"""  # noqa: S105 - for the test

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@pytest.fixture
def direct(postgres_server: LocalPostgres) -> Iterator[Postgres]:
    """A database whose owner has a password with every kind of special character."""
    name = f"pooled_{uuid.uuid4().hex}"
    server = sa.create_engine(
        postgres_server.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with server.connect() as connection:
        connection.exec_driver_sql(f"CREATE ROLE {name} LOGIN PASSWORD %s", (PASSWORD,))
        connection.exec_driver_sql(f"CREATE DATABASE {name} OWNER {name}")
    yield replace(database_in(postgres_server, name), user=name, password=PASSWORD)
    with server.connect() as connection:
        connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        connection.exec_driver_sql(f"DROP ROLE {name}")


@pytest.fixture
def pooled(direct: Postgres) -> Iterator[Postgres]:
    """The same database, through PgBouncer."""
    assert PGBOUNCER is not None
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="sim_pipeline-pgbouncer-") as name:
        directory = Path(name)
        process = launch(
            ["sh", str(K8S / "components" / "pgbouncer" / "start.sh")],
            directory=directory,
            output=directory / "log",
            environment={
                "PATH": f"{os.environ['PATH']}:{Path(PGBOUNCER).parent}",
                "PGBOUNCER_DIRECTORY": name,
                "PGBOUNCER_ADDRESS": "127.0.0.1",
                "DAGSTER_STORAGE_PORT": str(port),
                "DAGSTER_POSTGRES_DB": direct.database,
                "POSTGRES_HOST": direct.host,
                "POSTGRES_PORT": str(direct.port),
                "POSTGRES_USER": direct.user,
                "POSTGRES_PASSWORD": direct.password,
                "POSTGRES_SSLMODE": "prefer",
                "POSTGRES_SSLROOTCERT": "",
            },
            run_as=unprivileged_user(directory),
        )
        try:
            wait_until(lambda: listens("127.0.0.1", port), "PgBouncer to listen")
            assert (directory / "users").stat().st_mode & 0o077 == 0
            yield replace(direct, host="127.0.0.1", port=port, sslmode="disable")
        finally:
            process.terminate()
            process.wait(30)


def storage_in(postgres: Postgres) -> dict[str, object]:
    parameters = {
        "hostname": postgres.host,
        "port": postgres.port,
        "username": postgres.user,
        "password": postgres.password,
        "db_name": postgres.database,
    }
    return {"postgres": {"postgres_db": parameters}}


def test_dagster_run_succeeds_through_pgbouncer(pooled: Postgres, direct: Postgres) -> None:
    @dg.asset
    def number() -> int:
        return 1

    # Creates the tables with a direct connection, as the migrations do.
    with dg.instance_for_test(overrides={"storage": storage_in(direct)}):
        pass
    with dg.instance_for_test(overrides={"storage": storage_in(pooled)}) as instance:
        result = dg.materialize([number], instance=instance)
        assert result.success
        assert instance.get_latest_materialization_event(number.key) is not None
        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.SUCCESS


def test_connections_share_a_server_session(pooled: Postgres) -> None:
    engine = sa.create_engine(pooled.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as first, engine.connect() as second:
        pid = sa.text("SELECT pg_backend_pid()")
        assert first.scalar(pid) == second.scalar(pid)


def test_sessions_have_the_usual_settings(
    pooled: Postgres, direct: Postgres, postgres_server: LocalPostgres
) -> None:
    unusual = {"TimeZone": "Asia/Shanghai", "default_transaction_isolation": "serializable"}
    server = sa.create_engine(
        postgres_server.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with server.connect() as connection:
        for name, value in unusual.items():
            connection.exec_driver_sql(f"ALTER ROLE {direct.user} SET {name} = '{value}'")
    engine = sa.create_engine(pooled.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"SHOW {name}").scalar_one().partition(",")[0]
            for name in SESSION_SETTINGS
        }
    assert found == SESSION_SETTINGS


def test_wrong_password_is_refused(pooled: Postgres) -> None:
    engine = sa.create_engine(replace(pooled, password="wrong").url, poolclass=sa.NullPool)  # noqa: S106 - deliberately wrong
    with pytest.raises(sa.exc.OperationalError, match="SASL authentication failed"):
        engine.connect()
