"""The load at any time: demand over capacity, and requests that fail."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sim_pipeline.simulator.capacity import own_capacity, random_incidents, speed
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.demand import fast_bursts, season, slow_demand
from sim_pipeline.simulator.failures import LOST_REQUESTS, LOST_TIMEOUT
from sim_pipeline.simulator.load import Load, load_at
from sim_pipeline.simulator.profiles import RHO_MAX, Incident, Workload
from sim_pipeline_tests.simulator.laws import HOUR, MONDAY, STEADY, WEEK, steady

START = float(MONDAY * HOUR)
TIMES = START + np.arange(0.0, WEEK, 600.0)
SEASONAL = replace(STEADY, daily_amplitude=0.34, half_daily_amplitude=0.08, weekend_factor=0.57)
BUSY = replace(
    MODELS["GPT-4o"],
    rho=0.75,
    elasticity=0.8,
    failure_rate=0.01,
    spells_per_month=100.0,
    spell_failures=0.2,
    incidents=(Incident(START, START + 20 * HOUR, 0.4),),
)


def load_of(profile: Any, times: Any = TIMES, spacing: float = 600.0) -> Load:
    """Return the load at seed 1."""
    return load_at(profile, times, spacing=spacing, seed=1)


@pytest.mark.parametrize("elasticity", [0.0, 0.25, 1.0])
def test_utilisation_follows_season_by_elasticity(elasticity: float) -> None:
    profile = steady(
        MODELS["GPT-4o"], 0.3, workload=SEASONAL, elasticity=elasticity, failure_rate=0.001
    )
    load = load_of(profile)
    shape = season(SEASONAL, TIMES)
    assert load.rho == pytest.approx(0.3 * shape**elasticity)
    # The requests have the whole season at any elasticity.
    assert load.arrival_rate == pytest.approx(0.3 * 20 * shape)
    assert load.completion_rate == pytest.approx(0.3 * 20 * shape * (1.0 - 0.001))


@pytest.mark.parametrize("elasticity", [0.0, 0.25, 1.0])
def test_utilisation_follows_fast_bursts_in_full(elasticity: float) -> None:
    workload = replace(STEADY, fast_burst_sd=0.2, burst_sd=0.2, heavy_share=0.3)
    profile = steady(MODELS["GPT-4o"], 0.1, workload=workload, elasticity=elasticity)
    times = START + np.arange(20_000.0)
    load = load_of(profile, times, spacing=1.0)
    fast = fast_bursts(profile, times, seed=1, spacing=1.0)
    slow = slow_demand(profile, times, seed=1)
    assert np.log(fast).std() > 0.1
    assert load.rho == pytest.approx(0.1 * slow**elasticity * fast)
    assert load.arrival_rate == pytest.approx(0.1 * 20 * slow * fast)
    # Instants ten minutes apart do not show them.
    assert load_of(profile, times).arrival_rate == pytest.approx(0.1 * 20 * slow)


def test_own_capacity_changes_utilisation_and_speed_does_not() -> None:
    usual = steady(MODELS["GPT-4o"], 0.3)
    varied = replace(usual, capacity_sd=0.2, shifts_per_year=20.0)
    days = START + 86_400.0 * np.arange(365.0)
    load = load_of(varied, days)
    assert load.rho == pytest.approx(0.3 / own_capacity(varied, days, seed=1))
    assert np.array_equal(load.speed, speed(varied, days, seed=1))
    assert np.log(load.rho).std() > 0.1
    assert np.unique(load.speed).size > 15
    assert load.arrival_rate == pytest.approx(0.3 * 20)
    assert (load_of(usual, days).speed == 1.0).all()


def test_incident_raises_utilisation_and_failures() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, failure_rate=0.015)
    times = np.array([0.0, 100.0])
    usual = load_of(profile, times)
    during = load_of(replace(profile, incidents=(Incident(0, 50, 0.5),)), times)
    assert usual.rho == pytest.approx(0.4)
    assert during.rho == pytest.approx([0.8, 0.4])
    assert during.arrival_rate == pytest.approx([8.0, 8.0])
    lost = LOST_REQUESTS * 0.5
    assert during.completion_rate == pytest.approx([8.0 * (1.0 - 0.015 - lost), 8.0 * 0.985])
    assert usual.failure_rates == pytest.approx(8.0 * 0.005)
    assert during.failure_rates[:, 1] == pytest.approx(8.0 * 0.005)
    assert during.failure_rates[:, 0] == pytest.approx(
        8.0 * (0.005 + lost * np.array([0.0, 1.0 - LOST_TIMEOUT, LOST_TIMEOUT]))
    )


def test_random_incidents_count_beside_the_given_ones() -> None:
    usual = steady(MODELS["GPT-4o"], 0.2)
    given = replace(usual, incidents=(Incident(START, START + HOUR, 0.5),), random_incidents=True)
    incidents = random_incidents(START, START + 1e7, seed=1, model=usual.name)
    middles = np.array([(incident.start + incident.end) / 2 for incident in incidents])
    times = np.append(middles, START)
    factors = [*(incident.capacity_factor for incident in incidents), 0.5]
    assert load_of(given, times).rho == pytest.approx(0.2 / np.array(factors))
    assert load_of(usual, times).rho == pytest.approx(0.2)


def test_load_above_maximum_is_refused_as_overloaded() -> None:
    profile = steady(MODELS["GPT-4o"], 0.6, incidents=(Incident(0, 50, 0.5),), failure_rate=0.0)
    load = load_of(profile, np.array([1.0, 99.0]))
    assert load.rho.tolist() == [0.9, 0.6]
    # Of a utilisation of 1.2, three quarters are accepted.
    assert load.arrival_rate == pytest.approx([0.75 * 12, 12])
    accepted, lost = 0.75 * 12, LOST_REQUESTS * 0.5
    refused = 12 - accepted
    assert load.failure_rates[:, 0] == pytest.approx(
        [0.0, refused + accepted * lost * (1.0 - LOST_TIMEOUT), accepted * lost * LOST_TIMEOUT]
    )
    assert load.failure_rates[:, 1].tolist() == [0.0] * 3


def test_every_wanted_request_completes_or_fails() -> None:
    times = START + np.arange(0.0, WEEK, 60.0)
    load = load_of(BUSY, times, spacing=1.0)
    wanted = slow_demand(BUSY, times, seed=1) * fast_bursts(BUSY, times, seed=1, spacing=1.0)
    wanted *= 0.75 * 20
    assert load.completion_rate + load.failure_rates.sum(axis=0) == pytest.approx(wanted)
    assert (load.completion_rate > 0.0).all()
    assert (load.failure_rates >= 0.0).all()
    assert load.rho.max() == RHO_MAX
    clipped = load.rho == RHO_MAX
    assert 0.02 < clipped.mean() < 0.9
    assert load.arrival_rate[~clipped] == pytest.approx(wanted[~clipped])
    assert (load.arrival_rate[clipped] < wanted[clipped]).all()


def test_load_has_same_values_in_any_array() -> None:
    generator = np.random.default_rng(1)
    times = START + generator.uniform(0.0, WEEK, 400)
    whole = load_of(BUSY, times, spacing=1.0)
    order = generator.permutation(times.size)
    arrays = [
        (load_of(BUSY, times[order], spacing=1.0), order, (400,)),
        (load_of(BUSY, times.reshape(20, 20), spacing=1.0), slice(None), (20, 20)),
        *((load_of(BUSY, times[[one]], spacing=1.0), [one], (1,)) for one in range(20)),
    ]
    for load, chosen, shape in arrays:
        for name, values in vars(load).items():
            expected = vars(whole)[name][..., chosen]
            assert np.array_equal(values, expected.reshape(*values.shape[: -len(shape)], *shape))


def test_default_workload_has_all_parts() -> None:
    load = load_of(replace(MODELS["GPT-4o"], workload=Workload()))
    assert np.log(load.arrival_rate).std() > 0.3
    assert np.log(load.rho).std() < np.log(load.arrival_rate).std()
