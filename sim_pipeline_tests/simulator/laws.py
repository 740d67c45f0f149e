"""Laws that simulated numbers must follow, as checks of any function with `simulate`'s signature.

Each law runs a simulator and asserts. Laws use only the published metrics, so that another
implementation can take the simulator's place.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from sim_pipeline.simulator.calibration import calibrated
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.demand import midnight
from sim_pipeline.simulator.profiles import Incident, Profile, Workload
from sim_pipeline.simulator.simulation import Simulation

HOUR = 3600
WEEK = 604_800
# Monday 2026-01-05T00:00:00Z, counted in hours.
MONDAY = 1_767_571_200 // HOUR
STEADY = Workload(
    daily_amplitude=0,
    half_daily_amplitude=0,
    weekend_factor=1,
    drift_sd=0,
    burst_sd=0,
    fast_burst_sd=0,
    heavy_share=0,
)


class Simulator(Protocol):
    """The signature of `simulate`."""

    def __call__(
        self,
        profile: Profile,
        windows: npt.NDArray[np.integer[Any]] | Sequence[int],
        *,
        interval: int,
        points: int,
        seed: int,
    ) -> Simulation:
        """Simulate the windows."""
        ...


def steady(profile: Profile, rho: float, **changes: object) -> Profile:
    """Return ``profile`` with a constant utilisation and a batch limit that is never reached.

    Its machines keep their speed, and no spells of failures come.
    """
    constant = {
        "workload": STEADY,
        "random_incidents": False,
        "batch_limit": 100_000,
        "capacity_sd": 0.0,
        "shifts_per_year": 0.0,
        "spells_per_month": 0.0,
        "released": None,
        "rho": rho,
    }
    return replace(profile, **(constant | changes))  # type: ignore[arg-type]


def output_tokens(result: Simulation) -> npt.NDArray[np.float64]:
    """Return n_out of each request, computed from its metrics."""
    return 1.0 + (result.e2e_latency - result.ttft) * result.tps


def identity(simulator: Simulator) -> None:
    """1 + (e2e - TTFT) TPS is an integer of 2 or more, e2e > TTFT > 0, and all are finite."""
    for profile in MODELS.values():
        result = simulator(
            profile, np.arange(MONDAY, MONDAY + 168), interval=HOUR, points=20, seed=1
        )
        for metric in (result.ttft, result.tps, result.e2e_latency, result.rps):
            assert np.isfinite(metric).all()
        assert (result.ttft > 0.0).all()
        assert (result.e2e_latency > result.ttft).all()
        tokens = output_tokens(result)
        assert (np.rint(tokens) >= 2.0).all()
        assert (np.abs(tokens - np.rint(tokens)) <= 1e-6 * tokens).all()


def published_medians(simulator: Simulator) -> None:
    """The medians of the four weeks up to the date of the published ones agree within 5 %."""
    for profile in MODELS.values():
        last = int(midnight(profile.measured)) // HOUR + 24
        result = simulator(profile, np.arange(last - 672, last), interval=HOUR, points=5, seed=2)
        # 3,360 requests: a standard error of 0.5 % for TPS, and 0.6 % for TTFT.
        assert abs(np.median(result.ttft) / profile.ttft_ref - 1.0) < 0.05
        assert abs(np.median(result.tps) / profile.tps_ref - 1.0) < 0.05


def load_law(simulator: Simulator) -> None:
    """E[ITL] solves ITL = itl0 + kappa (rho cap E[steps] ITL)^g, within 3 %."""
    for name in ("GPT-4o", "Llama-3.1-405B", "Gemini-1.5-Flash"):
        for rho in (0.1, 0.3, 0.5, 0.7, 0.85):
            profile = steady(MODELS[name], rho)
            times = calibrated(profile)
            expected = optimize.brentq(
                lambda itl, times=times, rho=rho: (
                    times.itl_base
                    + times.step_cost * (rho * times.decode_load * itl) ** times.exponent
                    - itl
                ),
                0.0,
                1.0,
            )
            # 10,000 requests: a standard error of 0.2 %.
            result = simulator(profile, np.arange(500), interval=HOUR, points=20, seed=3)
            assert abs(np.mean(1.0 / result.tps) / expected - 1.0) < 0.03


def littles_law(simulator: Simulator) -> None:
    """The concurrency that ITL shows is the arrival rate times the mean decode time, within 5 %."""
    for name in ("GPT-4o", "Llama-3.1-405B"):
        for rho in (0.1, 0.4, 0.7, 0.85):
            profile = steady(MODELS[name], rho, itl_jitter=0.0)
            times = calibrated(profile)
            result = simulator(profile, np.arange(500), interval=HOUR, points=40, seed=4)
            shown = ((1.0 / result.tps - times.itl_base) / times.step_cost) ** (1 / times.exponent)
            # The sampled lengths cancel out; the remaining noise is that of ITL, at most 0.7 %.
            sampled = np.mean(output_tokens(result) - 1.0) / profile.mean_steps
            in_decode = rho * profile.cap * np.mean(result.e2e_latency - result.ttft) / sampled
            assert abs(np.mean(shown) / in_decode - 1.0) < 0.05


def published_lengths(simulator: Simulator) -> None:
    """Output lengths have the published lognormal's distribution, clipped at both ends."""
    result = simulator(MODELS["GPT-4o"], np.arange(1000), interval=HOUR, points=20, seed=5)
    tokens = np.sort(np.rint(output_tokens(result)).ravel())
    published = stats.lognorm(s=0.86, scale=np.exp(5.02))
    inside = np.arange(2, 2048)
    observed = np.searchsorted(tokens, inside, side="right") / tokens.size
    # Kolmogorov-Smirnov statistic that 1 in 1,000 samples exceeds.
    limit = stats.kstwo.isf(1e-3, tokens.size)
    assert np.abs(observed - published.cdf(inside + 0.5)).max() < limit
    assert tokens.max() <= 2048


def arrival_variability(simulator: Simulator) -> None:
    """Counts of a slice have the mean of the load and the variance of a renewal process."""
    profile = steady(MODELS["GPT-4o"], 0.5, failure_rate=0.0)
    points = 40
    result = simulator(profile, np.arange(500), interval=HOUR, points=points, seed=6)
    count = result.rps * (HOUR / points)
    mean = 0.5 * profile.cap * HOUR / points
    size = count.size
    # Five standard errors; those of a variance are sqrt(2 / size).
    assert abs(count.mean() / mean - 1.0) < 5.0 * 1.1 / np.sqrt(mean * size)
    assert abs(count.var() / (1.1**2 * mean) - 1.0) < 5.0 * np.sqrt(2.0 / size)


def week_shape(simulator: Simulator) -> None:
    """Weekdays peak at 14 UTC at about twice the trough; weekends have 0.57 of their load."""
    weeks = 26
    result = simulator(
        MODELS["Llama-3.1-8B"],
        np.arange(MONDAY, MONDAY + weeks * 168),
        interval=HOUR,
        points=5,
        seed=7,
    )
    hourly = result.rps.mean(axis=1).reshape(weeks, 7, 24).mean(axis=0)
    day = hourly[:5].mean(axis=0)
    # The drift, 0.15 per day, leaves 1.3 % noise on a mean over 130 days and 2.1 % over 52 days.
    assert abs(day.max() / day.min() / 1.97 - 1.0) < 0.08
    assert 13 <= day.argmax() <= 14
    assert abs(hourly[5:].mean() / hourly[:5].mean() / 0.57 - 1.0) < 0.10


def busier_is_slower(simulator: Simulator) -> None:
    """With a constant number of machines, a window with more requests has a lower median of TPS."""
    fixed = replace(MODELS["GPT-4o"], elasticity=1.0, capacity_sd=0.0, shifts_per_year=0.0)
    result = simulator(fixed, np.arange(MONDAY, MONDAY + 672), interval=HOUR, points=40, seed=8)
    windows = stats.spearmanr(np.median(result.tps, axis=1), result.rps.mean(axis=1))
    assert windows.statistic < -0.8


def providers_scale(simulator: Simulator) -> None:
    """TPS follows the daily load by the elasticity times the law of load, and RPS follows it all.

    At the peak ITL is higher than at the trough by the ratio of the ITLs at the utilisations of
    both, which differ by the load's ratio to the power of the elasticity.
    """
    weeks = 26
    for elasticity in (0.0, 0.25, 1.0):
        profile = replace(
            MODELS["GPT-4o"], elasticity=elasticity, capacity_sd=0.0, shifts_per_year=0.0
        )
        times = calibrated(profile)
        result = simulator(
            profile, np.arange(MONDAY, MONDAY + weeks * 168), interval=HOUR, points=5, seed=14
        )
        weekdays = result.rps.mean(axis=1).reshape(weeks, 7, 24)[:, :5].mean(axis=(0, 1))
        tps = np.median(result.tps.reshape(weeks, 7, 24, 5)[:, :5], axis=(0, 1, 3))
        rho = profile.rho * (weekdays / result.rps.mean()) ** elasticity
        itl = times.itl(times.concurrency(rho))
        # 650 requests an hour of the day: a standard error of 1.3 % on each median.
        peak, trough = weekdays.argmax(), weekdays.argmin()
        assert weekdays[peak] > 1.8 * weekdays[trough]
        assert abs(tps[trough] / tps[peak] / (itl[peak] / itl[trough]) - 1.0) < 0.06


def independent_lengths(simulator: Simulator) -> None:
    """At a constant load ITL and TTFT do not depend on the output length, but e2e does."""
    result = simulator(
        steady(MODELS["GPT-4o"], 0.5), np.arange(500), interval=HOUR, points=20, seed=9
    )
    tokens = output_tokens(result).ravel()
    limit = 4.0 / np.sqrt(tokens.size)
    assert abs(stats.spearmanr(tokens, result.tps.ravel()).statistic) < limit
    assert abs(stats.spearmanr(tokens, result.ttft.ravel()).statistic) < limit
    assert stats.spearmanr(tokens, result.e2e_latency.ravel()).statistic > 0.9


def bursts(simulator: Simulator) -> None:
    """Bursts (cv 3 instead of 1) raise the tail of the wait at least threefold."""
    tails = []
    for cv in (1.0, 3.0):
        # With equal prompts and no jitter, the wait is the TTFT above its minimum.
        prompts = replace(STEADY.input_lengths, log_sd=0.0)
        workload = replace(STEADY, input_lengths=prompts, arrival_cv=cv)
        profile = steady(MODELS["GPT-4o"], 0.7, workload=workload, ttft_jitter=0.0, slow_share=0.0)
        result = simulator(profile, np.arange(500), interval=HOUR, points=20, seed=10)
        tails.append(np.quantile(result.ttft - result.ttft.min(), 0.99))
    assert tails[1] > 3.0 * tails[0]


def slow_tail(simulator: Simulator) -> None:
    """TTFT has the tail of live traffic: 5 to 7 % take about four times the median."""
    profile = steady(MODELS["GPT-4o-mini"], 0.3)
    result = simulator(profile, np.arange(1000), interval=HOUR, points=20, seed=11)
    median = np.median(result.ttft)
    assert 0.03 < np.mean(result.ttft > 2.5 * median) < 0.07
    assert np.quantile(result.ttft, 0.99) > 4.0 * median
    assert np.quantile(result.ttft, 0.75) < 1.5 * median


def incidents(simulator: Simulator) -> None:
    """During an incident TTFT, TPS and e2e all get worse, and RPS falls."""
    windows = np.arange(MONDAY + 8, MONDAY + 20)
    for profile in MODELS.values():
        usual = replace(profile, random_incidents=False)
        before = simulator(usual, windows, interval=HOUR, points=100, seed=12)
        for factor in (0.3, 0.5, 0.7):
            span = Incident(MONDAY * HOUR, (MONDAY + 168) * HOUR, factor)
            during = simulator(
                replace(usual, incidents=(span,)), windows, interval=HOUR, points=100, seed=12
            )
            assert np.median(during.ttft) > np.median(before.ttft)
            assert np.median(during.tps) < 0.97 * np.median(before.tps)
            assert np.median(during.e2e_latency) > np.median(before.e2e_latency)
            assert during.rps.mean() < 0.95 * before.rps.mean()
            assert (during.failed.sum(axis=0) > before.failed.sum(axis=0))[1:].all()


def failures(simulator: Simulator) -> None:
    """The share of failures at any time holds, by kind, and they do not count as completed."""
    result = simulator(
        steady(MODELS["GPT-4o"], 0.5, failure_rate=0.015),
        np.arange(500),
        interval=HOUR,
        points=5,
        seed=13,
    )
    failed, completed = result.failed.sum(axis=0), result.completed.sum()
    # Five standard errors of a Poisson count.
    share = failed / (failed.sum() + completed) / 0.005
    assert (np.abs(share - 1.0) < 5.0 / np.sqrt(failed)).all()
    assert np.allclose(result.completed, result.rps.sum(axis=1) * HOUR / 5, atol=1e-6)


LAWS: tuple[Callable[[Simulator], None], ...] = (
    identity,
    published_medians,
    load_law,
    littles_law,
    published_lengths,
    arrival_variability,
    week_shape,
    busier_is_slower,
    providers_scale,
    independent_lengths,
    bursts,
    slow_tail,
    incidents,
    failures,
)
