"""Season, drift, bursts, heavy clients and lifetime: the demand at any time."""

import math
from dataclasses import replace
from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, stats

from sim_pipeline.simulator import demand
from sim_pipeline.simulator.demand import (
    DAY,
    DECLINE,
    FAST_BURSTS,
    GROWTH,
    HEAVY_CELL,
    SLOW_BURSTS,
    TRICKLE,
    fast_bursts,
    heavy_clients,
    hidden_bursts,
    lifetime,
    midnight,
    season,
    slow_demand,
)
from sim_pipeline.simulator.profiles import Profile, Workload
from sim_pipeline_tests.simulator.laws import HOUR, MONDAY, STEADY, WEEK

WEEK_START = float(MONDAY * HOUR)


def profile_with(workload: Workload, **changes: object) -> Profile:
    """Return a profile with a workload."""
    profile = Profile("m", 0.5, 90, 12, 0.4, 128, workload=workload)
    return replace(profile, **changes)  # type: ignore[arg-type]


def test_season_has_mean_one_over_a_week() -> None:
    workload = Workload(peak_hour=9.5, daily_amplitude=0.8, weekend_factor=0.3)
    days = [WEEK_START + DAY * day for day in range(8)]
    total = sum(
        integrate.quad(
            lambda t: season(workload, np.array([t]))[0], start, np.nextafter(end, 0), epsrel=1e-10
        )[0]
        for start, end in pairwise(days)
    )
    assert total / WEEK == pytest.approx(1.0, rel=1e-8)


def test_season_matches_published_shape() -> None:
    hours = np.arange(168, dtype=np.float64)
    shape = season(Workload(), WEEK_START + hours * HOUR).reshape(7, 24)
    assert shape[:5].argmax(axis=1).tolist() == [14] * 5
    assert shape[0].max() / shape[0].min() == pytest.approx(2.0, rel=0.03)
    assert shape[5:] == pytest.approx(0.57 * shape[:2])
    expected = np.exp(0.34 * np.cos(np.pi * 2 / 4) + 0.08 * np.cos(np.pi * 2 / 2))
    assert shape[0, 20] / shape[0, 14] == pytest.approx(expected / np.exp(0.42))


def test_steady_workload_has_constant_demand() -> None:
    times = np.linspace(0.0, WEEK, 999)
    assert season(STEADY, times) == pytest.approx(1.0)
    assert slow_demand(profile_with(STEADY), times, seed=1) == pytest.approx(1.0)
    assert fast_bursts(profile_with(STEADY), times, seed=1, spacing=1.0).tolist() == [1.0] * 999
    assert hidden_bursts(STEADY, spacing=900.0, length=3_600.0) == (0.0, 0.0)


@pytest.mark.parametrize(
    "workload",
    [
        replace(STEADY, drift_sd=0.15),
        replace(STEADY, burst_sd=0.4),
        replace(STEADY, drift_sd=0.3, burst_sd=0.2),
    ],
    ids=["drift", "bursts", "both"],
)
def test_slow_demand_is_lognormal_with_mean_one(workload: Workload) -> None:
    # More than two days apart, where all waves are independent, and at any hour.
    times = 49.37 * HOUR * np.arange(50_000.0)
    values = slow_demand(profile_with(workload), times, seed=1)
    variance = workload.drift_sd**2 + workload.burst_sd**2
    normal = (np.log(values) + 0.5 * variance) / math.sqrt(variance)
    assert stats.kstest(normal, "norm").pvalue > 1e-4
    assert np.log(values).var() == pytest.approx(variance, rel=5.0 * math.sqrt(2.0 / times.size))
    error = values.std() / math.sqrt(times.size)
    assert values.mean() == pytest.approx(1.0, abs=5.0 * error)


def test_slow_demand_is_the_product_of_its_parts() -> None:
    times = 49.37 * HOUR * np.arange(20_000.0)
    workload = Workload(drift_sd=0.15, burst_sd=0.22, heavy_share=0.2)
    profile = profile_with(workload, released=date(2300, 1, 1))
    every = slow_demand(profile, times, seed=1)
    waves = replace(STEADY, drift_sd=0.15, burst_sd=0.22)
    expected = slow_demand(profile_with(waves), times, seed=1)
    expected *= season(workload, times)
    expected *= heavy_clients(workload, times, seed=1, model="m")
    assert every == pytest.approx(TRICKLE * expected)
    error = expected.std() / math.sqrt(times.size)
    assert expected.mean() == pytest.approx(1.0, abs=5.0 * error)


def test_slow_bursts_last_as_long_as_their_spacing() -> None:
    times = 49.37 * HOUR * np.arange(50_000.0)
    profile = profile_with(replace(STEADY, burst_sd=0.4))
    logs = np.log(slow_demand(profile, times, seed=1))
    shorter, longer = SLOW_BURSTS
    for lag in (2.0 * shorter, 2.0 * longer):
        later = np.log(slow_demand(profile, times + lag, seed=1))
        # The shorter one's half is independent. In the longer one, the normal at 0 has the weight
        # sqrt(1 - |x|) at a place x up to 1 spacing away.
        shared, _ = integrate.quad(
            lambda x, lag=lag: np.sqrt(max(1 - abs(x), 0) * max(1 - abs(x + lag / longer), 0)),
            -1,
            1,
        )
        expected = 0.5 * shared
        error = 1.0 / math.sqrt(times.size)
        assert np.corrcoef(logs, later)[0, 1] == pytest.approx(expected, abs=5.0 * error)


def test_demand_is_keyed_by_model_and_seed() -> None:
    times = 49.37 * HOUR * np.arange(20_000.0)
    workload = replace(STEADY, drift_sd=0.15, fast_burst_sd=0.2, heavy_share=0.5)
    profiles = [profile_with(workload, name=name) for name in ("m", "n")]
    slow = [slow_demand(profile, times, seed=seed) for seed in (1, 2) for profile in profiles]
    fast = [
        fast_bursts(profile, times, seed=seed, spacing=1.0)
        for seed in (1, 2)
        for profile in profiles
    ]
    heavy = [
        heavy_clients(workload, times, seed=seed, model=name) for seed in (1, 2) for name in "mn"
    ]
    for values in (slow, fast, heavy):
        found = np.corrcoef(values) - np.eye(4)
        assert np.abs(found).max() < 5.0 / math.sqrt(times.size)


def test_demand_has_same_values_in_any_array() -> None:
    workload = Workload(burst_sd=0.4, fast_burst_sd=0.4, heavy_share=0.5)
    profile = profile_with(workload, released=date(2026, 1, 9), retired=date(2026, 1, 12))
    generator = np.random.default_rng(1)
    times = WEEK_START + generator.uniform(0.0, WEEK, 400)

    def both(at: demand.Array) -> demand.Array:
        slow = slow_demand(profile, at, seed=1)
        return np.stack([slow, fast_bursts(profile, at, seed=1, spacing=1.0)])

    whole = both(times)
    order = generator.permutation(times.size)
    assert np.array_equal(both(times[order]), whole[:, order])
    assert np.array_equal(both(times.reshape(20, 20)), whole.reshape(2, 20, 20))
    singles = np.concatenate([both(times[[index]]) for index in range(100)], axis=1)
    assert np.array_equal(singles, whole[:, :100])
    assert np.array_equal(both(np.sort(times)), whole[:, np.argsort(times)])


@pytest.mark.parametrize(("share", "clients"), [(0.15, 3), (0.5, 1), (0.9, 20)])
def test_heavy_clients_send_their_share_at_any_hour(share: float, clients: int) -> None:
    workload = replace(STEADY, heavy_share=share, heavy_clients=clients)
    # Half hours of a day, two days apart: no run lasts from one to the next.
    days = np.arange(4_000)[:, np.newaxis] * 2 * DAY
    times = days + np.arange(0.0, DAY, 1_800.0)
    values = heavy_clients(workload, times, seed=1, model="m")
    assert values.min() >= 1.0 - share - 1e-12
    errors = values.std() / math.sqrt(len(days))
    assert np.abs(values.mean(axis=0) - 1.0).max() < 5.0 * errors
    # Within a day, half hours are correlated for at most half a cell.
    assert values.mean() == pytest.approx(1.0, abs=5.0 * errors / math.sqrt(48 / 3))
    # At most two runs of a client overlap; each is 30 % of a cell long on average.
    running = (values - (1.0 - share)) * (0.3 * clients) / share
    assert running == pytest.approx(np.rint(running), abs=1e-9)
    assert running.max() <= 2 * clients
    # They run independently: not all at once.
    assert clients == 1 or np.mean(np.rint(running) % clients > 0.0) > 0.5


def test_heavy_client_begins_one_run_per_cell() -> None:
    workload = replace(STEADY, heavy_share=0.3, heavy_clients=1)
    cells, samples = 3_000, 300
    times = HEAVY_CELL / samples * np.arange(cells * samples, dtype=np.float64)
    # At its share, a client that runs for 30 % of the time sends as many requests as the mean.
    running = np.rint(heavy_clients(workload, times, seed=1, model="m") - 0.7)
    rises = np.flatnonzero(np.diff(running, prepend=running[0]) > 0.0)
    per_cell = np.bincount(rises // samples, minlength=cells)
    # A run that ends in the sample in which another begins hides its beginning.
    assert np.mean(per_cell == 1) > 0.98
    # Runs that overlap with no other: between changes from 0 to 1 and back.
    changes = np.flatnonzero(np.diff(running)) + 1
    alone = (running[changes[:-1]] == 1.0) & (running[changes[:-1] - 1] == 0.0)
    alone &= running[changes[1:]] == 0.0
    lengths = np.diff(changes)[alone] / samples
    assert lengths.size > 0.6 * cells
    assert np.mean((lengths > 0.095) & (lengths < 0.505)) > 0.98
    assert np.mean(lengths < 0.2) > 0.15
    assert np.mean(lengths > 0.4) > 0.15


def test_demand_grows_after_release_and_falls_after_retirement() -> None:
    released, retired = date(2026, 1, 5), date(2026, 7, 5)
    start, end = midnight(released), midnight(retired)
    assert start == WEEK_START
    assert lifetime(released, None, np.array([start - 1e9, start - 1.0, start])) == pytest.approx(
        TRICKLE
    )
    after = lifetime(released, None, start + GROWTH * np.array([0.5, 1.0, 50.0]))
    assert after == pytest.approx(
        TRICKLE + (1.0 - TRICKLE) * np.array([1.0 - math.exp(-0.5), 1.0 - math.exp(-1.0), 1.0])
    )
    falling = lifetime(None, retired, end + DECLINE * np.array([-1.0, 0.0, 1.0, 50.0]))
    assert falling == pytest.approx(
        TRICKLE + (1.0 - TRICKLE) * np.array([1.0, 1.0, math.exp(-1.0), 0.0])
    )
    year = start + np.arange(-30.0, 400.0, 0.25) * DAY
    use = lifetime(released, retired, year)
    assert (np.abs(np.diff(use)) < 0.04).all()
    assert use.argmax() == np.flatnonzero(year == end)[0]
    assert lifetime(None, None, year).tolist() == [1.0] * year.size


@pytest.mark.parametrize("spacing", [1.0, 5.0, 5.1, 40.0, 41.0, 600.0])
def test_shown_and_hidden_bursts_have_all_the_variance(spacing: float) -> None:
    workload = replace(STEADY, fast_burst_sd=0.4)
    # Twice the longest spacing apart: independent.
    times = 2.03 * max(FAST_BURSTS) * np.arange(50_000.0)
    shown = np.log(fast_bursts(profile_with(workload), times, seed=1, spacing=spacing))
    hidden, of_mean = hidden_bursts(workload, spacing=spacing, length=4.0 * spacing)
    error = 5.0 * 0.4**2 * math.sqrt(2.0 / times.size)
    assert shown.var() + hidden**2 == pytest.approx(0.4**2, abs=error)
    # The mean of exp(logs) is 1.
    assert shown.mean() == pytest.approx(
        -0.5 * (0.4**2 - hidden**2), abs=5.0 * 0.4 / math.sqrt(times.size)
    )
    assert (hidden > 0.0) == (of_mean > 0.0) == (spacing > min(FAST_BURSTS))
    assert of_mean <= hidden


@pytest.mark.parametrize("spacing", [5.5, 50.0])
def test_mean_of_hidden_bursts_has_their_variance(spacing: float) -> None:
    workload = replace(STEADY, fast_burst_sd=0.3)
    profile = profile_with(workload)
    length, slices = 2_400.0, 3_000
    starts = length * np.arange(slices)[:, np.newaxis]

    def log_means(step: float) -> demand.Array:
        times = starts + np.arange(0.5 * step, length, step)
        shown: demand.Array = np.log(fast_bursts(profile, times, seed=1, spacing=step).mean(axis=1))
        return shown

    # All bursts resolved, and those longer than the spacing resolved and the others by their law.
    resolved = log_means(3.0)
    _, of_mean = hidden_bursts(workload, spacing=spacing, length=length)
    partly = log_means(spacing).var() + of_mean**2
    # The ends of the slice take away 1 % of the variance of the longest bursts.
    error = 0.01 + 5.0 * math.sqrt(2.0 / slices)
    assert resolved.var() == pytest.approx(partly, rel=error)
    assert np.exp(resolved).mean() == pytest.approx(
        1.0, abs=5.0 * resolved.std() / math.sqrt(slices)
    )
