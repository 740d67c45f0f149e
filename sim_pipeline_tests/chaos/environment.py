"""The environment of a fault round: two servers behind proxies, the service, and a consumer."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil
import sqlalchemy as sa

from sim_pipeline.config import Settings, variable_name
from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.processes import is_alive, processes_in, stop_processes
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.chaos.consumer import Consumer
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.tcp_proxy import TcpProxy

MODELS = ("GPT-4o", "Llama-3.1-8B", "Mistral-Large")
# One window per second, with enough values that a tick's rows go through COPY and its messages are
# a few MB: a fault must be able to interrupt both.
INTERVAL_SECONDS = 1
POINTS = 100

_QUEUE = "simulation_results"
_KILL = ((signal.SIGKILL, 10.0),)
_START_SECONDS = 180


class Environment:
    """A feed from its servers to its consumer; a context manager.

    Attributes:
        directory: holds the servers' data and the service's files.
        postgres: the server of both databases.
        rabbitmq: the broker.
        postgres_proxy: the proxy between the service and PostgreSQL.
        rabbitmq_proxy: the proxy between the service and RabbitMQ.
        consumer: reads the queue directly, without the proxy.
        began: the start of the first window.
        restarts: how often the service was restarted.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.began = datetime.now(UTC).replace(microsecond=0)
        self.restarts = -1
        self.postgres = LocalPostgres(
            directory / "postgres",
            port=free_port(),
            user="simulation",
            password=secrets.token_urlsafe(),
            fsync=False,
        )
        self.rabbitmq = LocalRabbitMQ(
            directory / "rabbitmq",
            port=free_port(),
            user="simulation",
            password=secrets.token_urlsafe(),
        )
        self.postgres_proxy = TcpProxy((self.postgres.host, self.postgres.port))
        self.rabbitmq_proxy = TcpProxy((self.rabbitmq.host, self.rabbitmq.port))
        self.consumer = Consumer(
            port=self.rabbitmq.port,
            user=self.rabbitmq.user,
            password=self.rabbitmq.password,
            queue=_QUEUE,
        )
        self.results = sa.create_engine(self.postgres.url("results"), poolclass=sa.NullPool)
        self.dagster = sa.create_engine(self.postgres.url("dagster"), poolclass=sa.NullPool)
        self._ui_port = free_port()
        self._service: subprocess.Popen[bytes] | None = None
        self._running = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as running:
            running.enter_context(self.postgres)
            running.enter_context(self.rabbitmq)
            for database in ("results", "dagster"):
                self.postgres.ensure_database(database)
            running.enter_context(self.postgres_proxy)
            running.enter_context(self.rabbitmq_proxy)
            self._write_env_file()
            running.enter_context(self.consumer)
            running.callback(self._stop_service)
            self.start_service()
            self._running = running.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()

    @property
    def log_file(self) -> Path:
        """The console output of the service."""
        return self.directory / "service.log"

    def start_service(self) -> None:
        """Start the service as a user does, and wait until it prints "Ready."."""
        variables = dict(os.environ)
        for field in Settings.model_fields:
            variables.pop(variable_name(field), None)
        log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            service = subprocess.Popen(
                [sys.executable, "-m", "sim_pipeline", "run"],
                cwd=self.directory,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._service = service
        self.restarts += 1

        def ready() -> bool:
            with self.log_file.open("rb") as log:
                log.seek(log_start)
                output = log.read()
            assert service.poll() is None, f"the service did not start: {output.decode()}"
            return b"Ready." in output

        wait_until(ready, "the service to be ready", _START_SECONDS)

    def restart_service_if_ended(self) -> bool:
        """Restart the service if it has ended, as systemd would; return whether it had."""
        if self._service is not None and self._service.poll() is None:
            return False
        self.start_service()
        return True

    def ticks(self, since: datetime) -> int:
        """Count the finished ticks of the schedule since a time."""
        return self._count(
            """
            SELECT count(*) FROM job_ticks WHERE status <> 'STARTED' AND "timestamp" > :since
            """,
            since=since.replace(tzinfo=None),
        )

    def unfinished_runs(self) -> int:
        """Count the runs that are queued, starting or running."""
        return self._count(
            "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        )

    def _count(self, statement: str, **parameters: object) -> int:
        with self.dagster.connect() as connection:
            return int(connection.scalar(sa.text(statement), parameters))

    def kill(self, *names: str) -> None:
        """SIGKILL the processes of the service whose command line contains one of these names."""
        self._kill(
            [
                process
                for process in self._service_processes()
                if any(name in word for word in _command(process) for name in names)
            ]
        )

    def kill_service(self) -> None:
        """SIGKILL all processes of the service at once, as when the machine crashes."""
        self._kill(self._service_processes())

    def workers(self) -> list[psutil.Process]:
        """Return the processes that execute a run."""
        return [
            worker
            for process in self._service_processes()
            if "grpc" in _command(process)
            for fork_server in process.children()
            for worker in fork_server.children()
            if is_alive(worker)
        ]

    def await_worker(self, seconds: float) -> None:
        """Wait until a run's process exists."""
        wait_until(lambda: bool(self.workers()), "a run to begin", seconds)

    def await_started_run(self, seconds: float) -> None:
        """Wait until a run executes its steps."""
        wait_until(
            lambda: self._count("SELECT count(*) FROM runs WHERE status = 'STARTED'") > 0,
            "a run to start",
            seconds,
        )

    def crash(self, server: LocalServer) -> None:
        """SIGKILL all processes of a server, and release what it holds."""
        self._kill(processes_in(server.data_dir, {"postgres", "beam.smp"}))
        server.stop()

    def _kill(self, processes: Sequence[psutil.Process]) -> None:
        # The service's processes have parents that reap them or are killed with them.
        assert stop_processes(processes, _KILL)

    def _service_processes(self) -> list[psutil.Process]:
        service = self._service
        if service is None or service.poll() is not None:
            return []
        try:
            supervisor = psutil.Process(service.pid)
            return [supervisor, *supervisor.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _stop_service(self) -> None:
        service = self._service
        if service is not None and service.poll() is None:
            service.send_signal(signal.SIGTERM)
            try:
                service.wait(60)
            except subprocess.TimeoutExpired:
                self.kill_service()
                service.wait()

    def _write_env_file(self) -> None:
        variables = {
            "LOCAL_SERVICES": "false",
            "POSTGRES_PORT": self.postgres_proxy.port,
            "POSTGRES_USER": self.postgres.user,
            "POSTGRES_PASSWORD": self.postgres.password,
            "POSTGRES_DB": "results",
            "DAGSTER_POSTGRES_DB": "dagster",
            "RABBITMQ_PORT": self.rabbitmq_proxy.port,
            "RABBITMQ_USER": self.rabbitmq.user,
            "RABBITMQ_PASSWORD": self.rabbitmq.password,
            "RABBITMQ_QUEUE": _QUEUE,
            "LLM_MODELS_STR": ",".join(MODELS),
            "NUM_DATA_POINTS": POINTS,
            "SIMULATION_INTERVAL": INTERVAL_SECONDS,
            "SIMULATION_START": self.began.isoformat(),
            "UI_PORT": self._ui_port,
        }
        (self.directory / ".env").write_text(
            "".join(f"{name}={value}\n" for name, value in variables.items())
        )


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
