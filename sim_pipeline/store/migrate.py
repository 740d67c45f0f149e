"""Bring the results database to the schema of this version."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from sim_pipeline.store.postgres import Postgres

MIGRATIONS = Path(__file__).parents[2] / "migrations"


def alembic_config(postgres: Postgres) -> Config:
    """Return what Alembic's commands need to work on this database."""
    config = Config(attributes={"postgres": postgres})
    config.set_main_option("script_location", str(MIGRATIONS))
    return config


def upgrade(postgres: Postgres, revision: str = "head") -> None:
    """Run the migrations that are still to run; several processes may do so at once.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
    """
    command.upgrade(alembic_config(postgres), revision)
