"""The estimators of benchmarks/estimators.py, on series whose figures are known."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.estimators import (
    CONCURRENCIES,
    DAY,
    GLM_ITL_MS,
    HOUR,
    Array,
    change_correlations,
    failure_figures,
    fano_factors,
    hour_of_day_share,
    itl_growth,
    lasting_shifts,
    load_season,
    probe_ratios,
    published_ratio,
    rate_variability,
    sample,
    tail_ratio,
    weekend_effect,
)

MONDAY = 1_767_571_200
SATURDAY = 5


def rng() -> np.random.Generator:
    return np.random.default_rng(1)


def hours(weeks: int) -> Array:
    """Return the hour of the week of each hour, from Monday on."""
    return np.arange(weeks * 168.0) % 168


def as_windows(series: npt.NDArray[Any], points: int = 5) -> Array:
    """Return hourly windows in which every value is that of the hour."""
    return np.repeat(series[:, np.newaxis], points, axis=1)


def test_sample_takes_one_value_per_spacing() -> None:
    values = np.arange(48.0).reshape(24, 2)
    probers = sample(values, HOUR, 3 * HOUR)
    assert probers[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert probers[3].tolist() == [3, 9, 15, 21, 27, 33, 39, 45]


@pytest.mark.parametrize("shift", [0, 60], ids=["from Monday", "from Wednesday noon"])
def test_weekend_effect_is_the_planted_one(shift: int) -> None:
    weekend = hours(26) // 24 >= SATURDAY
    noise = rng().normal(0, 0.1, (weekend.size, 5))
    tps = 80 * np.exp(as_windows(0.1 * weekend) + noise)
    # The median of a block that is partly weekend is not linear in the share.
    found = weekend_effect(tps[shift:], MONDAY + shift * HOUR, HOUR)
    assert found == pytest.approx(0.1, abs=0.015)


def test_hour_of_day_share_is_the_planted_one() -> None:
    wave = np.sqrt(2) * 0.1 * np.cos(2 * np.pi * hours(26) / 24)
    noise = rng().normal(0, 0.2, (wave.size, 5))
    assert hour_of_day_share(np.exp(as_windows(wave) + noise), HOUR) == pytest.approx(0.2, abs=0.02)
    assert hour_of_day_share(np.exp(noise), HOUR) == pytest.approx(0.0, abs=0.01)


def test_probe_ratios_are_those_of_the_distribution() -> None:
    values = 3 * np.exp(rng().normal(0, 0.2, (26 * 168, 5)))
    expected = np.exp(0.2 * np.array([-1.645, -0.674, 0.674, 1.645]))
    # 24 probes are few: their p05 and p95 lie somewhat inside.
    assert probe_ratios(values, HOUR) == pytest.approx(expected, rel=0.05)


def test_probe_ratios_ignore_changes_between_blocks() -> None:
    values = np.exp(rng().normal(0, 0.2, (26 * 168, 5)))
    levels = np.repeat(np.exp(rng().normal(0, 1, 61)), 72)[: values.shape[0], np.newaxis]
    blocks = values[: levels.size]
    assert probe_ratios(blocks * levels, HOUR) == pytest.approx(probe_ratios(blocks, HOUR))


def test_fano_factors_of_poisson_counts_are_one() -> None:
    counts = rng().poisson(5.5, (16, HOUR)).astype(float)
    assert fano_factors(counts) == pytest.approx([1, 1, 1], abs=0.1)


def test_fano_factors_grow_with_slow_bursts() -> None:
    rates = np.repeat(5.5 * rng().choice([0.5, 1.5], (16, 60)), 60, axis=1)
    counts = rng().poisson(rates).astype(float)
    # 1 + span * Var[rate] / E[rate], as long as the rate is constant within the span.
    expected = [1 + span * 5.5 * 0.25 for span in (1, 10, 60)]
    assert fano_factors(counts) == pytest.approx(expected, rel=0.1)


def test_rate_variability_leaves_out_hour_and_day() -> None:
    noise = rng().normal(0, 0.2, (14, 24, 6))
    hour, day = rng().normal(0, 1, (1, 24, 1)), rng().normal(0, 1, (14, 1, 1))
    rates = np.exp(noise + hour + day).ravel()
    assert rate_variability(rates, MONDAY) == pytest.approx((0.2, 0.2 * np.sqrt(2)), rel=0.05)
    late = np.concatenate((np.ones(30), rates))
    assert rate_variability(late, MONDAY - 5 * HOUR) == pytest.approx(
        rate_variability(rates, MONDAY)
    )


def test_load_season_is_the_planted_one() -> None:
    hour = hours(3)
    rps = (3 + np.cos(2 * np.pi * (hour - 14) / 24)) * np.where(hour // 24 < SATURDAY, 1, 0.57)
    assert load_season(as_windows(rps), MONDAY, HOUR) == pytest.approx((2.0, 0.57))
    assert load_season(as_windows(rps[30:]), MONDAY + 30 * HOUR, HOUR) == pytest.approx((2.0, 0.57))


def test_lasting_shifts_find_a_changed_level() -> None:
    shift = np.where(np.arange(10 * 168) < 5 * 168, 0, 0.2)
    noise = rng().normal(0, 0.05, (shift.size, 5))
    found = lasting_shifts(np.exp(as_windows(shift) + noise), HOUR)
    assert found.shape == (9,)
    assert found == pytest.approx(0.2, abs=0.03)
    assert np.median(lasting_shifts(np.exp(noise), HOUR)) < 0.03


def test_change_correlations_are_those_of_the_planted_levels() -> None:
    creators = {"a1": "a", "a2": "a", "b": "b", "unknown": "", "also unknown": ""}
    blocks = 400
    # Models of one creator share half of the variance of their levels; all models share a tenth.
    common, creator = rng().normal(0, 1, (2, blocks))
    tps = {}
    for number, name in enumerate(creators):
        own = np.random.default_rng(number + 2).normal(0, 1, (2, blocks))
        shared = creator if name.startswith("a") else own[1]
        level = np.sqrt(0.1) * common + np.sqrt(0.4) * shared + np.sqrt(0.5) * own[0]
        tps[name] = as_windows(np.exp(0.1 * np.repeat(level, 72)), 1)
    different, same = change_correlations(tps, creators, HOUR)
    assert different == pytest.approx(0.1, abs=0.1)
    assert same == pytest.approx(0.5, abs=0.1)
    different, same = change_correlations({"b": tps["b"]}, creators, HOUR)
    assert np.isnan([different, same]).all()


def test_failure_figures_tell_spells_from_scattered_failures() -> None:
    completed = np.full(1_000, 990.0)
    scattered = np.full(1_000, 10.0)
    assert failure_figures(scattered, completed) == pytest.approx((0.01, 0.05))
    spells = np.where(np.arange(1_000) % 20 == 0, 190.0, 0.0)
    spells[1] = 500.0
    share, worst = failure_figures(spells, completed)
    assert share == pytest.approx(10_000 / 1_000_000, rel=0.01)
    assert worst == pytest.approx(1 - 190 / 10_000)


def test_published_ratio_and_tail_ratio_are_of_four_weeks() -> None:
    values = np.exp(rng().normal(np.log(0.5), 0.5, (8 * 168, 5)))
    assert published_ratio(values, 0.4, HOUR) == pytest.approx(1.25, rel=0.03)
    assert tail_ratio(values, HOUR) == pytest.approx(np.exp(2.326 * 0.5), rel=0.05)


def test_itl_growth_tells_a_line_from_a_concave_curve() -> None:
    growth, bend = itl_growth(lambda count: 10 + 2 * count)
    assert growth[[0, -1]] == pytest.approx([1, 266 / 12])
    assert bend == pytest.approx(1)
    _, bend = itl_growth(lambda count: np.interp(count, CONCURRENCIES, GLM_ITL_MS))
    assert bend == pytest.approx(0.45, abs=0.005)


@pytest.mark.parametrize(
    ("estimate", "days", "message"),
    [
        (lambda v: weekend_effect(v, MONDAY, HOUR), 13, "13 days are available, 14 are needed"),
        (lambda v: hour_of_day_share(v, HOUR), 27, "3 weeks are available, 4 are needed"),
        (lambda v: probe_ratios(v, HOUR), 2, "0 blocks of 72 hours are available, 1 are needed"),
        (lambda v: lasting_shifts(v, HOUR), 69, "69 days are available, 70 are needed"),
        (lambda v: load_season(v, MONDAY, HOUR), 6, "0 weeks are available, 1 are needed"),
        (lambda v: load_season(v, MONDAY, DAY), 7, "windows of 86400 s are longer than an hour"),
        (lambda v: tail_ratio(v, HOUR), 27, "3 weeks are available, 4 are needed"),
        (
            lambda v: change_correlations({"a": v}, {"a": ""}, HOUR),
            29,
            "27 days are available, 30 are needed",
        ),
        (
            lambda v: rate_variability(v[:, 0], MONDAY + HOUR),
            84,
            "13 days from midnight on are available, 14 are needed",
        ),
        (lambda v: rate_variability(0 * v[:, 0], MONDAY), 84, "has no requests"),
        (
            lambda v: probe_ratios(v, 7_200),
            9,
            "windows of 7200 s do not divide the 10800 s between probes",
        ),
    ],
)
def test_series_that_are_too_short_or_coarse_are_refused(
    estimate: Callable[[Array], Any], days: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        estimate(np.ones((days * 24, 2)))
