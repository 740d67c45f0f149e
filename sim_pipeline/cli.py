"""The commands: those behind the make targets, and `consume` and `exec` for who reads the feed."""

import argparse
import logging
import os
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
from sim_pipeline.broker.consumer import (
    Consumer,
    EndRequest,
    Interrupted,
    OutputError,
    ReaderGoneError,
)
from sim_pipeline.broker.errors import BrokerError
from sim_pipeline.config import Settings, SettingsError, load_settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.from_settings import local_postgres, require_programs
from sim_pipeline.service.env_file import ensure_env_file
from sim_pipeline.service.migrations import migrate_dagster, migrate_results
from sim_pipeline.service.readiness import await_database
from sim_pipeline.service.supervisor import serve
from sim_pipeline.simulator.profiles_file import ProfilesFileError, read_profiles
from sim_pipeline.store.migrations import alembic_config
from sim_pipeline.surroundings import secure_this_process
from sim_pipeline.windows import Cadence

logger = logging.getLogger("sim_pipeline")
_ROOT = Path(__file__).parents[1]
_FOR_READERS = ("consume", "exec")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return the exit status.

    That is 0, 1 for a fault, 2 for wrong settings or arguments, 130 for a backfill or a `consume`
    interrupted. `exec` ends with the status of its command: 127 if there is no such command, 126 if
    it can't be run.
    """
    secure_this_process()
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command in _FOR_READERS:
        return _serve_reader(parser, parsed)
    settings, made = _prepare(parser, parsed.command)
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


def _parser() -> argparse.ArgumentParser:
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
    consume = commands.add_parser(
        "consume", help="print the queue's messages as lines of JSON, and acknowledge them"
    )
    consume.add_argument(
        "--limit", type=_count, metavar="N", help="end after N messages; by default at Ctrl-C"
    )
    with_settings = commands.add_parser(
        "exec", help="run a command with the settings of .env in its environment"
    )
    with_settings.add_argument(
        "argv",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="the command and its arguments, such as psql; it gets PGHOST and the like too",
    )
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from 1 on")
    return int(text)


def _serve_reader(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Run a command that needs nothing but settings: it makes no `.env` and starts no server."""
    try:
        settings = load_settings()
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    if parsed.command == "consume":
        return _consume(settings, parsed.limit)
    argv = parsed.argv[1:] if parsed.argv[:1] == ["--"] else parsed.argv
    if not argv:
        parser.error("exec: name a command, such as exec -- psql")
    return _exec(settings, argv)


def _consume(settings: Settings, limit: int | None) -> int:
    logs.configure(settings)
    end = EndRequest()
    status = 0

    def end_once(number: int, _frame: object) -> None:
        nonlocal status
        status = 130 if number == signal.SIGINT else 0
        signal.signal(number, signal.SIG_DFL)  # the second time it ends at once
        end.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_once)
    consumer = Consumer(message_broker(settings), output=sys.stdout.fileno(), end=end, limit=limit)
    try:
        consumer.run()
    except (Interrupted, ReaderGoneError):
        pass
    except (BrokerError, OutputError) as error:
        logger.error("%s", error)  # noqa: TRY400 - it is for the user; a trace is not
        return 1
    return status


def _exec(settings: Settings, argv: list[str]) -> int:
    """Become another program; return only if that fails."""
    environment = {
        **os.environ,
        **settings.environment(),
        "PGHOST": settings.postgres_host,
        "PGPORT": str(settings.postgres_port),
        "PGUSER": settings.postgres_user,
        "PGPASSWORD": settings.postgres_password.get_secret_value(),
        "PGDATABASE": settings.postgres_db,
    }
    # Python ignores it; other programs end by it when the reader of their output is gone.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - no shell is the point
    except FileNotFoundError:
        sys.stderr.write(f"{argv[0]}: there is no such command\n")
        return 127
    except OSError as error:
        sys.stderr.write(f"{argv[0]} cannot be run: {error.strerror}\n")
        return 126


def _prepare(parser: argparse.ArgumentParser, name: str) -> tuple[Settings, Path | None]:
    """Return the settings, and `.env` if it was made for them; exit where they are wrong."""
    try:
        made = ensure_env_file(Path.cwd())
        settings = load_settings()
        read_profiles(settings.model_profiles_file, settings.llm_models)
        if name != "backfill":  # which needs the webserver only
            require_programs(settings)
    except (SettingsError, ProfilesFileError, ServiceError) as error:
        parser.exit(2, f"{error}\n")
    return settings, made


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
            "No migration was written: sim_pipeline/store/schema.py says what the newest one does."
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
