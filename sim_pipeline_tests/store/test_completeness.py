"""A window is complete with four rows and a published entry, at a start of the interval."""

from datetime import timedelta

import sqlalchemy as sa

from sim_pipeline.store.completeness import EntryCounts, count_complete_windows, count_entries
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import (
    ALL_ROWS,
    Span,
    complete_windows_sql,
    plan_complete_windows,
)
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    execute,
    publish_all,
    store,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B")
TODAY, TOMORROW = START.date(), (START + timedelta(days=1)).date()
SPAN = Span(MODELS, START, START + timedelta(days=2))


def complete(postgres: Postgres, span: Span = SPAN, interval: timedelta = HOUR) -> object:
    with postgres.engine.connect() as connection:
        return count_complete_windows(connection, span, interval)


def entries(postgres: Postgres, span: Span = SPAN, interval: timedelta = HOUR) -> EntryCounts:
    with postgres.engine.connect() as connection:
        return count_entries(connection, span, interval)


def test_empty_database_has_no_complete_windows(postgres: Postgres) -> None:
    assert complete(postgres) == {}
    assert entries(postgres) == EntryCounts(stored=0, published=0)


def test_plan_without_statistics_has_no_nested_loop(postgres: Postgres) -> None:
    query = sa.text(f"EXPLAIN {complete_windows_sql(':llm_name')}")
    parameters = {"llm_name": MODELS[0], "since": SPAN.since, "until": SPAN.until, **ALL_ROWS}
    with postgres.engine.connect() as connection:
        assert "Nested Loop" in "".join(connection.scalars(query, parameters))
        plan_complete_windows(connection)
        assert "Nested Loop" not in "".join(connection.scalars(query, parameters))


def test_windows_are_counted_by_model_and_day(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS[:1], window_starts(30)), batch_of(MODELS[1:], window_starts(3)))
    assert entries(postgres) == EntryCounts(stored=33, published=0)
    assert complete(postgres) == {}
    publish_all(postgres)
    assert entries(postgres) == EntryCounts(stored=33, published=33)
    assert complete(postgres) == {
        ("GPT-4o", TODAY): 24,
        ("GPT-4o", TOMORROW): 6,
        ("Llama-3.1-8B", TODAY): 3,
    }


def test_windows_outside_the_span_do_not_count(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(5)))
    publish_all(postgres)
    span = Span(MODELS[:1], START + HOUR, START + 4 * HOUR)
    assert complete(postgres, span) == {("GPT-4o", TODAY): 3}
    assert entries(postgres, span) == EntryCounts(stored=3, published=3)


def test_window_without_row_or_delivery_is_incomplete(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS[:1], window_starts(5)))
    publish_all(postgres)
    execute(
        postgres,
        """DELETE FROM simulation_results WHERE metric = 'TPS' AND "timestamp" = :start""",
        start=START,
    )
    execute(
        postgres,
        'UPDATE deliveries SET published_at = NULL WHERE "timestamp" = :start',
        start=START + HOUR,
    )
    assert complete(postgres) == {("GPT-4o", TODAY): 3}


def test_entries_between_windows_do_not_count(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS[:1], window_starts(9, step=timedelta(minutes=20))))
    publish_all(postgres)
    assert complete(postgres) == {("GPT-4o", TODAY): 3}
    assert complete(postgres, interval=timedelta(minutes=20)) == {("GPT-4o", TODAY): 9}
    assert entries(postgres) == EntryCounts(stored=3, published=3)
    assert entries(postgres, interval=timedelta(minutes=20)) == EntryCounts(stored=9, published=9)
    half_second = batch_of(MODELS[1:], [START + timedelta(seconds=0.5)])
    store(postgres, half_second)
    publish_all(postgres)
    assert complete(postgres, interval=timedelta(seconds=1)) == {("GPT-4o", TODAY): 9}


def test_days_are_utc_whatever_the_server_time_zone(postgres: Postgres) -> None:
    execute(
        postgres,
        f"ALTER DATABASE {postgres.database} SET timezone TO 'Pacific/Auckland'",
    )
    postgres.engine.dispose()
    store(postgres, batch_of(MODELS[:1], window_starts(30)))
    publish_all(postgres)
    assert complete(postgres) == {("GPT-4o", TODAY): 24, ("GPT-4o", TOMORROW): 6}
