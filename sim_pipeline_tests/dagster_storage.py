"""Dagster with its storage in PostgreSQL, as it is in service."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from sim_pipeline.service.postgres import LocalPostgres
from sim_pipeline.store.postgres import Postgres
from sim_pipeline_tests.conftest import database_in


@contextmanager
def instance_in(server: LocalPostgres) -> Iterator[tuple[dg.DagsterInstance, Postgres]]:
    """An instance with a database of its own in a server, and that database."""
    name = f"dagster_{uuid.uuid4().hex}"
    server.ensure_database(name)
    database = database_in(server, name)
    parameters = {
        "hostname": database.host,
        "port": database.port,
        "username": database.user,
        "password": database.password,
        "db_name": database.database,
    }
    with dg.instance_for_test(
        overrides={"storage": {"postgres": {"postgres_db": parameters}}}
    ) as instance:
        try:
            yield instance, database
        finally:
            database.engine.dispose()
