"""A slice is stored whole or not at all, and again without a trace."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Barrier

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from adbc_driver_manager.dbapi import Error as BulkError
from psycopg2 import Error as PlainError

from sim_pipeline.metrics import METRICS
from sim_pipeline.store.batches import Slice, read_frame
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.writer import SliceWriter
from sim_pipeline_tests.store.windows import (
    START,
    consistent_values,
    execute,
    fetch,
    labels,
    last_id_drawn,
    ledger_entries,
    message_ids,
    pending_entries,
    publish_all,
    sessions_waiting,
    slice_of,
    store,
    stored_rows,
)
from sim_pipeline_tests.support.waiting import wait_until

MODELS = ("GPT-4o", "Llama-3.1-8B")
REFUSED = (PlainError, BulkError)
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


@pytest.fixture(autouse=True, params=[0, 10**9], ids=["bulk", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every slice in bulk, then every slice plainly, whatever its size."""
    monkeypatch.setattr("sim_pipeline.store.writer.FEW_VALUES", request.param)


def number_of_rows(postgres: Postgres) -> int:
    ((count,),) = fetch(postgres, "SELECT count(*) FROM simulation_results")
    return int(count)


@contextmanager
def uncommitted(postgres: Postgres, statement: str) -> Iterator[sa.Connection]:
    """Do something in a transaction that is rolled back at the end, if it still is open."""
    with postgres.engine.connect() as connection:
        connection.execute(sa.text(statement))
        yield connection


ENTRY_IN_THE_WAY = f"""
    INSERT INTO deliveries VALUES ('GPT-4o', '{START}', gen_random_uuid(), now(), NULL)
"""
ROW_IN_THE_WAY = f"""
    INSERT INTO simulation_results (llm_name, metric, "values", "timestamp")
    VALUES ('GPT-4o', 'RPS', ARRAY[1.0], '{START}')
"""


# Laying out


def test_a_slice_holds_a_row_per_metric_and_an_entry_per_window() -> None:
    values = consistent_values(2, points=3)
    part = Slice(["a", "b"], labels(2), message_ids(2), values)
    assert part.windows == 2
    assert list(part.results.columns) == ["llm_name", "metric", "values", "timestamp"]
    assert list(part.results["llm_name"]) == ["a"] * 4 + ["b"] * 4
    assert list(part.results["metric"]) == [*METRICS, *METRICS]
    assert np.array_equal(np.stack(list(part.results["values"])), values.reshape(8, 3))
    assert list(part.results["timestamp"]) == [label for label in labels(2) for _ in METRICS]
    assert str(part.results["timestamp"].dtype) == "datetime64[us, UTC]"
    assert list(part.deliveries["message_id"]) == [str(one) for one in message_ids(2)]


def test_timestamps_of_another_zone_are_taken_as_the_instants_they_are() -> None:
    local = START.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo)
    part = Slice(["a"], [local], message_ids(1), consistent_values(1))
    assert part.deliveries["timestamp"][0] == START


@pytest.mark.parametrize(
    ("names", "timestamps", "ids", "shape", "reason"),
    [
        (2, 1, 1, (1, 4, 5), "2 names, 1 timestamps, 1 message ids"),
        (1, 2, 1, (1, 4, 5), "1 names, 2 timestamps, 1 message ids"),
        (1, 1, 2, (1, 4, 5), "1 names, 1 timestamps, 2 message ids"),
        (1, 1, 1, (2, 4, 5), r"values of shape \(2, 4, 5\).* same number of windows"),
        (1, 1, 1, (1, 3, 5), r"shape \(1, 3, 5\): allowed is \(windows, 4, points\)"),
        (1, 1, 1, (4, 5), r"shape \(4, 5\): allowed is \(windows, 4, points\)"),
        (1, 1, 1, (), r"shape \(\): allowed is \(windows, 4, points\)"),
        (1, 1, 1, (1, 4, 0), r"shape \(1, 4, 0\): .*at least one point"),
    ],
)
def test_arguments_of_different_windows_are_refused(
    names: int, timestamps: int, ids: int, shape: tuple[int, ...], reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        Slice(["a"] * names, labels(timestamps), message_ids(ids), np.ones(shape))


def test_a_naive_timestamp_is_refused() -> None:
    naive = START.replace(tzinfo=None)
    with pytest.raises(ValueError, match="2026-11-24 00:00:00 has no zone"):
        Slice(["a"], [naive], message_ids(1), consistent_values(1))


def test_a_window_twice_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a 2026-11-24T00:00:00\+00:00 is .* more than once"):
        Slice(["a", "a"], [START, START], message_ids(2), consistent_values(2))


# Storing


def test_rows_and_entries_are_stored(postgres: Postgres) -> None:
    part = slice_of(MODELS, labels(3))
    store(postgres, part)
    rows = stored_rows(postgres)
    assert [row[0] for row in rows] == list(range(1, 25))
    assert [row[1:4] for row in rows] == list(
        part.results[["llm_name", "metric", "timestamp"]].itertuples(index=False, name=None)
    )
    assert [row[:3] for row in ledger_entries(postgres)] == sorted(
        part.deliveries.itertuples(index=False, name=None), key=lambda entry: (entry[1], entry[0])
    )
    assert len(pending_entries(postgres)) == 6


def test_values_come_back_bit_for_bit(postgres: Postgres) -> None:
    tiny, huge = 5e-324, 1.7976931348623157e308
    values = np.array([[
        [tiny, -tiny, 2.2250738585072014e-308, 0.1],
        [huge, -huge, 1e308, 1 / 3],
        [0.0, -0.0, np.nextafter(1, 2), np.pi],
        [np.inf, -np.inf, np.nan, 1e-308],
    ]])  # fmt: skip
    store(postgres, Slice(["a"], [START], message_ids(1), values))
    frame = read_frame(
        postgres.engine, llm_names=["a"], first_day="2026-11-24", last_day="2026-11-24"
    )
    back = np.array(list(frame["values"]))
    assert back.tobytes() == values.tobytes()


def test_singles_are_stored_as_doubles(postgres: Postgres) -> None:
    values = consistent_values(1).astype(np.float32)
    store(postgres, Slice(["a"], [START], message_ids(1), values))  # type: ignore[arg-type]
    assert np.array_equal([row[4] for row in stored_rows(postgres)], values[0].astype(float))


def test_timestamps_are_kept_to_the_microsecond(postgres: Postgres) -> None:
    moments = [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(2024, 9, 27, 11, 29, 13, 291565, tzinfo=UTC),
        datetime(2026, 11, 24, 0, 0, 0, 1, tzinfo=UTC),
        datetime(2039, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ]
    store(postgres, slice_of(["a"], moments))
    assert [row[1] for row in ledger_entries(postgres)] == moments
    assert [row[3] for row in stored_rows(postgres)[::4]] == moments


def test_any_name_is_kept(postgres: Postgres) -> None:
    store(postgres, slice_of(AWKWARD, labels(2)))
    assert {row[1] for row in stored_rows(postgres)} == set(AWKWARD)
    assert {row[0] for row in ledger_entries(postgres)} == set(AWKWARD)
    frame = read_frame(
        postgres.engine, llm_names=AWKWARD, first_day="2026-11-24", last_day="2026-11-24"
    )
    assert set(frame["llm_name"]) == set(AWKWARD)


def test_a_slice_may_hold_nothing(postgres: Postgres) -> None:
    store(postgres, Slice([], [], [], np.empty((0, 4, 5))))
    assert stored_rows(postgres) == ledger_entries(postgres) == []


def test_many_points_and_many_windows(postgres: Postgres) -> None:
    long, wide = slice_of(["a"], labels(10), points=10_000), slice_of(["b"], labels(20_000))
    store(postgres, long, wide, long, wide)
    assert last_id_drawn(postgres) == number_of_rows(postgres) == 4 * 20_010
    back = [row[4] for row in stored_rows(postgres)[:40]]
    assert np.array_equal(back, consistent_values(10, 10_000).reshape(40, 10_000))


# Again


def test_the_same_slice_again_leaves_no_trace(postgres: Postgres) -> None:
    part = slice_of(MODELS, labels(3))
    store(postgres, part)
    publish_all(postgres)
    rows, entries = stored_rows(postgres), ledger_entries(postgres)
    store(postgres, part, part)
    assert stored_rows(postgres) == rows
    assert ledger_entries(postgres) == entries
    assert last_id_drawn(postgres) == len(rows)


def test_another_message_id_replaces_the_rows_and_makes_the_entry_pending(
    postgres: Postgres,
) -> None:
    store(postgres, slice_of(["GPT-4o"], labels(3)))
    publish_all(postgres)
    before, entries = stored_rows(postgres), ledger_entries(postgres)
    store(postgres, slice_of(["GPT-4o"], labels(4)[1:], version="other", seed=1))
    after = stored_rows(postgres)
    assert after[:4] == before[:4]
    assert [row[:4] for row in after[:12]] == [row[:4] for row in before]
    assert np.array_equal(
        [row[4] for row in after[4:]], consistent_values(3, seed=1).reshape(12, 5)
    )
    assert last_id_drawn(postgres) == 16
    assert pending_entries(postgres) == [("GPT-4o", label) for label in labels(4)[1:]]
    now = ledger_entries(postgres)
    assert now[0] == entries[0]
    assert all(
        new[2] != old[2] and new[3] > old[3] for new, old in zip(now[1:], entries[1:], strict=False)
    )


def test_only_the_rows_that_are_missing_are_written(postgres: Postgres) -> None:
    part = slice_of(MODELS, labels(3))
    store(postgres, part)
    publish_all(postgres)
    rows, entries = stored_rows(postgres), ledger_entries(postgres)
    execute(postgres, "UPDATE simulation_results SET \"values\" = '{1}' WHERE id = 1")
    execute(postgres, "DELETE FROM simulation_results WHERE id IN (6, 7, 20)")
    store(postgres, part)
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


def test_rows_without_an_entry_are_replaced_under_a_new_one(postgres: Postgres) -> None:
    store(postgres, slice_of(["GPT-4o"], labels(2)))
    before = stored_rows(postgres)
    execute(postgres, "DELETE FROM deliveries")
    store(postgres, slice_of(["GPT-4o"], labels(2), seed=1))
    assert [row[:4] for row in stored_rows(postgres)] == [row[:4] for row in before]
    assert stored_rows(postgres) != before
    assert len(pending_entries(postgres)) == 2


def test_force_rewrites_values_and_leaves_the_ledger(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(3)))
    publish_all(postgres)
    before, entries = stored_rows(postgres), ledger_entries(postgres)
    store(postgres, slice_of(MODELS, labels(3), seed=1), force=True)
    after = stored_rows(postgres)
    assert [row[:4] for row in after] == [row[:4] for row in before]
    assert np.array_equal([row[4] for row in after], consistent_values(6, seed=1).reshape(24, 5))
    assert ledger_entries(postgres) == entries
    assert last_id_drawn(postgres) == len(before)


def test_force_writes_what_is_not_there_and_enters_it(postgres: Postgres) -> None:
    store(postgres, slice_of(MODELS, labels(2)), force=True)
    assert number_of_rows(postgres) == 16
    assert len(pending_entries(postgres)) == 4


# All or nothing


def test_a_row_that_is_refused_leaves_nothing_of_its_slice(postgres: Postgres) -> None:
    execute(postgres, 'ALTER TABLE simulation_results ADD CONSTRAINT low CHECK ("values"[1] < 1e9)')
    broken = slice_of(["second"], labels(2))
    broken.values[-1, -1, 0] = 1e10
    with SliceWriter(postgres) as writer:
        writer.write(slice_of(["first"], labels(2)))
        with pytest.raises(REFUSED, match='"low"'):
            writer.write(broken)
        assert {row[1] for row in stored_rows(postgres)} == {"first"}
        assert {row[0] for row in ledger_entries(postgres)} == {"first"}
        writer.write(slice_of(["third"], labels(2)))
    assert {row[1] for row in stored_rows(postgres)} == {"first", "third"}


def test_a_name_too_long_is_refused_with_its_slice(postgres: Postgres) -> None:
    with pytest.raises(REFUSED, match="too long"):
        store(postgres, slice_of(["a", "x" * 51], labels(1)))
    assert stored_rows(postgres) == ledger_entries(postgres) == []


@pytest.mark.parametrize("obstacle", [ENTRY_IN_THE_WAY, ROW_IN_THE_WAY])
def test_a_connection_cut_midway_leaves_nothing(postgres: Postgres, obstacle: str) -> None:
    part = slice_of(["GPT-4o", "another"], labels(2))
    with SliceWriter(postgres) as writer, ThreadPoolExecutor() as threads:
        with uncommitted(postgres, obstacle) as other:
            writing = threads.submit(writer.write, part)
            wait_until(lambda: len(sessions_waiting(postgres)) == 1)
            (pid,) = sessions_waiting(postgres)
            other.execute(sa.text("SELECT pg_terminate_backend(:pid)"), {"pid": pid})
            with pytest.raises(REFUSED, match="terminat"):
                writing.result()
        assert stored_rows(postgres) == ledger_entries(postgres) == []
        writer.write(part)
    assert number_of_rows(postgres) == 16
    assert len(ledger_entries(postgres)) == 4


# Side by side


@pytest.mark.parametrize("force", [False, True])
def test_two_writers_of_one_slice_store_it_once(postgres: Postgres, *, force: bool) -> None:
    part = slice_of(MODELS, labels(3))
    with ThreadPoolExecutor() as threads:
        # Neither gets past the entry that stands in the way: both have begun when it goes.
        with uncommitted(postgres, ENTRY_IN_THE_WAY):
            writers = [threads.submit(store, postgres, part, force=force) for _ in range(2)]
            wait_until(lambda: len(sessions_waiting(postgres)) == 2)
        for writer in writers:
            writer.result()
    assert last_id_drawn(postgres) == number_of_rows(postgres) == 24
    assert len(ledger_entries(postgres)) == 6


def test_of_two_writers_with_different_ids_one_wins_whole(postgres: Postgres) -> None:
    parts = [slice_of(MODELS, labels(3), version=str(seed), seed=seed) for seed in range(2)]
    with ThreadPoolExecutor() as threads:
        with uncommitted(postgres, ENTRY_IN_THE_WAY):
            writers = [threads.submit(store, postgres, part) for part in parts]
            wait_until(lambda: len(sessions_waiting(postgres)) == 2)
        for writer in writers:
            writer.result()
    ids = {row[2] for row in ledger_entries(postgres)}
    (winner,) = [seed for seed in range(2) if ids == set(parts[seed].deliveries["message_id"])]
    values = [row[4] for row in stored_rows(postgres)]
    assert np.array_equal(values, consistent_values(6, seed=winner).reshape(24, 5))
    assert last_id_drawn(postgres) == 24


def test_writers_in_opposite_order_do_not_deadlock(postgres: Postgres) -> None:
    rounds, windows = 8, 400
    ready = Barrier(4)

    def write(number: int) -> None:
        # Overlapping stretches, each the other way round than the next writer's.
        with SliceWriter(postgres) as writer:
            for turn in range(rounds):
                stretch = labels(windows)[50 * number : 50 * number + 250]
                names = MODELS if number % 2 else MODELS[::-1]
                part = slice_of(
                    names, stretch if number % 2 else stretch[::-1], version=str(turn), seed=turn
                )
                ready.wait(60)
                writer.write(part, force=number == 3)

    with ThreadPoolExecutor() as threads:
        for writing in [threads.submit(write, number) for number in range(4)]:
            writing.result()
    assert last_id_drawn(postgres) == number_of_rows(postgres) == 2 * windows * 4
    assert len(ledger_entries(postgres)) == 2 * windows


# Reading


def test_a_frame_is_read_by_days_in_the_order_of_the_metrics(postgres: Postgres) -> None:
    days = labels(4, start=START - timedelta(hours=24), step=timedelta(hours=16))
    part = slice_of(MODELS, days)
    store(postgres, part)
    execute(postgres, "DELETE FROM simulation_results WHERE metric IN ('TTFT', 'e2e_latency')")
    store(postgres, part)
    frame = read_frame(
        postgres.engine, llm_names=["Llama-3.1-8B"], first_day="2026-11-23", last_day="2026-11-24"
    )
    assert list(frame["timestamp"]) == [label for label in days[:3] for _ in METRICS]
    assert list(frame["metric"]) == list(METRICS) * 3
    assert np.array_equal(np.array(list(frame["values"])), consistent_values(8)[4:7].reshape(12, 5))


def test_a_frame_is_in_utc_whatever_zone_the_server_has(postgres: Postgres) -> None:
    start = datetime(2026, 10, 25, tzinfo=UTC)  # the night summer time ends
    store(postgres, slice_of(["a"], labels(24, start=start)))
    execute(postgres, f"ALTER DATABASE {postgres.database} SET timezone TO 'Europe/Berlin'")
    postgres.engine.dispose()
    frame = read_frame(
        postgres.engine, llm_names=["a"], first_day="2026-10-25", last_day="2026-10-25"
    )
    assert isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype)
    assert str(frame["timestamp"].dt.tz) == "UTC"
    assert list(frame["timestamp"][::4]) == labels(24, start=start)


def test_no_rows_are_a_frame_as_well(postgres: Postgres) -> None:
    frame = read_frame(
        postgres.engine, llm_names=["a"], first_day="2026-11-24", last_day="2026-11-24"
    )
    assert list(frame.columns) == ["llm_name", "metric", "values", "timestamp"]
    assert isinstance(frame["timestamp"].dtype, pd.DatetimeTZDtype)
