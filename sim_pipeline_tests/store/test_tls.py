"""TLS to PostgreSQL: encrypted, and only with the one that the certificate is for.

The server that the tests have speaks none: the proxy before it does, and hangs up on who does not
ask for it. What is tested is the clients' part, which is libpq's own in each of them.
"""

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import psycopg2
import pytest
import sqlalchemy as sa

from sim_pipeline.config import read_settings
from sim_pipeline.dagster_instance.storage import create_tables
from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.error_translation import translate_db_errors
from sim_pipeline.store.errors import StoreTlsError, StoreUnreachableError
from sim_pipeline.store.writer import FEW_VALUES
from sim_pipeline_tests.store.windows import labels, slice_of, store, stored_rows
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.exceptions import all_told
from sim_pipeline_tests.support.tcp_proxy import TcpProxy

# By psycopg2, and by ADBC.
WRITES = pytest.mark.parametrize(
    "part",
    [slice_of(["GPT-4o"], labels(3)), slice_of(["GPT-4o"], labels(FEW_VALUES // 10))],
    ids=["small", "large"],
)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    (tmp_path / "other").mkdir()
    return Authority.make(tmp_path / "other")


@pytest.fixture
def tls_proxy(authority: Authority, postgres_server: LocalPostgres) -> Iterator[TcpProxy]:
    """Ends TLS before the server, as localhost."""
    with TcpProxy(
        (postgres_server.host, postgres_server.port),
        tls_on_request=authority.server_context("localhost"),
    ) as proxy:
        yield proxy


@pytest.fixture
def encrypted(postgres: Postgres, tls_proxy: TcpProxy, authority: Authority) -> Iterator[Postgres]:
    encrypted = replace(
        postgres,
        host="localhost",
        port=tls_proxy.port,
        sslmode="verify-full",
        sslrootcert=authority.ca_file,
    )
    yield encrypted
    encrypted.engine.dispose()


def refused(postgres: Postgres, part: object) -> str:
    with pytest.raises(StoreTlsError) as raised, translate_db_errors(postgres):
        store(postgres, part)  # type: ignore[arg-type]
    assert postgres.password not in all_told(raised.value)
    message = str(raised.value)
    assert message.startswith(f"no trust in {postgres}: ")
    return message


@WRITES
def test_rows_arrive_by_tls(encrypted: Postgres, part: object) -> None:
    store(encrypted, part)  # type: ignore[arg-type]
    assert stored_rows(encrypted)


@WRITES
def test_without_tls_nothing_gets_through(encrypted: Postgres, part: object) -> None:
    plain = replace(encrypted, sslmode="disable", sslrootcert=None)
    with pytest.raises(StoreUnreachableError), translate_db_errors(plain):
        store(plain, part)  # type: ignore[arg-type]


@WRITES
def test_an_unknown_authority_is_not_trusted(
    encrypted: Postgres, other_authority: Authority, part: object
) -> None:
    message = refused(replace(encrypted, sslrootcert=other_authority.ca_file), part)
    assert "certificate verify failed" in message
    assert f"{other_authority.ca_file} hold the authority that signed it" in message


@WRITES
def test_a_certificate_for_another_host_is_not_trusted(
    encrypted: Postgres, tls_proxy: TcpProxy, part: object
) -> None:
    message = refused(replace(encrypted, host=tls_proxy.host), part)
    assert f'does not match host name "{tls_proxy.host}"' in message
    assert "host be the name of its certificate" in message


@WRITES
def test_a_server_without_tls_is_not_trusted(
    encrypted: Postgres, postgres: Postgres, part: object
) -> None:
    assert "does not support SSL" in refused(replace(encrypted, port=postgres.port), part)


@WRITES
@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_a_ca_file_that_cannot_be_used_is_named(
    encrypted: Postgres, tmp_path: Path, content: str | None, part: object
) -> None:
    file = tmp_path / "wrong.pem"
    if content is not None:
        file.write_text(content)
    assert str(file) in refused(replace(encrypted, sslrootcert=file), part)


@pytest.fixture
def dagster_settings(
    encrypted: Postgres,
    postgres_server: LocalPostgres,
    clean_environment: None,  # noqa: ARG001 - for what it clears
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """The environment of Dagster's processes where the server wants TLS, and a database for it."""
    database = f"dagster_{uuid.uuid4().hex}"
    postgres_server.ensure_database(database)
    settings = read_settings(
        {
            "postgres_host": encrypted.host,
            "postgres_port": encrypted.port,
            "postgres_user": encrypted.user,
            "postgres_password": encrypted.password,
            "postgres_sslmode": encrypted.sslmode,
            "postgres_sslrootcert": encrypted.sslrootcert,
            "dagster_postgres_db": database,
        }
    )
    with monkeypatch.context() as environment:
        for name, value in settings.environment().items():
            environment.setenv(name, value)
        yield
    server = sa.create_engine(
        postgres_server.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with server.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {database} WITH (FORCE)"))


@pytest.mark.usefixtures("dagster_settings")
def test_dagsters_storage_trusts_whom_the_results_database_is_trusted_to(
    other_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(Path(__file__).parents[2])) as instance:
        create_tables(instance)
        assert instance.get_runs_count() == 0
        storage: Any = instance.event_log_storage
    # Dagster itself would try for ten seconds.
    monkeypatch.setenv("PGSSLROOTCERT", str(other_authority.ca_file))
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        psycopg2.connect(storage.postgres_url)
