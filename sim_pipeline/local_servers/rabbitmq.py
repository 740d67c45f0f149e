"""A private RabbitMQ node that uses the machine's RabbitMQ package."""

import base64
import errno
import hashlib
import json
import os
import re
import secrets
import signal
import textwrap
from pathlib import Path

import pika
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from pika.exceptions import (
    AMQPConnectionError,
    ProbableAccessDeniedError,
    ProbableAuthenticationError,
)

from sim_pipeline.broker.connection import LIMITS_DELIVERIES
from sim_pipeline.broker.pika_logging import quiet_pika
from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline.local_servers.ports import free_port, is_free, listens, require_free, resolve
from sim_pipeline.local_servers.processes import (
    Process,
    clean_environment,
    launch,
    processes_in,
    run,
    stop_processes,
)
from sim_pipeline.local_servers.rabbitmq_package import RabbitMQPrograms, ensure_installed

# The node's name is part of its data's path. With "localhost" it does not change with the machine's
# name. A separate port mapper keeps the node apart from other nodes of the same name.
_NODE = "sim_pipeline@localhost"
_NODE_PROCESSES = {"rabbitmq-server", "erlexec", "beam.smp"}
_SHUTDOWN = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 10.0))
_LOOPBACK_ONLY = "-kernel inet_dist_use_interface {127,0,0,1}"
# A quorum queue keeps its messages in memory, acknowledged or not, until its log file is full. The
# default of 512 MiB is for busy servers; here memory would grow for weeks.
_QUEUE_LOG_BYTES = 4 * 1024**2
# Operating system errors that the user can act on, by Erlang's names and texts. The texts are those
# of the system in small letters.
_SYSTEM_ERRORS = {
    text: os.strerror(getattr(errno, name.upper()))
    for name in ("enospc", "edquot", "erofs", "eacces", "eaddrinuse", "emfile")
    for text in (name, os.strerror(getattr(errno, name.upper())).lower())
}
_SYSTEM_ERROR = re.compile(rf"\b({'|'.join(map(re.escape, _SYSTEM_ERRORS))})\b")
# On Linux, a process's working directory; for the node, its data directory. Erlang and RabbitMQ
# interpret characters in paths as settings, file patterns and shell commands. So they get this path
# and paths relative to it.
_WORKING_DIRECTORY = Path("/proc/self/cwd")
# Without that path, RabbitMQ runs `df` on the real path through a shell, without quotes.
_SHELL_CHARACTERS = re.compile(r"""['"`\\$;&|<>()\n]""")
# Up to the next empty line, except one that follows a colon.
_BOOT_ERROR = re.compile(r"^BOOT FAILED\n=+\n(?:ERROR: )?((?:.+:\n\n)?(?:.+\n?)+)", re.MULTILINE)
# The node writes its log between and into the lines of a boot error.
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d+\S* \[\w+\] <.*\n?")
_LONGEST_ERROR = 300
# The data was written by a version before those from which this one can upgrade.
_OLDER_DATA = re.compile(r"failed_to_initialize_feature_flags_registry|required feature flag not")


class LocalRabbitMQ(LocalServer):
    """A RabbitMQ node on loopback with one user and without the user guest.

    It shares no name, port or file with a RabbitMQ that the machine runs as a service. Its
    configuration files have mode 600 and hold the password's salted hash, not the password.

    Args:
        data_dir: Directory of its data, logs and configuration; created if missing.
        port: TCP port for AMQP.
        user: The only user, an administrator; each start ensures that it exists.
        password: The user's password; each start sets it.
        vhost: The virtual host; each start ensures that it exists.
        host: Loopback address to listen on.
        start_timeout: Time until it must accept connections, recovery included [s].
    """

    service = "RabbitMQ"
    port_variable = "RABBITMQ_PORT"

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        user: str,
        password: str,
        vhost: str = "/",
        host: str = "127.0.0.1",
        start_timeout: float = 120.0,
    ) -> None:
        super().__init__(
            data_dir,
            host=host,
            port=port,
            user=user,
            password=password,
            start_timeout=start_timeout,
        )
        self.vhost = vhost
        self._output_file = self.data_dir / "log" / "output.log"
        self._output_start = 0
        self._port_mapper: Process | None = None
        self._port_mapper_port = 0

    @property
    def log_file(self) -> Path:
        """The path of the server's log."""
        return self.data_dir / "log" / f"{_NODE}.log"

    def connection_parameters(self) -> pika.ConnectionParameters:
        """Return pika's parameters for a connection to this node."""
        return pika.ConnectionParameters(
            host=self.host,
            port=self.port,
            virtual_host=self.vhost,
            credentials=pika.PlainCredentials(self.user, self.password),
        )

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl against the node.

        Args:
            arguments: A command of rabbitmqctl and its arguments.

        Returns:
            Its standard output, without banners.

        Raises:
            ServiceError: If the node is not running, or the command fails.
        """
        if not self.is_running:
            raise ServiceError(
                f"{self.service}: rabbitmqctl {arguments[0]}: the node is not running"
            )
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
            # The message omits the arguments, which may contain a password.
            output = (completed.stderr + completed.stdout).split("\n\n")[0]
            raise ServiceError(
                f"{self.service}: rabbitmqctl {arguments[0]}: {' '.join(output.split())}"
            )
        return completed.stdout

    def _start(self) -> None:
        programs = ensure_installed()
        self._require_usable_path()
        if self._adopt():
            return
        self._shut_down()
        require_free(self.service, self.port, self.host, self.port_variable)
        self._write_configuration(programs)
        self._launch(programs)
        if not self._await_ready():
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
            f"{self.service} cannot use {path!r}, which contains {found}:"
            " move the checkout to another path"
        )

    def _adopt(self) -> bool:
        """Adopt a running node whose owner was killed, if it accepts our login on our port."""
        nodes = processes_in(self.data_dir, {"beam.smp"})
        port_mappers = processes_in(self.data_dir, {"epmd"})
        if len(nodes) != 1 or len(port_mappers) != 1 or not self._probe():
            return False
        self._process, self._port_mapper = nodes[0], port_mappers[0]
        command = self._port_mapper.cmdline()
        self._port_mapper_port = int(command[command.index("-port") + 1])
        return True

    def _write_configuration(self, programs: RabbitMQPrograms) -> None:
        self.log_file.parent.mkdir(exist_ok=True)
        # RabbitMQ takes addresses, not names. This machine may not have all addresses of a name.
        addresses = [ip for ip in resolve(self.host) if is_free(self.port, ip)]
        listeners = "".join(
            f"listeners.tcp.{number} = {ip}:{self.port}\n"
            for number, ip in enumerate(addresses, start=1)
        )
        _write_private(self.data_dir / "definitions.json", json.dumps(self._definitions(programs)))
        _write_private(
            self.data_dir / "rabbitmq.conf",
            f"{listeners}"
            f"load_definitions = {_working_directory() / 'definitions.json'}\n"
            "log.file.rotation.size = 10485760\n"
            "log.file.rotation.count = 3\n"
            f"raft.wal_max_size_bytes = {_QUEUE_LOG_BYTES}\n",
        )
        _write_private(self.data_dir / "enabled_plugins", "[].\n")
        # Replaces the system's file, whose paths would override ours.
        _write_private(self.data_dir / "rabbitmq-env.conf", "")
        if not (self.data_dir / ".erlang.cookie").exists():
            _write_private(self.data_dir / ".erlang.cookie", secrets.token_hex(20))

    def _definitions(self, programs: RabbitMQPrograms) -> dict[str, list[dict[str, object]]]:
        """Return the user, virtual host and policy that the node creates at each start.

        A node that loads definitions does not create the user guest.
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
            # Also for queues that exist already, and for those that consumers declare. RabbitMQ 3
            # has no limit, and would drop every message at -1.
            "policies": [
                {
                    "name": "no-delivery-limit",
                    "vhost": self.vhost,
                    "pattern": everything,
                    "apply-to": "quorum_queues",
                    "priority": -1,  # below the default of the user's own policies
                    "definition": {"delivery-limit": -1},
                }
            ]
            if programs.major_version() >= LIMITS_DELIVERIES
            else [],
        }

    def _environment(self, programs: RabbitMQPrograms) -> dict[str, str]:
        base = _working_directory()
        return clean_environment(
            {
                "PATH": programs.search_path,
                "HOME": str(base),  # for the Erlang cookie
                "ERL_EPMD_PORT": str(self._port_mapper_port),
                "ERL_EPMD_ADDRESS": "127.0.0.1",
                "ERL_CRASH_DUMP": str(base / "log" / "erl_crash.dump"),
                "RABBITMQ_NODENAME": _NODE,
                "RABBITMQ_DIST_PORT": str(free_port()),
                # RabbitMQ 4 compares it with an absolute path.
                "RABBITMQ_MNESIA_BASE": str(self.data_dir / base / "mnesia"),
                "RABBITMQ_LOG_BASE": str(base / "log"),
                "RABBITMQ_LOGS": self.log_file.name,
                "RABBITMQ_UPGRADE_LOG": "upgrade.log",
                "RABBITMQ_CONFIG_FILE": str(base / "rabbitmq.conf"),
                # A shell sources it and would look for a bare name in the PATH.
                "RABBITMQ_CONF_ENV_FILE": "./rabbitmq-env.conf",
                "RABBITMQ_ENABLED_PLUGINS_FILE": str(base / "enabled_plugins"),
                "RABBITMQ_PID_FILE": str(base / "node.pid"),
                # Erlang's schedulers must not spin while idle or bind themselves to a core, because
                # the machine runs other programs too.
                "RABBITMQ_SCHEDULER_BUSY_WAIT_THRESHOLD": "none",
                "RABBITMQ_SCHEDULER_BIND_TYPE": "u",
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _LOOPBACK_ONLY,
            }
        )

    def _launch(self, programs: RabbitMQPrograms) -> None:
        # A port mapper that the node starts itself would outlive it.
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
        """Stop our processes in the directory: first the node, then its port mapper."""
        for known, names in ((self._process, _NODE_PROCESSES), (self._port_mapper, {"epmd"})):
            found = processes_in(self.data_dir, names)
            if known is not None:  # this object may be our child, which must be reaped
                found = [known, *(process for process in found if process != known)]
            while found:
                if not stop_processes(found, _SHUTDOWN):
                    raise self._shutdown_error()
                # A starting process may have started another one in the meantime.
                found = processes_in(self.data_dir, names)
        self._process = self._port_mapper = None

    def _probe(self) -> bool | None:
        if not listens(self.host, self.port):
            return None
        try:
            with quiet_pika():
                pika.BlockingConnection(self.connection_parameters()).close()
        except (ProbableAuthenticationError, ProbableAccessDeniedError):
            return False
        except (AMQPConnectionError, AMQPConnectorException):
            return None
        return True

    def _startup_error(self) -> str | None:
        with self._output_file.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._output_start)
            output = file.read()
        return boot_error(output, self.data_dir)


def boot_error(output: str, directory: Path) -> str | None:
    """Return the error in a node's output that stopped its start, or None if there is none.

    Args:
        output: What it has written to its standard output since its start.
        directory: Its data directory.
    """
    if _OLDER_DATA.search(output):
        return (
            f"this version cannot open the data in {directory}, which a much older version wrote:"
            " start it with the old version until consumers have read all messages, or give up the"
            " unread ones; then stop it and move that folder away (docs/compatibility.md)"
        )
    if system_error := _SYSTEM_ERROR.search(output):
        return _SYSTEM_ERRORS[system_error[1]]
    if _is_full(directory):  # RabbitMQ 4 does not always report it
        return os.strerror(errno.ENOSPC)
    found = _BOOT_ERROR.search(_LOG_LINE.sub("", output))
    return textwrap.shorten(found[1], _LONGEST_ERROR) if found else None


def _working_directory() -> Path:
    """Return the path of the data directory that the node is given."""
    return _WORKING_DIRECTORY if _WORKING_DIRECTORY.exists() else Path()


def _is_full(directory: Path) -> bool:
    """Return whether the file system of a directory has no free blocks or inodes."""
    found = os.statvfs(directory)
    return found.f_bavail == 0 or (found.f_files > 0 and found.f_favail == 0)


def _write_private(path: Path, content: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(content)


def _password_hash(password: str) -> str:
    """Return a password hash in RabbitMQ's format: base64 of a 4-byte salt and the SHA-256."""
    salt = secrets.token_bytes(4)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
