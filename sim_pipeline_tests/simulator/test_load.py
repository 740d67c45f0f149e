"""Season, drift and incidents: the load at any time."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

from sim_pipeline.simulator.load import (
    INCIDENT_PERIOD,
    LOST_REQUESTS,
    capacity,
    drift,
    load_at,
    random_incidents,
    season,
)
from sim_pipeline.simulator.profiles import MODELS, Incident, Workload
from sim_pipeline_tests.simulator.laws import HOUR, MONDAY, STEADY, WEEK, steady

WEEK_START = float(MONDAY * HOUR)


def test_season_has_mean_one_over_a_week() -> None:
    workload = Workload(peak_hour=9.5, daily_amplitude=0.8, weekend_factor=0.3)
    days = [WEEK_START + 86_400.0 * day for day in range(8)]
    total = sum(
        integrate.quad(
            lambda t: season(workload, np.array([t]))[0], start, np.nextafter(end, 0), epsrel=1e-10
        )[0]
        for start, end in pairwise(days)
    )
    assert total / WEEK == pytest.approx(1.0, rel=1e-8)


def test_season_matches_published_shape() -> None:
    hours = np.arange(168, dtype=np.float64)
    shape = season(Workload(), WEEK_START + hours * 3600.0).reshape(7, 24)
    assert shape[:5].argmax(axis=1).tolist() == [14] * 5
    assert shape[0].max() / shape[0].min() == pytest.approx(2.0, rel=0.03)
    assert shape[5:] == pytest.approx(0.57 * shape[:2])
    expected = np.exp(0.34 * np.cos(np.pi * 2 / 4) + 0.08 * np.cos(np.pi * 2 / 2))
    assert shape[0, 20] / shape[0, 14] == pytest.approx(expected / np.exp(0.42))


def test_drift_has_mean_one_and_given_log_sd() -> None:
    # Two times per day; both have the same distribution.
    times = np.arange(40_000, dtype=np.float64) * 43_200.0 + 10_000.0
    value = np.log(drift(0.15, times, seed=1, model="m")) + 0.5 * 0.15**2
    for part in (value[::2], value[1::2]):
        assert stats.kstest(part[::2] / 0.15, "norm").pvalue > 1e-3


def test_drift_is_continuous_and_keyed_by_model_and_seed() -> None:
    midnight = 20_000 * 86_400.0
    before, after = drift(0.5, np.array([midnight - 1e-3, midnight]), seed=1, model="m")
    assert before == pytest.approx(after, rel=1e-6)
    times = np.array([midnight])
    others = [drift(0.5, times, seed=seed, model=name)[0] for seed in (1, 2) for name in "mn"]
    assert len(set(others)) == 4
    assert drift(0.0, times, seed=1, model="m").tolist() == [1.0]


def test_random_incidents_per_period() -> None:
    periods = 2_000
    found = random_incidents(0.0, periods * INCIDENT_PERIOD - 1.0, seed=1, model="m")
    per_period = np.bincount([int(incident.start // INCIDENT_PERIOD) for incident in found])
    assert per_period.size == periods
    assert set(per_period.tolist()) == {1, 2}
    assert per_period.mean() == pytest.approx(1.5, abs=5.0 * 0.5 / np.sqrt(periods))
    hours = np.array([(incident.end - incident.start) / 3600 for incident in found])
    assert stats.kstest(hours, "uniform", args=(0.5, 1.0)).pvalue > 1e-3
    factors = [incident.capacity_factor for incident in found]
    assert stats.kstest(factors, "uniform", args=(0.3, 0.4)).pvalue > 1e-3


def test_random_incidents_do_not_depend_on_range() -> None:
    wide = random_incidents(0.0, 20 * INCIDENT_PERIOD, seed=1, model="m")
    first, last = 7.2 * INCIDENT_PERIOD, 7.9 * INCIDENT_PERIOD
    narrow = random_incidents(first, last, seed=1, model="m")
    touching = {incident for incident in wide if incident.end > first and incident.start < last}
    assert touching <= set(narrow) <= set(wide)


def test_incident_can_reach_into_next_period() -> None:
    found = random_incidents(0.0, 2_000 * INCIDENT_PERIOD, seed=1, model="m")
    crossing = next(
        incident
        for incident in found
        if incident.start // INCIDENT_PERIOD < incident.end // INCIDENT_PERIOD
    )
    boundary = crossing.end // INCIDENT_PERIOD * INCIDENT_PERIOD
    assert crossing in random_incidents(boundary, crossing.end, seed=1, model="m")


def test_worst_incident_sets_capacity() -> None:
    incidents = [Incident(10.0, 20.0, 0.5), Incident(15.0, 30.0, 0.8), Incident(16.0, 17.0, 0.9)]
    times = np.array([0.0, 10.0, 16.5, 19.9, 20.0, 29.9, 30.0])
    expected = [1.0, 0.5, 0.5, 0.5, 0.8, 0.8, 1.0]
    assert capacity(incidents, times).tolist() == expected
    assert capacity(incidents[::-1], times).tolist() == expected
    assert capacity([], times).tolist() == [1.0] * 7


def test_incident_raises_utilisation_and_failures() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4)
    times = np.array([0.0, 100.0])
    usual = load_at(profile, times, seed=1)
    during = load_at(replace(profile, incidents=(Incident(0, 50, 0.5),)), times, seed=1)
    assert usual.rho == pytest.approx(0.4)
    assert during.rho == pytest.approx([0.8, 0.4])
    assert during.arrival_rate == pytest.approx([8.0, 8.0])
    kept = 1.0 - 0.015
    assert during.completion_rate == pytest.approx(
        [8.0 * kept * (1.0 - LOST_REQUESTS * 0.5), 8.0 * kept]
    )
    assert during.completion_rate + during.failure_rate == pytest.approx([8.0, 8.0])


def test_load_above_maximum_is_refused() -> None:
    profile = replace(steady(MODELS["GPT-4o"], 0.6), incidents=(Incident(0, 50, 0.5),))
    load = load_at(profile, np.array([1.0]), seed=1)
    assert load.rho.tolist() == [0.9]
    assert load.arrival_rate == pytest.approx(0.9 * 0.5 * 20)
    assert load.completion_rate + load.failure_rate == pytest.approx(0.6 * 20)


def test_steady_workload_has_constant_season() -> None:
    times = np.linspace(0.0, WEEK, 999)
    assert season(STEADY, times) == pytest.approx(1.0)
