"""The measurement of benchmarks/regressions.py: alarms, what explains them, and planted events."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.regressions import (
    DURATIONS,
    FIRST,
    READ,
    SHIFTS,
    WEEK,
    Alarms,
    Array,
    Results,
    alarms,
    classify,
    delays,
    hourly_medians,
    incidents,
    markdown,
    measure,
    run_check,
    truth,
)
from sim_pipeline.simulator.capacity import random_incidents, speed
from sim_pipeline.simulator.catalogue import MODELS

TPS = 1
GPT_4O = MODELS["GPT-4o"]


def flags(*hours: int, length: int = 400) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    result = np.zeros(length, dtype=np.bool_)
    result[list(hours)] = True
    return result


def constant(hours: int, models: int = 1) -> Array:
    medians = np.array([0.5, 50.0, 5.0, 10.0])[:, np.newaxis]
    return np.tile(medians, (models, 1, hours))


def test_checks_with_overlapping_stretches_are_one_alarm() -> None:
    assert list(alarms(flags(3, 5, 6, 9, 20))) == [(3, 6), (9, 9), (20, 20)]
    assert list(alarms(flags())) == []


@pytest.mark.parametrize(
    ("incident", "fall", "expected"),
    [
        (None, None, Alarms(0, 0, 1)),
        (298, None, Alarms(1, 0, 0)),
        (297, None, Alarms(0, 0, 1)),
        (301, None, Alarms(1, 0, 0)),
        (302, None, Alarms(0, 0, 1)),
        (None, 302 - WEEK, Alarms(0, 1, 0)),
        (None, 301 - WEEK, Alarms(0, 0, 1)),
        (None, 302, Alarms(0, 0, 1)),
        (300, 300, Alarms(1, 0, 0)),
    ],
)
def test_alarm_is_explained_by_what_happened(
    incident: int | None, fall: int | None, expected: Alarms
) -> None:
    of_incident, of_fall = (flags(*([] if at is None else [at])) for at in (incident, fall))
    assert classify(flags(300, 301), of_incident, of_fall) == expected


def test_truth_is_that_of_the_simulator() -> None:
    profile = replace(GPT_4O, shifts_per_year=50.0, shift_sd=0.5)
    hours = FIRST + np.arange(90 * 24)
    overlapped, falls = truth(profile, hours, 42)
    expected = np.zeros(hours.size, dtype=np.bool_)
    first, last = hours[[0, -1]].tolist()
    for one in random_incidents(first * 3600, last * 3600, seed=42, model=profile.name):
        expected |= (hours >= one.start // 3600) & (hours <= one.end // 3600)
    assert 4 <= expected.sum() <= 18
    np.testing.assert_array_equal(overlapped, expected)
    speeds = speed(profile, hours * np.float64(3600), seed=42)
    (fallen,) = np.nonzero(falls)
    assert fallen.size
    assert (speeds[fallen + 1] < 0.95 * speeds[fallen]).all()


def test_check_runs_after_each_hour() -> None:
    series = constant(READ + 10, models=2)
    series[1, TPS, READ + 4 :] /= 2
    reported = run_check(series)
    assert reported.shape == (2, 3, 10)
    # The middle one of three hours is bad after the second one.
    assert np.argwhere(reported).tolist() == [[1, TPS, check] for check in range(5, 10)]


def test_delay_begins_with_the_event() -> None:
    series = constant(2 * READ)
    times = np.array([[READ + 10.0, READ + 20.75, READ + 30.0]])
    changed = np.tile(constant(4)[0], (1, 3, 1, 1))
    changed[0, :2, TPS] /= 2
    np.testing.assert_array_equal(delays(series, times, changed), [2.0, 1.25, np.nan])


def test_planted_incident_changes_its_hours() -> None:
    found = incidents(GPT_4O, np.array([300.5, 500.0]), 2, 0.3, 42)
    for start, values in zip((300, 500), found, strict=True):
        hours = FIRST + start + np.arange(3)
        usual = hourly_medians(GPT_4O, hours, 42)
        assert (values[:, 1] != usual[:, 1]).all()
        assert (values[:, 2] == usual[:, 2]).all() == (start == 500)
        assert values[TPS, 1] < 0.8 * usual[TPS, 1]


def test_every_event_is_planted() -> None:
    results = measure([GPT_4O], 40, 42)
    assert len(results.detections) == 3 * len(DURATIONS) + len(SHIFTS) + 2
    assert {one.size for one in results.detections.values()} == {2}
    assert np.isfinite(results.detections["incident, 0.3 of the capacity, 24 h"]).all()
    assert np.isfinite(results.detections["shift, 30% slower"]).all()


def test_tables_have_median_and_range_over_seeds() -> None:
    seeds = [
        Results({"false, of TPS": number}, {"ours": 1.0}, {"event": np.array([number, np.nan])})
        for number in (0.5, 3.0, 1.0)
    ]
    lines = markdown(seeds).splitlines()
    assert "| false, of TPS | 1 (0.5 to 3) |" in lines
    assert "| ours | 1 (1 to 1) |" in lines
    assert "| event | 50 (50 to 50) | 1 (0.5 to 3) |" in lines
