"""Dagster as in service, with the code locations of a benchmark."""

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

from benchmarks import dagster_api
from sim_pipeline.config import Settings, read_settings
from sim_pipeline.connections import message_broker, results_database
from sim_pipeline.dagster_instance.lifecycle import configure_instance, migrate_instance
from sim_pipeline.local_servers.from_settings import local_postgres, local_rabbitmq
from sim_pipeline.local_servers.ports import free_port, listens
from sim_pipeline.project_files import project_file
from sim_pipeline.service.children import Children
from sim_pipeline.service.supervisor import service_environment
from sim_pipeline.stop_request import StopRequest
from sim_pipeline.store.migrations import upgrade

PIPELINE = {"sim_pipeline": "sim_pipeline.definitions"}
"""The pipeline as a code location."""

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
    """Servers and Dagster's processes in a temporary directory; a context manager.

    Environment and instance are configured as in the service. The schedules are stopped, so that
    only the benchmark's runs run. The environment variables are also set in this process.

    Args:
        locations: module of each code location, by location name. If empty, Dagster's processes
            are not started.
        overrides: settings by field name, in addition to generated ports and passwords.
        environment: additional variables for all processes.
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
            # The processes run in another directory.
            "PYTHONPATH": str(project_file("sim_pipeline").parent),
        }
        os.environ.update(environment)
        stack.enter_context(local_postgres(self.settings, directory))
        stack.enter_context(local_rabbitmq(self.settings, directory))
        self.results = results_database(self.settings)
        self.broker = message_broker(self.settings)
        stack.callback(self.results.engine.dispose)
        upgrade(self.results)
        configure_instance(directory / "dagster", project_file("dagster.yaml"))
        migrate_instance()
        self.instance = stack.enter_context(dg.DagsterInstance.get())
        self.children = stack.enter_context(Children(directory, environment, _stop_request()))
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
        self.children.start(
            "webserver",
            *("sim_pipeline.dagster_instance.webserver", *workspace, "--host", "127.0.0.1"),
            *("--port", str(self._ui_port), "--dagster-log-level", "warning"),
        )
        self.await_condition(partial(listens, "127.0.0.1", self._ui_port), "the UI did not answer")
        for name in self._locations:
            self._stop_schedules(name)
        # Started last, so that no schedule ticks before it is stopped.
        self.children.start("daemon", "sim_pipeline.dagster_instance.daemon", "run", *workspace)

    def start_code_server(self, name: str, module: str, port: int) -> None:
        """Start a code server and wait until it has loaded its definitions."""
        self.children.start(
            name,
            *("sim_pipeline.dagster_instance.code_server", "grpc"),
            *("--module-name", module, "--port", str(port)),
            *("--host", "127.0.0.1", "--location-name", name, "--log-level", "warning"),
        )
        self.await_condition(partial(listens, "127.0.0.1", port), f"{name} did not start")

    def await_condition(
        self, met: Callable[[], bool], failure: str, seconds: float = _SECONDS
    ) -> None:
        """Wait until a condition is met.

        Args:
            met: the condition.
            failure: what has not happened, for the error message.
            seconds: the time limit.

        Raises:
            ServiceError: a process ended, or the condition was not met in time.
        """
        self.children.await_condition(met, failure, seconds)

    def graphql(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Query Dagster's GraphQL API.

        Raises:
            RuntimeError: the answer contains errors.
        """
        return dagster_api.graphql(self._ui_port, query, variables, seconds=_SECONDS)

    @contextmanager
    def channel(self) -> Iterator[BlockingChannel]:
        """Open a channel to the broker while the context lasts."""
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
        """Delete results, ledger, comparisons and queue."""
        with self.results.engine.begin() as connection:
            connection.execute(
                sa.text(
                    "TRUNCATE simulation_results, request_counts, deliveries, simulated_events,"
                    " model_comparison"
                )
            )
        with self.channel() as channel:
            channel.queue_delete(self.broker.queue)

    def _stop_schedules(self, location: str) -> None:
        found = self.graphql(_SCHEDULES, {"location": location})["schedulesOrError"]
        for schedule in found["results"]:
            state = schedule["scheduleState"]
            if state["status"] == "RUNNING":
                answer = self.graphql(_STOP, {"id": state["id"]})["stopRunningSchedule"]
                if answer["__typename"] != "ScheduleStateResult":
                    raise RuntimeError(f"the schedule of {location} was not stopped: {answer}")


def _stop_request() -> StopRequest:
    """Return a stop request without signal handlers: Ctrl-C raises KeyboardInterrupt instead."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stop = StopRequest()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return stop
