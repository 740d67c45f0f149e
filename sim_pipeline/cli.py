"""The pipeline's commands, such as run, backfill, migrate, consume, fit and score."""

import argparse
import json
import logging
import os
import shlex
import signal
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
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
from sim_pipeline.config import MODEL_NAME_FORBIDDEN, Settings, SettingsError, load_settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.dagster_instance.environment import dagster_home, instance_environment
from sim_pipeline.errors import ServiceError
from sim_pipeline.fit.command import run_fit
from sim_pipeline.fit.measurement import MeasurementError
from sim_pipeline.local_servers.from_settings import local_postgres, require_programs
from sim_pipeline.metrics import MAX_MODEL_NAME_LENGTH
from sim_pipeline.report.command import REPORT, STDOUT, write_report
from sim_pipeline.scoring.command import run_score
from sim_pipeline.scoring.reading import ScoringError
from sim_pipeline.scoring.score import HORIZON, LATENCY_KINDS, Rule
from sim_pipeline.service.env_file import ensure_env_file
from sim_pipeline.service.readiness import await_database
from sim_pipeline.simulator.catalogue import MODELS, WORKLOADS
from sim_pipeline.simulator.profiles_file import ProfilesFileError, read_profiles
from sim_pipeline.store.errors import StoreError
from sim_pipeline.store.migrations import alembic_config
from sim_pipeline.surroundings import secure_this_process
from sim_pipeline.timestamps import parse_timestamp
from sim_pipeline.windows import Cadence

logger = logging.getLogger("sim_pipeline")
_ROOT = Path(__file__).parents[1]
_READER_COMMANDS = ("consume", "exec", "models", "score", "report")
_LONGEST = timedelta(days=366)


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the command line without the program's name; by default that of this process.

    Returns:
        The exit status: 0 for success, 1 for a fault, 2 for invalid settings or arguments, 130 for
        an interrupted `backfill` or `consume`. `exec` has the status of its command, 127 if there
        is no such command and 126 if it can't be run.
    """
    secure_this_process()
    parser = _parser()
    parsed = parser.parse_args(arguments)
    if parsed.command in _READER_COMMANDS:
        return _run_reader_command(parser, parsed)
    if parsed.command == "fit":
        return _fit(parser, parsed)
    settings, created = _prepare(parser, parsed.command)
    request = _backfill_request(parser, parsed, settings) if parsed.command == "backfill" else None
    logs.configure(settings)
    if created:
        logger.info("Created %s with generated passwords", created)
    try:
        match parsed.command:
            case "run":
                if parsed.ui_host:
                    settings = settings.model_copy(update={"ui_host": parsed.ui_host})
                # Imports Dagster, which takes a second. The other commands do not need it.
                from sim_pipeline.service.supervisor import serve  # noqa: PLC0415

                serve(settings, Path.cwd() / ".local")
            case "backfill" if request is not None:
                return run_backfill(settings, request, Console())
            case "migrate":
                _migrate(settings, dagster=parsed.dagster)
            case "revision":
                _revision(settings, parsed.message)
    except ServiceError as error:
        logger.error("%s", error)  # noqa: TRY400 - users need no traceback
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sim_pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run the whole service until Ctrl-C")
    run.add_argument(
        "--ui-host", metavar="HOST", help="the address the UI listens on, instead of UI_HOST"
    )
    backfill = commands.add_parser("backfill", help="simulate past windows")
    backfill.add_argument(
        "--from",
        dest="since",
        metavar="FROM",
        help="start of the first window, an ISO 8601 date or time (default: eight days before TO)",
    )
    backfill.add_argument(
        "--to",
        dest="until",
        metavar="TO",
        help="end of the range, which is excluded (default: the end of the latest window)",
    )
    backfill.add_argument(
        "--models", default="", metavar="A,B", help="comma-separated model names (default: all)"
    )
    _add_fit(commands.add_parser("fit", help="fit a model profile to benchmark results"))
    _add_score(commands.add_parser("score", help="score alarms against the simulated events"))
    report = commands.add_parser("report", help="write an HTML report of a period")
    report.add_argument(
        "--since",
        metavar="TIME",
        help="ISO 8601: windows that start then or later (default: seven days before the end)",
    )
    report.add_argument(
        "--until",
        metavar="TIME",
        help="ISO 8601: windows that start before (default: all that are stored)",
    )
    report.add_argument(
        "--output",
        type=Path,
        default=REPORT,
        metavar="FILE",
        help="the file to write; - for standard output (default: %(default)s)",
    )
    migrate = commands.add_parser(
        "migrate", help="migrate the results database to this version's schema"
    )
    migrate.add_argument(
        "--dagster",
        action="store_true",
        help="also migrate Dagster's storage, which dagster.yaml in DAGSTER_HOME names",
    )
    revision = commands.add_parser("revision", help="write a migration for changes of the tables")
    revision.add_argument("message", help="what the migration does, in a few words")
    consume = commands.add_parser(
        "consume", help="print the queue's messages as JSON lines and acknowledge them"
    )
    consume.add_argument(
        "--limit", type=_count, metavar="N", help="stop after N messages (default: at Ctrl-C)"
    )
    commands.add_parser("models", help="list the built-in models and yours, with their figures")
    with_settings = commands.add_parser(
        "exec", help="run a command with the settings of .env in its environment"
    )
    with_settings.add_argument(
        "argv",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="the command and its arguments, such as psql, which also gets PGHOST and the like",
    )
    return parser


def _add_fit(fit: argparse.ArgumentParser) -> None:
    fit.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="a result of vLLM, AIPerf, GenAI-Perf, GuideLLM, LLMPerf or inference-perf, or a CSV",
    )
    fit.add_argument("--name", required=True, type=_model_name, help="the model's name")
    fit.add_argument(
        "--output", type=Path, metavar="PATH", help="the profile to write (default: NAME.toml)"
    )
    fit.add_argument(
        "--batch-limit",
        type=_count,
        metavar="N",
        help="requests that the server decodes at once (default: from the results)",
    )
    fit.add_argument(
        "--seed", type=_seed, default=42, help="of the simulated requests (default: 42)"
    )
    fit.add_argument("--force", action="store_true", help="replace existing files")


def _add_score(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="alarms as CSV or JSON lines with the fields model, metric and time; - for stdin",
    )
    command.add_argument(
        "--since",
        metavar="TIME",
        help="start of the scored period, ISO 8601 (default: of the first stored window)",
    )
    command.add_argument(
        "--until", metavar="TIME", help="end of the period (default: of the last stored window)"
    )
    command.add_argument(
        "--models", default="", metavar="A,B", help="the models to score (default: all stored)"
    )
    command.add_argument(
        "--kinds",
        default=",".join(LATENCY_KINDS),
        metavar="A,B",
        help="the kinds of events to find (default: %(default)s)",
    )
    command.add_argument(
        "--all-shifts", action="store_true", help="also look for level shifts to a higher speed"
    )
    command.add_argument(
        "--grace",
        type=_hours,
        metavar="HOURS",
        help="an alarm is true up to this time after an event (default: a window and an hour)",
    )
    command.add_argument(
        "--horizon",
        type=_hours,
        default=HORIZON,
        metavar="HOURS",
        help="an event without an end counts as active for this time (default: 24)",
    )
    command.add_argument(
        "--merge",
        type=_hours,
        metavar="HOURS",
        help="alarms up to this time apart are one episode (default: as --grace)",
    )
    command.add_argument("--json", action="store_true", help="print JSON instead of tables")


def _hours(text: str) -> timedelta:
    try:
        found = timedelta(hours=float(text))
    except (ValueError, OverflowError):
        found = timedelta(-1)
    if not timedelta(0) <= found <= _LONGEST:
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed is a number of hours from 0 to {_LONGEST // timedelta(hours=1)}"
        )
    return found


def _model_name(text: str) -> str:
    if (
        not 1 <= len(text) <= MAX_MODEL_NAME_LENGTH
        or text != text.strip()
        or not text.isprintable()
        or any(part in text for part in (",", *MODEL_NAME_FORBIDDEN))
    ):
        raise argparse.ArgumentTypeError(
            f"{text!r}: allowed are 1 to {MAX_MODEL_NAME_LENGTH} printable characters without a "
            f"comma or {' '.join(MODEL_NAME_FORBIDDEN)}, and no blank at either end"
        )
    return text


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number, 0 or more")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number, 1 or more")
    return int(text)


def _fit(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Run `fit`, which reads no settings and needs no server."""
    try:
        report = run_fit(
            parsed.files,
            name=parsed.name,
            output=parsed.output,
            batch_limit=parsed.batch_limit,
            seed=parsed.seed,
            force=parsed.force,
        )
    except MeasurementError as error:
        parser.exit(2, f"{error}\n")
    sys.stdout.write(f"{report}\n")
    return 0


def _run_reader_command(parser: argparse.ArgumentParser, parsed: argparse.Namespace) -> int:
    """Run a command of `_READER_COMMANDS`: it creates no `.env` and starts no server."""
    try:
        settings = load_settings()
    except SettingsError as error:
        parser.exit(2, f"{error}\n")
    if parsed.command == "consume":
        return _consume(settings, parsed.limit)
    if parsed.command == "models":
        return _models(settings)
    if parsed.command == "score":
        return _score(parser, parsed, settings)
    if parsed.command == "report":
        return _report(parser, parsed, settings)
    argv = parsed.argv[1:] if parsed.argv[:1] == ["--"] else parsed.argv
    if not argv:
        parser.error("exec: name a command, for example exec -- psql")
    return _exec(settings, argv)


def _consume(settings: Settings, limit: int | None) -> int:
    logs.configure(settings)
    end = EndRequest()
    status = 0

    def end_once(number: int, _frame: object) -> None:
        nonlocal status
        status = 130 if number == signal.SIGINT else 0
        signal.signal(number, signal.SIG_DFL)  # the second signal ends it at once
        end.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end_once)
    consumer = Consumer(message_broker(settings), output=sys.stdout.fileno(), end=end, limit=limit)
    try:
        consumer.run()
    except (Interrupted, ReaderGoneError):
        pass
    except (BrokerError, OutputError) as error:
        logger.error("%s", error)  # noqa: TRY400 - users need no traceback
        return 1
    return status


def _models(settings: Settings) -> int:
    """List the simulated models and the built-in ones, those with the newest figures first."""
    try:
        profiles = read_profiles(
            settings.model_profiles_file, [*dict.fromkeys([*settings.llm_models, *MODELS])]
        )
    except ProfilesFileError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    rows = [("", "model", "creator", "TTFT [s]", "TPS", "figures of", "workload", "source")]
    for name, one in sorted(profiles.items(), key=lambda item: item[1].measured, reverse=True):
        # Other limits do not make another workload.
        known = (
            kind
            for kind, workload in WORKLOADS.items()
            if replace(one.workload, slo=workload.slo) == workload
        )
        workload = next(known, "its own")
        if one.thinking is not None:
            workload += f", {'visible' if one.thinking.visible else 'hidden'} thinking"
        simulated = "*" if name in settings.llm_models else ""
        figures = (f"{one.ttft_ref:g}", f"{one.tps_ref:g}", one.measured.isoformat())
        rows.append((simulated, name, one.creator, *figures, workload, one.source))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    sys.stdout.write(
        "\n* simulated: it is in LLM_MODELS_STR. docs/models.md explains the figures.\n"
    )
    return 0


def _score(parser: argparse.ArgumentParser, parsed: argparse.Namespace, settings: Settings) -> int:
    interval = timedelta(seconds=settings.simulation_interval)
    grace = interval + timedelta(hours=1) if parsed.grace is None else parsed.grace
    rule = Rule(
        grace=grace,
        merge=grace if parsed.merge is None else parsed.merge,
        kinds=_names(parsed.kinds),
        all_shifts=parsed.all_shifts,
        horizon=parsed.horizon,
    )
    try:
        report = run_score(
            results_database(settings),
            parsed.file,
            interval=interval,
            rule=rule,
            llm_names=_names(parsed.models),
            since=parsed.since,
            until=parsed.until,
        )
    except ScoringError as error:
        parser.exit(2, f"{error}\n")
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if parsed.json:
        sys.stdout.write(json.dumps(report.as_json(), indent=2) + "\n")
    else:
        console = Console()
        for part in report.tables():
            console.print(part)
            console.print()
    return 0


def _report(parser: argparse.ArgumentParser, parsed: argparse.Namespace, settings: Settings) -> int:
    times = {}
    for name in ("since", "until"):
        try:
            times[name] = parse_timestamp(text) if (text := getattr(parsed, name)) else None
        except ValueError as error:
            parser.exit(2, f"--{name} is {error}\n")
    since, until = times.values()
    if since is not None and until is not None and until <= since:
        parser.exit(
            2, f"--until is {parsed.until!r}: allowed is a time after --since, {parsed.since!r}\n"
        )
    try:
        write_report(settings, since, until, parsed.output)
    except (ServiceError, StoreError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if parsed.output != STDOUT:
        sys.stdout.write(f"Wrote {parsed.output.absolute()}: open it in a browser\n")
    return 0


def _names(text: str) -> tuple[str, ...]:
    """Return the comma-separated names of an argument, each once."""
    return tuple(dict.fromkeys(name for part in text.split(",") if (name := part.strip())))


def _exec(settings: Settings, argv: list[str]) -> int:
    """Replace this process by a command; return its exit status only if that fails."""
    directory = Path.cwd() / ".local"
    # So that Dagster's commands use the service's instance, unless the user names another one.
    of_service = instance_environment(directory) if dagster_home(directory).exists() else {}
    environment = {
        **of_service,
        **os.environ,
        **settings.environment(),
        "PGHOST": settings.postgres_host,
        "PGPORT": str(settings.postgres_port),
        "PGUSER": settings.postgres_user,
        "PGPASSWORD": settings.postgres_password.get_secret_value(),
        "PGDATABASE": settings.postgres_db,
    }
    # Python ignores SIGPIPE. Other programs expect to end by it when nothing reads their output.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - arguments must not pass a shell
    except FileNotFoundError:
        sys.stderr.write(f"{argv[0]}: command not found\n")
        return 127
    except OSError as error:
        sys.stderr.write(f"{argv[0]} cannot be run: {error.strerror}\n")
        return 126


def _prepare(parser: argparse.ArgumentParser, name: str) -> tuple[Settings, Path | None]:
    """Return the settings, and the path of a newly created `.env`; exit if settings are invalid."""
    try:
        created = ensure_env_file(Path.cwd())
        settings = load_settings()
        read_profiles(settings.model_profiles_file, settings.llm_models)
        if name != "backfill":  # a backfill talks to the running service
            require_programs(settings)
    except (SettingsError, ProfilesFileError, ServiceError) as error:
        parser.exit(2, f"{error}\n")
    return settings, created


def _backfill_request(
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
    from sim_pipeline.service.migrations import migrate_dagster, migrate_results  # noqa: PLC0415

    _exit_on_signals()
    with _running_postgres(settings):
        migrate_results(settings)
        if dagster:
            migrate_dagster(settings, _sleep)
    logger.info("%s has the newest schema", settings.postgres_db)


def _revision(settings: Settings, message: str) -> None:
    from sim_pipeline.service.migrations import migrate_results  # noqa: PLC0415

    _exit_on_signals()
    with _running_postgres(settings):
        migrate_results(settings)
        written = command.revision(
            alembic_config(results_database(settings)),
            message,
            autogenerate=True,
            process_revision_directives=_drop_if_empty,
        )
    if not isinstance(written, Script):
        raise ServiceError(
            "No migration was written: the tables in sim_pipeline/store/schema.py have not changed"
            " since the newest one. Change a table first; for anything else, such as a view, run"
            f" `.venv/bin/alembic revision -m {shlex.quote(message)}` and fill in the file"
        )
    logger.info(
        "Wrote %s: review it, then run `make migrate`", Path(written.path).relative_to(_ROOT)
    )


def _drop_if_empty(
    _context: MigrationContext, _revision: object, directives: list[MigrationScript]
) -> None:
    """Drop a migration that would do nothing."""
    if all(script.upgrade_ops is None or script.upgrade_ops.is_empty() for script in directives):
        directives.clear()


def _running_postgres(settings: Settings) -> AbstractContextManager[None]:
    """Return a context in which PostgreSQL runs.

    A local server is started for the time of the context, unless the service runs it already. For a
    server of the user's, wait until it accepts connections.
    """
    if not settings.local_services:
        await_database(results_database(settings), _sleep)
    elif not results_database(settings).reachable():
        return local_postgres(settings, Path.cwd() / ".local")
    return nullcontext()


def _exit_on_signals() -> None:
    """Make signals that end this process raise SystemExit, so that open contexts are closed."""
    # Without a handler, process 1 of a container would ignore SIGTERM. SIGHUP is the end of the
    # terminal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def _sleep(seconds: float) -> bool:
    """Sleep; return False, because a signal ends this process instead of requesting a stop."""
    time.sleep(seconds)
    return False
