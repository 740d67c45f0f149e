"""The counts and metadata of each partition."""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from sim_pipeline.feed.run_stats import PartitionStats, RunStats
from sim_pipeline.metrics import FAILURE_KINDS
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.events import Event
from sim_pipeline.simulator.simulation import simulate

PROFILE = MODELS["GPT-4o"]
INTERVAL = 5400
# 2026-01-05T22:30:00Z. The second of five windows is the first of the next day.
FIRST = 1_767_652_200 // INTERVAL
START = FIRST * INTERVAL
# On Monday; from Monday to Tuesday; after the first window of Tuesday.
EVENTS = [
    Event("failure_spell", START + 60.0, START + 360.0, 0.1234, ("RPS",)),
    Event("capacity", START + 4000.0, START + 7000.5, 0.8, ("TTFT", "TPS", "e2e_latency")),
    Event("level_shift", START + 2.5 * INTERVAL, None, 1.25, ("TTFT", "TPS", "e2e_latency")),
]
MONDAY, TUESDAY = (date(2026, 1, 5), "GPT-4o"), (date(2026, 1, 6), "GPT-4o")


def count(stats: RunStats, *numbers: int) -> None:
    windows = FIRST + np.array(numbers, dtype=np.int64)
    simulation = simulate(PROFILE, windows, interval=INTERVAL, points=5, seed=42)
    values = np.stack(
        [simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps], axis=1
    )
    stats.count(PROFILE, windows, INTERVAL, simulation, values, events=EVENTS)


def test_window_counts_for_the_day_it_starts_in() -> None:
    whole, split = RunStats(), RunStats()
    count(whole, 0, 1, 2, 3, 4)
    count(split, 0, 1)
    count(split, 2, 3, 4)
    windows = {MONDAY: 3, TUESDAY: 4}
    assert whole.simulated == split.simulated == 5
    assert set(whole.partitions) == {MONDAY, TUESDAY}
    metadata = whole.metadata(windows, points=5)
    assert split.metadata(windows, points=5) == metadata
    assert [metadata[key]["windows simulated"] for key in (MONDAY, TUESDAY)] == [1, 4]
    assert [metadata[key]["windows already stored"] for key in (MONDAY, TUESDAY)] == [2, 0]
    assert [metadata[key]["points per metric"] for key in (MONDAY, TUESDAY)] == [5, 20]


def test_metadata_matches_the_simulation() -> None:
    stats = RunStats()
    count(stats, 0, 1, 2)
    metadata = stats.metadata({TUESDAY: 2}, points=5)[TUESDAY]
    windows = FIRST + np.array([1, 2])
    simulation = simulate(PROFILE, windows, interval=INTERVAL, points=5, seed=42)
    assert metadata["requests completed"] == simulation.completed.sum()
    failed = dict(zip(FAILURE_KINDS, simulation.failed.sum(axis=0), strict=True))
    assert metadata["requests failed"] == sum(failed.values()) > 0
    assert metadata["requests rate limited"] == failed["rate_limited"]
    assert metadata["requests overloaded"] == failed["overloaded"]
    assert metadata["requests timed out"] == failed["timeout"]
    assert metadata["share of requests failed"] == pytest.approx(
        simulation.failed.sum() / (simulation.failed.sum() + simulation.completed.sum()), abs=1e-5
    )
    assert metadata["mean utilisation"] == pytest.approx(simulation.utilisation.mean(), abs=1e-4)
    expected = np.median(np.median(simulation.e2e_latency, axis=1))
    assert metadata["e2e_latency p50 [s]"] == pytest.approx(expected, rel=1e-4)


def test_failures_are_counted_by_kind() -> None:
    stats = RunStats()
    windows = FIRST + np.arange(3)
    simulation = replace(
        simulate(PROFILE, windows, interval=INTERVAL, points=5, seed=42),
        completed=np.array([80, 7, 9]),
        failed=np.array([[1, 2, 3], [1, 0, 0], [0, 0, 0]]),
    )
    stats.count(PROFILE, windows, INTERVAL, simulation, np.ones((3, 4, 5)), events=())
    metadata = stats.metadata({MONDAY: 1, TUESDAY: 2}, points=5)
    shown = {
        key: {name: value for name, value in said.items() if "requests" in name.split()}
        for key, said in metadata.items()
    }
    assert shown == {
        MONDAY: {
            "requests completed": 80,
            "requests failed": 6,
            "requests rate limited": 1,
            "requests overloaded": 2,
            "requests timed out": 3,
            "share of requests failed": 0.06977,
        },
        TUESDAY: {
            "requests completed": 16,
            "requests failed": 1,
            "requests rate limited": 1,
            "requests overloaded": 0,
            "requests timed out": 0,
            "share of requests failed": 0.05882,
        },
    }


def test_metadata_lists_the_events_of_the_day() -> None:
    stats = RunStats()
    count(stats, 0)
    count(stats, 1)
    metadata = stats.metadata({MONDAY: 1, TUESDAY: 1}, points=5)
    heads = "| kind | start | end | size |\n| --- | --- | --- | ---: |"
    capacity = "| capacity | 2026-01-05T23:36:40Z | 2026-01-06T00:26:40Z | 0.8 |"
    spell = "| failure spell | 2026-01-05T22:31:00Z | 2026-01-05T22:36:00Z | 0.123 |"
    shift = "| level shift | 2026-01-06T02:15:00Z |  | 1.25 |"
    assert metadata[MONDAY]["events"] == f"{heads}\n{spell}\n{capacity}"
    assert metadata[TUESDAY]["events"] == f"{heads}\n{capacity}"
    count(stats, 4)
    metadata = stats.metadata({TUESDAY: 2}, points=5)
    assert metadata[TUESDAY]["events"] == f"{heads}\n{capacity}\n{shift}"


def test_partition_without_requests_has_no_failures() -> None:
    stats = PartitionStats(simulated=1, medians=[np.ones((1, 4))])
    assert stats.metadata(1, points=5)["share of requests failed"] == 0


def test_partition_without_simulations_has_counts() -> None:
    assert RunStats().metadata({MONDAY: 1}, points=5) == {
        MONDAY: {"windows simulated": 0, "windows already stored": 1}
    }
