"""Dagster's PostgreSQL storage, with three differences. It stores the same rows.

- It writes planned and completed materializations in batches, by one statement that is compiled
  once. For each run, Dagster stores one event of each kind per asset and partition. Dagster's
  storage writes the planned ones one by one, with two connections and two commits each. In a
  backfill over a year of days that takes most of the time. For each batch of completed ones it
  compiles a statement with a parameter for each value, which takes as long as to serialize them.
- It does not ask PostgreSQL which columns exist. Dagster's storage does, at each query for runs and
  each event that changes a run or an asset, in case an older Dagster created the tables. This
  pipeline migrates the tables before anything starts. The queries also cost memory: SQLAlchemy
  caches them per dialect, for the last 128 dialects. A code server creates a dialect at each tick,
  and so grew by 16 MB in two hours.
- PostgreSQL finds the partitions that were planned and not materialized. Dagster's storage fetches
  the latest events of all partitions to find them, each time the UI shows an asset for the first
  time since a run: a third of the page's time with ten years of 64 models.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg
import dagster_postgres.utils
import sqlalchemy as sa
from alembic.config import Config
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.sql import get_alembic_config
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
)
from dagster_postgres.event_log import event_log
from dagster_postgres.utils import (
    DagsterPostgresException,
    pg_alembic_config,
    pg_url_from_config,
)

from sim_pipeline.store.connection import session_parameters


def _alembic_config_in_any_directory(*arguments: Any, **options: Any) -> Config:
    """Return the Alembic configuration of Dagster's migrations, also if their path contains a %.

    Alembic's ConfigParser would read a % as the start of a variable.
    """
    config = get_alembic_config(*arguments, **options)
    here = str(config.config_args["here"])
    config.file_config.set("DEFAULT", "here", here.replace("%", "%%"))
    return config


# dagster_postgres calls it by this name and has no parameter for another one.
vars(dagster_postgres.utils)["get_alembic_config"] = _alembic_config_in_any_directory

STORAGE_ERRORS: Final = (sa.exc.DBAPIError, DagsterPostgresException)
"""Errors of the database, with and without Dagster's retries."""

_PLANNED = dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
_BATCHED = {_PLANNED, dg.DagsterEventType.ASSET_MATERIALIZATION}
# Returns the ids in the order of the events. SQLAlchemy sends it for a page of rows at a time.
_INSERT = SqlEventLogStorageTable.insert().returning(
    SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
)


class MigratedRunStorage(PostgresRunStorage):
    """Run storage that assumes the columns of the installed Dagster."""

    def has_run_stats_index_cols(self) -> bool:
        """Return True: runs have columns for their start and end."""
        return True

    def has_backfill_id_column(self) -> bool:
        """Return True: runs have a column for their backfill."""
        return True

    def has_bulk_actions_selector_cols(self) -> bool:
        """Return True: backfills have columns for their selector."""
        return True

    def has_bulk_action_job_name_column(self) -> bool:
        """Return True: backfills have a column for the name of their job."""
        return True


class BatchingEventLogStorage(PostgresEventLogStorage):
    """Event log storage that assumes the columns of the installed Dagster.

    It stores planned and completed materializations in batches.
    """

    def has_asset_key_col(self, column_name: str) -> bool:  # noqa: ARG002
        """Return True: assets have every column that Dagster asks for."""
        return True

    def _has_asset_key_col_on_connection(self, conn: sa.Connection, column_name: str) -> bool:  # noqa: ARG002
        return True

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store events that Dagster reports together. The order of different kinds is lost."""
        batched: list[dg.EventLogEntry] = []
        others: list[dg.EventLogEntry] = []
        for event in events:
            kind = event.get_dagster_event().event_type
            (batched if kind in _BATCHED else others).append(event)
        if batched:
            self._store_materializations(batched)
        if others:
            super().store_event_batch(others)

    def _store_materializations(self, events: Sequence[dg.EventLogEntry]) -> None:
        with self._connect() as connection:
            rows = [self._event_to_row(event) for event in events]
            ids = connection.execute(_INSERT, rows).scalars().all()
        # The record of an asset keeps only its latest event.
        latest = {
            event.get_dagster_event().asset_key: (event, event_id)
            for event, event_id in zip(events, ids, strict=True)
        }
        with self.index_transaction() as connection:
            self._store_asset_event_tags(connection, events, ids)
            for event, event_id in latest.values():
                self._store_asset_event(connection, event, event_id)

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: dg.AssetKey, after_storage_id: int | None = None
    ) -> Mapping[str, tuple[str, int]]:
        """Return run and id of the latest event of each partition in which this is a planned one.

        Args:
            asset_key: the asset.
            after_storage_id: ignore events up to this id.
        """
        latest = self._latest_event_ids_by_partition_subquery(
            asset_key, list(_BATCHED), after_cursor=after_storage_id
        )
        planned = latest.c.dagster_event_type == _PLANNED.value
        newest = sa.func.max(latest.c.id)
        attempts = (
            sa.select(newest.label("id"))
            .group_by(latest.c.partition)
            .having(newest.filter(planned) == newest)
            .subquery()
        )
        events = SqlEventLogStorageTable.c
        query = sa.select(events.partition, events.run_id, events.id).where(
            events.id.in_(sa.select(attempts.c.id))
        )
        with self.index_connection() as connection:
            return {
                partition: (run_id, event_id)
                for partition, run_id, event_id in connection.execute(query)
            }


class BatchingPostgresStorage(DagsterPostgresStorage):
    """Dagster's storage with the two classes above. Takes the options of `storage: postgres`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._run_storage = MigratedRunStorage(self.postgres_url, should_autocreate_tables=False)
        self._event_log_storage = BatchingEventLogStorage(
            self.postgres_url, should_autocreate_tables=False
        )

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchingPostgresStorage":
        """Create the storage from the configuration in dagster.yaml.

        Its sessions have the same settings as those of the results database. Dagster's timestamps
        have no time zone, so a session in another zone would be hours off.

        Raises:
            SystemExit: `dagster dev` asks for it. Its daemon would compete with the service's.
        """
        # Other commands set this variable too: they only load the definitions.
        if os.environ.get("DAGSTER_IS_DEV_CLI") and "dev" in sys.argv:
            # Of any other exception the command would print a long traceback.
            raise SystemExit(
                "`dagster dev` cannot use the Dagster instance of the service, because a second"
                " daemon would launch the same runs. Use another instance: set DAGSTER_HOME to the"
                " path of an empty directory, and choose a free --port; see docs/dagster.md"
            )
        autocreate = config_value.get("should_autocreate_tables", True)
        return cls(_url(config_value), autocreate, inst_data)


def _url(config_value: Mapping[str, Any]) -> str:
    """Return the URL of the storage, with the session settings."""
    parts = config_value.get("postgres_db")
    if parts is not None and ":" in parts["hostname"]:
        # Dagster inserts the host into the URL without brackets.
        hostname = f"[{parts['hostname'].strip('[]')}]"
        config_value = {**config_value, "postgres_db": {**parts, "hostname": hostname}}
    url = sa.make_url(pg_url_from_config(config_value))
    return url.update_query_dict(session_parameters()).render_as_string(hide_password=False)


def create_tables(instance: dg.DagsterInstance) -> None:
    """Create the missing tables of an instance's storage.

    The instance itself does not look for them each time it is opened, which happens at every tick:
    see `should_autocreate_tables` in dagster.yaml.

    Raises:
        TypeError: the instance does not use this module's storage.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, BatchingEventLogStorage):
        raise TypeError(
            f"Dagster keeps its events in a {type(storage).__name__};"
            f" allowed is {BatchingEventLogStorage.__name__}"
        )
    DagsterPostgresStorage(storage.postgres_url)


def storage_migrations(instance: dg.DagsterInstance) -> tuple[str, Config]:
    """Return the URL of an instance's storage and the Alembic configuration of its migrations.

    Raises:
        TypeError: the instance does not keep its data in PostgreSQL.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, PostgresEventLogStorage):
        raise TypeError(
            f"Dagster keeps its events in a {type(storage).__name__};"
            f" allowed is {PostgresEventLogStorage.__name__}"
        )
    return storage.postgres_url, pg_alembic_config(event_log.__file__)


def storage_error_message(error: Exception) -> str:
    """Return the database's message of one of `STORAGE_ERRORS`, on one line."""
    # Dagster wraps the last error of its retries.
    cause = error.__cause__ if isinstance(error, DagsterPostgresException) else error
    return " ".join(str(getattr(cause, "orig", cause)).split())
