"""Bring the results database to the schema of this version."""

from alembic import command
from alembic.config import Config

from sim_pipeline.project_files import project_file
from sim_pipeline.store.connection import Postgres


def alembic_config(postgres: Postgres) -> Config:
    """Return what Alembic's commands need to work on this database."""
    # pyproject.toml says how files of revisions are named. A wheel has none, and writes none.
    config = Config(toml_file=project_file("pyproject.toml"), attributes={"postgres": postgres})
    # ConfigParser takes a single % for the start of a variable's name.
    migrations = str(project_file("migrations"))
    config.set_main_option("script_location", migrations.replace("%", "%%"))
    return config


def upgrade(postgres: Postgres, revision: str = "head") -> None:
    """Run the migrations that are still to run; several processes may do so at once.

    Raises:
        sqlalchemy.exc.OperationalError: the database can't be reached.
    """
    command.upgrade(alembic_config(postgres), revision)
