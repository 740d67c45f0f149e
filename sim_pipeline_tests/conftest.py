"""The real servers that the tests run against: one of each for a test session."""

import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sim_pipeline.service.ports import free_port
from sim_pipeline.service.postgres import LocalPostgres
from sim_pipeline.service.rabbitmq import LocalRabbitMQ


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[LocalPostgres]:
    """A PostgreSQL server of this test session; make databases of your own in it."""
    # Not under tmp_path_factory's base: where the server has to run as another user, that
    # user cannot get into it.
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
            Path(directory),
            port=free_port(),
            user="simulation",
            password=secrets.token_urlsafe(),
        ) as server,
    ):
        yield server
