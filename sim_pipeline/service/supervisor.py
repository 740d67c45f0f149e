"""The whole service on one machine: servers, migrations, Dagster's processes; then watch them.

What belongs here: the order in which things start and stop. How each is started stands in the
modules beside.
"""

import logging
import os
import urllib.error
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from sim_pipeline import logs
from sim_pipeline.config import Settings
from sim_pipeline.connections import results_database
from sim_pipeline.dagster_instance.lifecycle import close_abandoned_runs, prepare_instance
from sim_pipeline.local_servers.data_directory import ServiceDirectory
from sim_pipeline.local_servers.from_settings import local_postgres, local_rabbitmq
from sim_pipeline.local_servers.ports import free_port, listens, require_free
from sim_pipeline.project_files import project_file
from sim_pipeline.service.children import Children, end_marked
from sim_pipeline.service.first_run import first_run_command
from sim_pipeline.service.migrations import migrate_results, require_fit
from sim_pipeline.service.readiness import await_servers
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.surroundings import safe_environment

_START_SECONDS = 120.0
_HTTP_OK = 200

# What Dagster calls beta and this pipeline relies on: each process would say so anew. These
# sentences, known and weighed, are left out; any other warning comes through.
_KNOWN_WARNINGS = ",".join(
    f"ignore:{beginning}"
    for beginning in (
        "Handling yaml-defined logging configuration",
        "Parameter `backfill_policy` of function `asset`",
        "Function `with_source_code_references`",
        "Class `LocalFileCodeReference`",
        "Class `CodeReferencesMetadataValue`",
    )
)
# How often Dagster looks for failed runs to launch anew. It looks past a run whose failure it sees
# between the event and the change of the run's status, and never again: at its own 5 s it would
# meet run monitoring, every 10 s since the same moment, just then.
_RETRY_LOOK_SECONDS = 59
# Events of a run are written so many at a time: to Dagster's storage, each write is a connection.
_EVENT_BATCH_SIZE = 1000

logger = logging.getLogger(__name__)


def serve(settings: Settings, directory: Path) -> None:
    """Run the service until Ctrl-C, SIGTERM, or the end of one of its processes.

    Args:
        settings: as validated.
        directory: where it keeps its data; the servers' too, with LOCAL_SERVICES.

    Raises:
        ServiceError: something can't be started, or ended by itself.
    """
    environment = service_environment(settings, directory)
    # Dagster's own files read the environment, and parts of Dagster run in this process too.
    os.environ.update(environment)
    stop = StopRequest()
    # Held before anything of this directory's service is taken for left over: it may be running.
    owned = ServiceDirectory("The service", _dagster_home(directory))
    owned.take()
    with ExitStack() as running:
        running.callback(owned.release)
        end_marked(directory)
        require_free("The UI", settings.ui_port, settings.ui_host, "UI_PORT")
        _run_until_stopped(settings, directory, environment, stop, running)
        logger.info("Stopping")
    logger.info("Stopped")


def _run_until_stopped(
    settings: Settings,
    directory: Path,
    environment: dict[str, str],
    stop: StopRequest,
    running: ExitStack,
) -> None:
    """Start everything and watch it; what is to be stopped afterwards is left in `running`."""
    if settings.local_services:
        for server in (local_postgres, local_rabbitmq):
            running.enter_context(server(settings, directory))
            if stop:
                return
    elif not await_servers(settings, stop.wait):
        return
    migrate_results(settings)
    require_fit(
        replace(results_database(settings), database=settings.dagster_postgres_db),
        temporary_tables=False,
    )
    logger.info("Migrating Dagster's storage")
    prepare_instance(_dagster_home(directory), project_file("dagster.yaml"))
    close_abandoned_runs()
    if stop:
        return
    programs = running.enter_context(Children(directory, environment, stop))
    _start_dagster(settings, programs, environment)
    if not stop:
        _say_where_things_are(settings, directory)
    programs.watch()


def service_environment(settings: Settings, directory: Path) -> dict[str, str]:
    """Return the environment of the service's processes, this process's own included.

    Args:
        settings: as validated.
        directory: where the service keeps its data.
    """
    own = {
        **settings.environment(),
        "DAGSTER_HOME": str(_dagster_home(directory)),
        "DAGSTER_EVENT_BATCH_SIZE": str(_EVENT_BATCH_SIZE),
        "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": str(_RETRY_LOOK_SECONDS),
        "CODE_SERVER_HOST": "127.0.0.1",
        "CODE_SERVER_PORT": str(free_port()),
        "PYTHONWARNINGS": _KNOWN_WARNINGS,
        "PYTHONUNBUFFERED": "1",
        # glibc gives threads arenas of their own, up to eight a core, and each keeps what it once
        # took: Dagster's processes, of many threads, would grow by megabytes for hours.
        "MALLOC_ARENA_MAX": "2",
    }
    return safe_environment({**os.environ, **own})


def _dagster_home(directory: Path) -> Path:
    return directory / "dagster"


def _start_dagster(settings: Settings, programs: Children, environment: dict[str, str]) -> None:
    """Start code server, daemon and webserver, and launch the first run."""
    logger.info("Starting Dagster")
    host, port = environment["CODE_SERVER_HOST"], environment["CODE_SERVER_PORT"]
    workspace = ["--workspace", str(project_file("workspace.yaml"))]
    programs.start(
        "code",
        *("dagster", "api", "grpc", "--module-name", "sim_pipeline.definitions"),
        *("--host", host, "--port", port, "--location-name", "sim_pipeline"),
        *("--log-level", "warning"),
    )
    programs.await_condition(
        lambda: listens(host, int(port)), "the code server to listen", _START_SECONDS
    )
    programs.start("daemon", "sim_pipeline.dagster_instance.daemon", "run", *workspace)
    programs.start(
        "webserver",
        *("sim_pipeline.dagster_instance.webserver", *workspace, "--dagster-log-level", "warning"),
    )
    command = first_run_command(settings, workspace)
    if command is not None and not programs.run("first run", *command, seconds=_START_SECONDS):
        logger.warning("The first run was not launched; the schedule's next tick makes up for it")
    programs.await_condition(
        lambda: _answers(f"{settings.ui_url}/server_info"), "the UI to answer", _START_SECONDS
    )


def _say_where_things_are(settings: Settings, directory: Path) -> None:
    logger.info("Ready. Ctrl-C stops it", extra=logs.GOOD_NEWS)
    logger.info("  UI    %s", settings.ui_url, extra=logs.GOOD_NEWS)
    if settings.local_services:
        logger.info("  Data  %s", directory)
    logger.info("  Log   %s", settings.log_file.absolute())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - our own http
            return bool(response.status == _HTTP_OK)
    except (urllib.error.URLError, TimeoutError):
        return False
