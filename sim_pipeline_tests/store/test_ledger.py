"""The ledger: stored windows, missing windows, and claims that send each entry once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.completeness import MissingWindows, find_missing
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import Span, claim, latest_window_start, reopen, stored_message_ids
from sim_pipeline.windows import EPOCH
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.stored_windows import (
    FIRST,
    HOUR,
    START,
    batch_of,
    consistent_values,
    execute,
    fetch,
    ledger_entries,
    pending_entries,
    publish_all,
    random_counts,
    sessions_waiting,
    store,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B")
AWKWARD = (
    "it's",
    'a "b"',
    "100% x%sy",
    "back\\slash",
    "日本 モデル é",
    "{a,b}",
    "NULL",
    " ",
    ":name",
)
SPAN = Span(MODELS, START, START + 100 * HOUR)


def missing(
    postgres: Postgres,
    windows: range = range(FIRST, FIRST + 4),
    *,
    llm_names: tuple[str, ...] = MODELS,
    interval: timedelta = HOUR,
    in_progress: tuple[Span, ...] = (),
) -> MissingWindows | None:
    with postgres.engine.connect() as connection:
        return find_missing(connection, llm_names, windows, interval, in_progress)


def found_ids(
    postgres: Postgres, llm_name: str, since: datetime, until: datetime
) -> dict[datetime, UUID]:
    with postgres.engine.connect() as connection:
        return dict(stored_message_ids(connection, llm_name, since, until))


def count_reopened(postgres: Postgres, span: Span) -> int:
    """Reopen a span; return the number of entries that became pending."""
    before = len(pending_entries(postgres))
    with postgres.engine.begin() as connection:
        reopen(connection, span)
    return len(pending_entries(postgres)) - before


@pytest.fixture
def complete(postgres: Postgres) -> Postgres:
    """Return a database with four windows of two models, stored and published."""
    store(postgres, batch_of(MODELS, window_starts(4)))
    publish_all(postgres)
    return postgres


# Stored windows


def test_stored_windows_have_their_ids(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(4))
    store(postgres, batch)
    expected = batch.message_ids[5:7]
    found = found_ids(postgres, "Llama-3.1-8B", START + HOUR, START + 3 * HOUR)
    assert found == dict(zip(window_starts(4)[1:3], expected, strict=True))
    assert {start.tzinfo for start in found} == {UTC}


def test_window_without_row_or_entry_is_not_stored(complete: Postgres) -> None:
    execute(complete, "DELETE FROM simulation_results WHERE id = 2")
    execute(complete, 'DELETE FROM deliveries WHERE "timestamp" = :start', start=START + HOUR)
    found = found_ids(complete, "GPT-4o", START, START + 4 * HOUR)
    assert sorted(found) == window_starts(4)[2:]


def test_any_name_is_found(postgres: Postgres) -> None:
    store(postgres, batch_of(AWKWARD, window_starts(2)))
    windows = range(FIRST, FIRST + 2)
    for name in AWKWARD:
        assert sorted(found_ids(postgres, name, START, START + 9 * HOUR)) == window_starts(2)
        with postgres.engine.connect() as connection:
            assert latest_window_start(connection, [name, "another"]) == START + HOUR
        span = Span((name,), START, START + 2 * HOUR)
        expected = MissingWindows(span, 2)
        assert missing(postgres, windows, llm_names=(name,)) == expected
        others = tuple(other for other in AWKWARD if other != name)
        in_progress = (Span(others, START, START + 2 * HOUR),)
        found = missing(postgres, windows, llm_names=AWKWARD, in_progress=in_progress)
        assert found == expected
        with claim(postgres.engine, span, 10) as claimed:
            assert [entry.llm_name for entry in claimed.pending] == [name] * 2
            claimed.mark_published([entry.message_id for entry in claimed.pending])
        assert count_reopened(postgres, span) == 2


def test_latest_window_start_of_given_models(postgres: Postgres) -> None:
    store(postgres, batch_of(["a"], window_starts(3)), batch_of(["b"], window_starts(5)))
    with postgres.engine.connect() as connection:
        assert latest_window_start(connection, ["a"]) == START + 2 * HOUR
        assert latest_window_start(connection, ["a", "b"]) == START + 4 * HOUR
        assert latest_window_start(connection, ["c"]) is None
        assert latest_window_start(connection, []) is None


# Missing windows


def test_published_windows_are_not_missing(complete: Postgres) -> None:
    assert missing(complete) is None


def test_all_windows_of_an_empty_database_are_missing(postgres: Postgres) -> None:
    assert missing(postgres) == MissingWindows(Span(MODELS, START, START + 4 * HOUR), 8)


def test_no_windows_or_no_models_miss_nothing(postgres: Postgres) -> None:
    assert missing(postgres, range(FIRST, FIRST)) is None
    assert missing(postgres, llm_names=()) is None


@pytest.mark.parametrize(
    "damage",
    [
        'DELETE FROM simulation_results WHERE llm_name = :name AND "timestamp" = :start',
        """
        DELETE FROM simulation_results
        WHERE llm_name = :name AND "timestamp" = :start AND metric = 'RPS'
        """,
        'DELETE FROM deliveries WHERE llm_name = :name AND "timestamp" = :start',
        'UPDATE deliveries SET published_at = NULL WHERE llm_name = :name AND "timestamp" = :start',
    ],
    ids=["no rows", "three rows", "no entry", "pending"],
)
def test_incomplete_or_unpublished_window_is_missing(complete: Postgres, damage: str) -> None:
    execute(complete, damage, name="Llama-3.1-8B", start=START + 2 * HOUR)
    span = Span(("Llama-3.1-8B",), START + 2 * HOUR, START + 3 * HOUR)
    assert missing(complete) == MissingWindows(span, 1)
    assert missing(complete, range(FIRST, FIRST + 2)) is None
    assert missing(complete, range(FIRST + 3, FIRST + 4)) is None
    assert missing(complete, llm_names=("GPT-4o",)) is None


def test_span_contains_all_missing_windows(complete: Postgres) -> None:
    execute(complete, "DELETE FROM simulation_results WHERE id = 5")
    execute(complete, 'UPDATE deliveries SET published_at = NULL WHERE "timestamp" >= :start',
            start=START + 3 * HOUR)  # fmt: skip
    assert missing(complete) == MissingWindows(Span(MODELS, START + HOUR, START + 4 * HOUR), 3)


def test_models_are_in_the_given_order(postgres: Postgres) -> None:
    found = missing(postgres, llm_names=("b", "a", "c"))
    assert found is not None
    assert found.span.llm_names == ("b", "a", "c")


def test_pending_entry_between_windows_is_missing(complete: Postgres) -> None:
    """Another interval left it pending."""
    between = START + timedelta(minutes=90)
    store(complete, batch_of(["GPT-4o"], [between]))
    assert missing(complete) == MissingWindows(Span(("GPT-4o",), between, between + HOUR), 1)
    execute(complete, 'DELETE FROM simulation_results WHERE "timestamp" = :start', start=between)
    assert missing(complete) is None, "no run writes the rows that it lacks"


def test_windows_in_progress_are_not_missing(postgres: Postgres) -> None:
    first = Span(("GPT-4o",), START, START + 2 * HOUR)
    second = Span(("Llama-3.1-8B",), START, START + 3 * HOUR)
    assert missing(postgres, in_progress=(first,)) == MissingWindows(
        Span(MODELS, START, START + 4 * HOUR), 6
    )
    assert missing(postgres, in_progress=(first, second)) == MissingWindows(
        Span(MODELS, START + 2 * HOUR, START + 4 * HOUR), 3
    )
    assert missing(postgres, in_progress=(Span(MODELS, START, START + 4 * HOUR),)) is None
    other = Span(("another",), START, START + 4 * HOUR)
    assert missing(postgres, in_progress=(other,)) == missing(postgres)


@pytest.mark.parametrize("seconds", [1, 7, 604_800])
def test_missing_at_any_interval_in_any_year(postgres: Postgres, seconds: int) -> None:
    interval = timedelta(seconds=seconds)
    for year in (1970, 2026, 2100):
        first = (datetime(year, 1, 1, tzinfo=UTC) - EPOCH) // interval
        start = EPOCH + first * interval
        windows = range(first, first + 5)
        store(postgres, batch_of(["a"], window_starts(5, start=start, step=interval)))
        publish_all(postgres)
        assert missing(postgres, windows, llm_names=("a",), interval=interval) is None
        execute(postgres, 'DELETE FROM deliveries WHERE "timestamp" = :t', t=start + 3 * interval)
        assert missing(postgres, windows, llm_names=("a",), interval=interval) == MissingWindows(
            Span(("a",), start + 3 * interval, start + 4 * interval), 1
        )


# Pending entries


def test_reopen_stays_inside_its_span(complete: Postgres) -> None:
    span = Span(("GPT-4o",), START + HOUR, START + 3 * HOUR)
    assert count_reopened(complete, span) == 2
    assert pending_entries(complete) == [("GPT-4o", start) for start in window_starts(4)[1:3]]
    assert count_reopened(complete, span) == 0


def test_claim_recognises_reopened_entries(complete: Postgres) -> None:
    """Those of two transactions, but not an entry that was replaced after it was reopened."""
    store(complete, batch_of(["Llama-3.1-8B"], window_starts(5)[4:]))
    with complete.engine.begin() as connection:
        first = reopen(connection, Span(("GPT-4o",), START, START + 3 * HOUR))
        assert reopen(connection, Span(("another",), START, START + 3 * HOUR)) == []
    assert len(pending_entries(complete)) == 1 + 3
    with complete.engine.begin() as connection:
        second = reopen(connection, Span(MODELS, START + 3 * HOUR, START + 9 * HOUR))
    store(complete, batch_of(["GPT-4o"], [START + HOUR], version="another"))

    def found(*transaction_ids: str) -> set[tuple[str, datetime]]:
        with claim(complete.engine, SPAN, 100, transaction_ids) as claimed:
            assert len(claimed.pending) == 6
            entries = [entry for entry in claimed.pending if entry.reopened]
            return {(entry.llm_name, entry.window_start) for entry in entries}

    of_first = {("GPT-4o", START), ("GPT-4o", START + 2 * HOUR)}
    of_second = {(name, START + 3 * HOUR) for name in MODELS}
    assert found() == set()
    assert found(*first) == of_first
    assert found(*first, *second) == of_first | of_second


def test_reopen_locks_in_key_order(complete: Postgres) -> None:
    """It waits for the first entry, which is the last in the table, before it locks another."""
    execute(complete, 'UPDATE deliveries SET created_at = now() WHERE "timestamp" = :t', t=START)
    with ThreadPoolExecutor() as threads, complete.engine.connect() as other:
        other.execute(
            sa.text(
                "SELECT FROM deliveries WHERE llm_name = 'GPT-4o' AND \"timestamp\" = :t FOR UPDATE"
            ),
            {"t": START},
        )
        reopening = threads.submit(count_reopened, complete, SPAN)
        wait_until(lambda: len(sessions_waiting(complete)) == 1)
        other.execute(sa.text("SELECT FROM deliveries FOR UPDATE NOWAIT"))
        other.rollback()
        assert reopening.result() == 8


def test_claim_returns_oldest_first_with_values(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(3))
    store(postgres, batch)
    with claim(postgres.engine, SPAN, 4) as claimed:
        pending = claimed.pending
    assert [(entry.window_start, entry.llm_name) for entry in pending] == [
        (start, name) for start in window_starts(2) for name in MODELS
    ]
    values = consistent_values(6)
    for entry, index in zip(pending, (0, 3, 1, 4), strict=True):
        assert entry.message_id == batch.message_ids[index]
        assert entry.window_start.tzinfo is UTC
        assert np.array_equal(entry.values, values[index])


def test_claimed_values_are_in_metric_order(
    postgres: Postgres,
) -> None:
    batch = batch_of(MODELS, window_starts(2))
    store(postgres, batch)
    execute(postgres, "DELETE FROM simulation_results WHERE metric IN ('TTFT', 'e2e_latency')")
    store(postgres, batch)
    with claim(postgres.engine, SPAN, 10) as claimed:
        values = {(entry.llm_name, entry.window_start): entry.values for entry in claimed.pending}
    expected = iter(consistent_values(4))
    for name in MODELS:
        for start in window_starts(2):
            assert np.array_equal(values[name, start], next(expected))


def test_values_are_claimed_bit_for_bit(postgres: Postgres) -> None:
    values = np.array([[
        [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22],
        [0.1, 1 / 3, np.nextafter(1, 2), 123456789012345680],
        [0.0, 5.0, -1e-308, np.pi],
        [np.inf, -np.inf, np.nan, 1e-7],
    ]])  # fmt: skip
    store(postgres, WindowBatch(["a"], [START], [uuid4()], values, random_counts(1), 3600))
    with claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed:
        assert claimed.pending[0].values.tobytes() == values.tobytes()


def test_windows_can_have_different_numbers_of_points(postgres: Postgres) -> None:
    sizes = (3, 1, 1000)
    for start, points in zip(window_starts(3), sizes, strict=True):
        store(postgres, batch_of(["a"], [start], points=points))
    with claim(postgres.engine, Span(("a",), START, START + 9 * HOUR), 10) as claimed:
        for entry, points in zip(claimed.pending, sizes, strict=True):
            assert np.array_equal(entry.values, consistent_values(1, points)[0])


def test_claim_refuses_metrics_of_different_lengths(postgres: Postgres) -> None:
    store(postgres, batch_of(["a"], window_starts(1)))
    execute(postgres, "UPDATE simulation_results SET \"values\" = '{1}' WHERE metric = 'TPS'")
    reason = r"a 2026-11-24T00:00:00Z: .*\[5, 1, 5, 5\] values"
    with (
        pytest.raises(ValueError, match=reason),
        claim(postgres.engine, Span(("a",), START, START + HOUR), 1),
    ):
        pass
    assert len(pending_entries(postgres)) == 1


def test_claim_stays_inside_its_span(postgres: Postgres) -> None:
    store(postgres, batch_of((*MODELS, "another"), window_starts(4)))
    with claim(postgres.engine, Span(MODELS, START + HOUR, START + 3 * HOUR), 100) as claimed:
        assert {entry.llm_name for entry in claimed.pending} == set(MODELS)
        assert {entry.window_start for entry in claimed.pending} == set(window_starts(4)[1:3])
    with claim(postgres.engine, Span((), START, START + HOUR), 100) as claimed:
        assert claimed.pending == []


def test_marked_entries_are_published_others_pending(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(3)))
    before = datetime.now(UTC)
    with claim(postgres.engine, SPAN, 4) as claimed:
        sent = claimed.pending[1:3]
        claimed.mark_published([entry.message_id for entry in sent])
        claimed.mark_published([])
    published = [entry[:2] for entry in ledger_entries(postgres) if entry[4] is not None]
    assert published == sorted(
        [(entry.llm_name, entry.window_start) for entry in sent], key=lambda entry: entry[::-1]
    )
    ((at,),) = fetch(postgres, "SELECT max(published_at) FROM deliveries")
    assert before - timedelta(seconds=5) < at
    with claim(postgres.engine, SPAN, 10) as claimed:
        assert len(claimed.pending) == 4


def test_marked_entries_are_committed_if_the_body_raises(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(3)))
    with pytest.raises(KeyboardInterrupt), claim(postgres.engine, SPAN, 4) as claimed:  # noqa: PT012
        claimed.mark_published([claimed.pending[0].message_id])
        raise KeyboardInterrupt
    assert len(pending_entries(postgres)) == 5
    with claim(postgres.engine, SPAN, 10) as claimed:
        assert len(claimed.pending) == 5


def test_two_claims_share_no_entry(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(3)))
    with claim(postgres.engine, SPAN, 4) as first, claim(postgres.engine, SPAN, 4) as second:
        ids = {entry.message_id for entry in first.pending}
        others = {entry.message_id for entry in second.pending}
        assert len(ids) == 4
        assert len(others) == 2
        assert not ids & others
        first.mark_published(ids)
        second.mark_published(others)
    assert pending_entries(postgres) == []


def test_many_claims_at_once_send_each_entry_once(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(300)))
    span = Span(MODELS, START, START + 300 * HOUR)

    def send_all() -> list[UUID]:
        sent: list[UUID] = []
        while True:
            with claim(postgres.engine, span, 25) as claimed:
                if not claimed.pending:
                    return sent
                ids = [entry.message_id for entry in claimed.pending]
                claimed.mark_published(ids)
                sent += ids

    with ThreadPoolExecutor() as threads:
        feeds = [threads.submit(send_all) for _ in range(4)]
        sent = [message_id for feed in feeds for message_id in feed.result()]
    assert len(sent) == len(set(sent)) == 600
    assert pending_entries(postgres) == []


def test_claim_skips_windows_that_lack_rows(
    postgres: Postgres,
) -> None:
    store(postgres, batch_of(["a"], window_starts(6)))
    execute(postgres, 'DELETE FROM simulation_results WHERE "timestamp" < :t', t=START + 3 * HOUR)
    execute(
        postgres,
        "DELETE FROM simulation_results WHERE \"timestamp\" = :t AND metric = 'RPS'",
        t=START + 4 * HOUR,
    )
    with claim(postgres.engine, Span(("a",), START, START + 9 * HOUR), 2) as claimed:
        assert [entry.window_start for entry in claimed.pending] == [
            window_starts(6)[3],
            window_starts(6)[5],
        ]
    assert len(pending_entries(postgres)) == 6


# A statement that reads the ledger waits in the middle of its scan for the advisory lock 1.
GATE = (
    "ALTER TABLE deliveries RENAME TO entries_behind_the_gate",
    """
    CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN true; END'
    """,
    "CREATE VIEW deliveries AS SELECT *, xmin FROM entries_behind_the_gate WHERE gate()",
)


def test_claim_reads_id_and_values_of_one_version(postgres: Postgres) -> None:
    """Rows and entry are replaced while a claim is waiting: it returns the new version of both."""
    store(postgres, batch_of(["a"], window_starts(1)))
    for statement in GATE:
        execute(postgres, statement)
    other = uuid4()

    def claim_one() -> tuple[UUID, list[list[float]]]:
        with claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed:
            (entry,) = claimed.pending
            return entry.message_id, entry.values.tolist()

    with ThreadPoolExecutor() as threads, postgres.engine.connect() as writer:
        writer.execute(sa.text("SELECT pg_advisory_xact_lock(1)"))
        claiming = threads.submit(claim_one)
        wait_until(lambda: len(sessions_waiting(postgres)) == 1)
        writer.execute(
            sa.text("UPDATE entries_behind_the_gate SET message_id = CAST(:id AS uuid)"),
            {"id": str(other)},
        )
        writer.execute(sa.text("UPDATE simulation_results SET \"values\" = '{1, 2}'"))
        writer.commit()
        assert claiming.result() == (other, [[1, 2]] * 4)


def test_writer_waits_until_the_claim_ends(postgres: Postgres) -> None:
    store(postgres, batch_of(["a"], window_starts(2)))
    new = batch_of(["a"], window_starts(2), version="new", seed=1)
    with ThreadPoolExecutor() as threads:
        with claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed:
            writing = threads.submit(store, postgres, new)
            wait_until(lambda: len(sessions_waiting(postgres)) == 1)
            claimed.mark_published([claimed.pending[0].message_id])
        writing.result()
    assert [entry[2] for entry in ledger_entries(postgres)] == list(map(str, new.message_ids))
    assert len(pending_entries(postgres)) == 2


def test_connection_lost_after_marking_leaves_all_pending(
    postgres: Postgres,
) -> None:
    store(postgres, batch_of(MODELS, window_starts(3)))
    with pytest.raises(OperationalError), claim(postgres.engine, SPAN, 4) as claimed:  # noqa: PT012
        claimed.mark_published([claimed.pending[0].message_id])
        execute(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
    assert len(pending_entries(postgres)) == 6


def test_connection_lost_before_marking_raises(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(3)))
    with pytest.raises(OperationalError), claim(postgres.engine, SPAN, 4) as claimed:  # noqa: PT012
        execute(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        claimed.mark_published([claimed.pending[0].message_id])
    assert len(pending_entries(postgres)) == 6


def test_idle_claim_has_a_time_limit(postgres: Postgres) -> None:
    """So that a machine that disappears does not keep its entries locked for hours."""
    store(postgres, batch_of(["a"], window_starts(1)))
    with claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed:
        setting = sa.text("SELECT current_setting('idle_in_transaction_session_timeout')")
        assert claimed._connection.execute(setting).scalar() == "10min"  # noqa: SLF001
