"""Both drivers connect whatever the database is called; neither shows the password."""

import dataclasses
import socket
import traceback
from collections.abc import Callable, Iterator

import adbc_driver_manager
import pytest
import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.support.ports import free_port

USER = 'o\'b@r:/?#%25 "é"'
PASSWORD = "p@ss:w/rd?&=#%20+ '\"\\[é]"  # noqa: S105 - the role is the test's own
DATABASE = "d b@:/?#&=%41'é"


def by_sqlalchemy(postgres: Postgres) -> object:
    with postgres.engine.connect() as connection:
        return tuple(connection.execute(sa.text("SELECT current_user, current_database()")).one())


def by_adbc(postgres: Postgres) -> object:
    with postgres.bulk_connection() as connection, connection.cursor() as cursor:
        cursor.execute("SELECT current_user::text, current_database()::text")
        return cursor.fetchone()


BOTH = pytest.mark.parametrize("connect", [by_sqlalchemy, by_adbc])


def refusal(connect: Callable[[Postgres], object], postgres: Postgres) -> str:
    """Return the message of a failure to connect; its traceback must not show the password."""
    with pytest.raises((sa.exc.OperationalError, adbc_driver_manager.OperationalError)) as raised:
        connect(postgres)
    shown = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert postgres.password not in shown
    return str(raised.value)


@pytest.fixture
def awkward(postgres: Postgres) -> Iterator[Postgres]:
    """Return a database whose role, password and name contain all special characters of URLs."""

    def quoted(name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    password = PASSWORD.replace("'", "''")
    server = sa.create_engine(postgres.url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with server.connect() as connection:
        dbapi = connection.connection.cursor()
        dbapi.execute(f"CREATE ROLE {quoted(USER)} LOGIN PASSWORD '{password}'")
        dbapi.execute(f"CREATE DATABASE {quoted(DATABASE)} OWNER {quoted(USER)}")
        awkward = dataclasses.replace(postgres, user=USER, password=PASSWORD, database=DATABASE)
        yield awkward
        awkward.engine.dispose()
        dbapi.execute(f"DROP DATABASE {quoted(DATABASE)} WITH (FORCE)")
        dbapi.execute(f"DROP ROLE {quoted(USER)}")


@BOTH
def test_any_character_in_user_password_and_database(
    awkward: Postgres, connect: Callable[[Postgres], object]
) -> None:
    assert connect(awkward) == (USER, DATABASE)


def test_password_is_in_no_description(awkward: Postgres) -> None:
    for description in (awkward, awkward.engine, {"postgres": awkward, "url": awkward.url}):
        for text in (str(description), repr(description), f"{description}"):
            assert PASSWORD not in text
            assert awkward.url.render_as_string(hide_password=False) not in text


@BOTH
def test_wrong_password_is_refused_and_not_shown(
    awkward: Postgres, connect: Callable[[Postgres], object]
) -> None:
    wrong = dataclasses.replace(awkward, password=PASSWORD[::-1])
    assert "password authentication failed for user" in refusal(connect, wrong)


@BOTH
def test_unknown_database_is_named(
    postgres: Postgres, connect: Callable[[Postgres], object]
) -> None:
    unknown = dataclasses.replace(postgres, database="nowhere")
    assert 'database "nowhere" does not exist' in refusal(connect, unknown)


@BOTH
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_closed_port_is_named(
    postgres: Postgres, connect: Callable[[Postgres], object], host: str
) -> None:
    port = free_port()
    closed = dataclasses.replace(postgres, host=host, port=port)
    message = refusal(connect, closed)
    assert f'"{host}"' in message
    assert f"port {port} failed" in message
    assert not closed.reachable()


@BOTH
def test_unknown_host_is_named(postgres: Postgres, connect: Callable[[Postgres], object]) -> None:
    unknown = dataclasses.replace(postgres, host="nowhere.invalid")
    assert '"nowhere.invalid"' in refusal(connect, unknown)


@BOTH
def test_server_without_tls_is_refused(
    postgres: Postgres, connect: Callable[[Postgres], object]
) -> None:
    encrypted = dataclasses.replace(postgres, sslmode="require")
    assert "server does not support SSL" in refusal(connect, encrypted)


@BOTH
@pytest.mark.timeout(30)
def test_silent_host_times_out(postgres: Postgres, connect: Callable[[Postgres], object]) -> None:
    """The host accepts the connection and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = dataclasses.replace(postgres, port=silent.getsockname()[1], connect_timeout=2)
        assert "timeout expired" in refusal(connect, mute)


def test_reachable(postgres: Postgres) -> None:
    assert postgres.reachable()


def test_terminated_session_is_replaced(postgres: Postgres) -> None:
    with postgres.engine.connect() as connection:
        before = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    server = sa.create_engine(postgres.url, poolclass=sa.NullPool)
    with server.begin() as connection:
        connection.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": before})
    with postgres.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one() != before
