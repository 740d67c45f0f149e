"""Bring the results database to the schema of this version."""

from pathlib import Path

from alembic import command
from alembic.config import Config

from sim_pipeline.store.connection import Postgres

_ROOT = Path(__file__).parents[2]
MIGRATIONS = _ROOT / "migrations"


def alembic_config(postgres: Postgres) -> Config:
    """Return what Alembic's commands need to work on this database."""
    # Of pyproject.toml it takes how files are named. Where the package is installed without one,
    # no revision is written either.
    config = Config(toml_file=_ROOT / "pyproject.toml", attributes={"postgres": postgres})
    # ConfigParser takes a single % for the start of a variable's name.
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def upgrade(postgres: Postgres, revision: str = "head") -> None:
    """Run the migrations that are still to run; several processes may do so at once.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
    """
    command.upgrade(alembic_config(postgres), revision)
