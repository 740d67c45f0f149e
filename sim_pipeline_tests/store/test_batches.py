"""A batch is stored whole or not at all, and storing it again changes nothing."""

import dataclasses
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from adbc_driver_manager.dbapi import Error as CopyError
from psycopg2 import Error as InsertError

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.batches import WindowBatch, read_frame
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.schema import COUNTS
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline.windows import EPOCH
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.stored_windows import (
    START,
    batch_of,
    consistent_values,
    counts_of,
    event,
    execute,
    fetch,
    last_id_drawn,
    ledger_entries,
    message_ids,
    pending_entries,
    publish_all,
    random_counts,
    sessions_waiting,
    store,
    stored_counts,
    stored_rows,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B")
REFUSED = (InsertError, CopyError)
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


@pytest.fixture(autouse=True, params=[0, 10**9], ids=["copy", "insert"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every batch by COPY, then every batch by INSERT, whatever its size."""
    monkeypatch.setattr("sim_pipeline.store.writer.MAX_INSERT_VALUES", request.param)


def number_of_rows(postgres: Postgres) -> int:
    ((count,),) = fetch(postgres, "SELECT count(*) FROM simulation_results")
    return int(count)


@contextmanager
def uncommitted(postgres: Postgres, statement: str) -> Iterator[sa.Connection]:
    """Execute a statement in a transaction that is rolled back at the end, if still open."""
    with postgres.engine.connect() as connection:
        connection.execute(sa.text(statement))
        yield connection


CONFLICTING_ENTRY = f"""
    INSERT INTO deliveries VALUES ('GPT-4o', '{START}', gen_random_uuid(), now(), NULL)
"""
CONFLICTING_ROW = f"""
    INSERT INTO simulation_results (llm_name, metric, "values", "timestamp")
    VALUES ('GPT-4o', 'RPS', ARRAY[1.0], '{START}')
"""


# A batch as tables


def test_batch_has_a_row_per_metric_and_entry_per_window() -> None:
    values = consistent_values(2, points=3)
    counts = random_counts(2)
    batch = WindowBatch(["a", "b"], window_starts(2), message_ids(2), values, counts, 3600)
    assert batch.windows == 2
    results = batch.results_table().to_pydict()
    assert list(results) == ["llm_name", "metric", "values", "timestamp"]
    assert results["llm_name"] == ["a"] * 4 + ["b"] * 4
    assert results["metric"] == [*METRICS, *METRICS]
    assert np.array_equal(results["values"], values.reshape(8, 3))
    assert results["timestamp"] == [start for start in window_starts(2) for _ in METRICS]
    assert str(batch.results_table().schema.field("timestamp").type) == "timestamp[us, tz=UTC]"
    windows = batch.windows_table().to_pydict()
    assert list(windows) == ["llm_name", "timestamp", "message_id", *COUNTS]
    assert windows["message_id"] == [str(one) for one in message_ids(2)]
    assert [windows[name] for name in COUNTS] == counts.T.tolist()


def test_window_start_in_another_time_zone() -> None:
    local = START.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo)
    batch = WindowBatch(["a"], [local], message_ids(1), consistent_values(1), random_counts(1), 60)
    assert batch.windows_table()["timestamp"].to_pylist() == [START]


@pytest.mark.parametrize(
    ("names", "starts", "ids", "shape", "reason"),
    [
        (2, 1, 1, (1, 4, 5), "2 names, 1 window starts, 1 message ids"),
        (1, 2, 1, (1, 4, 5), "1 names, 2 window starts, 1 message ids"),
        (1, 1, 2, (1, 4, 5), "1 names, 1 window starts, 2 message ids"),
        (1, 1, 1, (2, 4, 5), r"values of shape \(2, 4, 5\).* same number of windows"),
        (1, 1, 1, (1, 3, 5), r"shape \(1, 3, 5\): allowed is \(windows, 4, points\)"),
        (1, 1, 1, (4, 5), r"shape \(4, 5\): allowed is \(windows, 4, points\)"),
        (1, 1, 1, (), r"shape \(\): allowed is \(windows, 4, points\)"),
        (1, 1, 1, (1, 4, 0), r"shape \(1, 4, 0\): .*at least one point"),
    ],
)
def test_attributes_of_different_lengths_are_refused(
    names: int, starts: int, ids: int, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        WindowBatch(
            ["a"] * names,
            window_starts(starts),
            message_ids(ids),
            np.ones(shape),
            random_counts(1),
            3600,
        )


@pytest.mark.parametrize("shape", [(1, 4), (2, 3), (2,), (4, 2)])
def test_counts_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    reason = f"{re.escape(str(shape))}: allowed is .2, 4., a row for each window with completed, "
    with pytest.raises(ValueError, match=reason):
        WindowBatch(
            ["a", "a"],
            window_starts(2),
            message_ids(2),
            consistent_values(2),
            np.ones(shape, dtype=np.int64),
            3600,
        )


def test_naive_window_start_is_refused() -> None:
    naive = START.replace(tzinfo=None)
    with pytest.raises(ValueError, match="2026-11-24 00:00:00 has no time zone"):
        WindowBatch(["a"], [naive], message_ids(1), consistent_values(1), random_counts(1), 60)


def test_duplicate_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a 2026-11-24T00:00:00Z is .* more than once"):
        WindowBatch(
            ["a", "a"], [START, START], message_ids(2), consistent_values(2), random_counts(2), 60
        )


@pytest.mark.parametrize("seconds", [0, -3600])
def test_window_length_below_a_second_is_refused(seconds: int) -> None:
    with pytest.raises(ValueError, match=f"window_seconds is {seconds}: allowed are 1 and more"):
        batch_of(["a"], [START], window_seconds=seconds)


def test_events_of_other_models_are_refused() -> None:
    events = [event(0, 1, name) for name in ("c", "a", "b")]
    with pytest.raises(ValueError, match="has events of b, c and no window of them"):
        batch_of(["a"], [START], events=events)


def test_duplicate_event_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the incident of a at .* is in the batch more than once"):
        batch_of(["a"], [START], events=[event(0, 1, "a")] * 2)


@pytest.mark.parametrize(
    ("attribute", "value", "reason"),
    [
        ("kind", "outage", "event of GPT-4o: kind is 'outage': allowed are incident, level_shift,"),
        ("metrics", ("TTFT", "ITL"), r"metrics is .*'ITL'.: allowed are TTFT, TPS, "),
        ("size", -0.1, "size is -0.1: allowed are finite numbers from 0"),
        ("size", np.nan, "size is nan: allowed"),
        ("size", np.inf, "size is inf: allowed"),
        ("started_at", START.replace(tzinfo=None), "2026-11-24 00:00:00 has no time zone"),
        ("ended_at", START.replace(tzinfo=None), "2026-11-24 00:00:00 has no time zone"),
        ("ended_at", START, "ended_at is 2026-11-24 .*: allowed are times after its start, 2026"),
    ],
)
def test_impossible_event_is_refused(attribute: str, value: object, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dataclasses.replace(event(0, 1), **{attribute: value})  # type: ignore[arg-type]


# Storing


def test_rows_and_entries_are_stored(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(3))
    store(postgres, batch)
    rows = stored_rows(postgres)
    assert [row[0] for row in rows] == list(range(1, 25))
    results = batch.results_table().select(["llm_name", "metric", "timestamp"]).to_pydict()
    assert [row[1:4] for row in rows] == list(zip(*results.values(), strict=True))
    windows = batch.windows_table().select(["llm_name", "timestamp", "message_id"]).to_pydict()
    assert [row[:3] for row in ledger_entries(postgres)] == sorted(
        zip(*windows.values(), strict=True), key=lambda entry: (entry[1], entry[0])
    )
    assert len(pending_entries(postgres)) == 6
    assert stored_counts(postgres) == counts_of(batch)


def test_counts_are_stored_over_their_whole_range(postgres: Postgres) -> None:
    counts = np.array([[0, 0, 0, 0], [2**63 - 1, 1, 0, 2**53 + 1]])
    batch = WindowBatch(
        ["a", "a"], window_starts(2), message_ids(2), consistent_values(2), counts, 3600
    )
    store(postgres, batch)
    assert stored_counts(postgres) == counts_of(batch)


def test_values_come_back_bit_for_bit(postgres: Postgres) -> None:
    tiny, huge = 5e-324, 1.7976931348623157e308
    values = np.array([[
        [tiny, -tiny, 2.2250738585072014e-308, 0.1],
        [huge, -huge, 1e308, 1 / 3],
        [0.0, -0.0, np.nextafter(1, 2), np.pi],
        [np.inf, -np.inf, np.nan, 1e-308],
    ]])  # fmt: skip
    store(postgres, WindowBatch(["a"], [START], message_ids(1), values, random_counts(1), 3600))
    frame = read_frame(
        postgres.engine, llm_names=["a"], first_day="2026-11-24", last_day="2026-11-24"
    )
    back = np.array(list(frame["values"]))
    assert back.tobytes() == values.tobytes()


def test_float32_is_stored_as_float64(postgres: Postgres) -> None:
    values = consistent_values(1).astype(np.float32)
    store(
        postgres,
        WindowBatch(["a"], [START], message_ids(1), values, random_counts(1), 3600),  # type: ignore[arg-type]
    )
    assert np.array_equal([row[4] for row in stored_rows(postgres)], values[0].astype(float))


def test_timestamps_are_exact_to_the_microsecond(postgres: Postgres) -> None:
    starts = [
        EPOCH,
        datetime(2024, 9, 27, 11, 29, 13, 291565, tzinfo=UTC),
        datetime(2026, 11, 24, 0, 0, 0, 1, tzinfo=UTC),
        datetime(2039, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    store(postgres, batch_of(["a"], starts))
    assert [row[1] for row in ledger_entries(postgres)] == starts
    assert [row[3] for row in stored_rows(postgres)[::4]] == starts


def test_any_name_is_stored(postgres: Postgres) -> None:
    store(postgres, batch_of(AWKWARD, window_starts(2)))
    assert {row[1] for row in stored_rows(postgres)} == set(AWKWARD)
    assert {row[0] for row in ledger_entries(postgres)} == set(AWKWARD)
    frame = read_frame(
        postgres.engine, llm_names=AWKWARD, first_day="2026-11-24", last_day="2026-11-24"
    )
    assert set(frame["llm_name"]) == set(AWKWARD)


def test_empty_batch_is_allowed(postgres: Postgres) -> None:
    store(postgres, WindowBatch([], [], [], np.empty((0, 4, 5)), random_counts(0), 3600))
    assert stored_rows(postgres) == ledger_entries(postgres) == stored_counts(postgres) == []


def test_many_points_and_many_windows(postgres: Postgres) -> None:
    long, wide = (
        batch_of(["a"], window_starts(10), points=10_000),
        batch_of(["b"], window_starts(20_000)),
    )
    store(postgres, long, wide, long, wide)
    assert last_id_drawn(postgres) == number_of_rows(postgres) == 4 * 20_010
    back = [row[4] for row in stored_rows(postgres)[:40]]
    assert np.array_equal(back, consistent_values(10, 10_000).reshape(40, 10_000))
    assert stored_counts(postgres) == counts_of(long, wide)


# Storing again


def test_same_batch_again_changes_nothing(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(3))
    store(postgres, batch)
    publish_all(postgres)
    rows, entries = stored_rows(postgres), ledger_entries(postgres)
    versions = fetch(postgres, "SELECT llm_name, xmin::text FROM request_counts ORDER BY 1, 2")
    store(postgres, batch, batch)
    assert stored_rows(postgres) == rows
    assert ledger_entries(postgres) == entries
    assert (
        fetch(postgres, "SELECT llm_name, xmin::text FROM request_counts ORDER BY 1, 2") == versions
    )
    assert last_id_drawn(postgres) == len(rows)


def test_new_message_id_replaces_rows_and_reopens_entry(
    postgres: Postgres,
) -> None:
    first = batch_of(["GPT-4o"], window_starts(3))
    store(postgres, first)
    publish_all(postgres)
    before, entries = stored_rows(postgres), ledger_entries(postgres)
    other = batch_of(["GPT-4o"], window_starts(4)[1:], version="other", seed=1)
    store(postgres, other)
    assert stored_counts(postgres) == counts_of(first)[:1] + counts_of(other)
    after = stored_rows(postgres)
    assert after[:4] == before[:4]
    assert [row[:4] for row in after[:12]] == [row[:4] for row in before]
    assert np.array_equal(
        [row[4] for row in after[4:]], consistent_values(3, seed=1).reshape(12, 5)
    )
    assert last_id_drawn(postgres) == 16
    assert pending_entries(postgres) == [("GPT-4o", start) for start in window_starts(4)[1:]]
    now = ledger_entries(postgres)
    assert now[0] == entries[0]
    assert all(
        new[2] != old[2] and new[3] > old[3] for new, old in zip(now[1:], entries[1:], strict=False)
    )


def test_only_missing_rows_are_written(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(3))
    store(postgres, batch)
    publish_all(postgres)
    rows, entries = stored_rows(postgres), ledger_entries(postgres)
    execute(postgres, "UPDATE simulation_results SET \"values\" = '{1}' WHERE id = 1")
    execute(postgres, "DELETE FROM simulation_results WHERE id IN (6, 7, 20)")
    store(postgres, batch)
    after = {row[1:4]: row for row in stored_rows(postgres)}
    assert len(after) == len(rows)
    for row in rows:
        found = after[row[1:4]]
        if row[0] == 1:
            assert found == (*row[:4], [1.0])
        elif row[0] in {6, 7, 20}:
            assert found[0] > len(rows)
            assert found[4] == row[4]
        else:
            assert found == row
    assert last_id_drawn(postgres) == len(rows) + 3
    assert ledger_entries(postgres) == entries


def test_stored_counts_are_kept_and_missing_ones_written(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(3))
    store(postgres, batch)
    publish_all(postgres)
    rows, entries = stored_rows(postgres), ledger_entries(postgres)
    execute(postgres, "UPDATE request_counts SET completed = 7 WHERE llm_name = 'GPT-4o'")
    execute(postgres, 'DELETE FROM request_counts WHERE "timestamp" = :start', start=START)
    store(postgres, batch)
    assert stored_counts(postgres) == [
        (*row[:2], 7, *row[3:]) if row[0] == "GPT-4o" and row[1] > START else row
        for row in counts_of(batch)
    ]
    assert (stored_rows(postgres), ledger_entries(postgres)) == (rows, entries)


def test_counts_without_rows_are_replaced(postgres: Postgres) -> None:
    store(postgres, batch_of(["GPT-4o"], window_starts(2)))
    execute(postgres, "DELETE FROM simulation_results")
    execute(postgres, "DELETE FROM deliveries")
    batch = batch_of(["GPT-4o"], window_starts(2), seed=1)
    store(postgres, batch)
    assert stored_counts(postgres) == counts_of(batch)


def test_rows_without_entry_are_replaced(postgres: Postgres) -> None:
    store(postgres, batch_of(["GPT-4o"], window_starts(2)))
    before = stored_rows(postgres)
    execute(postgres, "DELETE FROM deliveries")
    batch = batch_of(["GPT-4o"], window_starts(2), seed=1)
    store(postgres, batch)
    assert [row[:4] for row in stored_rows(postgres)] == [row[:4] for row in before]
    assert stored_rows(postgres) != before
    assert stored_counts(postgres) == counts_of(batch)
    assert len(pending_entries(postgres)) == 2


def test_force_replaces_values_but_not_entries(postgres: Postgres) -> None:
    store(postgres, batch_of(MODELS, window_starts(3)))
    publish_all(postgres)
    before, entries = stored_rows(postgres), ledger_entries(postgres)
    other = batch_of(MODELS, window_starts(3), seed=1)
    store(postgres, other, force=True)
    assert stored_counts(postgres) == counts_of(other)
    after = stored_rows(postgres)
    assert [row[:4] for row in after] == [row[:4] for row in before]
    assert np.array_equal([row[4] for row in after], consistent_values(6, seed=1).reshape(24, 5))
    assert ledger_entries(postgres) == entries
    assert last_id_drawn(postgres) == len(before)


def test_force_writes_new_windows(postgres: Postgres) -> None:
    batch = batch_of(MODELS, window_starts(2))
    store(postgres, batch, force=True)
    assert stored_counts(postgres) == counts_of(batch)
    assert number_of_rows(postgres) == 16
    assert len(pending_entries(postgres)) == 4


# All or nothing


def test_refused_row_rolls_back_its_batch(postgres: Postgres) -> None:
    execute(postgres, 'ALTER TABLE simulation_results ADD CONSTRAINT low CHECK ("values"[1] < 1e9)')
    broken = batch_of(["second"], window_starts(2))
    broken.values[-1, -1, 0] = 1e10
    with BatchWriter(postgres) as writer:
        writer.write(batch_of(["first"], window_starts(2)))
        with pytest.raises(REFUSED, match='"low"'):
            writer.write(broken)
        assert {row[1] for row in stored_rows(postgres)} == {"first"}
        assert {row[0] for row in ledger_entries(postgres)} == {"first"}
        assert {row[0] for row in stored_counts(postgres)} == {"first"}
        writer.write(batch_of(["third"], window_starts(2)))
    assert {row[1] for row in stored_rows(postgres)} == {"first", "third"}


@pytest.mark.parametrize("outcome", range(len(COUNTS)))
def test_negative_count_rolls_back_its_batch(postgres: Postgres, outcome: int) -> None:
    kept = batch_of(["GPT-4o"], window_starts(2))
    broken = batch_of(MODELS, window_starts(2), version="other", seed=1)
    broken.counts[-1, outcome] = -1
    with pytest.raises(REFUSED, match="counts_not_negative"):
        store(postgres, broken)
    assert stored_rows(postgres) == ledger_entries(postgres) == stored_counts(postgres) == []

    store(postgres, kept)
    rows, entries = stored_rows(postgres), ledger_entries(postgres)
    with pytest.raises(REFUSED, match="counts_not_negative"):
        store(postgres, broken)
    assert (stored_rows(postgres), ledger_entries(postgres)) == (rows, entries)
    assert stored_counts(postgres) == counts_of(kept)


def test_too_long_name_rolls_back_its_batch(postgres: Postgres) -> None:
    with pytest.raises(REFUSED, match="too long"):
        store(postgres, batch_of(["a", "x" * 51], window_starts(1)))
    assert stored_rows(postgres) == ledger_entries(postgres) == stored_counts(postgres) == []


@pytest.mark.parametrize("conflict", [CONFLICTING_ENTRY, CONFLICTING_ROW])
def test_lost_connection_leaves_nothing(postgres: Postgres, conflict: str) -> None:
    batch = batch_of(["GPT-4o", "another"], window_starts(2))
    with BatchWriter(postgres) as writer, ThreadPoolExecutor() as threads:
        with uncommitted(postgres, conflict) as other:
            writing = threads.submit(writer.write, batch)
            wait_until(lambda: len(sessions_waiting(postgres)) == 1)
            (pid,) = sessions_waiting(postgres)
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            with pytest.raises(REFUSED, match="terminat"):
                writing.result()
        assert stored_rows(postgres) == ledger_entries(postgres) == stored_counts(postgres) == []
        writer.write(batch)
    assert number_of_rows(postgres) == 16
    assert len(ledger_entries(postgres)) == 4
    assert stored_counts(postgres) == counts_of(batch)


# Concurrent writers


@pytest.mark.parametrize("force", [False, True])
def test_two_writers_of_one_batch_store_it_once(postgres: Postgres, *, force: bool) -> None:
    batch = batch_of(MODELS, window_starts(3))
    with ThreadPoolExecutor() as threads:
        # Both writers wait for the uncommitted entry: it is rolled back when both have begun.
        with uncommitted(postgres, CONFLICTING_ENTRY):
            writers = [threads.submit(store, postgres, batch, force=force) for _ in range(2)]
            wait_until(lambda: len(sessions_waiting(postgres)) == 2)
        for writer in writers:
            writer.result()
    assert last_id_drawn(postgres) == number_of_rows(postgres) == 24
    assert len(ledger_entries(postgres)) == 6
    assert stored_counts(postgres) == counts_of(batch)


def test_concurrent_writers_with_different_ids_do_not_mix(postgres: Postgres) -> None:
    batches = [
        batch_of(MODELS, window_starts(3), version=str(seed), seed=seed) for seed in range(2)
    ]
    with ThreadPoolExecutor() as threads:
        with uncommitted(postgres, CONFLICTING_ENTRY):
            writers = [threads.submit(store, postgres, batch) for batch in batches]
            wait_until(lambda: len(sessions_waiting(postgres)) == 2)
        for writer in writers:
            writer.result()
    ids = {row[2] for row in ledger_entries(postgres)}
    (winner,) = [seed for seed in range(2) if ids == set(map(str, batches[seed].message_ids))]
    values = [row[4] for row in stored_rows(postgres)]
    assert np.array_equal(values, consistent_values(6, seed=winner).reshape(24, 5))
    assert stored_counts(postgres) == counts_of(batches[winner])
    assert last_id_drawn(postgres) == 24


def test_writers_in_opposite_order_do_not_deadlock(postgres: Postgres) -> None:
    rounds, windows = 8, 400
    ready = Barrier(4)

    def write(number: int) -> None:
        # Overlapping ranges, each in the opposite order of the next writer's.
        with BatchWriter(postgres) as writer:
            for seed in range(rounds):
                starts = window_starts(windows)[50 * number : 50 * number + 250]
                names = MODELS if number % 2 else MODELS[::-1]
                batch = batch_of(
                    names, starts if number % 2 else starts[::-1], version=str(seed), seed=seed
                )
                ready.wait(60)
                writer.write(batch, force=number == 3)

    with ThreadPoolExecutor() as threads:
        for writing in [threads.submit(write, number) for number in range(4)]:
            writing.result()
    assert last_id_drawn(postgres) == number_of_rows(postgres) == 2 * windows * 4
    assert len(ledger_entries(postgres)) == len(stored_counts(postgres)) == 2 * windows


# Reading


def test_frame_is_read_by_days_in_metric_order(postgres: Postgres) -> None:
    days = window_starts(4, start=START - timedelta(hours=24), step=timedelta(hours=16))
    batch = batch_of(MODELS, days)
    store(postgres, batch)
    execute(postgres, "DELETE FROM simulation_results WHERE metric IN ('TTFT', 'e2e_latency')")
    store(postgres, batch)
    frame = read_frame(
        postgres.engine, llm_names=["Llama-3.1-8B"], first_day="2026-11-23", last_day="2026-11-24"
    )
    assert list(frame["timestamp"]) == [start for start in days[:3] for _ in METRICS]
    assert list(frame["metric"]) == list(METRICS) * 3
    assert np.array_equal(np.array(list(frame["values"])), consistent_values(8)[4:7].reshape(12, 5))


def test_frame_is_utc_whatever_the_server_time_zone(postgres: Postgres) -> None:
    start = datetime(2026, 10, 25, tzinfo=UTC)  # summer time ends in this night in Europe
    store(postgres, batch_of(["a"], window_starts(24, start=start)))
    execute(postgres, f"ALTER DATABASE {postgres.database} SET timezone TO 'Europe/Berlin'")
    postgres.engine.dispose()
    frame = read_frame(
        postgres.engine, llm_names=["a"], first_day="2026-10-25", last_day="2026-10-25"
    )
    assert isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype)
    assert str(frame["timestamp"].dt.tz) == "UTC"
    assert list(frame["timestamp"][::4]) == window_starts(24, start=start)


def test_empty_frame_has_its_columns(postgres: Postgres) -> None:
    frame = read_frame(
        postgres.engine, llm_names=["a"], first_day="2026-11-24", last_day="2026-11-24"
    )
    assert list(frame.columns) == ["llm_name", "metric", "values", "timestamp"]
    assert isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype)
