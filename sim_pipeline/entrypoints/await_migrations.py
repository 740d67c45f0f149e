"""Waits until both databases are at this version's schema: for pods that start beside `migrate`.

What belongs here: two questions, asked again every few seconds for a bounded time. Nothing is
changed, and a schema that this version does not know, a newer one's, is as good: so an older image
starts after a rollback.
"""

import logging
import sys
import time

import dagster as dg
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from dagster_postgres import PostgresEventLogStorage
from dagster_postgres.event_log import event_log
from dagster_postgres.utils import pg_alembic_config

from sim_pipeline import logs
from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.connections import results_database
from sim_pipeline.store.migrations import alembic_config

_PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 3.0
_SAY_AGAIN_SECONDS = 30.0

logger = logging.getLogger("sim_pipeline.await_migrations")


def is_migrated(url: sa.URL | str, config: Config) -> bool:
    """Tell whether a database is at the newest revision of some migrations, or past it.

    Args:
        url: of the database.
        config: says where the migrations are.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
    """
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        current = set(MigrationContext.configure(connection).get_current_heads())
    return current == set(script.get_heads()) or bool(current - known)


def missing_migrations(settings: Settings) -> str | None:
    """Return what is still to wait for, in words; None if that is nothing.

    Raises:
        TypeError: Dagster's instance keeps its data elsewhere than in PostgreSQL.
    """
    results = results_database(settings)
    try:
        if not is_migrated(results.url, alembic_config(results)):
            return f"{results} is not migrated yet"
        with dg.DagsterInstance.get() as instance:
            storage = instance.event_log_storage
            if not isinstance(storage, PostgresEventLogStorage):
                raise TypeError(f"Dagster's events are kept in a {type(storage).__name__}")
            if not is_migrated(storage.postgres_url, pg_alembic_config(event_log.__file__)):
                return "Dagster's storage is not migrated yet"
    except sa.exc.OperationalError as error:
        return " ".join(str(error.orig).split())
    return None


def await_migrations(settings: Settings, patience: float = _PATIENCE_SECONDS) -> bool:
    """Wait for so many seconds at most; tell whether both databases are migrated by then."""
    deadline = time.monotonic() + patience
    said = float("-inf")
    while reason := missing_migrations(settings):
        now = time.monotonic()
        if now >= deadline:
            logger.error("Gave up after %d s: %s. Does the Job migrate run?", patience, reason)
            return False
        if now - said >= _SAY_AGAIN_SECONDS:
            logger.info("Waiting: %s", reason)
            said = now
        # A database tells nobody that it is migrated: it is asked.
        time.sleep(_PAUSE_SECONDS)
    return True


def main() -> int:
    """Wait; return 0 once both databases are migrated, 1 if that takes too long.

    Wrong settings are said, and make it 2.
    """
    try:
        settings = load_settings()
    except SettingsError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logs.configure(settings)
    return 0 if await_migrations(settings) else 1


if __name__ == "__main__":
    sys.exit(main())
