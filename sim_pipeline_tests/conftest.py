"""The real servers that the tests run against, and what each test gets of its own in them."""

import secrets
import signal
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa

from sim_pipeline.config import Settings, read_settings
from sim_pipeline.local_servers.ports import free_port
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.migrations import upgrade
from sim_pipeline_tests.support.dagster_instance import instance_in
from sim_pipeline_tests.support.databases import database_in
from sim_pipeline_tests.support.settings_environment import clear_settings


def pytest_configure() -> None:
    """Let a session that is terminated stop its servers, as one that is interrupted does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


# Neither directory is one of tmp_path_factory: those are closed to other users, and where root
# cannot make user namespaces PostgreSQL runs as another one.


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """A PostgreSQL server of this test session; make databases of your own in it."""
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
    """A RabbitMQ node of this test session; make queues, or virtual hosts, of your own in it."""
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-rabbitmq-") as directory,
        LocalRabbitMQ(
            Path(directory), port=free_port(), user="simulation", password=secrets.token_urlsafe()
        ) as server,
    ):
        yield server


@pytest.fixture(scope="session")
def migrated_database(postgres_server: LocalPostgres) -> str:
    """Name a database at the newest schema, to make others from; nobody connects to it."""
    name = "migrated"
    postgres_server.ensure_database(name)
    postgres = database_in(postgres_server, name)
    upgrade(postgres)
    postgres.engine.dispose()
    return name


@pytest.fixture
def postgres(postgres_server: LocalPostgres, migrated_database: str) -> Iterator[Postgres]:
    """An empty database of this test's own, at the newest schema."""
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


@pytest.fixture
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Leave nothing of the developer's own settings: no variable, no .env, logs in tmp_path."""
    clear_settings(monkeypatch)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def settings(
    postgres: Postgres,
    rabbitmq_server: LocalRabbitMQ,
    monkeypatch: pytest.MonkeyPatch,
    clean_environment: None,  # noqa: ARG001 - for what it clears
) -> Settings:
    """Settings for two models, with a database and a queue of this test's own."""
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
    """An instance of Dagster that keeps everything in memory."""
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def instance_and_storage(
    postgres_server: LocalPostgres,
) -> Iterator[tuple[dg.DagsterInstance, Postgres]]:
    """An instance of Dagster with its storage in PostgreSQL, and that database."""
    with instance_in(postgres_server) as both:
        yield both


@pytest.fixture
def instance(instance_and_storage: tuple[dg.DagsterInstance, Postgres]) -> dg.DagsterInstance:
    return instance_and_storage[0]


@pytest.fixture
def storage(instance_and_storage: tuple[dg.DagsterInstance, Postgres]) -> Postgres:
    """The database that the instance keeps everything in."""
    return instance_and_storage[1]
