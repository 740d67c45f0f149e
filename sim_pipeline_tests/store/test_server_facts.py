"""Requirements on a database are checked, and sessions do not depend on its defaults."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.connection import SESSION_SETTINGS, Postgres
from sim_pipeline.store.server_facts import ids_left, ids_running_out, unmet_requirements
from sim_pipeline_tests.support.databases import database_in

# Each is a default of a real hosting service, or a plausible setting of a role.
ODD_DEFAULTS = {
    "TimeZone": "Asia/Shanghai",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "0",
    "default_transaction_isolation": "repeatable read",
    "statement_timeout": "5s",
    "lock_timeout": "1s",
    "idle_in_transaction_session_timeout": "1s",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
}


@pytest.fixture
def admin(postgres_server: LocalPostgres) -> Iterator[Callable[[str], None]]:
    """Return a function that executes a statement as the server's superuser."""
    engine = sa.create_engine(
        postgres_server.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool
    )
    with engine.connect() as connection:

        def execute(statement: str) -> None:
            connection.exec_driver_sql(statement)

        yield execute


@pytest.fixture
def role(postgres: Postgres, admin: Callable[[str], None]) -> Iterator[Postgres]:
    """Return the test's database with a role that may only connect."""
    name = f"role_{uuid.uuid4().hex}"
    admin(f"CREATE ROLE {name} LOGIN PASSWORD 'of the tests'")
    of_role = replace(postgres, user=name, password="of the tests")  # noqa: S106 - as it says
    yield of_role
    of_role.engine.dispose()
    admin(f'GRANT TEMPORARY ON DATABASE "{postgres.database}" TO PUBLIC')
    admin(f"DROP ROLE {name}")


def unmet(postgres: Postgres, *, temporary_tables: bool = True) -> list[str]:
    with postgres.engine.connect() as connection:
        return unmet_requirements(connection, temporary_tables=temporary_tables)


def test_suitable_database_passes(postgres: Postgres) -> None:
    assert unmet(postgres) == []


def by_sqlalchemy(postgres: Postgres, name: str) -> object:
    with postgres.engine.connect() as connection:
        return connection.exec_driver_sql(f"SHOW {name}").scalar_one()


def by_adbc(postgres: Postgres, name: str) -> object:
    with postgres.bulk_connection() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT current_setting('{name}')")
        row = cursor.fetchone()
        assert row is not None
        return row[0]


@pytest.mark.parametrize("ask", [by_sqlalchemy, by_adbc])
def test_sessions_override_odd_defaults(
    role: Postgres, admin: Callable[[str], None], ask: Callable[[Postgres, str], object]
) -> None:
    for name, value in ODD_DEFAULTS.items():
        admin(f"ALTER ROLE {role.user} SET {name} = '{value}'")
    found = {name: str(ask(role, name)).partition(",")[0] for name in SESSION_SETTINGS}
    assert found == SESSION_SETTINGS
    assert ask(role, "client_encoding") == "UTF8"
    assert set(ODD_DEFAULTS) == {*SESSION_SETTINGS, "client_encoding"}
    assert unmet(role) == []


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_wrong_encoding_is_reported(
    postgres_server: LocalPostgres, admin: Callable[[str], None], encoding: str
) -> None:
    name = f"encoded_{uuid.uuid4().hex}"
    admin(f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LOCALE 'C'")
    database = database_in(postgres_server, name)
    try:
        (line,) = unmet(database)
    finally:
        database.engine.dispose()
        admin(f"DROP DATABASE {name} WITH (FORCE)")
    assert line.startswith(f"its encoding is {encoding}: allowed is UTF8")


def test_role_without_temporary_tables_is_reported(
    role: Postgres, admin: Callable[[str], None]
) -> None:
    admin(f'REVOKE TEMPORARY ON DATABASE "{role.database}" FROM PUBLIC')
    assert unmet(role) == [
        f"role '{role.user}' may not create temporary tables: run GRANT TEMPORARY ON DATABASE"
    ]
    assert unmet(role, temporary_tables=False) == []


def test_search_path_without_schema_is_reported(
    role: Postgres, admin: Callable[[str], None]
) -> None:
    admin(f"ALTER ROLE {role.user} SET search_path = nowhere")
    (line,) = unmet(role)
    assert "search_path" in line
    assert "'nowhere'" in line


def test_transaction_timeout_is_reported(role: Postgres, admin: Callable[[str], None]) -> None:
    with role.engine.connect() as connection:
        if int(str(connection.exec_driver_sql("SHOW server_version_num").scalar_one())) < 170_000:
            pytest.skip("PostgreSQL has transaction_timeout from version 17 on")
    role.engine.dispose()  # a new session reads the role's settings
    admin(f"ALTER ROLE {role.user} SET transaction_timeout = '5s'")
    (line,) = unmet(role)
    assert line.startswith("transaction_timeout is 5s: allowed is 0")


def test_pooler_that_drops_settings_is_reported(postgres: Postgres) -> None:
    dropped = sa.create_engine(
        postgres.url.difference_update_query(["options"]), poolclass=sa.NullPool
    )
    with dropped.connect() as connection:
        connection.exec_driver_sql("SET TimeZone = 'Asia/Shanghai'")
        (line,) = unmet_requirements(connection)
    assert "a session has TimeZone = Asia/Shanghai" in line
    assert "pooler" in line


@pytest.mark.parametrize(
    ("last", "first_row", "left"),
    [
        (2**29, None, None),
        (3 * 2**29 - 1, None, None),
        (3 * 2**29 + 1, None, 2**29 - 2),
        (2**31 - 2, None, 1),
        # Restarted at the lowest possible number: it meets the row with id 1.
        (-(2**31), 1, None),
        (-1000, 1, 1000),
    ],
)
def test_warning_says_how_many_ids_are_left(
    postgres: Postgres, last: int, first_row: int | None, left: int | None
) -> None:
    with postgres.engine.begin() as connection:
        if first_row is not None:
            connection.exec_driver_sql(
                'INSERT INTO simulation_results (id, llm_name, metric, "values", "timestamp")'
                f" VALUES ({first_row}, 'a', 'TTFT', '{{1}}', now())"
            )
        connection.exec_driver_sql(f"ALTER SEQUENCE simulation_results_id_seq MINVALUE {-(2**31)}")
        connection.exec_driver_sql(f"SELECT setval('simulation_results_id_seq', {last})")
        warning = ids_running_out(connection)
    if left is None:
        assert warning is None
    else:
        assert warning is not None
        assert f"has {left:,} ids left" in warning


def test_unused_sequence_gives_no_warning(postgres: Postgres) -> None:
    with postgres.engine.connect() as connection:
        assert ids_left(connection) == 2**31 - 1
        assert ids_running_out(connection) is None
