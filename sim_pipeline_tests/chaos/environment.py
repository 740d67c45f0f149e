"""A feed of its own: two servers, a proxy before each, the service's processes and a consumer."""

import os
import secrets
import signal
import subprocess
import sys
import time
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
from sim_pipeline.local_servers.ports import free_port
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.processes import end, is_alive, processes_in
from sim_pipeline.local_servers.rabbitmq import LocalRabbitMQ
from sim_pipeline_tests.chaos.consumer import Consumer
from sim_pipeline_tests.support.tcp_proxy import TcpProxy
from sim_pipeline_tests.support.waiting import wait_until

MODELS = ("GPT-4o", "Llama-3.1-8B", "Mistral-Large")
# A window a second, and as many values as make a tick's rows a COPY and its messages a few MB:
# there has to be something to break off in the middle.
INTERVAL_SECONDS = 1
POINTS = 100

_QUEUE = "simulation_results"
_KILL = ((signal.SIGKILL, 10.0),)
_START_SECONDS = 180


class Site:
    """The feed, from its servers to its consumer; a context manager.

    Attributes:
        postgres: the server of both databases.
        rabbitmq: the broker.
        to_postgres: the proxy that the service's connections to PostgreSQL go through.
        to_rabbitmq: the same for RabbitMQ.
        consumer: reads the queue, past the proxy.
        began: the first window starts here.
        restarts: how often the service was started again.
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
        self.to_postgres = TcpProxy((self.postgres.host, self.postgres.port))
        self.to_rabbitmq = TcpProxy((self.rabbitmq.host, self.rabbitmq.port))
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
            running.enter_context(self.to_postgres)
            running.enter_context(self.to_rabbitmq)
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
        """What the service wrote to its console."""
        return self.directory / "service.log"

    def start_service(self) -> None:
        """Start the service, as a user does, and wait until it says that it is ready."""
        environment = dict(os.environ)
        for field in Settings.model_fields:
            environment.pop(variable_name(field), None)
        log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            service = subprocess.Popen(
                [sys.executable, "-m", "sim_pipeline", "run"],
                cwd=self.directory,
                env=environment,
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
                said = log.read()
            assert service.poll() is None, f"the service did not start: {said.decode()}"
            return b"Ready." in said

        wait_until(ready, "the service to be ready", _START_SECONDS)

    def keep_service(self) -> bool:
        """Start the service again if it has ended, as its supervisor would; tell whether it had."""
        if self._service is not None and self._service.poll() is None:
            return False
        self.start_service()
        return True

    def ticks(self, since: datetime) -> int:
        """Count the schedule's ticks that were due since then and are over."""
        return self._count(
            """
            SELECT count(*) FROM job_ticks WHERE status <> 'STARTED' AND "timestamp" > :since
            """,
            since=since.replace(tzinfo=None),
        )

    def unfinished_runs(self) -> int:
        """Count the runs that are queued, starting or under way."""
        return self._count(
            "SELECT count(*) FROM runs WHERE status NOT IN ('SUCCESS', 'FAILURE', 'CANCELED')"
        )

    def _count(self, statement: str, **parameters: object) -> int:
        with self.dagster.connect() as connection:
            return int(connection.scalar(sa.text(statement), parameters))

    def kill(self, *names: str) -> None:
        """SIGKILL those processes of the service whose command has one of these words in it."""
        self._kill(
            [
                process
                for process in self._service_processes()
                if any(name in word for word in _command(process) for name in names)
            ]
        )

    def kill_service(self) -> None:
        """SIGKILL the service, all its processes at once, as when its machine goes down."""
        self._kill(self._service_processes())

    def workers(self) -> list[psutil.Process]:
        """Return the processes that are at a run."""
        return [
            worker
            for process in self._service_processes()
            if "grpc" in _command(process)
            for worker in process.children()
            if any("spawn_main" in word for word in _command(worker)) and is_alive(worker)
        ]

    def await_worker(self, seconds: float) -> None:
        """Wait until a run begins."""
        wait_until(lambda: bool(self.workers()), "a run to begin", seconds)

    def await_started_run(self, seconds: float) -> None:
        """Wait until a run is at its steps."""
        wait_until(
            lambda: self._count("SELECT count(*) FROM runs WHERE status = 'STARTED'") > 0,
            "a run to start",
            seconds,
        )

    def crash(self, server: LocalServer) -> None:
        """SIGKILL all processes of a server."""
        self._kill(processes_in(server.data_dir, {"postgres", "beam.smp"}))
        server.stop()

    def _kill(self, processes: Sequence[psutil.Process]) -> None:
        # Those of the service are children of others, which reap them or are killed as well.
        assert end(processes, _KILL)

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
            "POSTGRES_PORT": self.to_postgres.port,
            "POSTGRES_USER": self.postgres.user,
            "POSTGRES_PASSWORD": self.postgres.password,
            "POSTGRES_DB": "results",
            "DAGSTER_POSTGRES_DB": "dagster",
            "RABBITMQ_PORT": self.to_rabbitmq.port,
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


def pause(seconds: float) -> None:
    """Let the feed go on for a while: as long as a round draws, or until the next look at it."""
    time.sleep(seconds)
