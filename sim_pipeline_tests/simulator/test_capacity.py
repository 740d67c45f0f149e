"""Incidents, the slow factor of capacity, and shifts of speed."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from sim_pipeline.simulator.capacity import (
    INCIDENT_PERIOD,
    MEASURED_DAYS,
    MEMORY,
    YEAR,
    capacity_left,
    own_capacity,
    random_incidents,
    speed,
)
from sim_pipeline.simulator.demand import DAY, HOUR, midnight
from sim_pipeline.simulator.profiles import Incident, Profile

Array = npt.NDArray[np.float64]
Process = Callable[..., Array]

PROFILE = replace(
    Profile("m", 0.5, 90, 12, 0.4, 128, creator="c", measured=date(2026, 3, 31)),
    capacity_sd=0.14,
    shifts_per_year=6.0,
    shift_sd=0.15,
    creator_share=0.65,
)
CENTURIES = 100_000
MIDNIGHTS = DAY * np.arange(CENTURIES, dtype=np.float64)


def test_random_incidents_per_period() -> None:
    periods = 2_000
    found = random_incidents(0.0, periods * INCIDENT_PERIOD - 1.0, seed=1, model="m")
    per_period = np.bincount([int(incident.start // INCIDENT_PERIOD) for incident in found])
    assert per_period.size == periods
    assert set(per_period.tolist()) == {1, 2}
    assert per_period.mean() == pytest.approx(1.5, abs=5.0 * 0.5 / np.sqrt(periods))
    starts = [incident.start / INCIDENT_PERIOD % 1.0 for incident in found]
    assert stats.kstest(starts, "uniform").pvalue > 1e-3
    hours = np.array([(incident.end - incident.start) / HOUR for incident in found])
    assert stats.kstest(hours, "uniform", args=(0.5, 1.0)).pvalue > 1e-3
    factors = [incident.capacity_factor for incident in found]
    assert stats.kstest(factors, "uniform", args=(0.3, 0.4)).pvalue > 1e-3
    assert np.unique(factors).size == len(found)


def test_random_incidents_do_not_depend_on_range() -> None:
    wide = random_incidents(0.0, 20 * INCIDENT_PERIOD, seed=1, model="m")
    for first in np.arange(0.2, 18.0, 0.9) * INCIDENT_PERIOD:
        last = first + 0.7 * INCIDENT_PERIOD
        narrow = random_incidents(first, last, seed=1, model="m")
        touching = {incident for incident in wide if incident.end > first and incident.start < last}
        assert touching <= set(narrow) <= set(wide)


def test_random_incidents_are_keyed_by_model_and_seed() -> None:
    found = [
        set(random_incidents(0.0, 20 * INCIDENT_PERIOD, seed=seed, model=name))
        for seed in (1, 2)
        for name in "mn"
    ]
    assert len(set.union(*found)) == sum(map(len, found))


def test_incident_can_reach_into_next_period() -> None:
    found = random_incidents(0.0, 20_000 * INCIDENT_PERIOD, seed=1, model="m")
    crossing = next(
        incident
        for incident in found
        if incident.start // INCIDENT_PERIOD < incident.end // INCIDENT_PERIOD
    )
    boundary = crossing.end // INCIDENT_PERIOD * INCIDENT_PERIOD
    assert crossing in random_incidents(boundary, crossing.end, seed=1, model="m")


def test_worst_incident_sets_capacity() -> None:
    incidents = [Incident(10.0, 20.0, 0.5), Incident(15.0, 30.0, 0.8), Incident(16.0, 17.0, 0.9)]
    times = np.array([[0.0, 10.0, 16.5, 19.9], [20.0, 29.9, 30.0, 99.0]])
    expected = [[1.0, 0.5, 0.5, 0.5], [0.8, 0.8, 1.0, 1.0]]
    assert capacity_left(incidents, times).tolist() == expected
    assert capacity_left(incidents[::-1], times).tolist() == expected
    assert capacity_left([], times).tolist() == [[1.0] * 4] * 2


def test_own_capacity_has_given_log_sd_and_memory() -> None:
    logs = np.log(own_capacity(replace(PROFILE, capacity_sd=0.2), MIDNIGHTS, seed=1))
    # Days are correlated, which widens the error of a variance.
    wider = math.sqrt((1.0 + MEMORY**2) / (1.0 - MEMORY**2) / CENTURIES)
    assert logs.var() == pytest.approx(0.2**2, rel=5.0 * math.sqrt(2.0) * wider)
    for lag in (1, 2, 4):
        found = np.corrcoef(logs[:-lag], logs[lag:])[0, 1]
        assert found == pytest.approx(MEMORY**lag, abs=5.0 * wider)
    assert stats.kstest(logs[::11], "norm", args=(logs.mean(), logs.std())).pvalue > 1e-3


@pytest.mark.parametrize("process", [own_capacity, speed])
@pytest.mark.parametrize("measured", [date(1970, 1, 5), date(2026, 3, 31), date(2200, 2, 28)])
def test_process_is_relative_to_the_measured_days(process: Process, measured: date) -> None:
    last = midnight(measured)
    days = last - DAY * np.arange(30.0)
    assert MEASURED_DAYS == 30
    for profile in (PROFILE, replace(PROFILE, creator_share=0.0, shifts_per_year=40.0)):
        dated = replace(profile, measured=measured)
        logs = np.log(process(dated, days, seed=2))
        assert logs.mean() == pytest.approx(0.0, abs=1e-12)
        # The date of the figures moves the level and nothing else.
        other = replace(profile, measured=date(2020, 1, 1))
        ratio = np.log(process(dated, MIDNIGHTS, seed=1) / process(other, MIDNIGHTS, seed=1))
        assert np.ptp(ratio) < 1e-12


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_own_capacity_is_partly_common_to_a_creator(share: float) -> None:
    profiles = [
        replace(PROFILE, name=name, creator=creator, creator_share=share)
        for name, creator in (("m", "c"), ("n", "c"), ("o", "d"), ("p", ""), ("q", ""))
    ]
    logs = [np.log(own_capacity(profile, MIDNIGHTS, seed=1)) for profile in profiles]
    expected = np.eye(5)
    expected[0, 1] = expected[1, 0] = share
    error = math.sqrt((1.0 + MEMORY**2) / (1.0 - MEMORY**2) / CENTURIES)
    assert np.corrcoef(logs) == pytest.approx(expected, abs=5.0 * error)
    # The share moves variance from the model to its creator.
    assert np.std(logs, axis=1) == pytest.approx(0.14, rel=5.0 * error)


def jumps(values: Array) -> Array:
    """Return the differences of consecutive logs that are not 0."""
    steps = np.diff(np.log(values))
    found: Array = steps[np.abs(steps) > 1e-12]
    return found


@pytest.mark.parametrize("share", [0.0, 0.65, 1.0])
@pytest.mark.parametrize("per_year", [0.5, 6.0, 50.0])
def test_speed_shifts_as_often_and_as_much_as_given(share: float, per_year: float) -> None:
    profile = replace(PROFILE, creator_share=share, shifts_per_year=per_year, shift_sd=0.2)
    step = 0.004 * YEAR / per_year
    times = step * np.arange(300_000.0)
    shifts = jumps(speed(profile, times, seed=1))
    # The times span 1,200 shifts. With two owners, 1 step in 1,000 or so has a jump of each.
    assert shifts.size == pytest.approx(1_200, abs=10)
    # Neighbouring jumps share a level, which widens the error of a variance.
    error = math.sqrt(2.0 * 1.5 / shifts.size)
    assert shifts.var() == pytest.approx(0.2**2, rel=5.0 * error)
    assert stats.kstest(shifts / 0.2, "norm").pvalue > 1e-3


def test_speed_does_not_wander_off() -> None:
    profile = replace(PROFILE, shifts_per_year=50.0, shift_sd=0.2)
    logs = np.log(speed(profile, YEAR / 10.0 * np.arange(40_000.0), seed=1)).reshape(4, -1)
    # The levels of the model and of its creator have a variance of shift_sd^2 / 2 each.
    assert logs.var(axis=1) == pytest.approx(0.2**2, rel=5.0 * math.sqrt(2.0 / 10_000))
    assert np.ptp(logs.mean(axis=1)) < 5.0 * 0.2 * math.sqrt(2.0 / 10_000)


def test_models_of_a_creator_share_its_jumps() -> None:
    times = YEAR / 400 * np.arange(100_000.0)
    profiles = [
        replace(PROFILE, name=name, creator=creator, creator_share=0.5)
        for name, creator in (("m", "c"), ("n", "c"), ("o", "d"), ("p", ""), ("q", ""))
    ]
    when = [set(np.flatnonzero(np.diff(speed(profile, times, seed=1)))) for profile in profiles]
    # Three of the six jumps in each of 250 years are the creator's.
    assert len(when[0] & when[1]) == pytest.approx(750, rel=0.05)
    for one, two in ((0, 2), (1, 2), (3, 4), (0, 3)):
        # 1,500 of 100,000 steps: chance alone.
        assert len(when[one] & when[two]) < 0.05 * len(when[one])
    whole, other = (speed(replace(one, creator_share=1.0), times, seed=1) for one in profiles[:2])
    assert np.array_equal(whole, other)


@pytest.mark.parametrize("changes", [{"shifts_per_year": 0.0}, {"shift_sd": 0.0}])
def test_no_shifts_if_none_are_asked_for(changes: dict[str, float]) -> None:
    profile = replace(PROFILE, **changes)  # type: ignore[arg-type]
    assert (speed(profile, MIDNIGHTS, seed=1) == 1.0).all()


def test_no_own_capacity_if_its_sd_is_zero() -> None:
    assert (own_capacity(replace(PROFILE, capacity_sd=0.0), MIDNIGHTS, seed=1) == 1.0).all()


@pytest.mark.parametrize("process", [own_capacity, speed])
def test_process_has_same_values_in_any_array(process: Process) -> None:
    def values(times: Array, seed: int = 1, name: str = "m") -> Array:
        return process(replace(PROFILE, name=name, creator=""), times, seed=seed)

    generator = np.random.default_rng(1)
    times = 1.7e9 + generator.uniform(0.0, 5 * YEAR, 600)
    whole = values(times)
    order = generator.permutation(times.size)
    assert np.array_equal(values(times[order]), whole[order])
    assert np.array_equal(values(np.sort(times)), whole[np.argsort(times)])
    assert np.array_equal(values(times.reshape(20, 30)), whole.reshape(20, 30))
    assert np.array_equal([values(times[[index]])[0] for index in range(50)], whole[:50])
    keyed = [values(times, seed, name) for seed in (1, 2) for name in ("m", "n")]
    # Two models that have kept the speed of their measured days since both have the speed 1.
    assert all((one != two).mean() > 0.8 for one, two in combinations(keyed, 2))
