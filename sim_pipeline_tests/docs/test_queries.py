"""The queries of docs/queries.md, run on days of simulated data."""

import re
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from sim_pipeline.metrics import EVENT_KINDS, FAILURE_KINDS, METRICS
from sim_pipeline.store.batches import SimulatedEvent
from sim_pipeline.store.connection import Postgres
from sim_pipeline_tests.docs.conftest import MODELS, PENDING

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
SECTIONS = {
    section.partition("\n")[0]: section.partition("\n")[2] for section in PAGE.split("\n## ")[1:]
}


def run_query(history: Postgres, title: str) -> tuple[list[str], Sequence[sa.Row[Any]]]:
    """Return columns and rows of the query under a heading."""
    (query,) = re.findall(r"```sql\n(.*?)```", SECTIONS[title], flags=re.DOTALL)
    with history.engine.connect() as connection:
        result = connection.exec_driver_sql(query)
        return list(result.keys()), result.all()


def rows(history: Postgres, title: str) -> Sequence[sa.Row[Any]]:
    return run_query(history, title)[1]


@pytest.mark.parametrize("title", SECTIONS)
def test_query_returns_the_documented_columns(history: Postgres, title: str) -> None:
    (named,) = re.findall(r"^Columns: (.*)\.$", SECTIONS[title], flags=re.MULTILINE)

    columns, found = run_query(history, title)

    assert columns == re.findall(r"`(\w+)`", named)
    assert found


def test_every_query_has_its_own_heading() -> None:
    assert PAGE.count("```sql") == len(SECTIONS)


def test_history_has_every_window_in_order(history: Postgres) -> None:
    times = [row.timestamp for row in rows(history, "History of one model")]

    # The fixture has no data for the oldest hour and the newest one or two.
    assert len(times) in {7 * 24 - 2, 7 * 24 - 1}
    assert times == [times[0] + timedelta(hours=number) for number in range(len(times))]


def test_days_have_every_model_fastest_first(history: Postgres) -> None:
    found = rows(history, "Models side by side, day by day")

    for day in {row.day for row in found}:
        of_day = [row for row in found if row.day == day]
        assert sorted(row.llm_name for row in of_day) == sorted(MODELS)
        assert of_day == sorted(of_day, key=lambda row: row.ttft)
        assert all(0 < row.ttft < row.e2e_latency and row.tps > 0 for row in of_day)


def test_latest_ranking_has_every_model_best_first(history: Postgres) -> None:
    found = rows(history, "The latest ranking")

    assert sorted(row.llm_name for row in found) == sorted(MODELS)
    assert found == sorted(found, key=lambda row: (row.rank, row.p50))
    assert all(
        row.p50_low < row.p50 < row.p50_high and row.p95_low < row.p95 < row.p95_high
        for row in found
    )


def test_slowest_windows_are_in_order(history: Postgres) -> None:
    ratios = [row.times_usual for row in rows(history, "Slowest windows")]

    assert ratios == sorted(ratios, reverse=True)
    assert ratios[0] > 1


def test_failures_by_hour_match_the_counts(history: Postgres) -> None:
    found = rows(history, "Failures by hour")

    keys = [(row.hour, row.llm_name) for row in found]
    hours = {hour for hour, _ in keys}
    assert len(hours) in {7 * 24 - 2, 7 * 24 - 1}
    assert keys == [(hour, model) for hour in sorted(hours) for model in sorted(MODELS)]
    with history.engine.connect() as connection:
        counts = {
            (row.timestamp, row.llm_name): row
            for row in connection.execute(sa.text("SELECT * FROM request_counts"))
        }
    for row in found:
        stored = counts[row.hour, row.llm_name]
        failures = [getattr(stored, kind) for kind in FAILURE_KINDS]
        assert row.requests == stored.completed + sum(failures)
        assert [float(getattr(row, kind)) for kind in FAILURE_KINDS] == pytest.approx(
            [float(failed / row.requests) for failed in failures], abs=1e-5
        )
        assert float(row.failed) == pytest.approx(float(sum(failures) / row.requests), abs=1e-5)


def test_worst_hours_are_in_order(history: Postgres) -> None:
    worst = rows(history, "Worst hours")

    shares = [row.share for row in worst]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] >= max(row.failed for row in rows(history, "Failures by hour"))
    assert all(row.failed == row.rate_limited + row.overloaded + row.timeout for row in worst)


def test_availability_leaves_out_rate_limited_requests(history: Postgres) -> None:
    found = rows(history, "Availability of the last 24 hours")

    assert sorted(row.llm_name for row in found) == sorted(MODELS)
    assert found == sorted(found, key=lambda row: (row.availability, row.llm_name))
    for row in found:
        assert float(row.availability) == pytest.approx(
            float(row.completed / (row.completed + row.failed)), abs=1e-5
        )
        assert 0 < row.availability <= row.without_rate_limits <= 1


def test_slo_attainment_counts_failures_apart(history: Postgres) -> None:
    found = rows(history, "SLO attainment and goodput")

    assert sorted(row.llm_name for row in found) == sorted(MODELS)
    assert found == sorted(found, key=lambda row: (-row.attainment, row.llm_name))
    for row in found:
        assert row.workload == "chat-2023"
        assert 0.5 < row.attainment < 1
        assert float(row.served_well) == pytest.approx(
            float(row.attainment * (1 - row.failed)), abs=2e-5
        )
        assert row.served_well < row.attainment


def test_attainment_during_events_covers_every_window(history: Postgres) -> None:
    found = rows(history, "SLO attainment during events")

    with history.engine.connect() as connection:
        quiet = connection.execute(
            sa.text(
                """
                SELECT llm_name, count(*) AS windows, avg(goodput) AS goodput
                FROM slo_attainment AS a
                WHERE NOT EXISTS (
                    SELECT FROM window_events AS e
                    WHERE e.llm_name = a.llm_name AND e."timestamp" = a."timestamp"
                    AND e.kind = ANY (ARRAY['incident', 'burst', 'failure_spell', 'capacity'])
                )
                GROUP BY llm_name
                """
            )
        ).all()
    assert {row.llm_name: row.windows for row in found if row.event == "none"} == {
        row.llm_name: row.windows for row in quiet
    }
    assert {row.llm_name: row.goodput for row in found if row.event == "none"} == pytest.approx(
        {row.llm_name: row.goodput for row in quiet}
    )
    assert {row.event for row in found} > {"none"}


def test_events_of_the_week_are_those_stored(
    history: Postgres, events: Sequence[SimulatedEvent]
) -> None:
    found = rows(history, "Simulated events")

    assert [
        (row.llm_name, row.kind, row.started_at, row.ended_at, row.size, tuple(row.metrics))
        for row in found
    ] == [
        (one.llm_name, one.kind, one.started_at, one.ended_at, one.size, one.metrics)
        for one in events
    ]
    assert {row.kind: row.duration for row in found} == {
        one.kind: one.ended_at and one.ended_at - one.started_at for one in events
    }


def test_windows_are_counted_by_the_kind_that_overlaps(
    history: Postgres, events: Sequence[SimulatedEvent]
) -> None:
    found = {
        (row.llm_name, row.kind): row for row in rows(history, "Windows with and without events")
    }

    assert set(found) == {(name, kind) for name in MODELS for kind in (*EVENT_KINDS, "none")}
    with history.engine.connect() as connection:
        stored = connection.execute(
            sa.text("SELECT * FROM metric_summary WHERE metric = 'TPS'")
        ).all()
    for one in events:
        # The query sees only a part of the windows of the first events.
        if one.kind != "capacity":
            until = one.ended_at or one.started_at
            overlapped = [
                row.p50
                for row in stored
                if row.llm_name == one.llm_name
                and row.timestamp <= until
                and row.timestamp + timedelta(hours=1) > one.started_at
            ]
            row = found[one.llm_name, one.kind]
            assert row.windows == len(overlapped)
            assert row.tps == pytest.approx(np.median(overlapped))
    for name in MODELS:
        # No window overlaps two events.
        windows = sum(row.windows for (of, _), row in found.items() if of == name)
        assert windows in {7 * 24 - 2, 7 * 24 - 1}


def test_alarms_are_scored_by_metric(history: Postgres, events: Sequence[SimulatedEvent]) -> None:
    known = {(one.llm_name, one.kind): one for one in events}
    incident = known["GPT-4o", "incident"]
    release = known["Llama-3.1-8B", "release"]
    assert incident.ended_at is not None
    alarms = [
        ("GPT-4o", "TPS", incident.started_at),
        ("GPT-4o", "TPS", incident.ended_at + timedelta(minutes=59)),
        ("GPT-4o", "TPS", incident.ended_at + timedelta(minutes=60)),
        ("GPT-4o", "TTFT", incident.started_at - timedelta(seconds=1)),
        ("Llama-3.1-8B", "RPS", release.started_at + timedelta(hours=23)),
        ("Llama-3.1-8B", "RPS", release.started_at + timedelta(hours=25)),
        ("GPT-4o", "RPS", incident.started_at),
    ]
    values = ", ".join(f"('{name}', '{metric}', timestamptz '{at}')" for name, metric, at in alarms)
    (query,) = re.findall(r"```sql\n(.*?)```", SECTIONS["Score alarms"], flags=re.DOTALL)
    with history.engine.connect() as connection:
        found = connection.exec_driver_sql(
            re.sub(r"VALUES\n.*?\n\), events", f"VALUES {values}), events", query, flags=re.DOTALL)
        ).all()

    of_requests, of_endpoint = 5 * len(MODELS), 2 * len(MODELS)
    assert [
        (row.metric, row.alarms, row.precision and float(row.precision), row.events)
        for row in found
    ] == [
        ("RPS", 3, 0.333, of_endpoint),
        ("TPS", 3, 0.667, of_requests),
        ("TTFT", 1, 0, of_requests),
        ("e2e_latency", 0, None, of_requests),
    ]
    assert [float(row.recall) for row in found] == pytest.approx(
        [1 / of_endpoint, 1 / of_requests, 0, 0], abs=5e-4
    )


def test_summary_and_exact_cover_the_same_values(history: Postgres) -> None:
    summary = rows(history, "Percentiles per day, from the summary")
    exact = rows(history, "Percentiles per day, exact")

    assert {row.metric for row in summary} == set(METRICS)
    assert {(row.day, row.llm_name): 5 * row.windows for row in summary} == {
        (row.day, row.llm_name): row.n for row in exact
    }
    assert all(row.p50 <= row.p95 <= row.worst_p95 for row in summary)


def test_exact_percentiles_match_numpy(history: Postgres) -> None:
    # Not the first day: the query may select only a part of it.
    row = rows(history, "Percentiles per day, exact")[len(MODELS)]
    with history.engine.connect() as connection:
        stored = connection.execute(
            sa.text(
                'SELECT "values" FROM simulation_results'
                " WHERE llm_name = :name AND metric = 'e2e_latency'"
                " AND (\"timestamp\" AT TIME ZONE 'UTC')::date = :day"
            ),
            {"name": row.llm_name, "day": row.day},
        ).scalars()
        values = np.concatenate([np.asarray(one) for one in stored])

    assert len(values) == row.n == 5 * 24
    assert [row.p50, row.p95, row.p99] == pytest.approx(np.percentile(values, [50, 95, 99]))


def test_delivery_state_shows_pending_and_lag(history: Postgres) -> None:
    found = rows(history, "Delivery state")

    assert [row.llm_name for row in found] == sorted(MODELS)
    for row in found:
        assert row.pending == PENDING
        assert row.delivered > row.pending
        assert row.median_lag == row.longest_lag == timedelta(seconds=2)


def test_freshness_separates_stored_and_delivered(history: Postgres) -> None:
    found = rows(history, "Freshness")

    assert sorted(row.llm_name for row in found) == sorted(MODELS)
    for row in found:
        assert row.newest - row.newest_delivered == timedelta(hours=PENDING)
        assert timedelta(hours=1) <= row.age < timedelta(hours=3)
