"""The intervals of percentiles: their ends, the effect of correlation, and their coverage."""

from datetime import timedelta

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from benchmarks.intervals import Feed, coverage
from sim_pipeline.comparison.intervals import (
    QUANTILES,
    dependence,
    intervals,
    percentiles,
)
from sim_pipeline.comparison.sampling import Series
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.catalogue import profile_for

HOUR = timedelta(hours=1)
WEEK = 7 * 24
INDEPENDENT = np.ones(len(QUANTILES))


def series(values: NDArray[np.float64], points: int = 5, slot: timedelta = HOUR) -> Series:
    windows = -(-len(values) // points)
    starts = np.repeat(np.arange(windows) * slot.total_seconds(), points)
    return Series(starts[: len(values)], values)


def noise(count: int = 5 * WEEK, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).lognormal(0, 0.5, count)


def factors_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    found = dependence(series(values), np.sort(values), HOUR)
    assert found is not None
    return found


def test_simulated_intervals_hold_the_truth() -> None:
    """A small version of the benchmark: two weeks, each observed 25 times."""
    feed = Feed(3600, 5, range(1, 2), observations=25)
    shares = np.mean(
        [coverage(profile_for(name), feed, seed=1) for name in ("GPT-4o", "Llama-3.1-70B")], axis=0
    )
    assert shares[0].min() > 0.85
    # Without correlation, those of RPS would fail.
    assert shares[1, :, METRICS.index("RPS")].max() < 0.85


@pytest.mark.parametrize("count", [120, 840, 50_400])
def test_independent_values_have_hutsons_interval(count: int) -> None:
    ordered = np.arange(1.0, count + 1)
    for share, ends in zip(QUANTILES, intervals(ordered, INDEPENDENT), strict=True):
        law = stats.beta((count + 1) * share, (count + 1) * (1 - share))
        assert ends == pytest.approx((count + 1) * law.ppf([0.025, 0.975]), rel=1e-4)


def test_correlated_values_count_as_fewer() -> None:
    ordered = np.arange(1.0, 841)
    found = intervals(ordered, np.array([4.0, 1.0]))
    assert found[1] == intervals(ordered, INDEPENDENT)[1]
    assert found[0] == pytest.approx(
        841 * stats.beta(211 / 2, 211 / 2).ppf([0.025, 0.975]), rel=1e-4
    )


def test_upper_end_may_be_above_the_largest_value() -> None:
    """The p95 of 71 values is above all of them in more than 2.5 % of cases, of 72 in less."""
    for count, above in ((71, True), (72, False)):
        ordered = np.arange(1.0, count + 1)
        _, (low, high) = intervals(ordered, INDEPENDENT)
        assert low is not None
        assert high is not None
        assert (high > count) == above
        if above:
            assert high - count == pytest.approx(percentiles(ordered)[1] - low)


@pytest.mark.parametrize(("count", "factor"), [(5, 1.0), (59, 10.0), (1, 1.0)])
def test_too_few_values_have_no_interval(count: int, factor: float) -> None:
    found = intervals(np.arange(float(count)), np.full(2, factor))
    assert found == ((None, None), (None, None))


def test_unknown_correlation_has_no_interval() -> None:
    assert intervals(noise(), None) == ((None, None), (None, None))


def test_constant_values_have_an_empty_interval() -> None:
    values = np.full(840, 3.0)
    factors = factors_of(values)
    assert factors.tolist() == [1, 1]
    assert intervals(values, factors) == ((3, 3), (3, 3))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("odd", "p50", "p95"),
    [
        ([np.nan] * 12, "finite", "nan"),
        ([np.inf] * 12, "finite", "inf"),
        ([np.nan] * 100, "nan", "nan"),
        ([np.inf] * 100, "inf", "inf"),
        ([np.inf] * 80 + [np.nan] * 20, "inf", "nan"),
    ],
)
@pytest.mark.parametrize("factor", [1.0, 4.0])
def test_nan_is_above_infinity_and_numbers(
    odd: list[float], p50: str, p95: str, factor: float
) -> None:
    values = np.concatenate((noise(100 - len(odd)), odd))
    assert dependence(series(values), np.sort(values), HOUR) is not None
    upper = [ends[1] for ends in intervals(np.sort(values), np.full(2, factor))]
    kinds = [
        "nan" if np.isnan(end) else "inf" if np.isinf(end) else "finite"
        for end in np.array(upper, dtype=np.float64)
    ]
    assert kinds == [p50, p95]


def test_dependence_of_independent_values_is_small() -> None:
    factors = np.array([factors_of(noise(seed=seed)) for seed in range(20)])
    assert (factors >= 1).all()
    assert factors.mean(axis=0) == pytest.approx([1.1, 1.1], abs=0.1)


def test_nan_depends_like_a_large_value() -> None:
    values = np.repeat(noise(210), 4)
    largest = values > np.quantile(values, 0.97)
    assert factors_of(np.where(largest, np.nan, values)).tolist() == factors_of(values).tolist()


def test_dependence_of_repeated_values_is_their_number() -> None:
    repeated = [np.repeat(noise(210, seed), 4) for seed in range(20)]
    factors = np.array([factors_of(values) for values in repeated])
    assert factors.mean(axis=0) == pytest.approx([4, 4], rel=0.2)


def test_dependence_leaves_out_slow_changes() -> None:
    day = 1 + 0.1 * np.sin(np.arange(5 * WEEK) * 2 * np.pi / 120)
    changed, same = (
        np.mean([factors_of(noise(seed=seed) * season) for seed in range(20)], 0)
        for season in (day, 1.0)
    )
    assert changed == pytest.approx(same, rel=0.1)


@pytest.mark.parametrize(
    ("slot", "points", "block"),
    [(HOUR, 5, 20), (HOUR / 6, 5, 120), (HOUR, 1, 4), (24 * HOUR, 5, 1), (HOUR / 60, 5, 1200)],
)
def test_two_blocks_are_needed(slot: timedelta, points: int, block: int) -> None:
    values = noise(2 * block)
    assert dependence(series(values, points, slot), np.sort(values), slot) is not None
    fewer = values[:-points]
    assert dependence(series(fewer, points, slot), np.sort(fewer), slot) is None


def test_no_values_have_no_dependence() -> None:
    assert dependence(Series(np.empty(0), np.empty(0)), np.empty(0), HOUR) is None
