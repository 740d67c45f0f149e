"""Old results are removed with their ledger entries, nothing else is, and no lock is waited for."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa

from sim_pipeline.store.completeness import MissingWindows, find_missing
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import Span, claim, reopen
from sim_pipeline.store.retention import RemovedResults, remove_delivered
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.stored_windows import (
    FIRST,
    HOUR,
    START,
    batch_of,
    event,
    execute,
    fetch,
    ledger_entries,
    pending_entries,
    sessions_waiting,
    store,
    stored_counts,
    stored_rows,
    window_starts,
)

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


def remaining(postgres: Postgres) -> tuple[set[tuple[str, datetime]], set[tuple[str, datetime]]]:
    """Return the windows that have rows and request counts, and those that have an entry."""
    rows = {(row[1], row[3]) for row in stored_rows(postgres)}
    assert {row[:2] for row in stored_counts(postgres)} == rows
    return rows, {entry[:2] for entry in ledger_entries(postgres)}


@pytest.fixture
def delivered(postgres: Postgres) -> Postgres:
    """Return a database with twelve windows of two models, all delivered."""
    store(postgres, batch_of(MODELS, window_starts(12)))
    deliver(postgres)
    return postgres


def test_old_rows_and_entries_are_removed_together(delivered: Postgres) -> None:
    before = START + 5 * HOUR + DELAY
    assert remove_delivered(delivered.engine, before) == RemovedResults(10, 40, 10)
    kept = {(name, start) for name in MODELS for start in window_starts(12)[5:]}
    assert remaining(delivered) == (kept, kept)
    assert len(stored_rows(delivered)) == 14 * 4


@pytest.mark.parametrize("batch", [1, 4, 5, 1000])
def test_any_batch_size_removes_the_same(delivered: Postgres, batch: int) -> None:
    removed = remove_delivered(delivered.engine, START + 5 * HOUR + DELAY, batch)
    assert removed == RemovedResults(windows=10, rows=40, counts=10)


def test_second_removal_removes_nothing(delivered: Postgres) -> None:
    before = START + 5 * HOUR
    remove_delivered(delivered.engine, before)
    state = remaining(delivered)
    assert remove_delivered(delivered.engine, before) == RemovedResults()
    assert remaining(delivered) == state


def test_pending_windows_are_kept(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(4)))
    deliver(postgres, "llm_name = 'GPT-4o'")
    assert remove_delivered(postgres.engine, START + 900 * HOUR, 2).windows == 4
    kept = {("Llama-3.1-8B", start) for start in window_starts(4)}
    assert remaining(postgres) == (kept, kept)
    assert len(pending_entries(postgres)) == 4


def test_resent_window_is_kept(delivered: Postgres) -> None:
    with delivered.engine.begin() as connection:
        reopen(connection, Span(("GPT-4o",), START, START + HOUR))
    execute(
        delivered,
        "UPDATE deliveries SET published_at = :at WHERE published_at IS NULL",
        at=START + 100 * HOUR,
    )
    assert remove_delivered(delivered.engine, START + 50 * HOUR).windows == 23
    assert remaining(delivered)[1] == {("GPT-4o", START)}


def test_unknown_models_and_odd_names_are_removed(postgres: Postgres) -> None:
    store(postgres, batch_of(["it's", "100% {x}", "日本"], window_starts(2)))
    deliver(postgres)
    assert remove_delivered(postgres.engine, START + 50 * HOUR) == RemovedResults(6, 24, 6)
    assert remaining(postgres) == (set(), set())


def test_window_without_counts_is_removed(delivered: Postgres) -> None:
    execute(delivered, 'DELETE FROM request_counts WHERE "timestamp" < :t', t=START + 3 * HOUR)
    before = START + 5 * HOUR + DELAY
    assert remove_delivered(delivered.engine, before) == RemovedResults(10, 40, 4)
    assert len(remaining(delivered)[1]) == 14


def stored_events(postgres: Postgres) -> set[UUID]:
    return {event_id for (event_id,) in fetch(postgres, "SELECT event_id FROM simulated_events")}


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_events_are_removed_with_their_last_window(postgres: Postgres, batch: int) -> None:
    """Windows 0 to 4 are removed, but for window 2 of the first model, which is pending."""
    just_after = 1e-6 / 3600
    gone = [event(-3, 2), event(0.5, None), event(3.5, 5), event(4, None)]
    kept = [event(-3, 2 + just_after), event(1.9, 2.5), event(2.5, None)]
    kept += [event(4, 5 + just_after), event(5, None), event(-9, 99)]
    other_gone = [event(0, 5, MODELS[1]), event(2.5, None, MODELS[1])]
    other_kept = [event(0, 5 + just_after, MODELS[1])]
    store(
        postgres,
        batch_of(MODELS[:1], window_starts(12), events=gone + kept),
        batch_of(MODELS[1:], window_starts(12), events=other_gone + other_kept),
    )
    deliver(postgres, f"(llm_name, \"timestamp\") <> ('GPT-4o', '{START + 2 * HOUR}')")
    removed = remove_delivered(postgres.engine, START + 5 * HOUR + DELAY, batch)
    assert removed == RemovedResults(windows=9, rows=36, counts=9, events=6)
    assert stored_events(postgres) == {one.event_id for one in kept + other_kept}


def test_event_of_a_window_being_written_is_kept(postgres: Postgres) -> None:
    """A writer has stored a window that overlaps the event and has not committed yet."""
    shared = event(0.5, 1.5)
    store(postgres, batch_of(["GPT-4o"], window_starts(1), events=[shared]))
    deliver(postgres)
    with ThreadPoolExecutor() as threads, postgres.engine.connect() as blocker:
        # The writer waits after its last lock, when it inserts the new event.
        blocker.execute(sa.text("LOCK TABLE simulated_events IN SHARE MODE"))
        writing = threads.submit(
            store, postgres, batch_of(["GPT-4o"], [START + HOUR], events=[shared, event(1.2, None)])
        )
        wait_until(lambda: len(sessions_waiting(postgres)) == 1)
        removing = threads.submit(remove_delivered, postgres.engine, START + 50 * HOUR)
        wait_until(lambda: len(sessions_waiting(postgres)) == 2)
        blocker.rollback()
        writing.result()
        assert removing.result() == RemovedResults(1, 4, 1)
    assert stored_events(postgres) == {shared.event_id, event(1.2, None).event_id}
    # Its last window takes it along.
    deliver(postgres)
    assert remove_delivered(postgres.engine, START + 50 * HOUR).events == 2
    assert stored_events(postgres) == set()


def test_empty_database_has_nothing_to_remove(postgres: Postgres) -> None:
    assert remove_delivered(postgres.engine, START) == RemovedResults()


def test_removed_windows_are_missing_only_in_their_range(delivered: Postgres) -> None:
    remove_delivered(delivered.engine, START + 5 * HOUR + DELAY)
    with delivered.engine.connect() as connection:
        assert find_missing(connection, MODELS, range(FIRST + 5, FIRST + 12), HOUR) is None
        # A schedule would simulate removed windows again, so they must be older than the catch-up.
        assert find_missing(connection, MODELS, range(FIRST, FIRST + 12), HOUR) == MissingWindows(
            Span(MODELS, START, START + 5 * HOUR), 10
        )


def test_removed_window_can_be_stored_and_sent_again(delivered: Postgres) -> None:
    before = START + 5 * HOUR
    remove_delivered(delivered.engine, before)
    store(delivered, batch_of(MODELS, window_starts(2)))
    assert remove_delivered(delivered.engine, before) == RemovedResults()
    with claim(delivered.engine, Span(MODELS, START, START + 2 * HOUR), 10) as claimed:
        assert len(claimed.pending) == 4
        claimed.mark_published([entry.message_id for entry in claimed.pending])
    assert remove_delivered(delivered.engine, before) == RemovedResults()


def test_locked_entries_are_skipped(delivered: Postgres) -> None:
    """A feed has claimed one window, a writer another."""
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
    assert remaining(delivered)[1] == {
        ("GPT-4o", START),
        *((name, START + 2 * HOUR) for name in MODELS),
    }


def test_interrupted_removal_removes_nothing(delivered: Postgres) -> None:
    """The server ends the session while it waits for a lock on the table."""
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
    assert [len(windows) for windows in remaining(delivered)] == [24, 24]
    assert remove_delivered(delivered.engine, START + 5 * HOUR).windows == 8


def test_concurrent_writers_feeds_and_removers(
    postgres: Postgres,
) -> None:
    """Two write the same windows in both orders, one sends them, two remove them: no deadlock.

    At the end every window has its rows, its entry and its events, or none of them.
    """
    span = Span(MODELS, START, START + 60 * HOUR)
    events = [event(hour, hour + 7.5, name) for name in MODELS for hour in range(0, 50, 3)]

    def write(version: str) -> None:
        for index in range(20):
            names = MODELS if index % 2 else MODELS[::-1]
            store(postgres, batch_of(names, window_starts(60), version=version, events=events))

    def send() -> None:
        with claim(postgres.engine, span, 40) as claimed:
            claimed.mark_published([entry.message_id for entry in claimed.pending])

    def remove() -> int:
        # A time in the future, so that windows delivered just now are removed as well.
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
    rows, entries = remaining(postgres)
    assert rows == entries
    assert len(stored_rows(postgres)) == 4 * len(rows)
    assert stored_events(postgres) == {
        one.event_id
        for one in events
        for name, start in entries
        if name == one.llm_name
        and one.started_at < start + HOUR
        and one.started_at + 7.5 * HOUR > start
    }
