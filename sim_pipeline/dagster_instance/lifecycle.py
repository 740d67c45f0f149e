"""Dagster's instance on this machine: its directory, its storage, the runs a crash left open."""

import logging
import shutil
from pathlib import Path

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.dagster_run import IN_PROGRESS_RUN_STATUSES
from dagster_postgres.utils import DagsterPostgresException

from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.errors import ServiceError

logger = logging.getLogger(__name__)


def prepare_instance(home: Path, config: Path) -> None:
    """Make DAGSTER_HOME with this configuration, and bring Dagster's storage up to date.

    Raises:
        ServiceError: the directory can't be written or the storage can't be reached.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config, home / "dagster.yaml")
    except OSError as error:
        raise ServiceError(f"{home} cannot be written: {error.strerror}") from error
    with dg.DagsterInstance.get() as instance:
        upgrade_storage(instance)


def upgrade_storage(instance: dg.DagsterInstance) -> None:
    """Bring an instance's storage, in PostgreSQL, to the schema of this version of Dagster.

    Raises:
        ServiceError: it can't be reached, or refuses.
    """
    try:
        create_tables(instance)
        instance.upgrade()
    except (sa.exc.DBAPIError, DagsterPostgresException) as error:
        cause = error.__cause__ or error
        raise ServiceError(f"Dagster's storage: {' '.join(str(cause).split())}") from error


def close_abandoned_runs() -> None:
    """Mark as ended the runs that were under way when the service was last stopped.

    Their processes ended with it. What they had stored stays. A run that somebody had asked to end
    is canceled, and that is all. The others have failed: the schedule makes up for those of its
    own, and Dagster launches the rest anew, so that a backfill goes on by itself.
    """
    with dg.DagsterInstance.get() as instance:
        for run in instance.get_runs(dg.RunsFilter(statuses=list(IN_PROGRESS_RUN_STATUSES))):
            message = "The service was stopped while this run was under way"
            if run.status is dg.DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, message)
            else:
                instance.report_run_failed(run, message)
            logger.info("Run %s was under way when the service was stopped", run.run_id)
