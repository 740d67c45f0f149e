"""Migrates the results database and Dagster's own storage to this version's schemas."""

import logging
import os
from dataclasses import replace

import dagster as dg
import sqlalchemy as sa
from alembic.util import CommandError

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.lifecycle import upgrade_storage
from sim_pipeline.dagster_instance.names import DagsterHomeNotSetError
from sim_pipeline.dagster_instance.storage import BatchingEventLogStorage
from sim_pipeline.errors import ServiceError
from sim_pipeline.service.readiness import Sleep, await_database
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import StoreError, translate_db_errors
from sim_pipeline.store.migrations import upgrade
from sim_pipeline.store.server_facts import ids_running_out, unmet_requirements

logger = logging.getLogger(__name__)


def migrate_results(settings: Settings) -> None:
    """Migrate the results database to this version's schema.

    Raises:
        ServiceError: the database can't be reached, refuses the connection or the migration, does
            not meet the pipeline's requirements, or has the schema of a newer version.
    """
    postgres = results_database(settings)
    require_fit(postgres)
    logger.info("Migrating %s", postgres)
    try:
        with translate_db_errors(postgres):
            upgrade(postgres)
            with postgres.engine.connect() as connection:
                warning = ids_running_out(connection)
    except StoreError as error:
        raise ServiceError(str(error)) from error
    except CommandError as error:
        # Alembic does not know the revision in the database.
        raise ServiceError(
            f"{postgres} was migrated by a newer version of sim_pipeline ({error}); install that"
            " version"
        ) from error
    if warning:
        logger.warning("%s", warning)


def require_fit(postgres: Postgres, *, temporary_tables: bool = True) -> None:
    """Raise an error if a database does not meet the pipeline's requirements.

    Args:
        postgres: the database.
        temporary_tables: whether the role needs the right to create temporary tables.

    Raises:
        ServiceError: lists each unmet requirement, or says why the database can't be queried.
    """
    try:
        with translate_db_errors(postgres), postgres.engine.connect() as connection:
            unmet = unmet_requirements(connection, temporary_tables=temporary_tables)
    except StoreError as error:
        raise ServiceError(str(error)) from error
    finally:
        postgres.engine.dispose()
    if unmet:
        raise ServiceError(f"{postgres} does not meet the requirements: {'; '.join(unmet)}")


def migrate_dagster(settings: Settings, sleep: Sleep) -> None:
    """Migrate the storage of the Dagster instance in DAGSTER_HOME to this version of Dagster.

    `dagster.yaml` in DAGSTER_HOME names the storage's server. It may be another server than that of
    the results, or a connection pooler. This function waits until that
    server accepts connections.

    Args:
        settings: validated settings; `dagster.yaml` reads them from the environment.
        sleep: waits between two attempts to connect.

    Raises:
        ServiceError: DAGSTER_HOME holds no instance, or its storage can't be reached or refuses the
            connection.
    """
    os.environ.update(settings.environment())
    try:
        opened = dg.DagsterInstance.get()
    except (DagsterHomeNotSetError, dg.DagsterInvariantViolationError) as error:
        raise ServiceError(
            "DAGSTER_HOME: allowed is the absolute path of the directory that holds dagster.yaml"
        ) from error
    with opened as instance:
        storage = instance.event_log_storage
        if not isinstance(storage, BatchingEventLogStorage):
            raise ServiceError(
                f"DAGSTER_HOME: its dagster.yaml stores events in {type(storage).__name__};"
                f" allowed is {BatchingEventLogStorage.__module__}"
            )
        url = sa.make_url(storage.postgres_url)
        # The URL says nothing about TLS: libpq takes it from the environment, as here.
        postgres = replace(
            results_database(settings),
            host=url.host or settings.postgres_host,
            port=url.port or settings.postgres_port,
            user=url.username or settings.postgres_user,
            password=str(url.password or ""),
            database=url.database or settings.dagster_postgres_db,
        )
        await_database(postgres, sleep)
        require_fit(postgres, temporary_tables=False)
        logger.info("Migrating Dagster's storage, %s", postgres)
        upgrade_storage(instance)
