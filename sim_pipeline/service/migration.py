"""The databases brought to this version's schemas: the results', and Dagster's own storage."""

import logging
import os
from dataclasses import replace

import dagster as dg
import sqlalchemy as sa
from dagster._core.errors import DagsterHomeNotSetError

from sim_pipeline.config import Settings
from sim_pipeline.dagster_storage import BatchingEventLogStorage
from sim_pipeline.resources import results_database
from sim_pipeline.service.errors import ServiceError
from sim_pipeline.service.instance import upgrade_storage
from sim_pipeline.service.waiting import Pause, await_database
from sim_pipeline.store.errors import StoreError
from sim_pipeline.store.migrate import upgrade
from sim_pipeline.store.refusals import explained

logger = logging.getLogger(__name__)


def migrate_results(settings: Settings) -> None:
    """Bring the results database to this version's schema.

    Raises:
        ServiceError: it can't be reached, or refuses.
    """
    postgres = results_database(settings)
    logger.info("Migrating %s", postgres)
    try:
        with explained(postgres):
            upgrade(postgres)
    except StoreError as error:
        raise ServiceError(str(error)) from error


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
        logger.info("Migrating Dagster's storage, %s", postgres)
        upgrade_storage(instance)
