"""Alembic's configuration, and the upgrade of the results database to this version's schema."""

from alembic import command
from alembic.config import Config

from sim_pipeline.project_files import project_file
from sim_pipeline.store.connection import Postgres


def alembic_config(postgres: Postgres) -> Config:
    """Return the configuration for Alembic's commands on this database."""
    # pyproject.toml configures the names of new revision files. A wheel does not contain it, and
    # creates no revisions.
    config = Config(toml_file=project_file("pyproject.toml"), attributes={"postgres": postgres})
    # ConfigParser reads a single % as the start of a variable's name.
    migrations = str(project_file("migrations"))
    config.set_main_option("script_location", migrations.replace("%", "%%"))
    return config


def upgrade(postgres: Postgres, revision: str = "head") -> None:
    """Run the pending migrations; several processes may call this at the same time.

    Args:
        postgres: the results database.
        revision: the revision to upgrade to.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
    """
    command.upgrade(alembic_config(postgres), revision)
