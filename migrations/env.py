"""How Alembic reaches the results database.

A caller inside the project hands over a `Postgres` in `config.attributes["postgres"]`; on
Alembic's own command line the settings say where it is.
"""

import sqlalchemy as sa
from alembic import context

from sim_pipeline.config import load_settings
from sim_pipeline.connections import results_database
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.schema import metadata

# Any number will do, as long as every process that migrates this database takes the same one.
MIGRATION_LOCK = 7_310_585_233_921


def run_migrations(postgres: Postgres) -> None:
    """Migrate in one transaction, one process at a time: the others wait, then find it done."""
    engine = sa.create_engine(postgres.url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=metadata)
        with context.begin_transaction():
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
            context.run_migrations()


run_migrations(context.config.attributes.get("postgres") or results_database(load_settings()))
