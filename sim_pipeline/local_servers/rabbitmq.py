"""A private RabbitMQ node from the machine's own package."""

import base64
import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import (
    AMQPConnectionError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline.local_servers.ports import free_port, is_free, listens, require_free, resolve
from sim_pipeline.local_servers.processes import (
    Process,
    clean_environment,
    end,
    launch,
    processes_in,
    run,
)
from sim_pipeline.local_servers.rabbitmq_package import RabbitMQPrograms, ensure_installed

# The node's name is part of where it keeps its data. On localhost it survives a change of the
# machine's name; a port mapper of its own keeps it apart from other nodes of the same name.
_NODE = "sim_pipeline@localhost"
_NODE_PROCESSES = {"rabbitmq-server", "erlexec", "beam.smp"}
_SHUTDOWN = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 10.0))
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
# What a quorum queue was given stays in memory, acknowledged or not, until the log file it is
# written to is full. RabbitMQ's own 512 MiB are for busy servers: here memory would grow for weeks.
_QUEUE_LOG_BYTES = 4 * 1024**2
# Erlang's names for the faults of a machine that a user can act on.
_MACHINE_FAULT = re.compile(r"\b(enospc|edquot|erofs|eacces|eaddrinuse|emfile)\b")
# Linux's name for the directory that a process works in; for the node that is its data directory.
# Out of the paths they are given, Erlang and RabbitMQ read settings, patterns of file names and
# commands of a shell. So they are given this one, or names relative to it.
_WORKING_DIRECTORY = Path("/proc/self/cwd")
# Without that name, RabbitMQ runs `df` on the real path, through a shell and without quotes.
_SHELL_CHARACTERS = re.compile(r"""['"`\\$;&|<>()\n]""")
_BOOT_FAULT = re.compile(r"^BOOT FAILED\n=+\n(?:ERROR: )?(.+)$", re.MULTILINE)


class LocalRabbitMQ(LocalServer):
    """A RabbitMQ node of our own: loopback only, one user, no guest.

    It shares no name, port or file with a RabbitMQ that the machine runs as a service. Its
    configuration has mode 600 and the password's salted hash, not the password.

    Args:
        data_dir: Directory of its data, logs and configuration; created where missing.
        port: TCP port for AMQP.
        user: The one user, an administrator; made to exist at each start.
        password: Their password; made to be it at each start.
        vhost: The virtual host; made to exist at each start.
        host: Loopback address to listen on.
        port_variable: Name of the setting that holds the port, for messages.
        start_timeout: Seconds until it must answer, recovery included.
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
        port_variable: str = "RABBITMQ_PORT",
        start_timeout: float = 120.0,
    ) -> None:
        super().__init__(
            "RabbitMQ",
            data_dir,
            host=host,
            port=port,
            user=user,
            password=password,
            port_variable=port_variable,
            start_timeout=start_timeout,
        )
        self.vhost = vhost
        self._output_file = self.data_dir / "log" / "output.log"
        self._output_start = 0
        self._port_mapper: Process | None = None
        self._port_mapper_port = 0

    @property
    def log_file(self) -> Path:
        """Where it logs."""
        return self.data_dir / "log" / f"{_NODE}.log"

    def connection_parameters(self) -> pika.ConnectionParameters:
        """Return what pika needs to connect to it."""
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
        )

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against the node.

        Args:
            arguments: Its command and the command's arguments.

        Returns:
            What it wrote to its output, without banners.

        Raises:
            ServiceError: If the node does not run, or the command fails.
        """
        if not self.is_running:
            raise ServiceError(f"{self.service}: rabbitmqctl {arguments[0]}: it is not running")
        programs = ensure_installed()
        own_port = free_port()
        completed = run(
            [str(programs.ctl), "--node", _NODE, "--quiet", *arguments],
            directory=self.data_dir,
            environment={
                **self._environment(programs),
                "RABBITMQ_CTL_ERL_ARGS": f"-start_epmd false {_LOOPBACK_ONLY}",
                "RABBITMQ_CTL_DIST_PORT_MIN": str(own_port),
                "RABBITMQ_CTL_DIST_PORT_MAX": str(own_port + 10),
            },
        )
        if completed.returncode != 0:
            # Its arguments are not told: they may hold a password.
            said = (completed.stderr + completed.stdout).split("\n\n")[0]
            raise ServiceError(
                f"{self.service}: rabbitmqctl {arguments[0]}: {' '.join(said.split())}"
            )
        return completed.stdout

    def _start(self) -> None:
        programs = ensure_installed()
        self._require_usable_path()
        if self._adopt():
            return
        self._shut_down()
        require_free(self.service, self.port, self.host, self._port_variable)
        self._write_configuration()
        self._launch(programs)
        if not self._await_answer():
            raise ServiceError(f"{self.service} refuses user {self.user!r} (log: {self.log_file})")

    def _require_usable_path(self) -> None:
        path = str(self.data_dir)
        try:
            path.encode()
        except UnicodeEncodeError as error:
            found = f"the byte {os.fsencode(path[error.start])!r}, which is not UTF-8"
        else:
            character = _SHELL_CHARACTERS.search(path)
            if character is None or _WORKING_DIRECTORY.exists():
                return
            found = f"the character {character[0]!r}"
        raise ServiceError(
            f"{self.service} cannot work in {path!r}, which has {found}:"
            " move the checkout to another path"
        )

    def _adopt(self) -> bool:
        """Take over the node that a killed owner left, if it is what we would start."""
        nodes = processes_in(self.data_dir, {"beam.smp"})
        port_mappers = processes_in(self.data_dir, {"epmd"})
        if len(nodes) != 1 or len(port_mappers) != 1 or not self._answer():
            return False
        self._process, self._port_mapper = nodes[0], port_mappers[0]
        command = self._port_mapper.cmdline()
        self._port_mapper_port = int(command[command.index("-port") + 1])
        return True

    def _write_configuration(self) -> None:
        self.log_file.parent.mkdir(exist_ok=True)
        # It takes addresses, no names; of a name's, those that this machine has.
        addresses = [one for one in resolve(self.host) if is_free(self.port, one)]
        listeners = "".join(
            f"listeners.tcp.{number} = {one}:{self.port}\n"
            for number, one in enumerate(addresses, start=1)
        )
        _write_private(self.data_dir / "definitions.json", json.dumps(self._definitions()))
        _write_private(
            self.data_dir / "rabbitmq.conf",
            f"{listeners}"
            f"load_definitions = {_working_directory() / 'definitions.json'}\n"
            "log.file.rotation.size = 10485760\n"
            "log.file.rotation.count = 3\n"
            f"raft.wal_max_size_bytes = {_QUEUE_LOG_BYTES}\n",
        )
        _write_private(self.data_dir / "enabled_plugins", "[].\n")
        # In place of the system's, which would put its paths over ours.
        _write_private(self.data_dir / "rabbitmq-env.conf", "")
        if not (self.data_dir / ".erlang.cookie").exists():
            _write_private(self.data_dir / ".erlang.cookie", secrets.token_hex(20))

    def _definitions(self) -> dict[str, list[dict[str, object]]]:
        """Return what the node is to know from each start on: our user and our virtual host.

        A node that loads definitions does not make the user guest.
        """
        everything = ".*"
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
                    "configure": everything,
                    "write": everything,
                    "read": everything,
                }
            ],
        }

    def _environment(self, programs: RabbitMQPrograms) -> dict[str, str]:
        base = _working_directory()
        return clean_environment(
            {
                "PATH": programs.search_path,
                "HOME": str(base),  # of the Erlang cookie
                "ERL_EPMD_PORT": str(self._port_mapper_port),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_CRASH_DUMP": str(base / "log" / "erl_crash.dump"),
                "RABBITMQ_NODENAME": _NODE,
                "RABBITMQ_DIST_PORT": str(free_port()),
                "RABBITMQ_MNESIA_BASE": str(base / "mnesia"),
                "RABBITMQ_LOG_BASE": str(base / "log"),
                "RABBITMQ_LOGS": self.log_file.name,
                "RABBITMQ_UPGRADE_LOG": "upgrade.log",
                "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
                # Sourced by a shell, which looks for a bare name in the PATH.
                "RABBITMQ_CONF_ENV_FILE": "./rabbitmq-env.conf",
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
                "RABBITMQ_PID_FILE": str(base / "node.pid"),
                # Erlang's schedulers neither spin while idle nor bind themselves to a core: the
                # machine runs other things too.
                "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
                "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY,
            }
        )

    def _launch(self, programs: RabbitMQPrograms) -> None:
        # The node would start a port mapper itself, and leave it behind.
        self._port_mapper_port = free_port()
        environment = self._environment(programs)
        self._output_start = self._output_file.stat().st_size if self._output_file.exists() else 0
        port = str(self._port_mapper_port)
        self._port_mapper = launch(
            [str(programs.epmd), "-port", port, "-address", "127.0.0.1"],
            directory=self.data_dir,
            output=self._output_file,
            environment=environment,
        )
        self._process = launch(
            [str(programs.server)],
            directory=self.data_dir,
            output=self._output_file,
            environment=environment,
        )

    def _shut_down(self) -> None:
        """End what of ours works in the directory: first the node, then its port mapper."""
        for known, names in ((self._process, _NODE_PROCESSES), (self._port_mapper, {"epmd"})):
            found = processes_in(self.data_dir, names)
            if known is not None:  # the one of them that may be a child of ours, to be reaped
                found = [known, *(process for process in found if process != known)]
            while found:
                if not end(found, _SHUTDOWN):
                    raise self._not_ending()
                # One that was just starting may have been about to start another.
                found = processes_in(self.data_dir, names)
        self._process = self._port_mapper = None

    def _answer(self) -> bool | None:
        if not listens(self.host, self.port):
            return None
        try:
            with _silent_pika():
                pika.BlockingConnection(self.connection_parameters()).close()
        except (ProbableAuthenticationError, ProbableAccessDeniedError):
            return False
        except (AMQPConnectionError, AMQPConnectorException):
            return None
        return True

    def _fault(self) -> str | None:
        with self._output_file.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._output_start)
            output = file.read()
        if machine_fault := _MACHINE_FAULT.search(output):
            return os.strerror(getattr(errno, machine_fault[1].upper()))
        boot_fault = _BOOT_FAULT.search(output)
        return boot_fault[1].strip() if boot_fault else None


def _working_directory() -> Path:
    """Return the node's data directory as it is named to the node."""
    return _WORKING_DIRECTORY if _WORKING_DIRECTORY.exists() else Path()


@contextlib.contextmanager
def _silent_pika() -> Iterator[None]:
    """Keep pika from logging, as errors with tracebacks, what is only an answer to us."""
    logger = logging.getLogger("pika")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _write_private(path: Path, content: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)


def _password_hash(password: str) -> str:
    """Return a salted hash as RabbitMQ stores it: base64 of a 4-byte salt and a SHA-256."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
