"""What counts as complete: four rows and a published entry, at a window's label."""

from datetime import timedelta

from sim_pipeline.store.completeness import Entries, complete_windows, ledger_entries
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import Span
from sim_pipeline_tests.store.windows import (
    HOUR,
    START,
    execute,
    labels,
    publish_all,
    slice_of,
    store,
)

MODELS = ("GPT-4o", "Llama-3.1-8B")
TODAY, TOMORROW = START.date(), (START + timedelta(days=1)).date()
SPAN = Span(MODELS, START, START + timedelta(days=2))


def complete(postgres: Postgres, span: Span = SPAN, interval: timedelta = HOUR) -> object:
    with postgres.engine.connect() as connection:
        return complete_windows(connection, span, interval)


def entries(postgres: Postgres, span: Span = SPAN, interval: timedelta = HOUR) -> Entries:
    with postgres.engine.connect() as connection:
        return ledger_entries(connection, span, interval)


def test_nothing_stored_is_nothing_complete(postgres: Postgres) -> None:
    assert complete(postgres) == {}
    assert entries(postgres) == Entries(stored=0, published=0)


def test_windows_are_counted_by_model_and_day(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS[:1], labels(30)), slice_of(MODELS[1:], labels(3)))
    assert entries(postgres) == Entries(stored=33, published=0)
    assert complete(postgres) == {}
    publish_all(postgres)
    assert entries(postgres) == Entries(stored=33, published=33)
    assert complete(postgres) == {
        ("GPT-4o", TODAY): 24,
        ("GPT-4o", TOMORROW): 6,
        ("Llama-3.1-8B", TODAY): 3,
    }


def test_what_lies_outside_the_span_does_not_count(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(5)))
    publish_all(postgres)
    span = Span(MODELS[:1], START + HOUR, START + 4 * HOUR)
    assert complete(postgres, span) == {("GPT-4o", TODAY): 3}
    assert entries(postgres, span) == Entries(stored=3, published=3)


def test_a_window_that_lacks_a_row_or_its_delivery_is_not_complete(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS[:1], labels(5)))
    publish_all(postgres)
    execute(
        postgres,
        """DELETE FROM simulation_results WHERE metric = 'TPS' AND "timestamp" = :label""",
        label=START,
    )
    execute(
        postgres,
        'UPDATE deliveries SET published_at = NULL WHERE "timestamp" = :label',
        label=START + HOUR,
    )
    assert complete(postgres) == {("GPT-4o", TODAY): 3}


def test_labels_between_the_windows_are_none_of_them(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS[:1], labels(9, step=timedelta(minutes=20))))
    publish_all(postgres)
    assert complete(postgres) == {("GPT-4o", TODAY): 3}
    assert complete(postgres, interval=timedelta(minutes=20)) == {("GPT-4o", TODAY): 9}
    assert entries(postgres) == Entries(stored=3, published=3)
    assert entries(postgres, interval=timedelta(minutes=20)) == Entries(stored=9, published=9)
    half_second = slice_of(MODELS[1:], [START + timedelta(seconds=0.5)])
    store(postgres, half_second)
    publish_all(postgres)
    assert complete(postgres, interval=timedelta(seconds=1)) == {("GPT-4o", TODAY): 9}


def test_days_are_those_of_utc_whatever_zone_the_server_is_in(postgres: Postgres) -> None:
    execute(
        postgres,
        f"ALTER DATABASE {postgres.database} SET timezone TO 'Pacific/Auckland'",
    )
    postgres.engine.dispose()
    store(postgres, slice_of(MODELS[:1], labels(30)))
    publish_all(postgres)
    assert complete(postgres) == {("GPT-4o", TODAY): 24, ("GPT-4o", TOMORROW): 6}
