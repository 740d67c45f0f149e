"""The ledger knows what is stored, what is missing and what is to be sent, to whom and once."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from sim_pipeline.store.batches import Slice
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.ledger import (
    MissingWindows,
    Span,
    claim,
    find_missing,
    latest_window_start,
    reopen,
    stored_message_ids,
)
from sim_pipeline_tests.store.windows import (
    FIRST,
    HOUR,
    START,
    consistent_values,
    execute,
    fetch,
    labels,
    ledger_entries,
    pending_entries,
    publish_all,
    sessions_waiting,
    slice_of,
    store,
)
from sim_pipeline_tests.support.waiting import wait_until

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


def found_gaps(
    postgres: Postgres,
    windows: range = range(FIRST, FIRST + 4),
    *,
    llm_names: tuple[str, ...] = MODELS,
    interval: timedelta = HOUR,
    busy: tuple[Span, ...] = (),
) -> MissingWindows | None:
    with postgres.engine.connect() as connection:
        return find_missing(connection, llm_names, windows, interval, busy)


def found_ids(
    postgres: Postgres, llm_name: str, since: datetime, to: datetime
) -> dict[datetime, UUID]:
    with postgres.engine.connect() as connection:
        return dict(stored_message_ids(connection, llm_name, since, to))


def reopened(postgres: Postgres, span: Span) -> int:
    with postgres.engine.begin() as connection:
        return reopen(connection, span).entries


@pytest.fixture
def complete(postgres: Postgres) -> Postgres:
    """Four windows of two models, all stored and published."""
    store(postgres, slice_of(MODELS, labels(4)))
    publish_all(postgres)
    return postgres


# What is stored


def test_recorded_windows_come_with_their_ids(postgres: Postgres) -> None:
    part = slice_of(MODELS, labels(4))
    store(postgres, part)
    expected = [UUID(one) for one in part.deliveries["message_id"][5:7]]
    found = found_ids(postgres, "Llama-3.1-8B", START + HOUR, START + 3 * HOUR)
    assert found == dict(zip(labels(4)[1:3], expected, strict=True))
    assert {label.tzinfo for label in found} == {UTC}


def test_a_window_that_lacks_a_row_or_its_entry_is_not_recorded(complete: Postgres) -> None:
    execute(complete, "DELETE FROM simulation_results WHERE id = 2")
    execute(complete, 'DELETE FROM deliveries WHERE "timestamp" = :label', label=START + HOUR)
    found = found_ids(complete, "GPT-4o", START, START + 4 * HOUR)
    assert sorted(found) == labels(4)[2:]


def test_any_name_is_found(postgres: Postgres) -> None:
    store(postgres, slice_of(AWKWARD, labels(2)))
    windows = range(FIRST, FIRST + 2)
    for name in AWKWARD:
        assert sorted(found_ids(postgres, name, START, START + 9 * HOUR)) == labels(2)
        with postgres.engine.connect() as connection:
            assert latest_window_start(connection, [name, "another"]) == START + HOUR
        span = Span((name,), START, START + 2 * HOUR)
        gap = MissingWindows(span, 2)
        assert found_gaps(postgres, windows, llm_names=(name,)) == gap
        others = tuple(other for other in AWKWARD if other != name)
        busy = (Span(others, START, START + 2 * HOUR),)
        assert found_gaps(postgres, windows, llm_names=AWKWARD, busy=busy) == gap
        with claim(postgres.engine, span, 10) as claimed:
            assert [entry.llm_name for entry in claimed.pending] == [name] * 2
            claimed.mark_published([entry.message_id for entry in claimed.pending])
        assert reopened(postgres, span) == 2


def test_the_latest_is_of_the_models_asked_for(postgres: Postgres) -> None:
    store(postgres, slice_of(["a"], labels(3)), slice_of(["b"], labels(5)))
    with postgres.engine.connect() as connection:
        assert latest_window_start(connection, ["a"]) == START + 2 * HOUR
        assert latest_window_start(connection, ["a", "b"]) == START + 4 * HOUR
        assert latest_window_start(connection, ["c"]) is None
        assert latest_window_start(connection, []) is None


# What is missing


def test_nothing_is_missing_of_what_is_stored_and_published(complete: Postgres) -> None:
    assert found_gaps(complete) is None


def test_all_is_missing_of_an_empty_database(postgres: Postgres) -> None:
    assert found_gaps(postgres) == MissingWindows(Span(MODELS, START, START + 4 * HOUR), 8)


def test_no_windows_or_no_models_have_no_gaps(postgres: Postgres) -> None:
    assert found_gaps(postgres, range(FIRST, FIRST)) is None
    assert found_gaps(postgres, llm_names=()) is None


@pytest.mark.parametrize(
    "damage",
    [
        'DELETE FROM simulation_results WHERE llm_name = :name AND "timestamp" = :label',
        """
        DELETE FROM simulation_results
        WHERE llm_name = :name AND "timestamp" = :label AND metric = 'RPS'
        """,
        'DELETE FROM deliveries WHERE llm_name = :name AND "timestamp" = :label',
        'UPDATE deliveries SET published_at = NULL WHERE llm_name = :name AND "timestamp" = :label',
    ],
    ids=["no rows", "three rows", "no entry", "pending"],
)
def test_a_window_not_whole_or_not_published_is_a_gap(complete: Postgres, damage: str) -> None:
    execute(complete, damage, name="Llama-3.1-8B", label=START + 2 * HOUR)
    span = Span(("Llama-3.1-8B",), START + 2 * HOUR, START + 3 * HOUR)
    assert found_gaps(complete) == MissingWindows(span, 1)
    assert found_gaps(complete, range(FIRST, FIRST + 2)) is None
    assert found_gaps(complete, range(FIRST + 3, FIRST + 4)) is None
    assert found_gaps(complete, llm_names=("GPT-4o",)) is None


def test_the_span_is_around_all_gaps_and_counts_each_once(complete: Postgres) -> None:
    execute(complete, "DELETE FROM simulation_results WHERE id = 5")
    execute(complete, 'UPDATE deliveries SET published_at = NULL WHERE "timestamp" >= :label',
            label=START + 3 * HOUR)  # fmt: skip
    assert found_gaps(complete) == MissingWindows(Span(MODELS, START + HOUR, START + 4 * HOUR), 3)


def test_models_come_in_the_order_asked_for(postgres: Postgres) -> None:
    found = found_gaps(postgres, llm_names=("b", "a", "c"))
    assert found is not None
    assert found.span.llm_names == ("b", "a", "c")


def test_a_pending_entry_between_the_windows_is_a_gap(complete: Postgres) -> None:
    """Another interval left it, and it is still to be sent."""
    between = START + timedelta(minutes=90)
    store(complete, slice_of(["GPT-4o"], [between]))
    assert found_gaps(complete) == MissingWindows(Span(("GPT-4o",), between, between + HOUR), 1)
    execute(complete, 'DELETE FROM simulation_results WHERE "timestamp" = :label', label=between)
    assert found_gaps(complete) is None, "no run would write the rows that it lacks"


def test_what_a_run_is_at_is_no_gap(postgres: Postgres) -> None:
    busy = Span(("GPT-4o",), START, START + 2 * HOUR)
    rest = Span(("Llama-3.1-8B",), START, START + 3 * HOUR)
    assert found_gaps(postgres, busy=(busy,)) == MissingWindows(
        Span(MODELS, START, START + 4 * HOUR), 6
    )
    assert found_gaps(postgres, busy=(busy, rest)) == MissingWindows(
        Span(MODELS, START + 2 * HOUR, START + 4 * HOUR), 3
    )
    assert found_gaps(postgres, busy=(Span(MODELS, START, START + 4 * HOUR),)) is None
    other = Span(("another",), START, START + 4 * HOUR)
    assert found_gaps(postgres, busy=(other,)) == found_gaps(postgres)


@pytest.mark.parametrize("seconds", [1, 7, 604_800])
def test_gaps_at_any_interval_in_any_year(postgres: Postgres, seconds: int) -> None:
    interval = timedelta(seconds=seconds)
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    for year in (1970, 2026, 2100):
        first = (datetime(year, 1, 1, tzinfo=UTC) - epoch) // interval
        start = epoch + first * interval
        windows = range(first, first + 5)
        store(postgres, slice_of(["a"], labels(5, start=start, step=interval)))
        publish_all(postgres)
        assert found_gaps(postgres, windows, llm_names=("a",), interval=interval) is None
        execute(postgres, 'DELETE FROM deliveries WHERE "timestamp" = :t', t=start + 3 * interval)
        assert found_gaps(postgres, windows, llm_names=("a",), interval=interval) == MissingWindows(
            Span(("a",), start + 3 * interval, start + 4 * interval), 1
        )


# What is to be sent


def test_delivered_entries_are_reopened_in_their_span(complete: Postgres) -> None:
    span = Span(("GPT-4o",), START + HOUR, START + 3 * HOUR)
    assert reopened(complete, span) == 2
    assert pending_entries(complete) == [("GPT-4o", label) for label in labels(4)[1:3]]
    assert reopened(complete, span) == 0


def test_a_claim_tells_what_was_opened_again_from_the_rest(complete: Postgres) -> None:
    """Of two reopenings, and not once an entry has been replaced."""
    store(complete, slice_of(["Llama-3.1-8B"], labels(5)[4:]))
    with complete.engine.begin() as connection:
        first = reopen(connection, Span(("GPT-4o",), START, START + 3 * HOUR))
        none = reopen(connection, Span(("another",), START, START + 3 * HOUR))
    assert (first.entries, none.entries, none.marks) == (3, 0, ())
    with complete.engine.begin() as connection:
        second = reopen(connection, Span(MODELS, START + 3 * HOUR, START + 9 * HOUR))
    store(complete, slice_of(["GPT-4o"], [START + HOUR], version="another"))

    def found(*marks: str) -> set[tuple[str, datetime]]:
        with claim(complete.engine, SPAN, 100, marks) as claimed:
            assert len(claimed.pending) == 6
            return {(one.llm_name, one.timestamp) for one in claimed.pending if one.reopened}

    of_first = {("GPT-4o", START), ("GPT-4o", START + 2 * HOUR)}
    of_second = {(name, START + 3 * HOUR) for name in MODELS}
    assert found() == set()
    assert found(*first.marks) == of_first
    assert found(*first.marks, *second.marks) == of_first | of_second


def test_reopening_waits_for_a_writer_in_the_writers_order(complete: Postgres) -> None:
    """It waits for the first entry, which comes last in the table, and holds no other yet."""
    execute(complete, 'UPDATE deliveries SET created_at = now() WHERE "timestamp" = :t', t=START)
    with ThreadPoolExecutor() as threads, complete.engine.connect() as other:
        other.execute(
            sa.text(
                "SELECT FROM deliveries WHERE llm_name = 'GPT-4o' AND \"timestamp\" = :t FOR UPDATE"
            ),
            {"t": START},
        )
        opening = threads.submit(reopened, complete, SPAN)
        wait_until(lambda: len(sessions_waiting(complete)) == 1)
        other.execute(sa.text("SELECT FROM deliveries FOR UPDATE NOWAIT"))
        other.rollback()
        assert opening.result() == 8


def test_a_claim_hands_out_the_oldest_first_with_their_values(postgres: Postgres) -> None:
    part = slice_of(MODELS, labels(3))
    store(postgres, part)
    with claim(postgres.engine, SPAN, 4) as claimed:
        pending = claimed.pending
    assert [(entry.timestamp, entry.llm_name) for entry in pending] == [
        (label, name) for label in labels(2) for name in MODELS
    ]
    values = consistent_values(6)
    for entry, index in zip(pending, (0, 3, 1, 4), strict=True):
        assert entry.message_id == UUID(part.deliveries["message_id"][index])
        assert entry.timestamp.tzinfo is UTC
        assert np.array_equal(entry.values, values[index])


def test_values_are_in_the_order_of_the_metrics_whatever_that_of_the_ids(
    postgres: Postgres,
) -> None:
    part = slice_of(MODELS, labels(2))
    store(postgres, part)
    execute(postgres, "DELETE FROM simulation_results WHERE metric IN ('TTFT', 'e2e_latency')")
    store(postgres, part)
    with claim(postgres.engine, SPAN, 10) as claimed:
        values = {(entry.llm_name, entry.timestamp): entry.values for entry in claimed.pending}
    expected = iter(consistent_values(4))
    for name in MODELS:
        for label in labels(2):
            assert np.array_equal(values[name, label], next(expected))


def test_values_are_claimed_bit_for_bit(postgres: Postgres) -> None:
    values = np.array([[
        [5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, 1e22],
        [0.1, 1 / 3, np.nextafter(1, 2), 123456789012345680],
        [0.0, 5.0, -1e-308, np.pi],
        [np.inf, -np.inf, np.nan, 1e-7],
    ]])  # fmt: skip
    store(postgres, Slice(["a"], [START], [uuid4()], values))
    with claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed:
        assert claimed.pending[0].values.tobytes() == values.tobytes()


def test_windows_may_differ_in_their_number_of_points(postgres: Postgres) -> None:
    sizes = (3, 1, 1000)
    for label, points in zip(labels(3), sizes, strict=True):
        store(postgres, slice_of(["a"], [label], points=points))
    with claim(postgres.engine, Span(("a",), START, START + 9 * HOUR), 10) as claimed:
        for entry, points in zip(claimed.pending, sizes, strict=True):
            assert np.array_equal(entry.values, consistent_values(1, points)[0])


def test_metrics_of_different_lengths_are_not_handed_out(postgres: Postgres) -> None:
    store(postgres, slice_of(["a"], labels(1)))
    execute(postgres, "UPDATE simulation_results SET \"values\" = '{1}' WHERE metric = 'TPS'")
    reason = r"a 2026-11-24T00:00:00\+00:00: .*\[5, 1, 5, 5\] values"
    with (
        pytest.raises(ValueError, match=reason),
        claim(postgres.engine, Span(("a",), START, START + HOUR), 1),
    ):
        pass
    assert len(pending_entries(postgres)) == 1


def test_a_claim_stays_inside_its_span(postgres: Postgres) -> None:
    store(postgres, slice_of((*MODELS, "another"), labels(4)))
    with claim(postgres.engine, Span(MODELS, START + HOUR, START + 3 * HOUR), 100) as claimed:
        assert {entry.llm_name for entry in claimed.pending} == set(MODELS)
        assert {entry.timestamp for entry in claimed.pending} == set(labels(4)[1:3])
    with claim(postgres.engine, Span((), START, START + HOUR), 100) as claimed:
        assert claimed.pending == []


def test_what_is_marked_is_published_and_the_rest_stays_pending(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(3)))
    before = datetime.now(UTC)
    with claim(postgres.engine, SPAN, 4) as claimed:
        sent = claimed.pending[1:3]
        claimed.mark_published([entry.message_id for entry in sent])
        claimed.mark_published([])
    published = [entry[:2] for entry in ledger_entries(postgres) if entry[4] is not None]
    assert published == sorted(
        [(entry.llm_name, entry.timestamp) for entry in sent], key=lambda entry: entry[::-1]
    )
    ((at,),) = fetch(postgres, "SELECT max(published_at) FROM deliveries")
    assert before - timedelta(seconds=5) < at
    with claim(postgres.engine, SPAN, 10) as claimed:
        assert len(claimed.pending) == 4


def test_what_is_marked_is_kept_when_the_body_raises(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(3)))
    with pytest.raises(KeyboardInterrupt), claim(postgres.engine, SPAN, 4) as claimed:  # noqa: PT012
        claimed.mark_published([claimed.pending[0].message_id])
        raise KeyboardInterrupt
    assert len(pending_entries(postgres)) == 5
    with claim(postgres.engine, SPAN, 10) as claimed:
        assert len(claimed.pending) == 5


def test_two_claims_at_once_share_no_entry(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(3)))
    with claim(postgres.engine, SPAN, 4) as one, claim(postgres.engine, SPAN, 4) as two:
        ids = {entry.message_id for entry in one.pending}
        others = {entry.message_id for entry in two.pending}
        assert len(ids) == 4
        assert len(others) == 2
        assert not ids & others
        one.mark_published(ids)
        two.mark_published(others)
    assert pending_entries(postgres) == []


def test_many_claims_at_once_send_each_entry_once(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(300)))
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
        sent = [one for feed in feeds for one in feed.result()]
    assert len(sent) == len(set(sent)) == 600
    assert pending_entries(postgres) == []


def test_a_window_that_lacks_rows_is_passed_over_and_keeps_none_from_being_sent(
    postgres: Postgres,
) -> None:
    store(postgres, slice_of(["a"], labels(6)))
    execute(postgres, 'DELETE FROM simulation_results WHERE "timestamp" < :t', t=START + 3 * HOUR)
    execute(
        postgres,
        "DELETE FROM simulation_results WHERE \"timestamp\" = :t AND metric = 'RPS'",
        t=START + 4 * HOUR,
    )
    with claim(postgres.engine, Span(("a",), START, START + 9 * HOUR), 2) as claimed:
        assert [entry.timestamp for entry in claimed.pending] == [labels(6)[3], labels(6)[5]]
    assert len(pending_entries(postgres)) == 6


# Whoever reads the ledger waits, in the midst of it, until nobody holds the advisory lock 1.
GATE = (
    "ALTER TABLE deliveries RENAME TO entries_behind_the_gate",
    """
    CREATE FUNCTION gate() RETURNS boolean LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN true; END'
    """,
    "CREATE VIEW deliveries AS SELECT *, xmin FROM entries_behind_the_gate WHERE gate()",
)


def test_an_id_is_claimed_with_the_values_that_were_stored_under_it(postgres: Postgres) -> None:
    """Rows and entry are replaced while a claim is on its way: it takes both as they then are."""
    store(postgres, slice_of(["a"], labels(1)))
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


def test_a_writer_waits_until_a_claim_is_done(postgres: Postgres) -> None:
    store(postgres, slice_of(["a"], labels(2)))
    new = slice_of(["a"], labels(2), version="new", seed=1)
    with ThreadPoolExecutor() as threads:
        with claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed:
            writing = threads.submit(store, postgres, new)
            wait_until(lambda: len(sessions_waiting(postgres)) == 1)
            claimed.mark_published([claimed.pending[0].message_id])
        writing.result()
    assert [entry[2] for entry in ledger_entries(postgres)] == list(new.deliveries["message_id"])
    assert len(pending_entries(postgres)) == 2


def test_a_connection_lost_during_a_claim_is_told_and_leaves_all_pending(
    postgres: Postgres,
) -> None:
    store(postgres, slice_of(MODELS, labels(3)))
    with pytest.raises(OperationalError), claim(postgres.engine, SPAN, 4) as claimed:  # noqa: PT012
        claimed.mark_published([claimed.pending[0].message_id])
        execute(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
    assert len(pending_entries(postgres)) == 6


def test_a_connection_lost_before_marking_is_told(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(3)))
    with pytest.raises(OperationalError), claim(postgres.engine, SPAN, 4) as claimed:  # noqa: PT012
        execute(
            postgres,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state = 'idle in transaction'",
        )
        claimed.mark_published([claimed.pending[0].message_id])
    assert len(pending_entries(postgres)) == 6


def test_a_claim_that_stays_idle_is_ended_by_the_server(postgres: Postgres) -> None:
    """So that a machine which vanished does not keep its entries locked for hours."""
    store(postgres, slice_of(["a"], labels(1)))
    with (
        claim(postgres.engine, Span(("a",), START, START + HOUR), 1) as claimed,
    ):
        setting = sa.text("SELECT current_setting('idle_in_transaction_session_timeout')")
        assert claimed._connection.execute(setting).scalar() == "10min"  # noqa: SLF001
