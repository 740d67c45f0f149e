"""Waits until both databases have this version's schema, for pods that start beside `migrate`.

It polls both databases for a limited time and changes nothing. A newer schema is accepted too, so
that an older image starts after a rollback.
"""

import logging
import sys
import time

import dagster as dg
import sqlalchemy as sa
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from sim_pipeline import logs
from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.storage import storage_migrations
from sim_pipeline.store.migrations import alembic_config

_TIMEOUT_SECONDS = 600.0
_POLL_SECONDS = 3.0
_LOG_SECONDS = 30.0

logger = logging.getLogger("sim_pipeline.await_migrations")


def is_migrated(url: sa.URL | str, config: Config) -> bool:
    """Return whether a database is at the newest revision of its migrations, or at a newer one.

    Args:
        url: the database's URL.
        config: the Alembic configuration of the migrations.

    Raises:
        sqlalchemy.exc.OperationalError: the database is unreachable.
    """
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        current = set(MigrationContext.configure(connection).get_current_heads())
    return current == set(script.get_heads()) or bool(current - known)


def missing_migrations(settings: Settings) -> str | None:
    """Return the reason to wait, as text, or None if both databases are migrated.

    Raises:
        TypeError: Dagster's instance does not keep its data in PostgreSQL.
    """
    results = results_database(settings)
    try:
        if not is_migrated(results.url, alembic_config(results)):
            return f"{results} is not migrated yet"
        with dg.DagsterInstance.get() as instance:
            if not is_migrated(*storage_migrations(instance)):
                return "Dagster's storage is not migrated yet"
    except sa.exc.OperationalError as error:
        return " ".join(str(error.orig).split())
    return None


def await_migrations(settings: Settings, timeout: float = _TIMEOUT_SECONDS) -> bool:
    """Wait until both databases are migrated.

    Args:
        settings: the validated settings.
        timeout: longest time to wait [s].

    Returns:
        Whether both databases are migrated.
    """
    deadline = time.monotonic() + timeout
    last_logged = float("-inf")
    while reason := missing_migrations(settings):
        now = time.monotonic()
        if now >= deadline:
            logger.error(
                "Stopped waiting after %d s: %s; check that the Job migrate runs", timeout, reason
            )
            return False
        if now - last_logged >= _LOG_SECONDS:
            logger.info("Waiting: %s", reason)
            last_logged = now
        # A database does not announce its migration, so this polls.
        time.sleep(_POLL_SECONDS)
    return True


def main() -> int:
    """Wait until both databases are migrated.

    Returns:
        The exit status: 0 if they are, 1 after the timeout, 2 if the settings are invalid.
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
