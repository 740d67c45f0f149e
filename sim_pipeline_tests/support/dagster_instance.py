"""Dagster with its storage in PostgreSQL, as it is in service."""

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.databases import database_in


@contextmanager
def instance_in(
    server: LocalPostgres, *, stock: bool = False
) -> Iterator[tuple[dg.DagsterInstance, Postgres]]:
    """An instance with a database of its own in a server, and that database.

    Args:
        server: the server.
        stock: whether to take Dagster's own storage rather than this pipeline's.
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
