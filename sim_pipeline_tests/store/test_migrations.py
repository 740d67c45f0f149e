"""The migrations run up and down, and in several processes at once."""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from alembic import command

from sim_pipeline.local_servers.postgres import LocalPostgres
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.migrations import alembic_config, upgrade

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def empty(postgres_server: LocalPostgres) -> Iterator[Postgres]:
    """Return a database without tables."""
    name = f"empty_{uuid.uuid4().hex}"
    postgres_server.ensure_database(name)
    postgres = Postgres(
        host=postgres_server.host,
        port=postgres_server.port,
        user=postgres_server.user,
        password=postgres_server.password,
        database=name,
    )
    yield postgres
    postgres.engine.dispose()


def relations(postgres: Postgres) -> set[str]:
    inspector = sa.inspect(postgres.engine)
    return {*inspector.get_table_names(), *inspector.get_view_names()} - {"alembic_version"}


def test_up_down_and_up_again(empty: Postgres) -> None:
    everything = {
        "simulation_results",
        "request_counts",
        "deliveries",
        "metric_summary",
        "model_comparison",
        "simulated_events",
        "window_events",
        "slos",
        "slo_attainment",
    }
    upgrade(empty)
    assert relations(empty) == everything
    command.downgrade(alembic_config(empty), "base")
    assert relations(empty) == set()
    upgrade(empty)
    assert relations(empty) == everything


def test_events_of_stored_windows_from_the_previous_schema_and_back(empty: Postgres) -> None:
    """Windows that were stored before the table existed are kept, and can get events."""
    start = datetime(2026, 11, 24, tzinfo=UTC)
    config = alembic_config(empty)
    command.upgrade(config, "0003")
    with empty.engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO deliveries VALUES ('m', :start, gen_random_uuid())"),
            {"start": start},
        )
    command.upgrade(config, "0004")
    with empty.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO simulated_events VALUES (gen_random_uuid(), 'm', 'burst',"
                " CAST(:start AS timestamptz) + interval '10 min',"
                " CAST(:start AS timestamptz) + interval '90 min', 2.5, '{TTFT}', 3600)"
            ),
            {"start": start},
        )
        pairs = connection.execute(sa.text('SELECT llm_name, "timestamp", kind FROM window_events'))
        assert [tuple(pair) for pair in pairs] == [("m", start, "burst")]
    command.downgrade(config, "0003")
    assert relations(empty).isdisjoint({"simulated_events", "window_events"})
    with empty.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM deliveries")) == 1
    upgrade(empty)
    with empty.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM simulated_events")) == 0


def test_comparisons_from_the_previous_schema_and_back(empty: Postgres) -> None:
    """Comparisons that were stored without intervals are kept."""
    stored = sa.text("SELECT llm_name, rank, p50, trend FROM model_comparison")
    config = alembic_config(empty)
    command.upgrade(config, "0004")
    with empty.engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO model_comparison VALUES (now(), 24, 'TTFT', 'm', 2, 120, 0.5, 1, 0.1)"
            )
        )
    command.upgrade(config, "0005")
    with empty.engine.begin() as connection:
        assert tuple(connection.execute(stored).one()) == ("m", 2, 0.5, 0.1)
        ends = connection.execute(
            sa.text("SELECT p50_low, p50_high, p95_low, p95_high FROM model_comparison")
        )
        assert tuple(ends.one()) == (None,) * 4
    command.downgrade(config, "0004")
    with empty.engine.connect() as connection:
        assert tuple(connection.execute(stored).one()) == ("m", 2, 0.5, 0.1)


def test_columns_match_the_contract(postgres: Postgres) -> None:
    with postgres.engine.connect() as connection:
        columns = connection.execute(
            sa.text(
                "SELECT table_name, column_name, format_type(a.atttypid, a.atttypmod), is_nullable"
                " FROM information_schema.columns AS c JOIN pg_attribute AS a"
                " ON a.attrelid = c.table_name::regclass AND a.attname = c.column_name"
                " WHERE table_name IN"
                " ('simulation_results', 'simulated_events', 'request_counts', 'deliveries')"
                " ORDER BY table_name DESC, ordinal_position"
            )
        ).all()
    assert [tuple(column) for column in columns] == [
        ("simulation_results", "id", "integer", "NO"),
        ("simulation_results", "llm_name", "character varying(50)", "NO"),
        ("simulation_results", "metric", "character varying(20)", "NO"),
        ("simulation_results", "values", "double precision[]", "NO"),
        ("simulation_results", "timestamp", "timestamp with time zone", "NO"),
        ("simulated_events", "event_id", "uuid", "NO"),
        ("simulated_events", "llm_name", "character varying(50)", "NO"),
        ("simulated_events", "kind", "character varying(20)", "NO"),
        ("simulated_events", "started_at", "timestamp with time zone", "NO"),
        ("simulated_events", "ended_at", "timestamp with time zone", "YES"),
        ("simulated_events", "size", "double precision", "NO"),
        ("simulated_events", "metrics", "character varying(20)[]", "NO"),
        ("simulated_events", "window_seconds", "integer", "NO"),
        ("simulated_events", "window_starts", "tstzrange", "YES"),
        ("request_counts", "llm_name", "character varying(50)", "NO"),
        ("request_counts", "timestamp", "timestamp with time zone", "NO"),
        ("request_counts", "completed", "bigint", "NO"),
        ("request_counts", "rate_limited", "bigint", "NO"),
        ("request_counts", "overloaded", "bigint", "NO"),
        ("request_counts", "timeout", "bigint", "NO"),
        ("deliveries", "llm_name", "character varying(50)", "NO"),
        ("deliveries", "timestamp", "timestamp with time zone", "NO"),
        ("deliveries", "message_id", "uuid", "NO"),
        ("deliveries", "created_at", "timestamp with time zone", "NO"),
        ("deliveries", "published_at", "timestamp with time zone", "YES"),
    ]


def test_schema_module_matches_migrations(postgres: Postgres) -> None:
    command.check(alembic_config(postgres))


def test_concurrent_migrations_all_succeed(empty: Postgres) -> None:
    script = (
        "import sys; from sim_pipeline.store.migrations import upgrade;"
        " from sim_pipeline.store.connection import Postgres;"
        f" upgrade(Postgres({empty.host!r}, {empty.port}, {empty.user!r},"
        f" sys.stdin.readline().strip(), {empty.database!r}))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    errors = [process.communicate(empty.password)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, errors
    assert "deliveries" in relations(empty)


@pytest.mark.usefixtures("clean_environment")
def test_alembic_command_line_reads_the_settings(empty: Postgres) -> None:
    environment = os.environ | {
        "POSTGRES_HOST": empty.host,
        "POSTGRES_PORT": str(empty.port),
        "POSTGRES_USER": empty.user,
        "POSTGRES_PASSWORD": empty.password,
        "POSTGRES_DB": empty.database,
        "LOG_FILE": str(Path.cwd() / "log"),
    }
    for arguments in (["upgrade", "head"], ["check"]):
        subprocess.run(
            [sys.executable, "-m", "alembic", *arguments], cwd=PROJECT, env=environment, check=True
        )
    assert "deliveries" in relations(empty)


def test_metric_summary_agrees_with_numpy(postgres: Postgres) -> None:
    values = np.random.default_rng(5).lognormal(size=101)
    with postgres.engine.begin() as connection:
        connection.execute(
            sa.text(
                'INSERT INTO simulation_results (llm_name, metric, "values", "timestamp")'
                " VALUES ('m', 'TTFT', :values, '2026-11-20T00:00:00Z')"
            ),
            {"values": values.tolist()},
        )
        (row,) = connection.execute(sa.text("SELECT * FROM metric_summary"))
    assert (row.llm_name, row.metric, row.n) == ("m", "TTFT", 101)
    assert row.mean == pytest.approx(values.mean(), rel=1e-12)
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert getattr(row, name) == pytest.approx(np.percentile(values, percent), rel=1e-12)
