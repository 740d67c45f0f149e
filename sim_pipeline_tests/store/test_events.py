"""Simulated events are stored with the windows that they overlap, and read by time."""

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Barrier

import numpy as np
import pytest
import sqlalchemy as sa
from adbc_driver_manager.dbapi import Error as CopyError
from psycopg2 import Error as InsertError

from sim_pipeline.metrics import EVENT_KINDS, METRICS
from sim_pipeline.store.batches import SimulatedEvent, WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.store.events import EVENTS_LOCK, read_events
from sim_pipeline.store.writer import BatchWriter
from sim_pipeline_tests.support.assertions import wait_until
from sim_pipeline_tests.support.stored_windows import (
    HOUR,
    START,
    batch_of,
    event,
    execute,
    fetch,
    ledger_entries,
    sessions_waiting,
    store,
    stored_rows,
    window_starts,
)

MODELS = ("GPT-4o", "Llama-3.1-8B")
REFUSED = (InsertError, CopyError)
MICROSECOND = 1e-6 / 3600  # [h]


@pytest.fixture(params=[0, 10**9], ids=["copy", "insert"])
def driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write every batch by COPY, then every batch by INSERT, whatever its size."""
    monkeypatch.setattr("sim_pipeline.store.writer.MAX_INSERT_VALUES", request.param)


def read(
    postgres: Postgres,
    since: float = -1000,
    until: float = 1000,
    llm_names: Sequence[str] = MODELS,
) -> list[SimulatedEvent]:
    """Return the events between two times, in hours after `START`."""
    with postgres.engine.connect() as connection:
        return read_events(connection, llm_names, START + since * HOUR, START + until * HOUR)


def hours(
    *numbers: int,
    events: Sequence[SimulatedEvent] = (),
    version: str = "",
    llm_names: Sequence[str] = ("GPT-4o",),
) -> WindowBatch:
    """Return a batch with the windows that start so many hours after `START`."""
    return batch_of(
        llm_names, [START + hour * HOUR for hour in numbers], version=version, events=events
    )


def overlaps(one: SimulatedEvent, start: datetime, length: timedelta) -> bool:
    if one.ended_at is None:
        return start <= one.started_at < start + length
    return one.started_at < start + length and start < one.ended_at


# Writing


@pytest.mark.usefixtures("driver")
def test_events_come_back_as_they_were_written(postgres: Postgres) -> None:
    name = 'it\'s 100% {a} %s $1 \\ "日本"'
    events = [
        event(0.1 + MICROSECOND, 0.2, name, kind="burst", size=1 / 3, metrics=METRICS),
        event(0.3, None, name, kind="level_shift", size=5e-324, metrics=("TPS",)),
        event(0.4, 90.5, name, size=0.0, metrics=()),
        *(event(0.5, 0.6, name, kind=kind) for kind in EVENT_KINDS),
    ]
    local = datetime.strptime("+0530", "%z").tzinfo
    written = [
        replace(events[0], started_at=events[0].started_at.astimezone(local)),
        replace(events[1], size=np.float64(5e-324)),
        *events[2:],
    ]
    store(postgres, hours(0, llm_names=[name], events=written))
    found = read(postgres, llm_names=[name])
    assert found[:3] == events[:3]
    assert found[3:] == sorted(events[3:], key=lambda one: one.event_id)
    assert all(one.started_at.utcoffset() == timedelta() for one in found)


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("force", [False, True])
def test_same_batch_again_changes_no_event(postgres: Postgres, *, force: bool) -> None:
    query = "SELECT event_id, xmin::text FROM simulated_events ORDER BY 1"
    batch = hours(0, 1, events=[event(0.5, 1.5), event(1.2, None)])
    store(postgres, batch)
    before = fetch(postgres, query)
    assert len(before) == 2
    store(postgres, batch, force=force)
    assert fetch(postgres, query) == before


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("force", [False, True])
def test_replaced_windows_lose_events_of_other_inputs(postgres: Postgres, *, force: bool) -> None:
    kept = [
        event(0.5, 1),
        event(0.9, None),
        event(1.5, 1.6, "Llama-3.1-8B"),
        event(3, 4.5),
        event(3, None),
    ]
    lost = [event(0.5, 1 + MICROSECOND), event(0, 9), event(1, None), event(2.5, 2.6)]
    both = [event(1.7, 1.8), event(2, 3)]
    store(
        postgres,
        hours(0, 1, 2, 3, 4, events=kept[:2] + kept[3:] + lost + both),
        hours(0, 1, 2, 3, 4, llm_names=["Llama-3.1-8B"], events=kept[2:3]),
    )
    new = [event(1.1, 1.3)]
    store(postgres, hours(1, 2, version="other", events=new + both), force=force)
    assert set(read(postgres)) == {*kept, *both, *new}


@pytest.mark.usefixtures("driver")
def test_events_between_the_windows_of_a_batch_are_kept(postgres: Postgres) -> None:
    kept, lost = event(1.2, 2), event(1.2, 2 + MICROSECOND)
    store(postgres, hours(0, 1, 2, events=[kept, lost]))
    store(postgres, hours(0, 2, version="other"))
    assert read(postgres) == [kept]


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("force", [False, True])
def test_same_inputs_lose_stray_events(postgres: Postgres, *, force: bool) -> None:
    """An event of other inputs overlaps windows that these inputs have stored."""
    right, stray = event(0.5, 1.5), event(0.6, 1.4)
    store(postgres, hours(0, 1, events=[right, stray]))
    store(postgres, hours(0, 1, events=[right]), force=force)
    assert read(postgres) == [right]


@pytest.mark.usefixtures("driver")
def test_windows_of_another_length(postgres: Postgres) -> None:
    """Shared events get the new length; events of other inputs go, whatever their length was."""
    shared = event(0.5, 0.7)
    short = timedelta(minutes=6)
    starts = window_starts(10, step=short)
    store(
        postgres,
        batch_of(["GPT-4o"], starts, window_seconds=360, events=[shared, event(0.55, 0.56)]),
    )
    store(postgres, hours(0, version="hour", events=[shared]))
    assert read(postgres) == [shared]
    assert fetch(postgres, "SELECT window_seconds FROM simulated_events") == [(3600,)]
    store(
        postgres,
        batch_of(["GPT-4o"], starts, version="short", window_seconds=360, events=[shared]),
    )
    assert fetch(postgres, "SELECT window_seconds FROM simulated_events") == [(360,)]


@pytest.mark.usefixtures("driver")
def test_thousands_of_events_in_one_batch(postgres: Postgres) -> None:
    events = [event(hour / 4, hour / 4 + 0.2) for hour in range(4000)]
    store(postgres, hours(*range(1000), events=events))
    assert read(postgres) == events
    store(postgres, hours(*range(1000), version="other", events=events[1000:3000]))
    assert read(postgres) == events[1000:3000]


@pytest.mark.usefixtures("driver")
def test_batch_without_events_waits_for_no_event(postgres: Postgres) -> None:
    store(postgres, hours(0, events=[event(0.5, 0.6)]))
    with postgres.engine.connect() as other:
        other.execute(
            sa.text("SELECT pg_advisory_xact_lock(:key, hashtext('GPT-4o'))"), {"key": EVENTS_LOCK}
        )
        other.execute(sa.text("LOCK TABLE simulated_events IN SHARE ROW EXCLUSIVE MODE"))
        store(postgres, hours(1, 2))
    assert len(ledger_entries(postgres)) == 3


# Errors


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize(
    "refuse",
    [
        "ALTER TABLE simulated_events ADD CONSTRAINT small CHECK (size < 1)",
        # Refuses the commit, after the last statement.
        """
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'constraint small'; END $$;
        CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON simulated_events
        DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()
        """,
    ],
    ids=["insert", "commit"],
)
def test_refused_event_leaves_nothing_of_the_batch(postgres: Postgres, refuse: str) -> None:
    execute(postgres, refuse)
    batch = hours(0, 1, events=[event(0.1, 0.2, size=1.0)])
    with pytest.raises(REFUSED, match="small"):
        store(postgres, batch)
    assert stored_rows(postgres) == ledger_entries(postgres) == []
    assert read(postgres) == []


@pytest.mark.usefixtures("driver")
def test_error_leaves_the_events_of_before(postgres: Postgres) -> None:
    old = event(0.5, 1.5)
    store(postgres, hours(0, 1, events=[old]))
    execute(postgres, "ALTER TABLE simulated_events ADD CONSTRAINT small CHECK (size < 1)")
    with pytest.raises(REFUSED, match="small"):
        store(postgres, hours(0, 1, version="other", events=[event(0.1, 0.2, size=1.0)]))
    assert read(postgres) == [old]


# Concurrent writers


@pytest.mark.usefixtures("driver")
def test_writers_of_different_windows_share_an_event(postgres: Postgres) -> None:
    """The second writer waits at the shared event until the first one has committed."""
    shared = event(0.5, 1.5)
    with ThreadPoolExecutor() as threads:
        with postgres.engine.connect() as other:
            other.execute(
                sa.text("SELECT pg_advisory_xact_lock(:key, hashtext('GPT-4o'))"),
                {"key": EVENTS_LOCK},
            )
            writers = [
                threads.submit(store, postgres, hours(hour, events=[shared])) for hour in range(2)
            ]
            wait_until(lambda: len(sessions_waiting(postgres)) == 2)
        for writer in writers:
            writer.result()
    assert read(postgres) == [shared]
    assert len(ledger_entries(postgres)) == 2


@pytest.mark.usefixtures("driver")
@pytest.mark.parametrize("versions", [1, 2], ids=["same inputs", "other inputs"])
def test_concurrent_writers_do_not_deadlock(postgres: Postgres, versions: int) -> None:
    """Each writer has its own windows, and each event overlaps windows of all writers."""
    writers, rounds = 4, 12
    ready = Barrier(writers)

    def events_of(number: int, version: int) -> list[SimulatedEvent]:
        found = [
            event(0.1 + index / 100, 3.9, name, size=float(number * versions + version))
            for name in MODELS
            for index in range(30)
        ]
        # Each writer in another order.
        return found[number * 7 :] + found[: number * 7]

    def write(writer_number: int) -> None:
        with BatchWriter(postgres) as writer:
            for number in range(rounds):
                version = writer_number % versions
                ready.wait(60)
                writer.write(
                    hours(
                        writer_number,
                        llm_names=MODELS if writer_number % 2 else MODELS[::-1],
                        version=f"{number} {version}",
                        events=events_of(number, version),
                    )
                )

    with ThreadPoolExecutor() as threads:
        for writing in [threads.submit(write, number) for number in range(writers)]:
            writing.result()
    # All events are of one version: that of the writer that came last.
    found = set(read(postgres))
    assert found in [set(events_of(rounds - 1, version)) for version in range(versions)]
    assert len(ledger_entries(postgres)) == writers * len(MODELS)


# Reading


def test_events_are_read_by_time_and_model(postgres: Postgres) -> None:
    events = [
        event(1, 2),
        event(1.5, None),
        event(1.5, 1.6, "Llama-3.1-8B"),
        event(2, 2.5),
        event(2.2, None, "Llama-3.1-8B"),
    ]
    store(
        postgres,
        *(
            hours(0, 1, 2, llm_names=[name], events=[one for one in events if one.llm_name == name])
            for name in MODELS
        ),
    )
    assert read(postgres) == events
    assert read(postgres, llm_names=MODELS[1:]) == [events[2], events[4]]
    assert read(postgres, llm_names=[]) == []
    assert read(postgres, 0, 1) == read(postgres, 2.5, 9) == []
    assert read(postgres, 0, 1 + MICROSECOND) == events[:1]
    assert read(postgres, 2 - MICROSECOND, 2) == events[:1]
    assert read(postgres, 2, 2.2) == events[3:4]
    assert read(postgres, 1.5, 1.6) == events[:3]
    assert read(postgres, 1.5 + MICROSECOND, 1.6) == [events[0], events[2]]
    assert read(postgres, 2.2, 2.2 + MICROSECOND) == events[3:]


def test_read_is_utc_whatever_the_server_time_zone(postgres: Postgres) -> None:
    execute(postgres, f"ALTER DATABASE {postgres.database} SET timezone TO 'Europe/Berlin'")
    postgres.engine.dispose()
    shift = event(0.5, None)
    store(postgres, hours(0, events=[shift]))
    (found,) = read(postgres)
    assert (found, found.started_at.utcoffset()) == (shift, timedelta())


# The view


@pytest.mark.parametrize("seconds", [60, 1800, 3600])
def test_view_has_each_overlapping_pair_once(postgres: Postgres, seconds: int) -> None:
    length = timedelta(seconds=seconds)
    rng = np.random.default_rng(seconds)
    # Whole minutes, so that many events begin and end with a window.
    starts = rng.integers(-120, 240, 60)
    lengths = rng.integers(1, 200, 60)
    events = [
        event(
            start / 60,
            None if number % 3 == 0 else (start + minutes) / 60,
            MODELS[number % 2],
            size=float(number),
        )
        for number, (start, minutes) in enumerate(zip(starts, lengths, strict=True))
    ]
    windows = window_starts(4 * 3600 // seconds, step=length)
    # Every fifth window is not stored.
    del windows[::5]
    store(postgres, batch_of(MODELS, windows, window_seconds=seconds, events=events))
    found = fetch(
        postgres,
        'SELECT event_id, llm_name, "timestamp", kind, started_at, ended_at, size, metrics'
        " FROM window_events",
    )
    expected = [
        (one.event_id, one.llm_name, start, one.kind, one.started_at, one.ended_at, one.size)
        for one in events
        for start in windows
        if overlaps(one, start, length)
    ]
    assert len(expected) > 50
    assert sorted(row[:-1] for row in found) == sorted(expected)
    assert {tuple(row[-1]) for row in found} == {("TTFT", "TPS")}


@pytest.mark.parametrize(
    ("condition", "indexes"),
    [
        # From an event to its windows, and from a window to its events.
        (f"event_id = '{event(0, 1).event_id}'", {"pk_simulated_events", "pk_deliveries"}),
        (
            f"\"timestamp\" = '{START}' AND llm_name = 'GPT-4o'",
            {"pk_deliveries", "ix_simulated_events_window_starts"},
        ),
    ],
)
def test_view_uses_an_index_from_both_sides(
    postgres: Postgres, condition: str, indexes: set[str]
) -> None:
    events = [event(hour, hour + 0.5) for hour in range(2000)]
    store(postgres, hours(*range(2000), events=events))
    execute(postgres, "ANALYZE")
    with postgres.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN SELECT * FROM window_events WHERE {condition}")
        lines = "\n".join(plan.scalars())
    assert set(re.findall(r"Index .*?(?:using|on) ([ip][xk]_\w+)", lines)) == indexes, lines
