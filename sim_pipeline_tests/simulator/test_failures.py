"""Failures: spells of them, and shares of the requests by kind."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from sim_pipeline.metrics import FAILURE_KINDS
from sim_pipeline.simulator.demand import DAY
from sim_pipeline.simulator.failures import (
    LOST_REQUESTS,
    LOST_TIMEOUT,
    OVERLOADED,
    RATE_LIMITED,
    TIMEOUT,
    Spells,
    failure_shares,
    spells,
)
from sim_pipeline.simulator.profiles import Profile

PROFILE = replace(
    Profile("m", 0.5, 90, 12, 0.4, 128),
    failure_rate=0.001,
    spells_per_month=15.0,
    spell_failures=0.13,
)
MONTH = 30 * DAY
QUIET = replace(PROFILE, spells_per_month=0.0)


def test_kinds_are_numbered_in_their_order() -> None:
    kinds = [FAILURE_KINDS[kind] for kind in (RATE_LIMITED, OVERLOADED, TIMEOUT)]
    assert kinds == ["rate_limited", "overloaded", "timeout"]


@pytest.mark.parametrize("per_month", [0.1, 15.0, 300.0])
def test_spells_per_month(per_month: float) -> None:
    months = 3_000 / per_month
    profile = replace(PROFILE, spells_per_month=per_month, spell_failures=0.2)
    found = spells(profile, 1e6, 1e6 + months * MONTH, seed=1)
    # One in each cell, and those of two or three cells before the range.
    assert 3_000 <= found.start.size <= 3_004
    assert (np.diff(found.start) > 0.0).all()
    cells = found.start / MONTH * per_month
    assert (np.diff(np.floor(cells)) == 1.0).all()
    assert stats.kstest(cells % 1.0, "uniform").pvalue > 1e-3
    assert stats.kstest((found.end - found.start) / 60, "uniform", args=(10, 50)).pvalue > 1e-3
    assert stats.kstest(found.share, "uniform", args=(0.0, 0.4)).pvalue > 1e-3
    counts = np.bincount(found.kind, minlength=3)
    expected = found.start.size * np.array([0.4, 0.4, 0.2])
    assert stats.chisquare(counts, expected).pvalue > 1e-3
    numbers = [found.start % 1.0, found.end - found.start, found.share, found.kind]
    correlations = np.corrcoef(numbers) - np.eye(4)
    assert np.abs(correlations).max() < 5.0 / math.sqrt(found.start.size)


def as_set(found: Spells) -> set[tuple[float, ...]]:
    """Return the spells as a set."""
    return set(zip(*vars(found).values(), strict=True))


@pytest.mark.parametrize("per_month", [0.5, 15.0, 300.0])
def test_spells_do_not_depend_on_range(per_month: float) -> None:
    profile = replace(PROFILE, spells_per_month=per_month)
    cell = MONTH / per_month
    wide = as_set(spells(profile, 0.0, 200 * cell, seed=1))
    generator = np.random.default_rng(1)
    for first in cell * generator.uniform(1.0, 150.0, 100):
        last = first + generator.uniform(0.0, 2.0) * cell
        narrow = as_set(spells(profile, first, last, seed=1))
        touching = {spell for spell in wide if spell[1] > first and spell[0] <= last}
        assert touching <= narrow <= wide
    assert not wide & as_set(spells(profile, 0.0, 200 * cell, seed=2))
    assert not wide & as_set(spells(replace(profile, name="n"), 0.0, 200 * cell, seed=1))


@pytest.mark.parametrize("per_month", [0.1, 15.0, 300.0])
def test_spell_fails_from_its_start_to_its_end(per_month: float) -> None:
    profile = replace(PROFILE, spells_per_month=per_month, failure_rate=0.003)
    known = spells(profile, 0.0, 100 * MONTH / per_month, seed=1)
    # Without those that begin before the epoch, or in which the next one begins.
    apart = np.flatnonzero((known.start[:-1] > 0.0) & (known.end[:-1] < known.start[1:]))
    apart = apart[(known.end[apart - 1] < known.start[apart]) & (apart > 0)]
    assert apart.size > 50
    for start, end, share, kind in zip(
        *(values[apart] for values in vars(known).values()), strict=True
    ):
        times = np.array([np.nextafter(start, 0.0), start, np.nextafter(end, 0.0), end])
        during = min(0.001 + share, 1.0 / 3.0)
        # Each instant alone, too: the spell began before it.
        for chosen in (slice(None), *(slice(index, index + 1) for index in range(4))):
            at = times[chosen]
            shares = failure_shares(profile, at, np.ones(at.size), seed=1)
            expected = np.array([0.001, during, during, 0.001])[chosen]
            assert shares[kind] == pytest.approx(expected)
            others = [other for other in range(3) if other != kind]
            assert shares[others] == pytest.approx(0.001)


def test_failures_have_given_shares_in_the_long_run() -> None:
    times = 300.0 * np.arange(2_000_000.0)
    shares = failure_shares(PROFILE, times, np.ones_like(times), seed=1)
    # Fifteen spells a month, of 35 minutes on average.
    spell = 15.0 * 35.0 * 60.0 / MONTH * 0.13
    expected = 0.001 / 3.0 + spell * np.array([0.4, 0.4, 0.2])
    # Of a product of two uniforms, and of whether a spell is of this kind.
    count = 15.0 * np.ptp(times) / MONTH
    relative = np.sqrt((1 + 1 / 3) * (1 + (50 / 35) ** 2 / 12) / np.array([0.4, 0.4, 0.2]) / count)
    assert (np.abs(shares.mean(axis=1) - expected) < 5.0 * relative * expected).all()


def test_failure_shares_have_same_values_in_any_array() -> None:
    profile = replace(PROFILE, spells_per_month=300.0)
    generator = np.random.default_rng(2)
    times = 1.7e9 + generator.uniform(0.0, MONTH, 600)
    left = generator.uniform(0.3, 1.0, times.size)
    whole = failure_shares(profile, times, left, seed=1)
    assert np.unique(whole[RATE_LIMITED]).size > 30
    order = generator.permutation(times.size)
    assert np.array_equal(
        failure_shares(profile, times[order], left[order], seed=1), whole[:, order]
    )
    shaped = failure_shares(profile, times.reshape(20, 30), left.reshape(20, 30), seed=1)
    assert np.array_equal(shaped, whole.reshape(3, 20, 30))
    for index in range(100):
        alone = failure_shares(profile, times[[index]], left[[index]], seed=1)
        assert np.array_equal(alone, whole[:, [index]])


def test_latest_of_overlapping_spells_counts() -> None:
    profile = replace(PROFILE, spells_per_month=300.0, failure_rate=0.0, spell_failures=0.1)
    known = spells(profile, 0.0, 10 * MONTH, seed=1)
    overlapping = np.flatnonzero((known.end[:-1] > known.start[1:]) & (known.start[:-1] > 0.0))
    assert overlapping.size > 100
    for first in overlapping.tolist():
        shares = failure_shares(profile, known.start[[first + 1]], np.ones(1), seed=1)
        assert shares.sum() == known.share[first + 1] == shares[known.kind[first + 1], 0]


@pytest.mark.parametrize(
    "changes",
    [
        {"failure_rate": 0.5, "spells_per_month": 300.0, "spell_failures": 0.5},
        {"failure_rate": 0.0, "spells_per_month": 300.0, "spell_failures": 0.5},
    ],
)
def test_failures_never_exceed_all_requests(changes: dict[str, float]) -> None:
    profile = replace(PROFILE, **changes)  # type: ignore[arg-type]
    times = 60.0 * np.arange(100_000.0)
    left = np.random.default_rng(3).choice([0.01, 1.0], times.size)
    shares = failure_shares(profile, times, left, seed=1)
    assert shares.min() >= 0.0
    assert shares.max(axis=1).tolist() == [1.0 / 3.0] * 3
    assert shares.sum(axis=0).max() <= 1.0


@pytest.mark.parametrize("changes", [{"spells_per_month": 0.0}, {"spell_failures": 0.0}])
def test_no_spells_if_none_are_asked_for(changes: dict[str, float]) -> None:
    profile = replace(PROFILE, failure_rate=0.03, **changes)  # type: ignore[arg-type]
    times = 60.0 * np.arange(100_000.0)
    shares = failure_shares(profile, times, np.ones_like(times), seed=1)
    assert (shares == 0.01).all()


def test_incident_adds_overloaded_and_timeout() -> None:
    times = np.arange(3.0)
    left = np.array([1.0, 0.5, 0.2])
    shares = failure_shares(QUIET, times, left, seed=1) - 0.001 / 3.0
    lost = LOST_REQUESTS * (1.0 - left)
    assert shares[RATE_LIMITED] == pytest.approx(0.0, abs=1e-15)
    assert shares[OVERLOADED] == pytest.approx((1.0 - LOST_TIMEOUT) * lost)
    assert shares[TIMEOUT] == pytest.approx(LOST_TIMEOUT * lost)
    assert lost[1] == 0.125
