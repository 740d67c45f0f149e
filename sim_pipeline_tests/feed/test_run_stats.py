"""The counts and metadata of each partition."""

from datetime import date

import numpy as np
import pytest

from sim_pipeline.feed.run_stats import RunStats
from sim_pipeline.simulator.profiles import MODELS
from sim_pipeline.simulator.simulation import simulate

PROFILE = MODELS["GPT-4o"]
INTERVAL = 5400
# 2026-01-05T22:30:00Z. The second of five windows is the first of the next day.
FIRST = 1_767_652_200 // INTERVAL
MONDAY, TUESDAY = (date(2026, 1, 5), "GPT-4o"), (date(2026, 1, 6), "GPT-4o")


def count(stats: RunStats, *numbers: int) -> None:
    windows = FIRST + np.array(numbers, dtype=np.int64)
    simulation = simulate(PROFILE, windows, interval=INTERVAL, points=5, seed=42)
    values = np.stack(
        [simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps], axis=1
    )
    stats.count(PROFILE, windows, INTERVAL, simulation, values)


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
    assert metadata["requests failed"] == simulation.failed.sum()
    assert metadata["mean utilisation"] == pytest.approx(simulation.utilisation.mean(), abs=1e-4)
    expected = np.median(np.median(simulation.e2e_latency, axis=1))
    assert metadata["e2e_latency p50 [s]"] == pytest.approx(expected, rel=1e-4)


def test_partition_without_simulations_has_counts() -> None:
    assert RunStats().metadata({MONDAY: 1}, points=5) == {
        MONDAY: {"windows simulated": 0, "windows already stored": 1}
    }
