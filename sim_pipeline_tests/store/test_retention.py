"""Old results go with their ledger entries: nothing else does, and nobody waits for it."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

import pytest
import sqlalchemy as sa

from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import MissingWindows, Span, claim, find_missing, reopen
from sim_pipeline.store.retention import RemovedResults, remove_delivered
from sim_pipeline_tests.store.windows import (
    FIRST,
    HOUR,
    START,
    execute,
    fetch,
    labels,
    ledger_entries,
    pending_entries,
    sessions_waiting,
    slice_of,
    store,
    stored_rows,
)
from sim_pipeline_tests.support.waiting import wait_until

MODELS = ("GPT-4o", "Llama-3.1-8B")
# A window is delivered five minutes after its end.
DELAY = timedelta(minutes=65)


def deliver(postgres: Postgres, where: str = "true") -> None:
    execute(
        postgres,
        'UPDATE deliveries SET published_at = "timestamp" + CAST(:delay AS interval)'
        f" WHERE {where}",
        delay=DELAY,
    )


def left(postgres: Postgres) -> tuple[set[tuple[str, datetime]], set[tuple[str, datetime]]]:
    """The windows that have rows, and those that have an entry."""
    rows = {(row[1], row[3]) for row in stored_rows(postgres)}
    return rows, {entry[:2] for entry in ledger_entries(postgres)}


@pytest.fixture
def delivered(postgres: Postgres) -> Postgres:
    """Twelve windows of two models, all delivered."""
    store(postgres, slice_of(MODELS, labels(12)))
    deliver(postgres)
    return postgres


def test_rows_and_entries_older_than_the_moment_go_together(delivered: Postgres) -> None:
    before = START + 5 * HOUR + DELAY
    assert remove_delivered(delivered.engine, before) == RemovedResults(windows=10, rows=40)
    kept = {(name, label) for name in MODELS for label in labels(12)[5:]}
    assert left(delivered) == (kept, kept)
    assert len(stored_rows(delivered)) == 14 * 4


@pytest.mark.parametrize("batch", [1, 4, 5, 1000])
def test_any_size_of_batch_removes_the_same(delivered: Postgres, batch: int) -> None:
    removed = remove_delivered(delivered.engine, START + 5 * HOUR + DELAY, batch)
    assert removed == RemovedResults(windows=10, rows=40)


def test_a_second_time_nothing_is_left_to_remove(delivered: Postgres) -> None:
    before = START + 5 * HOUR
    remove_delivered(delivered.engine, before)
    state = left(delivered)
    assert remove_delivered(delivered.engine, before) == RemovedResults()
    assert left(delivered) == state


def test_what_is_pending_stays_however_old(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(4)))
    deliver(postgres, "llm_name = 'GPT-4o'")
    assert remove_delivered(postgres.engine, START + 900 * HOUR, 2).windows == 4
    kept = {("Llama-3.1-8B", label) for label in labels(4)}
    assert left(postgres) == (kept, kept)
    assert len(pending_entries(postgres)) == 4


def test_a_window_that_was_sent_again_is_kept_from_then_on(delivered: Postgres) -> None:
    with delivered.engine.begin() as connection:
        reopen(connection, Span(("GPT-4o",), START, START + HOUR))
    execute(
        delivered,
        "UPDATE deliveries SET published_at = :at WHERE published_at IS NULL",
        at=START + 100 * HOUR,
    )
    assert remove_delivered(delivered.engine, START + 50 * HOUR).windows == 23
    assert left(delivered)[1] == {("GPT-4o", START)}


def test_models_that_are_no_longer_simulated_and_odd_names_go_too(postgres: Postgres) -> None:
    store(postgres, slice_of(["it's", "100% {x}", "日本"], labels(2)))
    deliver(postgres)
    assert remove_delivered(postgres.engine, START + 50 * HOUR) == RemovedResults(6, 24)
    assert left(postgres) == (set(), set())


def test_an_empty_database_has_nothing_to_remove(postgres: Postgres) -> None:
    assert remove_delivered(postgres.engine, START) == RemovedResults()


def test_a_tick_asks_for_nothing_that_was_removed(delivered: Postgres) -> None:
    remove_delivered(delivered.engine, START + 5 * HOUR + DELAY)
    with delivered.engine.connect() as connection:
        assert find_missing(connection, MODELS, range(FIRST + 5, FIRST + 12), HOUR) is None
        # That the removed ones would be asked for is why they must lie before the catch-up.
        assert find_missing(connection, MODELS, range(FIRST, FIRST + 12), HOUR) == MissingWindows(
            Span(MODELS, START, START + 5 * HOUR), 10
        )


def test_a_removed_window_can_be_made_and_sent_again(delivered: Postgres) -> None:
    before = START + 5 * HOUR
    remove_delivered(delivered.engine, before)
    store(delivered, slice_of(MODELS, labels(2)))
    assert remove_delivered(delivered.engine, before) == RemovedResults()
    with claim(delivered.engine, Span(MODELS, START, START + 2 * HOUR), 10) as claimed:
        assert len(claimed.pending) == 4
        claimed.mark_published([entry.message_id for entry in claimed.pending])
    assert remove_delivered(delivered.engine, before) == RemovedResults()


def test_what_others_hold_is_passed_over_without_waiting(delivered: Postgres) -> None:
    """A feed that sends a window again, and a writer that is at another one."""
    with delivered.engine.begin() as connection:
        reopen(connection, Span(("GPT-4o",), START, START + HOUR))
    with (
        claim(delivered.engine, Span(MODELS, START, START + HOUR), 10) as claimed,
        delivered.engine.connect() as writer,
    ):
        writer.execute(
            sa.text('SELECT FROM deliveries WHERE "timestamp" = :t FOR UPDATE'),
            {"t": START + 2 * HOUR},
        )
        assert remove_delivered(delivered.engine, START + 50 * HOUR, 3).windows == 21
        claimed.mark_published([entry.message_id for entry in claimed.pending])
    assert left(delivered)[1] == {
        ("GPT-4o", START),
        *((name, START + 2 * HOUR) for name in MODELS),
    }


def test_rows_and_entry_of_one_removed_half_way_are_both_still_there(delivered: Postgres) -> None:
    """A batch waits for a reader's lock on the table; it is then killed."""
    with ThreadPoolExecutor() as threads, delivered.engine.connect() as other:
        other.execute(sa.text("LOCK TABLE simulation_results IN SHARE MODE"))
        removing = threads.submit(remove_delivered, delivered.engine, START + 5 * HOUR)
        wait_until(lambda: len(sessions_waiting(delivered)) == 1)
        execute(
            delivered,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        with pytest.raises(sa.exc.OperationalError):
            removing.result()
        other.rollback()
    assert [len(windows) for windows in left(delivered)] == [24, 24]
    assert remove_delivered(delivered.engine, START + 5 * HOUR).windows == 8


def test_writers_feeds_and_removers_at_once_neither_deadlock_nor_part_rows_from_entries(
    postgres: Postgres,
) -> None:
    """Some write and send the same windows over and over, in both orders, while two remove them."""
    span = Span(MODELS, START, START + 60 * HOUR)

    def write(version: str) -> None:
        for index in range(20):
            names = MODELS if index % 2 else MODELS[::-1]
            store(postgres, slice_of(names, labels(60), version=version))

    def send() -> None:
        with claim(postgres.engine, span, 40) as claimed:
            claimed.mark_published([entry.message_id for entry in claimed.pending])

    def remove() -> int:
        # Before a moment that is still to come: what was delivered just now goes as well.
        later = fetch(postgres, "SELECT now() + interval '1 day'")[0][0]
        return remove_delivered(postgres.engine, later, 7).windows

    written = threading.Event()

    def until_written(work: Callable[[], int | None]) -> int:
        done = 0
        while not written.is_set():
            done += work() or 0
        return done

    with ThreadPoolExecutor(max_workers=5) as threads:
        writers = [threads.submit(write, version) for version in ("a", "b")]
        others = [threads.submit(until_written, work) for work in (send, remove, remove)]
        try:
            for writer in writers:
                writer.result()
        finally:
            written.set()
        removed = sum(other.result() for other in others)
    send()
    assert removed + remove() > 0
    rows, entries = left(postgres)
    assert rows == entries
    assert len(stored_rows(postgres)) == 4 * len(rows)
