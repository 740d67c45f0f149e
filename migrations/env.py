"""Alembic's environment: connects to the results database and runs the migrations.

Callers in this project pass the database as `config.attributes["postgres"]`. On Alembic's own
command line it comes from the settings.
"""

import sqlalchemy as sa
from alembic import context

from sim_pipeline.config import load_settings
from sim_pipeline.connections import results_database
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.schema import metadata

# An arbitrary number, the same in every process that migrates this database.
MIGRATION_LOCK = 7_310_585_233_921


def run_migrations(postgres: Postgres) -> None:
    """Migrate in one transaction. Other processes wait for it and then have nothing to do."""
    engine = sa.create_engine(postgres.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            context.run_migrations()


run_migrations(context.config.attributes.get("postgres") or results_database(load_settings()))
