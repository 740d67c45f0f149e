"""Servers for one benchmark, configured as in service: on loopback, and durable."""

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sim_pipeline.local_servers.ports import free_port
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.migrations import upgrade

_USER = "simulation"
_DATABASE = "benchmark"


@contextmanager
def postgres_server() -> Iterator[LocalPostgres]:
    """Run a PostgreSQL server with fsync in a temporary directory."""
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-") as directory,
        LocalPostgres(
            Path(directory), port=free_port(), user=_USER, password=secrets.token_urlsafe()
        ) as server,
    ):
        yield server


@contextmanager
def rabbitmq_server() -> Iterator[LocalRabbitMQ]:
    """Run a RabbitMQ node in a temporary directory."""
    with (
        tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-") as directory,
        LocalRabbitMQ(
            Path(directory), port=free_port(), user=_USER, password=secrets.token_urlsafe()
        ) as server,
    ):
        yield server


@contextmanager
def servers() -> Iterator[tuple[LocalPostgres, LocalRabbitMQ]]:
    """Run both servers."""
    with postgres_server() as postgres, rabbitmq_server() as rabbitmq:
        yield postgres, rabbitmq


@contextmanager
def results_database(server: LocalPostgres) -> Iterator[Postgres]:
    """Create the results database in a server, at the newest schema."""
    server.ensure_database(_DATABASE)
    postgres = Postgres(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=_DATABASE,
    )
    upgrade(postgres)
    try:
        yield postgres
    finally:
        postgres.engine.dispose()
