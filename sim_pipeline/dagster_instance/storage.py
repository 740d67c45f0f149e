"""Dagster's PostgreSQL storage, with two differences; what it stores is the same.

It announces the partitions of a run together. When a run is made, Dagster writes for each asset and
partition of it that it is planned. Its own storage takes materializations in batches, but these one
by one, with two connections and two commits each: of a backfill over a year of days that is most of
the time.

It does not ask which columns there are. Dagster's own storage does, by several queries of
PostgreSQL's catalog at each look for runs and at each event that changes a run or an asset, since
an older Dagster may have made the tables. Here they are brought up to date before anything starts.
SQLAlchemy keeps the catalog queries of the last 128 dialects, each with all that its engine ever
compiled, and a code server opens an instance, so a dialect, at each tick: 16 MB in two hours.
"""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import dagster as dg
import dagster_postgres.utils
from alembic.config import Config
from dagster._core.storage.event_log import SqlEventLogStorageTable
from dagster._core.storage.sql import get_alembic_config
from dagster._serdes import ConfigurableClassData
from dagster_postgres import (
    DagsterPostgresStorage,
    PostgresEventLogStorage,
    PostgresRunStorage,
)
from dagster_postgres.utils import pg_url_from_config
from sqlalchemy import Connection, make_url

from sim_pipeline.store.connection import session_parameters


def _alembic_config_in_any_directory(*arguments: Any, **options: Any) -> Config:
    """Return Dagster's configuration of its migrations, readable where their path has a %.

    Alembic's ConfigParser would take it for the start of a variable.
    """
    config = get_alembic_config(*arguments, **options)
    here = str(config.config_args["here"])
    config.file_config.set("DEFAULT", "here", here.replace("%", "%%"))
    return config


# dagster_postgres asks for it here, and takes none from outside.
vars(dagster_postgres.utils)["get_alembic_config"] = _alembic_config_in_any_directory

# Of one statement: a few MB of text.
_ROWS = 2_000


class MigratedRunStorage(PostgresRunStorage):
    """The runs, in tables that have this Dagster's columns."""

    def has_run_stats_index_cols(self) -> bool:
        """Return whether runs have columns for their times."""
        return True

    def has_backfill_id_column(self) -> bool:
        """Return whether runs have a column for the backfill that they belong to."""
        return True

    def has_bulk_actions_selector_cols(self) -> bool:
        """Return whether backfills have a column for what they are of."""
        return True

    def has_bulk_action_job_name_column(self) -> bool:
        """Return whether backfills have a column for the name of their job."""
        return True


class BatchingEventLogStorage(PostgresEventLogStorage):
    """The event log, in tables that have this Dagster's columns.

    It stores planned materializations by the thousand.
    """

    def has_asset_key_col(self, column_name: str) -> bool:  # noqa: ARG002
        """Return whether assets have a column, of those that Dagster asks for."""
        return True

    def _has_asset_key_col_on_connection(self, conn: Connection, column_name: str) -> bool:  # noqa: ARG002
        return True

    def store_event_batch(self, events: Sequence[dg.EventLogEntry]) -> None:
        """Store events that were reported together; nothing of theirs depends on their order."""
        planned: list[dg.EventLogEntry] = []
        others: list[dg.EventLogEntry] = []
        for event in events:
            kind = event.get_dagster_event().event_type
            is_planned = kind == dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
            (planned if is_planned else others).append(event)
        remaining = iter(planned)
        while rows := list(islice(remaining, _ROWS)):
            self._store_planned(rows)
        if others:
            super().store_event_batch(others)

    def _store_planned(self, events: Sequence[dg.EventLogEntry]) -> None:
        statement = self.prepare_insert_event_batch(events).returning(SqlEventLogStorageTable.c.id)
        with self._connect() as connection:
            ids = [int(row[0]) for row in connection.execute(statement)]
        # Of an asset's own record only what the latest event says stays.
        latest = {
            event.get_dagster_event().asset_key: (event, event_id)
            for event, event_id in zip(events, ids, strict=True)
        }
        with self.index_transaction() as connection:
            self._store_asset_event_tags(connection, events, ids)
            for event, event_id in latest.values():
                self._store_asset_event(connection, event, event_id)


class BatchingPostgresStorage(DagsterPostgresStorage):
    """All of Dagster's storage, with these two; configured as `storage: postgres` is."""

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
        """Make it from the configuration of `dagster.yaml`.

        Its sessions are set up as those of the results database are: Dagster's timestamps have no
        zone, so one session in another zone would be hours off.
        """
        autocreate = config_value.get("should_autocreate_tables", True)
        return cls(_url(config_value), autocreate, inst_data)


def _url(config_value: Mapping[str, Any]) -> str:
    """Return the address of the storage, with what its sessions rely on."""
    parts = config_value.get("postgres_db")
    if parts is not None and ":" in parts["hostname"]:
        # Dagster puts the host into the address as it is.
        hostname = f"[{parts['hostname'].strip('[]')}]"
        config_value = {**config_value, "postgres_db": {**parts, "hostname": hostname}}
    url = make_url(pg_url_from_config(config_value))
    return url.update_query_dict(session_parameters()).render_as_string(hide_password=False)


def create_tables(instance: dg.DagsterInstance) -> None:
    """Make the tables of an instance's storage where there are none.

    An instance need not look for them each time it is opened, which happens at every tick: see
    `should_autocreate_tables` in `dagster.yaml`.

    Raises:
        TypeError: the instance keeps its events elsewhere.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, BatchingEventLogStorage):
        raise TypeError(f"Dagster's events are kept in a {type(storage).__name__}")
    DagsterPostgresStorage(storage.postgres_url)
