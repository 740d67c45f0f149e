"""Each fault of PostgreSQL is an error that says what to do, and tells no password."""

import dataclasses
import re
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg2
import pytest
import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.error_translation import store_error, translate_db_errors
from sim_pipeline.store.errors import (
    SchemaError,
    StatementRefusedError,
    StoreAccessRefusedError,
    StoreError,
    StoreNotWritableError,
    StoreTlsError,
    StoreUnfitError,
    StoreUnreachableError,
    TransactionAbortedError,
)
from sim_pipeline.store.ledger import Span, claim, find_missing
from sim_pipeline.store.writer import FEW_VALUES
from sim_pipeline_tests.store.windows import (
    FIRST,
    HOUR,
    START,
    execute,
    labels,
    sessions_waiting,
    slice_of,
    store,
)
from sim_pipeline_tests.support.exceptions import all_told
from sim_pipeline_tests.support.tcp_proxy import Direction, TcpProxy
from sim_pipeline_tests.support.waiting import wait_until

SMALL = slice_of(["GPT-4o"], labels(3))
LARGE = slice_of(["GPT-4o"], labels(FEW_VALUES // 10))


def by_sqlalchemy(postgres: Postgres, statement: str = "SELECT 1") -> None:
    with postgres.engine.connect() as connection:
        connection.execute(sa.text(statement)).all()


def by_adbc(postgres: Postgres, statement: str = "SELECT 1") -> None:
    with postgres.bulk_connection() as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        cursor.fetchall()


Ask = Callable[..., None]
BOTH = pytest.mark.parametrize("ask", [by_sqlalchemy, by_adbc])
WRITES = pytest.mark.parametrize("part", [SMALL, LARGE], ids=["small", "large"])


def refused(
    kind: type[StoreError], postgres: Postgres, use: Callable[..., None], *arguments: object
) -> str:
    """Return the message of the error, of exactly this kind, that using the database raises."""
    with pytest.raises(StoreError) as raised, translate_db_errors(postgres):
        use(postgres, *arguments)
    error = raised.value
    assert type(error) is kind, error
    told = all_told(error)
    assert postgres.password not in told
    assert len(told) < 20_000
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
    """A role that may log in, and nothing else."""
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


# No connection


@BOTH
def test_a_port_that_nobody_listens_on(proxied: Postgres, proxy: TcpProxy, ask: Ask) -> None:
    proxy.refuse()
    message = refused(StoreUnreachableError, proxied, ask)
    assert message.startswith(f"no connection to {proxied}: Connection refused; see that Postgre")


@BOTH
def test_a_host_that_does_not_exist(postgres: Postgres, ask: Ask) -> None:
    nowhere = dataclasses.replace(postgres, host="nowhere.invalid")
    assert "could not translate host name" in refused(StoreUnreachableError, nowhere, ask)


@BOTH
def test_a_host_that_does_not_answer(proxied: Postgres, proxy: TcpProxy, ask: Ask) -> None:
    proxy.delay(60)
    mute = dataclasses.replace(proxied, connect_timeout=2)
    assert "timeout expired" in refused(StoreUnreachableError, mute, ask)


@BOTH
def test_no_slot_left_for_a_connection(postgres: Postgres, limited: Postgres, ask: Ask) -> None:
    execute(postgres, f"ALTER ROLE {limited.user} CONNECTION LIMIT 0")
    assert "too many connections" in refused(StoreUnreachableError, limited, ask)


def test_a_server_that_starts(postgres: Postgres) -> None:
    """As libpq says it: to have a server that starts for as long as a test takes is beyond us."""
    starting = psycopg2.OperationalError(
        'connection to server at "127.0.0.1", port 5432 failed: '
        "FATAL:  the database system is starting up\n"
    )
    error = store_error(postgres, starting)
    assert type(error) is StoreUnreachableError
    assert ": the database system is starting up; " in str(error)


@BOTH
def test_a_session_that_the_server_ends(postgres: Postgres, ask: Ask) -> None:
    end = "SELECT pg_terminate_backend(pg_backend_pid())"
    assert refused(StoreUnreachableError, postgres, ask, end)


@WRITES
def test_a_connection_that_is_reset_while_writing(
    proxied: Postgres, proxy: TcpProxy, part: object
) -> None:
    proxy.reset_after(3_000, Direction.TO_SERVER)
    assert refused(StoreUnreachableError, proxied, store, part)


def test_a_connection_that_is_reset_while_a_claim_is_held(
    proxied: Postgres, proxy: TcpProxy
) -> None:
    store(proxied, SMALL)

    def send(postgres: Postgres) -> None:
        with claim(postgres.engine, Span(("GPT-4o",), START, START + HOUR), 10) as claimed:
            proxy.reset()
            claimed.mark_published([one.message_id for one in claimed.pending])

    assert refused(StoreUnreachableError, proxied, send)


# No access


@BOTH
def test_a_wrong_password(postgres: Postgres, ask: Ask) -> None:
    wrong = dataclasses.replace(postgres, password="a wrong one")  # noqa: S106
    message = refused(StoreAccessRefusedError, wrong, ask)
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
        pytest.raises(StoreAccessRefusedError, match="no password supplied"),
        translate_db_errors(without),
    ):
        ask(without)


@BOTH
def test_an_unknown_database(postgres: Postgres, ask: Ask) -> None:
    unknown = dataclasses.replace(postgres, database="nowhere")
    assert 'database "nowhere" does not exist' in refused(StoreAccessRefusedError, unknown, ask)


@BOTH
def test_a_role_that_may_not_connect(postgres: Postgres, limited: Postgres, ask: Ask) -> None:
    execute(postgres, f"REVOKE CONNECT ON DATABASE {postgres.database} FROM PUBLIC")
    assert "permission denied for database" in refused(StoreAccessRefusedError, limited, ask)


@BOTH
def test_a_role_that_may_not_log_in(postgres: Postgres, limited: Postgres, ask: Ask) -> None:
    execute(postgres, f"ALTER ROLE {limited.user} NOLOGIN")
    assert "not permitted to log in" in refused(StoreAccessRefusedError, limited, ask)


@WRITES
def test_a_role_without_rights(limited: Postgres, part: object) -> None:
    message = refused(StoreAccessRefusedError, limited, store, part)
    assert "permission denied for table deliveries" in message


@BOTH
def test_where_one_address_refuses_the_role_the_others_do_not_matter(
    postgres: Postgres, ask: Ask
) -> None:
    both = dataclasses.replace(postgres, host=f"::1,{postgres.host}", database="nowhere")
    message = refused(StoreAccessRefusedError, both, ask)
    assert 'Connection refused; database "nowhere" does not exist; check' in message


# No trust; what needs certificates stands in test_tls


@BOTH
def test_a_server_without_tls(postgres: Postgres, ask: Ask) -> None:
    wanted = dataclasses.replace(postgres, sslmode="require")
    message = refused(StoreTlsError, wanted, ask)
    assert "server does not support SSL, but SSL was required; with sslmode require," in message


# Another schema


@WRITES
@pytest.mark.parametrize(
    "damage",
    [
        "DROP TABLE deliveries",
        "DROP TABLE simulation_results CASCADE",
        "ALTER TABLE deliveries DROP COLUMN published_at",
        "ALTER TABLE deliveries DROP CONSTRAINT pk_deliveries",
    ],
)
def test_a_schema_that_a_write_does_not_fit(postgres: Postgres, damage: str, part: object) -> None:
    execute(postgres, damage)
    message = refused(SchemaError, postgres, store, part)
    assert message.startswith(f"{postgres} lacks what this version needs: ")
    assert message.endswith("; run `make migrate`")


def test_a_schema_that_a_question_does_not_fit(postgres: Postgres) -> None:
    execute(postgres, "DROP TABLE deliveries")

    def ask(postgres: Postgres) -> None:
        with postgres.engine.connect() as connection:
            find_missing(
                connection, [f"model {n}" for n in range(9_000)], range(FIRST, FIRST + 1), HOUR
            )

    message = refused(SchemaError, postgres, ask)
    assert ': relation "deliveries" does not exist; run' in message


# What passes by itself


@WRITES
def test_a_database_that_is_read_only(postgres: Postgres, part: object) -> None:
    execute(postgres, f"ALTER DATABASE {postgres.database} SET default_transaction_read_only TO on")
    postgres.engine.dispose()
    assert "read-only transaction" in refused(StoreNotWritableError, postgres, store, part)


@WRITES
def test_a_disk_that_is_full(postgres: Postgres, part: object) -> None:
    """The server says so at a row; a disk is filled in the tests of the service."""
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
    message = refused(StoreNotWritableError, postgres, store, part)
    assert "takes no data: could not extend file: No space left on device; free its" in message


def test_a_deadlock(postgres: Postgres) -> None:
    store(postgres, SMALL)
    lock = sa.text('SELECT FROM deliveries WHERE "timestamp" = :label FOR UPDATE')
    first, second, _ = labels(3)

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

        message = refused(TransactionAbortedError, postgres, cross)
    assert "aborted a transaction: deadlock detected; nothing of it is stored" in message


@BOTH
def test_a_statement_that_took_too_long(
    postgres: Postgres, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sim_pipeline.store.connection.SESSION_SETTINGS", {"statement_timeout": "20"}
    )
    postgres.engine.dispose()
    postgres = dataclasses.replace(postgres)
    message = refused(TransactionAbortedError, postgres, ask, "SELECT 1 FROM pg_sleep(30)")
    assert "due to statement timeout" in message


# Everything else


@pytest.mark.parametrize(
    "words",
    [
        "unsupported startup parameter: options",
        "Feature not supported: RDS Proxy currently doesn't support command-line options.",
    ],
)
def test_a_pooler_that_takes_no_options(postgres: Postgres, words: str) -> None:
    # The words of poolers that cannot be had here.
    error = psycopg2.OperationalError(
        f'connection to server at "127.0.0.1", port 6432 failed: FATAL:  {words}\n'
    )
    explained_error = store_error(postgres, error)
    assert isinstance(explained_error, StoreUnfitError)
    assert not explained_error.retryable
    assert words in str(explained_error)


@BOTH
def test_what_no_error_is_made_for(postgres: Postgres, ask: Ask) -> None:
    message = refused(StatementRefusedError, postgres, ask, "SELECT 1 / 0")
    assert message == f"{postgres} refused a statement: division by zero; its cause stands below"


@pytest.mark.parametrize(
    "error", [ValueError("ours"), sa.exc.ArgumentError("ours"), KeyboardInterrupt()]
)
def test_what_is_not_the_databases_fault_passes(postgres: Postgres, error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, translate_db_errors(postgres):
        raise error
    assert raised.value is error


def test_the_cause_shows_where_it_happened(postgres: Postgres) -> None:
    execute(postgres, "DROP TABLE deliveries")
    with pytest.raises(SchemaError) as raised, translate_db_errors(postgres):
        store(postgres, SMALL)
    assert re.search(r"writer\.py.*session\.execute\(_ENTER\)", all_told(raised.value), re.DOTALL)


def test_every_error_says_whether_to_try_again() -> None:
    retryable = {kind.__name__ for kind in StoreError.__subclasses__() if kind.retryable}
    assert retryable == {
        "StoreUnreachableError",
        "StoreNotWritableError",
        "TransactionAbortedError",
    }
