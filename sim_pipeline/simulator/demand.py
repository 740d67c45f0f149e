"""What the users of an endpoint ask for, relative to the mean of the week.

Demand is a product: the season of the week, a day-to-day drift, bursts on every scale from seconds
to hours, a few heavy clients that come and go, and the growth after a model's release.
"""

import math
from datetime import UTC, date, datetime

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.dated import place_in_cell, uniforms, wave, wave_mean_variance
from sim_pipeline.simulator.profiles import Profile, Workload
from sim_pipeline.simulator.streams import stream_key

DAY = 86_400.0
HOUR = 3_600.0
SATURDAY = 5.0  # Monday is 0

SLOW_BURSTS = (1_500.0, 9_000.0)
"""Spacing of the waves that make the slow bursts [s]; each has half of their variance [E]."""
FAST_BURSTS = (5.0, 40.0)
"""Spacing of the waves that make the fast bursts [s]; each has half of their variance [E]."""
HEAVY_CELL = 5_400.0
"""A heavy client begins one run in each cell of this length [s]: its runs are independent of the
hour of the day, because a run may begin anywhere in its cell and last into the next."""
HEAVY_RUN = (0.1, 0.5)
"""Shortest and longest run of a heavy client, in cells."""
TRICKLE = 0.02
"""Demand before a model's release (its preview) and long after its retirement [E]."""
GROWTH, DECLINE = 14 * DAY, 7 * DAY
"""Time constants of the demand after release and retirement [s] [E]."""

Array = npt.NDArray[np.float64]


def season(workload: Workload, times: Array) -> Array:
    """Return S(t), the demand relative to the week's mean.

    S(t) = exp(A1 cos(2 pi (h - h0) / 24) + A2 cos(4 pi (h - h0) / 24)) * weekend factor / mean,
    h the hour of the day in UTC; its mean over a week is 1.

    Args:
        workload: amplitudes, peak hour and weekend factor.
        times: seconds since the Unix epoch, any shape.
    """
    # The day's mean by the trapezoid rule. For a smooth periodic function of two harmonics, 96
    # points are exact up to rounding.
    day_mean = float(_day_shape(workload, np.linspace(0.0, DAY, 96, endpoint=False)).mean())
    week_mean = day_mean * (5.0 + 2.0 * workload.weekend_factor) / 7.0
    # The epoch was a Thursday, which is day 3 if Monday is 0.
    weekday = (np.floor(times / DAY) + 3.0) % 7.0
    factor = np.where(weekday < SATURDAY, 1.0, workload.weekend_factor) / week_mean
    return _day_shape(workload, times) * factor


def _day_shape(workload: Workload, times: Array) -> Array:
    phase = (times - workload.peak_hour * HOUR) * (2.0 * math.pi / DAY)
    shape: Array = np.exp(
        workload.daily_amplitude * np.cos(phase)
        + workload.half_daily_amplitude * np.cos(2.0 * phase)
    )
    return shape


def slow_demand(profile: Profile, times: Array, *, seed: int) -> Array:
    """Return the part of the demand that providers scale for: all but the fast bursts; mean 1.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        seed: the user's seed.
    """
    workload = profile.workload
    waves = [("drift", workload.drift_sd, DAY), *_slow_bursts(workload)]
    logs = _log_waves(profile, waves, times, seed=seed)
    demand = season(workload, times)
    demand *= np.exp(logs, out=logs)
    if workload.heavy_share > 0.0:
        demand *= heavy_clients(workload, times, seed=seed, model=profile.name)
    if profile.released is not None or profile.retired is not None:
        demand *= lifetime(profile.released, profile.retired, times)
    return demand


def bursts(profile: Profile, times: Array, *, seed: int) -> Array:
    """Return the factor by which slow bursts and heavy clients change the demand; its mean is 1.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        seed: the user's seed.
    """
    logs = _log_waves(profile, _slow_bursts(profile.workload), times, seed=seed)
    factor: Array = np.exp(logs, out=logs)
    if profile.workload.heavy_share > 0.0:
        factor *= heavy_clients(profile.workload, times, seed=seed, model=profile.name)
    return factor


def _slow_bursts(workload: Workload) -> list[tuple[str, float, float]]:
    """Return the waves that make the slow bursts, see `_log_waves`."""
    log_sd = workload.burst_sd / math.sqrt(len(SLOW_BURSTS))
    return [("burst", log_sd, spacing) for spacing in SLOW_BURSTS]


def _log_waves(
    profile: Profile, waves: list[tuple[str, float, float]], times: Array, *, seed: int
) -> Array:
    """Return the log of a product of lognormal factors, each with a mean of 1.

    Args:
        profile: the endpoint.
        waves: purpose, log-sd and spacing [s] of each factor.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        seed: the user's seed.
    """
    logs = np.zeros_like(times)
    for purpose, log_sd, spacing in waves:
        if log_sd > 0.0:
            key = stream_key(f"{purpose} {spacing:.0f}", seed=seed, model=profile.name)
            logs += log_sd * wave(key, times, spacing)
            logs -= 0.5 * log_sd**2
    return logs


def heavy_clients(workload: Workload, times: Array, *, seed: int, model: str) -> Array:
    """Return the factor by which the heavy clients change the demand; its mean is 1.

    Each client sends in runs, one per cell, at the same rate in every run. On average all of them
    together send `heavy_share` of the requests.

    Args:
        workload: number and share of the clients.
        times: seconds since the Unix epoch, one or more dimensions, not empty.
        seed: the user's seed.
        model: the model's name.
    """
    place, cells = place_in_cell(times, HEAVY_CELL)
    first, last = int(cells.min()), int(cells.max())
    dense = last - first < cells.size
    shortest, longest = HEAVY_RUN
    running = np.zeros_like(times)
    for client in range(workload.heavy_clients):
        key = stream_key(f"heavy client {client}", seed=seed, model=model)
        if dense:
            table = uniforms(key, np.arange(first - 1, last + 1))
        # A run that began in the cell before may last into this one.
        for earlier in (0, 1):
            start, length = (
                table[:, cells - (first - 1 + earlier)] if dense else uniforms(key, cells - earlier)
            )
            since = place + earlier - start
            running += (since >= 0.0) & (since < shortest + (longest - shortest) * length)
    mean = workload.heavy_clients * 0.5 * (shortest + longest)
    running *= workload.heavy_share / mean
    running += 1.0 - workload.heavy_share
    return running


def lifetime(released: date | None, retired: date | None, times: Array) -> Array:
    """Return the demand relative to that of a model in full use, same shape as ``times``.

    It is `TRICKLE` before the release, grows to 1, and falls back to `TRICKLE` after the
    retirement. The dates begin at midnight UTC.
    """
    use = np.ones_like(times)
    for day, time_constant, grows in ((released, GROWTH, True), (retired, DECLINE, False)):
        if day is not None:
            since = np.maximum(times - midnight(day), 0.0)
            left = np.exp(-since / time_constant)
            use *= 1.0 - left if grows else left
    return TRICKLE + (1.0 - TRICKLE) * use


def midnight(day: date) -> float:
    """Return the start of a day, UTC [s since the Unix epoch]."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def fast_bursts(profile: Profile, times: Array, *, seed: int, spacing: float) -> Array:
    """Return the factor of the fast bursts that instants ``spacing`` apart can show; its mean is 1.

    Bursts shorter than the spacing are left out: `hidden_bursts` has their law.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        seed: the user's seed.
        spacing: of the instants in a slice [s].
    """
    log_sd = profile.workload.fast_burst_sd / math.sqrt(len(FAST_BURSTS))
    waves = [("burst", log_sd, length) for length in FAST_BURSTS if length >= spacing]
    logs = _log_waves(profile, waves, times, seed=seed)
    return np.exp(logs, out=logs)


def hidden_bursts(workload: Workload, *, spacing: float, length: float) -> tuple[float, float]:
    """Return what the fast bursts do that are too short for `fast_bursts`.

    Args:
        workload: of the endpoint.
        spacing: of the instants in a slice [s].
        length: of the slice [s].

    Returns:
        The log-sd of the demand at an instant, and the log-sd of its mean over the slice.
    """
    variance = workload.fast_burst_sd**2 / len(FAST_BURSTS)
    hidden = [burst for burst in FAST_BURSTS if burst < spacing]
    of_mean = sum(math.expm1(variance) * wave_mean_variance(burst, length) for burst in hidden)
    return math.sqrt(variance * len(hidden)), math.sqrt(math.log1p(of_mean))
