"""A private RabbitMQ node from the machine's own package."""

import base64
import hashlib
import json
import os
import secrets
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pika
import psutil  # type: ignore[import-untyped]
from pika.exceptions import AMQPConnectionError

from sim_pipeline.service.errors import (
    ServiceError,
    file_errors_as_service_errors,
    last_match,
)
from sim_pipeline.service.ownership import DirectoryLock
from sim_pipeline.service.ports import free_port, is_free, require_free
from sim_pipeline.service.processes import clean_environment, end, is_alive, processes_in
from sim_pipeline.service.rabbitmq_package import RabbitMQPrograms, ensure_installed

_SERVICE = "RabbitMQ"
# The name is part of where the node keeps its data. On localhost it survives a change of the
# machine's name; a port mapper of its own keeps it apart from other nodes of the same name.
_NODE = "sim_pipeline@localhost"
_POLL_SECONDS = 0.05
_SHUTDOWN = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 10.0))
_NODE_PROCESSES = {"beam.smp", "rabbitmq-server"}
_FAULT = r"(?:\[error\] <[\d.]+> |^(?:ERROR|Error): )\s*(\S.*)$"
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"


class LocalRabbitMQ:
    """A RabbitMQ node of our own: loopback only, one user, no guest.

    Everything it keeps is in one directory: its data, its logs, its configuration (mode 600,
    with the password's salted hash), its Erlang cookie, the lock of its owner. It shares no
    name, port or file with a RabbitMQ that the machine runs as a service.

    Node and port mapper are sessions of their own: Ctrl-C in the terminal does not reach them,
    `stop` ends both. Where their owner was killed, the next `start` on the same directory
    adopts them.

    Args:
        data_dir: Its directory; created where missing.
        port: TCP port for AMQP.
        user: The one user, an administrator; made to exist at each start.
        password: Their password; made to be it at each start.
        vhost: The virtual host; made to exist at each start.
        host: Loopback address to listen on.
        dist_port: TCP port where rabbitmqctl reaches the node.
        epmd_port: TCP port of its port mapper.
        port_variable: Name of the setting that holds the AMQP port, for messages.
        start_timeout: Seconds that a start, recovery included, may take.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        user: str,
        password: str,
        vhost: str = "/",
        host: str = "127.0.0.1",
        dist_port: int,
        epmd_port: int,
        port_variable: str = "RABBITMQ_PORT",
        start_timeout: float = 120.0,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self.vhost = vhost
        self.log_file = self.data_dir / "log" / f"{_NODE}.log"
        self._output_file = self.data_dir / "log" / "output.log"
        self._dist_port = dist_port
        self._epmd_port = epmd_port
        self._port_variable = port_variable
        self._start_timeout = start_timeout
        self._lock = DirectoryLock(_SERVICE, self.data_dir)
        self._node: psutil.Process | None = None
        self._epmd: psutil.Process | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def connection_parameters(self) -> pika.ConnectionParameters:
        """Return what pika needs to connect to it."""
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
        )

    def start(self) -> None:
        """Start the node, or adopt the one still running here, and wait until it takes us in.

        Raises:
            ServiceError: If RabbitMQ is not installed and cannot be, the directory is in use or
                cannot be written, a port is taken, or the node is not ready in time.
        """
        with file_errors_as_service_errors(_SERVICE, self.data_dir):
            self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock.acquire()
            try:
                self._start()
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Stop the node and its port mapper and wait until their processes are gone.

        Without effect where they are not running.

        Raises:
            ServiceError: If they do not end.
        """
        try:
            self._shut_down()
        finally:
            self._lock.release()

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against the node.

        Args:
            arguments: Its command and the command's arguments.

        Returns:
            What it wrote to its output, without banners.

        Raises:
            ServiceError: If it fails.
        """
        programs = ensure_installed()
        own_port = free_port()
        completed = subprocess.run(
            [str(programs.ctl), "--node", _NODE, "--quiet", *arguments],
            check=False,
            capture_output=True,
            text=True,
            cwd=self.data_dir,
            env=self._environment(programs)
            | {
                "RABBITMQ_CTL_ERL_ARGS": f"-start_epmd false {_LOOPBACK_ONLY}",
                "RABBITMQ_CTL_DIST_PORT_MIN": str(own_port),
                "RABBITMQ_CTL_DIST_PORT_MAX": str(own_port + 10),
            },
        )
        if completed.returncode != 0:
            # The arguments after the first may hold a password.
            said = (completed.stderr or completed.stdout).strip().splitlines() or ["no output"]
            raise ServiceError(f"{_SERVICE}: rabbitmqctl {arguments[0]}: {said[-1].strip()}")
        return completed.stdout

    def _start(self) -> None:
        programs = ensure_installed()
        if self._adopt():
            return
        self._shut_down()
        for port, variable in (
            (self.port, self._port_variable),
            (self._dist_port, "its Erlang distribution port"),
            (self._epmd_port, "its Erlang port mapper's port"),
        ):
            require_free(_SERVICE, port, self.host, variable)
        self._write_configuration()
        self._launch(programs)
        self._await_answer()

    def _adopt(self) -> bool:
        """Take over the node that a killed owner left, if it is just what we would start."""
        nodes = processes_in(self.data_dir, {"beam.smp"})
        mappers = processes_in(self.data_dir, {"epmd"})
        if len(nodes) != 1 or len(mappers) != 1 or not self._takes_us_in():
            return False
        self._node, self._epmd = nodes[0], mappers[0]
        return True

    def _takes_us_in(self) -> bool:
        """Tell whether an AMQP connection as our user to our virtual host succeeds."""
        if is_free(self.port, self.host):
            return False  # pika would log an error with a traceback
        try:
            pika.BlockingConnection(self.connection_parameters()).close()
        except AMQPConnectionError:
            return False
        return True

    def _write_configuration(self) -> None:
        self.log_file.parent.mkdir(exist_ok=True)
        definitions = self.data_dir / "definitions.json"
        self._write(definitions, json.dumps(self._definitions()))
        self._write(
            self.data_dir / "rabbitmq.conf",
            f"listeners.tcp.1 = {self.host}:{self.port}\n"
            f"load_definitions = {definitions}\n"
            "log.file.level = warning\n"
            "log.file.rotation.size = 10485760\n"
            "log.file.rotation.count = 3\n",
        )
        self._write(self.data_dir / "enabled_plugins", "[].\n")
        # In place of the system's, which would put its own paths over ours.
        self._write(self.data_dir / "rabbitmq-env.conf", "")
        if not (self.data_dir / ".erlang.cookie").exists():
            self._write(self.data_dir / ".erlang.cookie", secrets.token_hex(20))

    def _write(self, path: Path, content: str) -> None:
        with open(path, "w", encoding="utf-8", opener=_open_private) as file:
            file.write(content)

    def _definitions(self) -> dict[str, object]:
        """Return what the node is to know at each start: our user and our virtual host.

        Because it loads definitions it does not make the user guest.
        """
        return {
            "users": [
                {
                    "name": self.user,
                    "password_hash": _password_hash(self.password),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": ["administrator"],
                }
            ],
            "vhosts": [{"name": self.vhost}],
            "permissions": [
                {
                    "user": self.user,
                    "vhost": self.vhost,
                    "configure": ".*",
                    "write": ".*",
                    "read": ".*",
                }
            ],
        }

    def _environment(self, programs: RabbitMQPrograms) -> dict[str, str]:
        log_directory = self.log_file.parent
        return clean_environment(
            {
                "PATH": programs.search_path,
                "HOME": str(self.data_dir),
                "ERL_EPMD_PORT": str(self._epmd_port),
                "ERL_EPMD_ADDRESS": self.host,
                "ERL_CRASH_DUMP": str(log_directory / "erl_crash.dump"),
                "RABBITMQ_NODENAME": _NODE,
                "RABBITMQ_DIST_PORT": str(self._dist_port),
                "RABBITMQ_MNESIA_BASE": str(self.data_dir / "mnesia"),
                "RABBITMQ_LOG_BASE": str(log_directory),
                "RABBITMQ_CONFIG_FILE": str(self.data_dir / "rabbitmq.conf"),
                "RABBITMQ_CONF_ENV_FILE": str(self.data_dir / "rabbitmq-env.conf"),
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.data_dir / "enabled_plugins"),
                "RABBITMQ_PID_FILE": str(self.data_dir / "node.pid"),
                # Erlang's schedulers neither spin while idle nor claim a core each: a laptop
                # runs other things too.
                "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
                "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY,
            }
        )

    def _launch(self, programs: RabbitMQPrograms) -> None:
        environment = self._environment(programs)
        with self._output_file.open("wb") as output:
            # The node would start a port mapper itself, and leave it behind.
            self._epmd = psutil.Popen(
                [str(programs.epmd), "-port", str(self._epmd_port), "-address", self.host],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.data_dir,
                env=environment,
                start_new_session=True,
            )
            self._node = psutil.Popen(
                [str(programs.server)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.data_dir,
                env=environment,
                start_new_session=True,
            )

    def _await_answer(self) -> None:
        deadline = time.monotonic() + self._start_timeout
        while not self._takes_us_in():
            if not is_alive(self._node):
                output = self._output_file.read_text(errors="replace")
                fault = last_match(output, _FAULT) or "the node ended"
                raise ServiceError(f"{_SERVICE}: {fault} (log: {self._output_file})")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{_SERVICE} does not answer on {self.host}:{self.port} "
                    f"after {self._start_timeout:g} s (log: {self.log_file})"
                )
            time.sleep(_POLL_SECONDS)

    def _shut_down(self) -> None:
        """End whatever of ours works in the directory: the node first, its port mapper last."""
        nodes = processes_in(self.data_dir, {"beam.smp"})
        if self._node is not None:
            nodes.append(self._node)
        mappers = processes_in(self.data_dir, {"epmd"})
        if self._epmd is not None:
            mappers.append(self._epmd)
        for processes in (nodes, mappers):
            if not end(processes, _SHUTDOWN):
                raise ServiceError(f"{_SERVICE}: its processes do not end (log: {self.log_file})")
        self._node = self._epmd = None


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _password_hash(password: str) -> str:
    """Return a salted hash as RabbitMQ stores it: base64 of a 4-byte salt and a SHA-256."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
