"""The databases brought to this version's schemas: the results', and Dagster's own storage."""

import logging
import os
from dataclasses import replace

import dagster as dg
import sqlalchemy as sa

from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.lifecycle import upgrade_storage
from sim_pipeline.dagster_instance.names import DagsterHomeNotSetError
from sim_pipeline.dagster_instance.storage import BatchingEventLogStorage
from sim_pipeline.errors import ServiceError
from sim_pipeline.service.readiness import Pause, await_database
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.errors import StoreError
from sim_pipeline.store.migrations import upgrade
from sim_pipeline.store.server_facts import ids_running_out, unmet_requirements

logger = logging.getLogger(__name__)


def migrate_results(settings: Settings) -> None:
    """Bring the results database to this version's schema.

    Raises:
        ServiceError: it can't be reached, refuses, or is not fit for the pipeline.
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
    if warning:
        logger.warning("%s", warning)


def require_fit(postgres: Postgres, *, temporary_tables: bool = True) -> None:
    """Refuse a database that the pipeline can't work with.

    Args:
        postgres: the database.
        temporary_tables: whether the role must be allowed to make temporary tables.

    Raises:
        ServiceError: names each thing that is wrong, or says why the database can't be asked.
    """
    try:
        with translate_db_errors(postgres), postgres.engine.connect() as connection:
            unmet = unmet_requirements(connection, temporary_tables=temporary_tables)
    except StoreError as error:
        raise ServiceError(str(error)) from error
    finally:
        postgres.engine.dispose()
    if unmet:
        raise ServiceError(f"{postgres} is not fit for this pipeline: {'; '.join(unmet)}")


def migrate_dagster(settings: Settings, pause: Pause) -> None:
    """Bring the storage of the instance in DAGSTER_HOME to this version of Dagster.

    It may be on another server than the results, or behind a pool of connections: its own
    `dagster.yaml` says where, and is waited for.

    Args:
        settings: as validated; `dagster.yaml` finds them in the environment.
        pause: waits between two attempts to connect.

    Raises:
        ServiceError: there is no such instance, or its storage can't be reached, or refuses.
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
                f"DAGSTER_HOME: its dagster.yaml keeps events in a {type(storage).__name__};"
                f" allowed is {BatchingEventLogStorage.__module__}"
            )
        url = sa.make_url(storage.postgres_url)
        # TLS as the environment has it, which libpq takes where an address says nothing.
        postgres = replace(
            results_database(settings),
            host=url.host or settings.postgres_host,
            port=url.port or settings.postgres_port,
            user=url.username or settings.postgres_user,
            password=str(url.password or ""),
            database=url.database or settings.dagster_postgres_db,
        )
        await_database(postgres, pause)
        require_fit(postgres, temporary_tables=False)
        logger.info("Migrating Dagster's storage, %s", postgres)
        upgrade_storage(instance)
