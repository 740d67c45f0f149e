"""The commands behind the make targets: run, backfill, migrate, revision."""

import argparse
import logging
import shlex
import signal
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.operations.ops import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script import Script
from rich.console import Console

from sim_pipeline import logs
from sim_pipeline.backfill.command import run_backfill
from sim_pipeline.backfill.request import Request, RequestError, read_request
from sim_pipeline.cadence import Cadence
from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.profiles_file import ProfilesFileError, read_profiles
from sim_pipeline.resources import results_database
from sim_pipeline.service.env_file import ensure_env_file
from sim_pipeline.service.errors import ServiceError
from sim_pipeline.service.local import local_postgres, require_programs
from sim_pipeline.service.migration import migrate_dagster, migrate_results
from sim_pipeline.service.supervisor import serve
from sim_pipeline.service.waiting import await_database
from sim_pipeline.store.migrate import alembic_config

logger = logging.getLogger("sim_pipeline")
_ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status.

    That is 0, 1 for a fault, 2 for wrong settings or arguments, 130 for a backfill interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m sim_pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the whole service until Ctrl-C")
    run.add_argument(
        "--ui-host", metavar="HOST", help="where the UI listens, instead of at UI_HOST"
    )
    backfill = commands.add_parser("backfill", help="simulate a stretch of history")
    backfill.add_argument(
        "--from",
        dest="since",
        metavar="FROM",
        help="ISO 8601 date or time, UTC: the first window; by default eight days before TO",
    )
    backfill.add_argument(
        "--to",
        dest="until",
        metavar="TO",
        help="the same: no window from there on; by default the end of the latest window",
    )
    backfill.add_argument(
        "--models", default="", metavar="A,B", help="comma-separated; all of them by default"
    )
    migrate = commands.add_parser(
        "migrate", help="bring the results database to this version's schema"
    )
    migrate.add_argument(
        "--dagster",
        action="store_true",
        help="Dagster's storage too, as dagster.yaml in DAGSTER_HOME names it",
    )
    revision = commands.add_parser("revision", help="write a migration from the tables' changes")
    revision.add_argument("message", help="what it does, in a few words")
    parsed = parser.parse_args(arguments)
    try:
        made = ensure_env_file(Path.cwd())
        settings = load_settings()
        read_profiles(settings.model_profiles_file, settings.llm_models)
        if parsed.command != "backfill":  # which needs the webserver only
            require_programs(settings)
    except (SettingsError, ProfilesFileError, ServiceError) as error:
        parser.exit(2, f"{error}\n")
    request = _request(parser, parsed, settings) if parsed.command == "backfill" else None
    logs.configure(settings)
    if made:
        logger.info("Made %s, with passwords of its own", made)
    try:
        match parsed.command:
            case "run":
                if parsed.ui_host:
                    settings = settings.model_copy(update={"ui_host": parsed.ui_host})
                serve(settings, Path.cwd() / ".local")
            case "backfill" if request is not None:
                return run_backfill(settings, request, Console())
            case "migrate":
                _migrate(settings, dagster=parsed.dagster)
            case "revision":
                _revision(settings, parsed.message)
    except ServiceError as error:
        logger.error("%s", error)  # noqa: TRY400 - it is for the user; a trace is not
        return 1
    return 0


def _request(
    parser: argparse.ArgumentParser, parsed: argparse.Namespace, settings: Settings
) -> Request:
    try:
        return read_request(
            parsed.since,
            parsed.until,
            parsed.models,
            known=settings.llm_models,
            cadence=Cadence(settings.simulation_interval, settings.simulation_start),
            now=datetime.now(UTC),
        )
    except RequestError as error:
        parser.exit(2, f"{error}\n")


def _migrate(settings: Settings, *, dagster: bool) -> None:
    _end_in_order()
    with ExitStack() as running:
        _postgres_at_hand(settings, running)
        migrate_results(settings)
        if dagster:
            migrate_dagster(settings, _pause)
    logger.info("%s is at the newest schema", settings.postgres_db)


def _revision(settings: Settings, message: str) -> None:
    _end_in_order()
    with ExitStack() as running:
        _postgres_at_hand(settings, running)
        migrate_results(settings)
        written = command.revision(
            alembic_config(results_database(settings)),
            message,
            autogenerate=True,
            process_revision_directives=_drop_if_empty,
        )
    if not isinstance(written, Script):
        raise ServiceError(
            "No migration was written: sim_pipeline/store/tables.py says what the newest one does."
            " Change a table first; for what is no table, such as a view, take"
            f" `.venv/bin/alembic revision -m {shlex.quote(message)}` and fill it in"
        )
    logger.info("Wrote %s: read it, then run `make migrate`", Path(written.path).relative_to(_ROOT))


def _drop_if_empty(
    _context: MigrationContext, _revision: object, directives: list[MigrationScript]
) -> None:
    """Have Alembic write no migration that does nothing."""
    if all(script.upgrade_ops is None or script.upgrade_ops.is_empty() for script in directives):
        directives.clear()


def _postgres_at_hand(settings: Settings, running: ExitStack) -> None:
    """Start the local PostgreSQL for the time of a command, unless the service has it running.

    One that is not ours is waited for.
    """
    if not settings.local_services:
        await_database(results_database(settings), _pause)
    elif not results_database(settings).reachable():
        running.enter_context(local_postgres(settings, Path.cwd() / ".local"))


def _end_in_order() -> None:
    """Have SIGINT and SIGTERM end this process by way of what it has to close."""
    # As process 1 of a container, this one would not even hear of SIGTERM otherwise.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def _pause(seconds: float) -> bool:
    """Wait before a server is asked again; only the signal that ends this process stops it."""
    time.sleep(seconds)
    return False
