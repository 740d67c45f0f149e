"""TLS to PostgreSQL: encrypted, and only to a server with a valid certificate.

The test server does not support TLS. A proxy in front of it does, and closes connections that do
not request TLS. These tests cover the client side, which is libpq in every driver.
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
from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.errors import ErrorKind, StoreError, translate_db_errors
from sim_pipeline.store.writer import MAX_INSERT_VALUES
from sim_pipeline_tests.support.assertions import exception_text
from sim_pipeline_tests.support.certificates import Authority
from sim_pipeline_tests.support.stored_windows import batch_of, store, stored_rows, window_starts
from sim_pipeline_tests.support.tcp_proxy import TcpProxy

# By psycopg2, and by ADBC.
WRITES = pytest.mark.parametrize(
    "batch",
    [
        batch_of(["GPT-4o"], window_starts(3)),
        batch_of(["GPT-4o"], window_starts(MAX_INSERT_VALUES // 10)),
    ],
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
    """Return a proxy that terminates TLS in front of the server, as localhost."""
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


def refused(postgres: Postgres, batch: WindowBatch) -> str:
    with pytest.raises(StoreError) as raised, translate_db_errors(postgres):
        store(postgres, batch)
    assert raised.value.kind is ErrorKind.TLS
    assert postgres.password not in exception_text(raised.value)
    message = str(raised.value)
    assert message.startswith(f"TLS verification failed for {postgres}: ")
    return message


@WRITES
def test_rows_arrive_by_tls(encrypted: Postgres, batch: WindowBatch) -> None:
    store(encrypted, batch)
    assert stored_rows(encrypted)


@WRITES
def test_connection_without_tls_fails(encrypted: Postgres, batch: WindowBatch) -> None:
    plain = replace(encrypted, sslmode="disable", sslrootcert=None)
    with pytest.raises(StoreError) as raised, translate_db_errors(plain):
        store(plain, batch)
    assert raised.value.kind is ErrorKind.UNREACHABLE


@WRITES
def test_unknown_ca_is_refused(
    encrypted: Postgres, other_authority: Authority, batch: WindowBatch
) -> None:
    message = refused(replace(encrypted, sslrootcert=other_authority.ca_file), batch)
    assert "certificate verify failed" in message
    assert f"{other_authority.ca_file} must contain the CA that signed it" in message


@WRITES
def test_certificate_for_another_host_is_refused(
    encrypted: Postgres, tls_proxy: TcpProxy, batch: WindowBatch
) -> None:
    message = refused(replace(encrypted, host=tls_proxy.host), batch)
    assert f'does not match host name "{tls_proxy.host}"' in message
    assert "the host must match the name in its certificate" in message


@WRITES
def test_server_without_tls_is_refused(
    encrypted: Postgres, postgres: Postgres, batch: WindowBatch
) -> None:
    assert "does not support SSL" in refused(replace(encrypted, port=postgres.port), batch)


@WRITES
@pytest.mark.parametrize("content", [None, "", "not a certificate"])
def test_unusable_ca_file_is_named(
    encrypted: Postgres, tmp_path: Path, content: str | None, batch: WindowBatch
) -> None:
    file = tmp_path / "wrong.pem"
    if content is not None:
        file.write_text(content)
    assert str(file) in refused(replace(encrypted, sslrootcert=file), batch)


@pytest.fixture
def dagster_settings(
    encrypted: Postgres,
    postgres_server: LocalPostgres,
    clean_environment: None,  # noqa: ARG001 - for what it clears
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[None]:
    """Set up the environment of Dagster's processes with TLS, and a database for its storage."""
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
def test_dagster_storage_verifies_tls_too(
    other_authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dg.DagsterInstance.from_config(str(Path(__file__).parents[2])) as instance:
        create_tables(instance)
        assert instance.get_runs_count() == 0
        storage: Any = instance.event_log_storage
    # Not by Dagster, which would retry for ten seconds.
    monkeypatch.setenv("PGSSLROOTCERT", str(other_authority.ca_file))
    with pytest.raises(psycopg2.OperationalError, match="certificate verify failed"):
        psycopg2.connect(storage.postgres_url)
