"""Fixtures for all tests: real servers for the session, own databases and queues for each test."""

import secrets
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings, load_settings, read_settings, variable_name
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.migrations import upgrade
from sim_pipeline_tests.support.databases import database_in, instance_in
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.server_programs import use_chosen_programs


def pytest_configure() -> None:
    """Make SIGTERM stop the servers of the session, as Ctrl-C does; choose their programs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    use_chosen_programs()


# The servers do not use tmp_path_factory: other users cannot enter its directories, and PostgreSQL
# runs as another user if root cannot create user namespaces.


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """The PostgreSQL server of the test session. Create your own database in it."""
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-postgres-") as directory,
        LocalPostgres(
            Path(directory),
            port=free_port(),
            user="simulation",
            password=secrets.token_urlsafe(),
            fsync=False,
        ) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[LocalRabbitMQ]:
    """The RabbitMQ node of the test session. Create your own queue or virtual host in it."""
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-rabbitmq-") as directory,
        LocalRabbitMQ(
            Path(directory), port=free_port(), user="simulation", password=secrets.token_urlsafe()
        ) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def migrated_database(postgres_server: LocalPostgres) -> str:
    """The name of a template database at the newest schema. Do not connect to it."""
    name = "migrated"
    postgres_server.ensure_database(name)
    postgres = database_in(postgres_server, name)
    upgrade(postgres)
    postgres.engine.dispose()
    return name


@pytest.fixture
def postgres(postgres_server: LocalPostgres, migrated_database: str) -> Iterator[Postgres]:
    """An empty database at the newest schema, for one test."""
    name = f"test_{uuid.uuid4().hex}"
    server = sa.create_engine(
        postgres_server.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with server.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {migrated_database}"))
    postgres = database_in(postgres_server, name)
    try:
        yield postgres
    finally:
        postgres.engine.dispose()
        with server.connect() as connection:
            connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def clear_settings(patch: pytest.MonkeyPatch) -> None:
    """Unset every environment variable that is a setting, until the patch is undone."""
    for field in Settings.model_fields:
        patch.delenv(variable_name(field), raising=False)


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the developer's settings: no variables, no .env, logs in tmp_path."""
    clear_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)
    # A process reads its settings once. Another test of this process may have read them.
    load_settings.cache_clear()


@pytest.fixture
def settings(
    postgres: Postgres,
    rabbitmq_server: LocalRabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    clean_environment: None,  # noqa: ARG001 - needed for its effect
) -> Settings:
    """Settings for two models, with a database and a queue for one test."""
    variables = {
        "POSTGRES_HOST": postgres.host,
        "POSTGRES_PORT": str(postgres.port),
        "POSTGRES_USER": postgres.user,
        "POSTGRES_PASSWORD": postgres.password,
        "POSTGRES_DB": postgres.database,
        "RABBITMQ_HOST": rabbitmq_server.host,
        "RABBITMQ_PORT": str(rabbitmq_server.port),
        "RABBITMQ_USER": rabbitmq_server.user,
        "RABBITMQ_PASSWORD": rabbitmq_server.password,
        "RABBITMQ_VHOST": rabbitmq_server.vhost,
        "RABBITMQ_QUEUE": f"test-{uuid.uuid4().hex}",
        "LLM_MODELS_STR": "GPT-4o,Llama-3.1-8B",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read_settings()


@pytest.fixture
def ephemeral() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that keeps everything in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def instance_and_storage(
    postgres_server: LocalPostgres,
) -> Iterator[tuple[dg.DagsterInstance, Postgres]]:
    """A Dagster instance stored in PostgreSQL, and its database."""
    with instance_in(postgres_server) as instance_and_database:
        yield instance_and_database


@pytest.fixture
def instance(instance_and_storage: tuple[dg.DagsterInstance, Postgres]) -> dg.DagsterInstance:
    return instance_and_storage[0]


@pytest.fixture
def storage(instance_and_storage: tuple[dg.DagsterInstance, Postgres]) -> Postgres:
    """The database of `instance`."""
    return instance_and_storage[1]
