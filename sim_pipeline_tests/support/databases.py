"""Databases in the PostgreSQL server of the test session, and Dagster instances stored in it."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.connection import Postgres


def database_in(server: LocalPostgres, name: str) -> Postgres:
    """Return the connection settings of a database in the server."""
    return Postgres(
        host=server.host,
        port=server.port,
        user=server.user,
        password=server.password,
        database=name,
    )


@contextmanager
def instance_in(
    server: LocalPostgres, *, stock: bool = False
) -> Iterator[tuple[dg.DagsterInstance, Postgres]]:
    """Create a Dagster instance with its own database, and yield both.

    Args:
        server: holds the database.
        stock: use Dagster's own storage class instead of this pipeline's.
    """
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
    ours = {
        "custom": {
            "module": "sim_pipeline.dagster_instance.storage",
            "class": "BatchingPostgresStorage",
            "config": {"postgres_db": parameters, "should_autocreate_tables": False},
        }
    }
    storage = {"postgres": {"postgres_db": parameters}} if stock else ours
    with dg.instance_for_test(overrides={"storage": storage}) as instance:
        if not stock:
            create_tables(instance)
        try:
            yield instance, database
        finally:
            database.engine.dispose()
