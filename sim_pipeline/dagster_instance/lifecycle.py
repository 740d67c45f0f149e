"""Preparation of Dagster's instance before a start: directory, storage schema, abandoned runs."""

import logging
import shutil
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES

from sim_pipeline.dagster_instance.storage import (
    STORAGE_ERRORS,
    create_tables,
    storage_error_message,
)
from sim_pipeline.errors import ServiceError

logger = logging.getLogger(__name__)


def configure_instance(home: Path, config: Path) -> None:
    """Create DAGSTER_HOME with its configuration.

    Args:
        home: the directory DAGSTER_HOME.
        config: the file to copy there as dagster.yaml.

    Raises:
        ServiceError: the directory is not writable.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config, home / "dagster.yaml")
    except OSError as error:
        raise ServiceError(f"{home} cannot be written: {error.strerror}") from error


def migrate_instance() -> None:
    """Migrate the storage of the instance in DAGSTER_HOME.

    Raises:
        ServiceError: the storage is unreachable or refuses.
    """
    with dg.DagsterInstance.get() as instance:
        upgrade_storage(instance)


def upgrade_storage(instance: dg.DagsterInstance) -> None:
    """Migrate an instance's storage in PostgreSQL to the schema of the installed Dagster.

    Raises:
        ServiceError: the storage is unreachable or refuses.
    """
    try:
        create_tables(instance)
        instance.upgrade()
    except STORAGE_ERRORS as error:
        raise ServiceError(f"Dagster's storage: {storage_error_message(error)}") from error


def close_abandoned_runs() -> None:
    """Mark the runs as ended that were in progress when the service stopped.

    Their processes ended with the service. The windows they stored stay. A run whose cancellation
    was requested becomes canceled. The other runs become failed: the next tick of the schedule
    repairs the schedule's runs, and Dagster retries the rest, so backfills continue.
    """
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES))):
            message = "The service stopped while this run was in progress"
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, message)
            else:
                instance.report_run_failed(run, message)
            logger.info("Run %s was in progress when the service stopped", run.run_id)
