"""Dagster as it runs in service, over the code locations of a benchmark."""

import os
import secrets
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import dagster as dg
import pika
import sqlalchemy as sa
import yaml
from pika.adapters.blocking_connection import BlockingChannel

from benchmarks import ui
from sim_pipeline.config import Settings, read_settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.dagster_instance.lifecycle import prepare_instance
from sim_pipeline.local_servers.from_settings import local_postgres, local_rabbitmq
from sim_pipeline.local_servers.ports import free_port, listens
from sim_pipeline.project_files import project_file
from sim_pipeline.service.children import Children
from sim_pipeline.service.supervisor import service_environment
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.store.migrations import upgrade

PIPELINE = {"sim_pipeline": "sim_pipeline.definitions"}
"""The pipeline itself as a code location."""

_SECONDS = 300.0
_SCHEDULES = """
query Schedules($location: String!) {
  schedulesOrError(repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: $location
  }) { ... on Schedules { results { scheduleState { id status } } } }
}
"""
_STOP = """
mutation Stop($id: String!) {
  stopRunningSchedule(id: $id) {
    __typename
    ... on PythonError { message }
    ... on UnauthorizedError { message }
  }
}
"""


class DagsterService:
    """Servers and Dagster's processes, in a temporary directory, while the context lasts.

    The environment and the instance are those of the service itself; its schedules are stopped, so
    that nothing runs but what a benchmark launches. This process takes the environment over.

    Args:
        locations: module by name of the code location; without any, Dagster's processes are not
            started.
        overrides: settings by field name, beside the ports and passwords that it is given.
        environment: further variables of all processes.
    """

    def __init__(
        self,
        locations: Mapping[str, str],
        overrides: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._locations = locations
        self._overrides = overrides or {}
        self._environment = environment or {}
        self._stack = ExitStack()
        self._ui_port = free_port()
        self.ports = {name: free_port() for name in locations}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def _start(self, stack: ExitStack) -> None:
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="sim_pipeline-benchmark-"))
        )
        self.settings: Settings = read_settings(
            {
                "_env_file": None,
                "local_services": True,
                "postgres_port": free_port(),
                "postgres_password": secrets.token_urlsafe(),
                "rabbitmq_port": free_port(),
                "rabbitmq_password": secrets.token_urlsafe(),
                "log_file": directory / "benchmark.log",
                **self._overrides,
            }
        )
        environment = {
            **service_environment(self.settings, directory),
            **self._environment,
            # The processes work elsewhere.
            "PYTHONPATH": str(project_file("sim_pipeline").parent),
        }
        os.environ.update(environment)
        stack.enter_context(local_postgres(self.settings, directory))
        stack.enter_context(local_rabbitmq(self.settings, directory))
        self.results = results_database(self.settings)
        self.broker = message_broker(self.settings)
        stack.callback(self.results.engine.dispose)
        upgrade(self.results)
        prepare_instance(directory / "dagster", project_file("dagster.yaml"))
        self.instance = stack.enter_context(dg.DagsterInstance.get())
        self.programs = stack.enter_context(Children(directory, environment, _stop_request()))
        self.workspace = directory / "workspace.yaml"
        if self._locations:
            self._start_dagster()

    def _start_dagster(self) -> None:
        entries = []
        for name, module in self._locations.items():
            self.start_code_server(name, module, self.ports[name])
            entries.append(
                {
                    "grpc_server": {
                        "host": "127.0.0.1",
                        "port": self.ports[name],
                        "location_name": name,
                    }
                }
            )
        self.workspace.write_text(yaml.safe_dump({"load_from": entries}), encoding="utf-8")
        workspace = ("--workspace", str(self.workspace))
        self.programs.start(
            "webserver",
            *("dagster_webserver", *workspace, "--host", "127.0.0.1"),
            *("--port", str(self._ui_port), "--dagster-log-level", "warning"),
        )
        self.await_condition(partial(listens, "127.0.0.1", self._ui_port), "the UI")
        for name in self._locations:
            self._stop_schedules(name)
        # Only now, so that no schedule ticks before.
        self.programs.start("daemon", "sim_pipeline.dagster_instance.daemon", "run", *workspace)

    def start_code_server(self, name: str, module: str, port: int) -> None:
        """Start a code server and wait until it serves: its definitions are loaded then."""
        self.programs.start(
            name,
            *("dagster", "api", "grpc", "--module-name", module, "--port", str(port)),
            *("--host", "127.0.0.1", "--location-name", name, "--log-level", "warning"),
        )
        self.await_condition(partial(listens, "127.0.0.1", port), name)

    def await_condition(
        self, met: Callable[[], bool], what: str, seconds: float = _SECONDS
    ) -> None:
        """Wait until a condition is met.

        Raises:
            ServiceError: a process ended meanwhile, or the time is over.
        """
        self.programs.await_condition(met, what, seconds)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask the UI's API.

        Raises:
            RuntimeError: it answers with errors.
        """
        return ui.graphql(self._ui_port, query, variables, seconds=_SECONDS)

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """Open a connection to the broker for a while."""
        with pika.BlockingConnection(
            pika.ConnectionParameters(
                self.broker.host,
                self.broker.port,
                self.broker.vhost,
                pika.PlainCredentials(self.broker.user, self.broker.password),
            )
        ) as connection:
            yield connection.channel()

    def clear(self) -> None:
        """Remove the results, the ledger, the comparisons and the queue."""
        with self.results.engine.begin() as connection:
            connection.execute(sa.text("TRUNCATE simulation_results, deliveries, model_comparison"))
        with self.channel() as channel:
            channel.queue_delete(self.broker.queue)

    def _stop_schedules(self, location: str) -> None:
        found = self.graphql(_SCHEDULES, {"location": location})["schedulesOrError"]
        for schedule in found["results"]:
            state = schedule["scheduleState"]
            if state["status"] == "RUNNING":
                answer = self.graphql(_STOP, {"id": state["id"]})["stopRunningSchedule"]
                if answer["__typename"] != "ScheduleStateResult":
                    raise RuntimeError(f"{location}: its schedule was not stopped: {answer}")


def _stop_request() -> StopRequest:
    """Return one that is never made: an interrupted benchmark unwinds by its exception."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return stop
