"""Runs the whole service on one machine: servers, migrations and Dagster's processes.

This module decides the order in which they start and stop. The other modules of this package say
how each of them is started.
"""

import logging
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from sim_pipeline import logs
from sim_pipeline.config import Settings
from sim_pipeline.connections import dagster_database
from sim_pipeline.dagster_instance.environment import dagster_home, instance_environment
from sim_pipeline.dagster_instance.lifecycle import (
    close_abandoned_runs,
    configure_instance,
    migrate_instance,
)
from sim_pipeline.local_servers.data_directory import ServiceDirectory
from sim_pipeline.local_servers.from_settings import local_postgres, local_rabbitmq
from sim_pipeline.local_servers.ports import free_port, listens, require_free
from sim_pipeline.project_files import project_file
from sim_pipeline.service.children import Children, end_marked
from sim_pipeline.service.first_run import FirstStart, is_first_start
from sim_pipeline.service.migrations import migrate_results, require_fit
from sim_pipeline.service.readiness import await_servers
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.surroundings import safe_environment

_START_SECONDS = 120.0
_HTTP_OK = 200

# Dagster polls for failed runs to retry. If a poll falls between a run's failure event and the
# update of the run's status, Dagster skips that run for good. At the default of 5 s this happens
# often: run monitoring, which fails the runs, polls every 10 s and starts at the same moment.
_RETRY_POLL_SECONDS = 59

logger = logging.getLogger(__name__)


def serve(settings: Settings, directory: Path) -> None:
    """Run the service until Ctrl-C, SIGTERM, or the end of one of its processes.

    Args:
        settings: validated settings.
        directory: the service's data directory, with LOCAL_SERVICES also the servers'.

    Raises:
        ServiceError: a part of the service can't be started, or exited unexpectedly.
    """
    environment = service_environment(settings, directory)
    # Parts of Dagster run in this process too, and dagster.yaml reads the environment.
    os.environ.update(environment)
    stop = StopRequest(with_terminal=True)
    # Take the lock first: without it, `end_marked` could stop a service that is still running.
    owned = ServiceDirectory("The service", dagster_home(directory))
    owned.acquire()
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
    """Start everything and watch it. The caller stops what this function enters into `running`."""
    configure_instance(dagster_home(directory), project_file("dagster.yaml"))
    # Entered before the children, so that they stop before their servers.
    servers = running.enter_context(ExitStack())
    children = running.enter_context(Children(directory, environment, stop))
    with ThreadPoolExecutor(max_workers=1) as pool:
        if settings.local_services:
            # RabbitMQ takes as long to start as PostgreSQL, the migrations and the code server.
            broker = pool.submit(servers.enter_context, local_rabbitmq(settings, directory))
            servers.enter_context(local_postgres(settings, directory))
            if broker.done():
                broker.result()
        elif not await_servers(settings, stop.wait):
            return
        if stop:
            return
        _migrate(settings)
        close_abandoned_runs()
        if stop:
            return
        _start_code_server(children, environment)
        if settings.local_services:
            broker.result()
    if stop:
        return
    first = is_first_start(settings)
    _start_dagster(settings, children, environment)
    if first and not stop:
        FirstStart(settings, children, stop).run(directory / "report.html")
    if not stop:
        _log_addresses(settings, directory)
    children.watch()


def _migrate(settings: Settings) -> None:
    """Migrate both databases."""
    migrate_results(settings)
    require_fit(dagster_database(settings), temporary_tables=False)
    logger.info("Migrating Dagster's storage")
    migrate_instance()


def service_environment(settings: Settings, directory: Path) -> dict[str, str]:
    """Return the environment of the service's processes, including this one.

    Args:
        settings: validated settings.
        directory: the service's data directory.
    """
    own = {
        **settings.environment(),
        **instance_environment(directory),
        "DAGSTER_EVENT_LOG_CONSUMER_DAEMON_INTERVAL_SECONDS": str(_RETRY_POLL_SECONDS),
        "CODE_SERVER_HOST": "127.0.0.1",
        "CODE_SERVER_PORT": str(free_port()),
        "PYTHONUNBUFFERED": "1",
        # By default glibc gives threads up to eight arenas per core, and an arena keeps memory once
        # it has it. Dagster's processes have many threads and would grow by megabytes for hours.
        "MALLOC_ARENA_MAX": "2",
    }
    return safe_environment({**os.environ, **own})


def _start_code_server(children: Children, environment: dict[str, str]) -> None:
    logger.info("Starting Dagster")
    host, port = environment["CODE_SERVER_HOST"], environment["CODE_SERVER_PORT"]
    children.start(
        "code",
        *("sim_pipeline.dagster_instance.code_server", "grpc"),
        *("--module-name", "sim_pipeline.definitions"),
        *("--host", host, "--port", port, "--location-name", "sim_pipeline"),
        *("--log-level", "warning"),
    )


def _start_dagster(settings: Settings, children: Children, environment: dict[str, str]) -> None:
    """Start daemon and webserver when the code server listens, and wait for the UI."""
    host, port = environment["CODE_SERVER_HOST"], environment["CODE_SERVER_PORT"]
    workspace = ["--workspace", str(project_file("workspace.yaml"))]
    children.await_condition(
        lambda: listens(host, int(port)), "the code server did not listen", _START_SECONDS
    )
    children.start("daemon", "sim_pipeline.dagster_instance.daemon", "run", *workspace)
    children.start(
        "webserver",
        *("sim_pipeline.dagster_instance.webserver", *workspace, "--dagster-log-level", "warning"),
    )
    children.await_condition(
        lambda: _answers(f"{settings.ui_url}/server_info"), "the UI did not answer", _START_SECONDS
    )


def _log_addresses(settings: Settings, directory: Path) -> None:
    logger.info("Ready. Ctrl-C stops the service", extra=logs.HIGHLIGHT)
    comparison = f"{settings.ui_url}/assets/model_comparison"
    logger.info("  UI          %s", settings.ui_url, extra=logs.HIGHLIGHT)
    logger.info("  Comparison  %s", comparison, extra=logs.HIGHLIGHT)
    logger.info("  Runs        %s/runs", settings.ui_url, extra=logs.HIGHLIGHT)
    report = directory / "report.html"
    if report.exists():
        logger.info("  Report      %s", report.as_uri(), extra=logs.HIGHLIGHT)
    if settings.local_services:
        logger.info("  Data        %s", directory)
    logger.info("  Log         %s", settings.log_file.absolute())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - the URL is our own
            return bool(response.status == _HTTP_OK)
    except (urllib.error.URLError, TimeoutError):
        return False
