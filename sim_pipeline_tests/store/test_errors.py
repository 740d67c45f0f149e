"""Each fault of PostgreSQL becomes a `StoreError` that says what to do and hides the password."""

import dataclasses
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
import sqlalchemy as sa

from sim_pipeline.store.completeness import find_missing
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import ErrorKind, StoreError, translate_db_errors
from sim_pipeline.store.ledger import Span, claim
from sim_pipeline.store.writer import MAX_INSERT_VALUES
from sim_pipeline_tests.support.assertions import exception_text, wait_until
from sim_pipeline_tests.support.stored_windows import (
    FIRST,
    HOUR,
    START,
    batch_of,
    execute,
    sessions_waiting,
    store,
    window_starts,
)
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy

SMALL = batch_of(["GPT-4o"], window_starts(3))
LARGE = batch_of(["GPT-4o"], window_starts(MAX_INSERT_VALUES // 10))


def by_sqlalchemy(postgres: Postgres, statement: str = "SELECT 1") -> None:
    with postgres.engine.connect() as connection:
        connection.execute(sa.text(statement)).all()


def by_adbc(postgres: Postgres, statement: str = "SELECT 1") -> None:
    with postgres.bulk_connection() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()


Ask = Callable[..., None]
BOTH = pytest.mark.parametrize("ask", [by_sqlalchemy, by_adbc])
WRITES = pytest.mark.parametrize("batch", [SMALL, LARGE], ids=["small", "large"])


def refused(
    kind: ErrorKind, postgres: Postgres, use: Callable[..., None], *arguments: object
) -> str:
    """Return the message of the `StoreError` of this kind that a use of the database raises."""
    with pytest.raises(StoreError) as raised, translate_db_errors(postgres):
        use(postgres, *arguments)
    error = raised.value
    assert error.kind is kind, error
    text = exception_text(error)
    assert postgres.password not in text
    assert len(text) < 20_000
    message = str(error)
    assert str(postgres) in message
    assert "\n" not in message
    return message


@pytest.fixture
def proxy(postgres: Postgres) -> Iterator[TcpProxy]:
    with TcpProxy((postgres.host, postgres.port)) as proxy:
        yield proxy


@pytest.fixture
def proxied(postgres: Postgres, proxy: TcpProxy) -> Iterator[Postgres]:
    proxied = dataclasses.replace(postgres, port=proxy.port)
    yield proxied
    proxied.engine.dispose()


@pytest.fixture
def limited(postgres: Postgres) -> Iterator[Postgres]:
    """Return a role that may only log in."""
    role = f"limited_{uuid.uuid4().hex}"
    execute(postgres, f"CREATE ROLE {role} LOGIN PASSWORD 'the password of a role without rights'")
    limited = dataclasses.replace(
        postgres,
        user=role,
        password="the password of a role without rights",  # noqa: S106 - the test's own
    )
    yield limited
    limited.engine.dispose()
    execute(postgres, f"DROP OWNED BY {role}")
    execute(postgres, f"DROP ROLE {role}")


def raising(error: Exception) -> Callable[[Postgres], None]:
    """Return a use of the database that raises this error."""

    def use(_: Postgres) -> None:
        raise error

    return use


# No connection


@BOTH
def test_closed_port(proxied: Postgres, proxy: TcpProxy, ask: Ask) -> None:
    proxy.refuse()
    message = refused(ErrorKind.UNREACHABLE, proxied, ask)
    assert message.startswith(f"no connection to {proxied}: Connection refused; check that Post")


@BOTH
def test_unknown_host(postgres: Postgres, ask: Ask) -> None:
    nowhere = dataclasses.replace(postgres, host="nowhere.invalid")
    assert "could not translate host name" in refused(ErrorKind.UNREACHABLE, nowhere, ask)


@BOTH
def test_silent_host(proxied: Postgres, proxy: TcpProxy, ask: Ask) -> None:
    proxy.delay(60)
    mute = dataclasses.replace(proxied, connect_timeout=2)
    assert "timeout expired" in refused(ErrorKind.UNREACHABLE, mute, ask)


@BOTH
def test_no_connection_slot_left(postgres: Postgres, limited: Postgres, ask: Ask) -> None:
    execute(postgres, f"ALTER ROLE {limited.user} CONNECTION LIMIT 0")
    assert "too many connections" in refused(ErrorKind.UNREACHABLE, limited, ask)


def test_starting_server(postgres: Postgres) -> None:
    """With libpq's message, because no server can be kept in this state."""
    starting = psycopg2.OperationalError(
        'connection to server at "127.0.0.1", port 5432 failed: '
        "FATAL:  the database system is starting up\n"
    )
    message = refused(ErrorKind.UNREACHABLE, postgres, raising(starting))
    assert ": the database system is starting up; " in message


@BOTH
def test_session_terminated_by_the_server(postgres: Postgres, ask: Ask) -> None:
    end = "SELECT pg_terminate_backend(pg_backend_pid())"
    assert refused(ErrorKind.UNREACHABLE, postgres, ask, end)


@WRITES
def test_connection_reset_while_writing(proxied: Postgres, proxy: TcpProxy, batch: object) -> None:
    proxy.reset_after(3_000, Direction.TO_SERVER)
    assert refused(ErrorKind.UNREACHABLE, proxied, store, batch)


def test_connection_reset_during_a_claim(proxied: Postgres, proxy: TcpProxy) -> None:
    store(proxied, SMALL)

    def send(postgres: Postgres) -> None:
        with claim(postgres.engine, Span(("GPT-4o",), START, START + HOUR), 10) as claimed:
            proxy.reset()
            claimed.mark_published([entry.message_id for entry in claimed.pending])

    assert refused(ErrorKind.UNREACHABLE, proxied, send)


# No access


@BOTH
def test_wrong_password(postgres: Postgres, ask: Ask) -> None:
    wrong = dataclasses.replace(postgres, password="a wrong one")  # noqa: S106
    message = refused(ErrorKind.ACCESS_DENIED, wrong, ask)
    assert message == (
        f"{wrong} refused user {wrong.user!r}: password authentication failed for user"
        f' "{wrong.user}"; check the user, its password and its rights, and that the database'
        " exists"
    )


@BOTH
def test_no_password(postgres: Postgres, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    without = dataclasses.replace(postgres, password="")
    with (
        pytest.raises(StoreError, match="no password supplied") as raised,
        translate_db_errors(without),
    ):
        ask(without)
    assert raised.value.kind is ErrorKind.ACCESS_DENIED


@BOTH
def test_unknown_database(postgres: Postgres, ask: Ask) -> None:
    unknown = dataclasses.replace(postgres, database="nowhere")
    assert 'database "nowhere" does not exist' in refused(ErrorKind.ACCESS_DENIED, unknown, ask)


@BOTH
def test_role_that_may_not_connect(postgres: Postgres, limited: Postgres, ask: Ask) -> None:
    execute(postgres, f"REVOKE CONNECT ON DATABASE {postgres.database} FROM PUBLIC")
    assert "permission denied for database" in refused(ErrorKind.ACCESS_DENIED, limited, ask)


@BOTH
def test_role_that_may_not_log_in(postgres: Postgres, limited: Postgres, ask: Ask) -> None:
    execute(postgres, f"ALTER ROLE {limited.user} NOLOGIN")
    assert "not permitted to log in" in refused(ErrorKind.ACCESS_DENIED, limited, ask)


@WRITES
def test_role_without_rights(limited: Postgres, batch: object) -> None:
    message = refused(ErrorKind.ACCESS_DENIED, limited, store, batch)
    assert "permission denied for table deliveries" in message


@BOTH
def test_refusal_by_one_address_is_decisive(postgres: Postgres, ask: Ask) -> None:
    both = dataclasses.replace(postgres, host=f"::1,{postgres.host}", database="nowhere")
    message = refused(ErrorKind.ACCESS_DENIED, both, ask)
    assert 'Connection refused; database "nowhere" does not exist; check' in message


# TLS; tests that need certificates are in test_tls


@BOTH
def test_server_without_tls(postgres: Postgres, ask: Ask) -> None:
    wanted = dataclasses.replace(postgres, sslmode="require")
    message = refused(ErrorKind.TLS, wanted, ask)
    assert "server does not support SSL, but SSL was required; with sslmode require," in message


# Another schema


@WRITES
@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE deliveries CASCADE",
        "DROP TABLE request_counts",
        "DROP TABLE simulated_events CASCADE",
        "DROP TABLE simulation_results CASCADE",
        "ALTER TABLE deliveries DROP COLUMN published_at",
        "ALTER TABLE deliveries DROP CONSTRAINT pk_deliveries",
    ],
)
def test_write_to_an_outdated_schema(postgres: Postgres, damage: str, batch: object) -> None:
    execute(postgres, damage)
    message = refused(ErrorKind.SCHEMA_OUTDATED, postgres, store, batch)
    assert message.startswith(f"{postgres} lacks what this version needs: ")
    assert message.endswith("; run `make migrate`")


def test_query_of_an_outdated_schema(postgres: Postgres) -> None:
    execute(postgres, "DROP TABLE deliveries CASCADE")

    def ask(postgres: Postgres) -> None:
        with postgres.engine.connect() as connection:
            find_missing(
                connection, [f"model {n}" for n in range(9_000)], range(FIRST, FIRST + 1), HOUR
            )

    message = refused(ErrorKind.SCHEMA_OUTDATED, postgres, ask)
    assert ': relation "deliveries" does not exist; run' in message


# Faults that can pass without a change


@WRITES
def test_read_only_database(postgres: Postgres, batch: object) -> None:
    execute(postgres, f"ALTER DATABASE {postgres.database} SET default_transaction_read_only TO on")
    postgres.engine.dispose()
    assert "read-only transaction" in refused(ErrorKind.NOT_WRITABLE, postgres, store, batch)


@WRITES
def test_full_disk(postgres: Postgres, batch: object) -> None:
    """A trigger raises the error; the tests of the service fill a real disk."""
    execute(
        postgres,
        """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';
        END $$
        """,
    )
    execute(
        postgres,
        "CREATE TRIGGER full_disk BEFORE INSERT ON simulation_results"
        " FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    message = refused(ErrorKind.NOT_WRITABLE, postgres, store, batch)
    assert "does not accept data: could not extend file: No space left on device; free" in message


def test_deadlock(postgres: Postgres) -> None:
    store(postgres, SMALL)
    lock = sa.text('SELECT FROM deliveries WHERE "timestamp" = :label FOR UPDATE')
    first, second, _ = window_starts(3)

    with postgres.engine.connect() as other, ThreadPoolExecutor(1) as threads:
        other.execute(sa.text("SET LOCAL deadlock_timeout = '1h'"))
        other.execute(lock, {"label": first})

        def cross(postgres: Postgres) -> None:
            with postgres.engine.connect() as connection:
                connection.execute(sa.text("SET LOCAL deadlock_timeout = '1ms'"))
                connection.execute(lock, {"label": second})
                threads.submit(other.execute, lock, {"label": second})
                wait_until(lambda: len(sessions_waiting(postgres)) == 1)
                connection.execute(lock, {"label": first})

        message = refused(ErrorKind.TRANSACTION_ABORTED, postgres, cross)
    assert "aborted a transaction: deadlock detected; nothing of it is stored" in message


@BOTH
def test_statement_timeout(postgres: Postgres, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sim_pipeline.store.connection.SESSION_SETTINGS", {"statement_timeout": "20"}
    )
    postgres.engine.dispose()
    postgres = dataclasses.replace(postgres)
    message = refused(ErrorKind.TRANSACTION_ABORTED, postgres, ask, "SELECT 1 FROM pg_sleep(30)")
    assert "due to statement timeout" in message


# Other errors


@pytest.mark.parametrize(
    "words",
    [
        "unsupported startup parameter: options",
        "Feature not supported: RDS Proxy currently doesn't support command-line options.",
    ],
)
def test_pooler_without_options(postgres: Postgres, words: str) -> None:
    # Messages of poolers that cannot be installed here.
    error = psycopg2.OperationalError(
        f'connection to server at "127.0.0.1", port 6432 failed: FATAL:  {words}\n'
    )
    assert words in refused(ErrorKind.UNSUITABLE, postgres, raising(error))


@BOTH
def test_other_errors_of_a_statement(postgres: Postgres, ask: Ask) -> None:
    message = refused(ErrorKind.STATEMENT_REFUSED, postgres, ask, "SELECT 1 / 0")
    assert message == f"{postgres} refused a statement: division by zero; see the cause below"


@pytest.mark.parametrize(
    "error", [ValueError("ours"), sa.exc.ArgumentError("ours"), KeyboardInterrupt()]
)
def test_other_exceptions_pass_unchanged(postgres: Postgres, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, translate_db_errors(postgres):
        raise error
    assert raised.value is error


def test_cause_shows_where_it_happened(postgres: Postgres) -> None:
    execute(postgres, "DROP TABLE deliveries CASCADE")
    with pytest.raises(StoreError) as raised, translate_db_errors(postgres):
        store(postgres, SMALL)
    assert re.search(
        r"writer\.py.*session\.execute\(_WRITE_LEDGER\)", exception_text(raised.value), re.DOTALL
    )


def test_retryable_kinds() -> None:
    assert {kind for kind in ErrorKind if StoreError(kind, "").retryable} == {
        ErrorKind.UNREACHABLE,
        ErrorKind.NOT_WRITABLE,
        ErrorKind.TRANSACTION_ABORTED,
    }
