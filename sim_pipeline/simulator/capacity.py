"""What an endpoint can serve at any time: incidents, a slow factor of its own, and level shifts.

Capacity counts machines: with half of them, each gets twice the requests. Speed is that of one
request: a level shift (a release, new hardware) changes it for good, and the provider keeps the
utilisation.
"""

import math
from datetime import date
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.dated import Words, step_events, steps, uniforms, wave
from sim_pipeline.simulator.demand import DAY, HOUR, midnight
from sim_pipeline.simulator.profiles import Incident, Profile
from sim_pipeline.simulator.streams import stream_key

INCIDENT_PERIOD = 30 * DAY
"""Length of a period in which one or two random incidents begin [s]."""
YEAR = 365.25 * DAY
MEASURED_DAYS = 30
"""Days of which published figures are the median, up to `Profile.measured`."""
MEMORY = 0.5
"""Correlation of the slow factor of capacity from one day to the next [E]."""

Array = npt.NDArray[np.float64]


def random_incidents(first: float, last: float, *, seed: int, model: str) -> list[Incident]:
    """Return the random incidents of every 30-day period that can overlap [first, last].

    A period has one or two incidents with equal probability. Each begins at a uniform time in the
    period, lasts 0.5 to 1.5 hours, and leaves a share U(0.3, 0.7) of the capacity.

    Args:
        first: seconds since the Unix epoch, >= 0.
        last: seconds since the Unix epoch, >= first.
        seed: the user's seed.
        model: the model's name.
    """
    # An incident that begins at the end of a period can reach into the next.
    periods = np.arange(
        max(0, math.floor(first / INCIDENT_PERIOD) - 1), math.floor(last / INCIDENT_PERIOD) + 1
    )
    key = stream_key("incidents", seed=seed, model=model)
    incidents = []
    for period, u in zip(periods.tolist(), uniforms(key, periods, 8).T.tolist(), strict=True):
        for start, duration, factor in (u[1:4], u[4:7])[: 1 if u[0] < 0.5 else 2]:  # noqa: PLR2004
            at = (period + start) * INCIDENT_PERIOD
            incidents.append(Incident(at, at + (0.5 + duration) * HOUR, 0.3 + 0.4 * factor))
    return incidents


def all_incidents(profile: Profile, first: float, last: float, *, seed: int) -> list[Incident]:
    """Return the incidents of a profile: those on given dates, and the random ones.

    Args:
        profile: the endpoint.
        first: seconds since the Unix epoch, >= 0; random incidents that end before may be missing.
        last: seconds since the Unix epoch, >= first; those that begin after it may be missing.
        seed: the user's seed.
    """
    incidents = list(profile.incidents)
    if profile.random_incidents:
        incidents += random_incidents(first, last, seed=seed, model=profile.name)
    return incidents


def capacity_left(incidents: list[Incident], times: Array) -> Array:
    """Return the share of its capacity that incidents leave an endpoint.

    Where incidents overlap, the smallest capacity_factor applies.

    Args:
        incidents: in any order, overlapping or not.
        times: seconds since the Unix epoch, any shape.
    """
    if not incidents:
        return np.ones_like(times)
    edges = np.unique([edge for incident in incidents for edge in (incident.start, incident.end)])
    # Piece i lies between edge i - 1 and edge i.
    pieces = np.ones(edges.size + 1)
    for incident in incidents:
        low, high = np.searchsorted(edges, (incident.start, incident.end)) + 1
        np.minimum(pieces[low:high], incident.capacity_factor, out=pieces[low:high])
    return pieces[np.searchsorted(edges, times, side="right")]


def own_capacity(profile: Profile, times: Array, *, seed: int) -> Array:
    """Return the slow factor of an endpoint's capacity, an AR(1) over days.

    It is relative to the 30 days up to `Profile.measured`. A share of its variance,
    `creator_share`, is common to the models of a creator.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        seed: the user's seed.
    """
    logs = np.zeros_like(times)
    if profile.capacity_sd > 0.0:
        for owner, share in _owners(profile):
            key = stream_key("capacity", seed=seed, model=owner)
            weight = profile.capacity_sd * math.sqrt(share)
            logs += weight * wave(key, times, DAY, MEMORY)
            logs -= weight * _mean_wave(owner, profile.measured, seed)
    return np.exp(logs, out=logs)


@lru_cache(maxsize=1024)
def _mean_wave(owner: str, measured: date, seed: int) -> float:
    """Return the mean of an owner's wave of capacity over the days up to ``measured``."""
    key = stream_key("capacity", seed=seed, model=owner)
    return float(wave(key, _measured_days(measured), DAY, MEMORY).mean())


def speed(profile: Profile, times: Array, *, seed: int) -> Array:
    """Return the speed of an endpoint's machines, relative to the 30 days up to `Profile.measured`.

    It jumps `shifts_per_year` times a year. A share of the jumps, `creator_share`, is common to the
    models of a creator. The level after a jump is new: log-speed does not wander off.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        seed: the user's seed.
    """
    logs = np.zeros_like(times)
    for key, spacing in _shift_processes(profile, seed):
        logs += steps(key, times, spacing)
        logs -= steps(key, _measured_days(profile.measured), spacing).mean()
    logs *= _level_sd(profile)
    return np.exp(logs, out=logs)


def shifts(profile: Profile, first: float, last: float, *, seed: int) -> list[tuple[float, float]]:
    """Return the jumps of `speed` in [first, last): their times [s], and the speed after / before.

    Args:
        profile: the endpoint.
        first: seconds since the Unix epoch, >= 0.
        last: seconds since the Unix epoch, >= first.
        seed: the user's seed.
    """
    found: list[tuple[float, float]] = []
    for key, spacing in _shift_processes(profile, seed):
        starts, levels = step_events(key, first, last, spacing)
        factors = np.exp(_level_sd(profile) * np.diff(levels))
        chosen = (starts[1:] >= first) & (starts[1:] < last)
        found += zip(starts[1:][chosen].tolist(), factors[chosen].tolist(), strict=True)
    return found


def _shift_processes(profile: Profile, seed: int) -> list[tuple[Words, float]]:
    """Return the keys of the processes whose jumps are shifts, and their spacings [s]."""
    return [
        (
            stream_key("shifts", seed=seed, model=owner),
            YEAR / (profile.shifts_per_year * share),
        )
        for owner, share in _owners(profile)
        if profile.shifts_per_year * share > 0.0
    ]


def _level_sd(profile: Profile) -> float:
    """Return the log-sd of a level: the difference of two has the log-sd of a shift."""
    return profile.shift_sd / math.sqrt(2.0)


def _measured_days(last: date) -> Array:
    """Return the midnights of the days for which the medians were published, shape (30,)."""
    return midnight(last) - DAY * np.arange(MEASURED_DAYS, dtype=np.float64)


def _owners(profile: Profile) -> tuple[tuple[str, float], tuple[str, float]]:
    """Return whose processes a profile has, and their shares: the model's and its creator's."""
    creator = f"creator {profile.creator or profile.name}"
    return (profile.name, 1.0 - profile.creator_share), (creator, profile.creator_share)
