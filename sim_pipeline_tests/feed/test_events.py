"""The events of a batch: those that touch its windows, under ids made from their content."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import combinations
from uuid import UUID

import numpy as np
import pytest

from sim_pipeline.feed.events import events_table, simulated_event, touching
from sim_pipeline.feed.selection import select
from sim_pipeline.feed.simulate import MetricFrames
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.demand import DAY
from sim_pipeline.simulator.events import Event, events_between
from sim_pipeline.simulator.profiles import Workload
from sim_pipeline.store.batches import WindowBatch
from sim_pipeline.store.connection import Postgres
from sim_pipeline.windows import EPOCH, HOUR, Cadence

BUSY = {
    name: replace(
        MODELS[name],
        shifts_per_year=50.0,
        spells_per_month=100.0,
        workload=Workload(burst_sd=0.4),
        released=date(2026, 1, 6),
    )
    for name in ("GPT-4o", "DeepSeek-V3")
}
DAYS = (date(2026, 1, 5), date(2026, 1, 6), date(2026, 1, 7))
START = datetime(2026, 1, 5, tzinfo=UTC)
INCIDENT = Event("incident", 1_767_571_200.25, 1_767_574_800.5, 0.45, METRICS)


def test_touching_events_overlap_a_window() -> None:
    windows = np.array([3, 4, 8])
    spans = {
        (0, 30): False,
        (0, 30.5): True,
        (31, 32): True,
        (49.5, 80): True,
        (50, 80): False,
        (50, 80.5): True,
        (89.5, 99): True,
        (90, 99): False,
        (0, 99): True,
        (30, None): True,
        (49.5, None): True,
        (50, None): False,
        (75, None): False,
        (89.5, None): True,
        (90, None): False,
    }
    events = {span: Event("burst", span[0], span[1], 2.5, METRICS) for span in spans}
    found = set(touching(events.values(), windows, 10))
    assert {span: event in found for span, event in events.items()} == spans


def test_stored_event_has_times_in_utc_and_a_fixed_id() -> None:
    stored = simulated_event("GPT-4o", INCIDENT)
    assert stored.event_id == UUID("63925d81-bd62-5a4e-81cf-af84bc54fbdc")
    assert stored.event_id.version == 5
    assert (stored.llm_name, stored.kind, stored.size) == ("GPT-4o", "incident", 0.45)
    assert stored.started_at == datetime(2026, 1, 5, 0, 0, 0, 250_000, UTC)
    assert stored.ended_at == datetime(2026, 1, 5, 1, 0, 0, 500_000, UTC)
    assert stored.metrics == METRICS
    assert simulated_event("GPT-4o", replace(INCIDENT, ended_at=None)).ended_at is None


def test_each_part_of_an_event_changes_its_id() -> None:
    events = [simulated_event("GPT-4", INCIDENT)] + [
        simulated_event("GPT-4o", event)
        for event in (
            INCIDENT,
            replace(INCIDENT, kind="burst"),
            replace(INCIDENT, started_at=INCIDENT.started_at - 1e-6),
            replace(INCIDENT, ended_at=1_767_574_801.0),
            replace(INCIDENT, ended_at=None),
            replace(INCIDENT, size=0.450_000_001),
            replace(INCIDENT, metrics=METRICS[:3]),
        )
    ]
    for one, other in combinations(events, 2):
        assert one.event_id != other.event_id


def test_table_shows_first_events_and_number_of_others() -> None:
    assert events_table([]) == "none"
    events = [replace(INCIDENT, started_at=1e9 + number) for number in range(1_030)]
    lines = events_table(events[::-1]).splitlines()
    assert lines[2] == "| incident | 2001-09-09T01:46:40Z | 2026-01-05T01:00:00Z | 0.45 |"
    assert lines[21].startswith("| incident | 2001-09-09T01:46:59Z ")
    assert lines[22:] == ["", "and 1,010 more"]


def batches(postgres: Postgres, interval: int) -> list[WindowBatch]:
    """Return the batches of three days of two models."""
    cadence = Cadence(interval, START)
    keys = [f"{day}|{name}" for day in DAYS for name in BUSY]
    selection = select(keys, cadence, began=START + timedelta(days=20))
    return list(
        MetricFrames(selection, BUSY, cadence=cadence, points=5, seed=42, postgres=postgres)
    )


@pytest.mark.parametrize("interval", [30, HOUR, 5 * HOUR, 29 * HOUR])
def test_batch_has_the_events_that_touch_its_windows(postgres: Postgres, interval: int) -> None:
    found = batches(postgres, interval)
    assert len(found) == (2 if interval == 30 else 1)
    for batch in found:
        assert batch.window_seconds == interval
        windows = list(zip(batch.llm_names, batch.window_starts, strict=True))
        expected = {
            simulated_event(name, event)
            for name, profile in BUSY.items()
            for event in events_between(
                profile, START.timestamp() - DAY, START.timestamp() + 20 * DAY, seed=42
            )
            if any(
                event.overlaps((start - EPOCH).total_seconds(),
                               (start - EPOCH).total_seconds() + interval)
                for of, start in windows
                if of == name
            )
        }  # fmt: skip
        assert set(batch.events) == expected
        assert len(batch.events) == len(expected) > 10
        assert "release" in {event.kind for event in expected}
        starts = [event.started_at for event in batch.events]
        assert starts == sorted(starts)
