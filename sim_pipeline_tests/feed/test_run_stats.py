"""What is counted of each partition, however its windows come together."""

from datetime import date

import numpy as np
import pytest

from sim_pipeline.feed.run_stats import RunStats
from sim_pipeline.simulator.profiles import MODELS
from sim_pipeline.simulator.simulation import simulate

PROFILE = MODELS["GPT-4o"]
INTERVAL = 5400
# 2026-01-05T22:30:00Z: the second of five windows is the first of the next day.
FIRST = 1_767_652_200 // INTERVAL
MONDAY, TUESDAY = (date(2026, 1, 5), "GPT-4o"), (date(2026, 1, 6), "GPT-4o")


def counted(tally: RunStats, *numbers: int) -> None:
    windows = FIRST + np.array(numbers, dtype=np.int64)
    simulation = simulate(PROFILE, windows, interval=INTERVAL, points=5, seed=42)
    values = np.stack(
        [simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps], axis=1
    )
    tally.count(PROFILE, windows, INTERVAL, simulation, values)


def test_windows_belong_to_the_day_they_start_in_and_may_come_in_pieces() -> None:
    at_once, in_pieces = RunStats(), RunStats()
    counted(at_once, 0, 1, 2, 3, 4)
    counted(in_pieces, 0, 1)
    counted(in_pieces, 2, 3, 4)
    windows = {MONDAY: 3, TUESDAY: 4}
    assert at_once.simulated == in_pieces.simulated == 5
    assert set(at_once.partitions) == {MONDAY, TUESDAY}
    said = at_once.metadata(windows, points=5)
    assert in_pieces.metadata(windows, points=5) == said
    assert [said[key]["windows simulated"] for key in (MONDAY, TUESDAY)] == [1, 4]
    assert [said[key]["windows already there"] for key in (MONDAY, TUESDAY)] == [2, 0]
    assert [said[key]["points per metric"] for key in (MONDAY, TUESDAY)] == [5, 20]


def test_numbers_are_those_of_the_simulation() -> None:
    tally = RunStats()
    counted(tally, 0, 1, 2)
    said = tally.metadata({TUESDAY: 2}, points=5)[TUESDAY]
    windows = FIRST + np.array([1, 2])
    simulation = simulate(PROFILE, windows, interval=INTERVAL, points=5, seed=42)
    assert said["requests completed"] == simulation.completed.sum()
    assert said["requests failed"] == simulation.failed.sum()
    assert said["utilisation, mean"] == pytest.approx(simulation.utilisation.mean(), abs=1e-4)
    expected = np.median(np.median(simulation.e2e_latency, axis=1))
    assert said["e2e_latency p50 [s]"] == pytest.approx(expected, rel=1e-4)


def test_a_partition_of_which_nothing_was_simulated_has_only_counts() -> None:
    assert RunStats().metadata({MONDAY: 1}, points=5) == {
        MONDAY: {"windows simulated": 0, "windows already there": 1}
    }
