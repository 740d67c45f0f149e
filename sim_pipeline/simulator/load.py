"""The load and the capacity of an endpoint at any time: season, drift, incidents."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.profiles import RHO_MAX, Incident, Profile, Workload
from sim_pipeline.simulator.streams import dated_uniforms, stream_key

DAY = 86_400.0
HOUR = 3_600.0
SATURDAY = 5.0  # Monday is 0
INCIDENT_PERIOD = 30 * DAY
"""Length of a period in which one or two random incidents begin [s]."""
LOST_REQUESTS = 0.25
"""Share of the requests to the lost capacity that fail during an incident; the others are routed
around it [E]."""

Array = npt.NDArray[np.float64]


def season(workload: Workload, times: Array) -> Array:
    """Return S(t), the load relative to the week's mean.

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


def drift(log_sd: float, times: Array, *, seed: int, model: str) -> Array:
    """Return the day-to-day drift of the load: a factor of mean 1 with log-sd ``log_sd``.

    Each model has a standard normal value Z at each midnight (UTC), hashed from seed, model and
    day. Between two midnights, the value is cos(x) Z_d + sin(x) Z_(d+1), where x goes from 0 to
    pi/2. It is continuous and has unit variance at any time.

    Args:
        log_sd: standard deviation of the factor's logarithm, >= 0.
        times: seconds since the Unix epoch, >= 0, any shape but empty.
        seed: the user's seed.
        model: the model's name.
    """
    if log_sd == 0.0:
        return np.ones_like(times)
    day = np.floor(times / DAY)
    first = int(day.min())
    count = int(day.max()) - first + 2
    uniforms = dated_uniforms(stream_key("drift", seed=seed, model=model), first, count, width=4)
    # Box-Muller transform (1958).
    normals = np.sqrt(-2.0 * np.log(uniforms[:, 0])) * np.cos(2.0 * math.pi * uniforms[:, 1])
    index = day.astype(np.int64) - first
    angle = (times / DAY - day) * (0.5 * math.pi)
    value = np.cos(angle) * normals[index] + np.sin(angle) * normals[index + 1]
    factor: Array = np.exp(log_sd * value - 0.5 * log_sd**2)
    return factor


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
    begin = max(0, math.floor(first / INCIDENT_PERIOD) - 1)
    count = math.floor(last / INCIDENT_PERIOD) - begin + 1
    key = stream_key("incidents", seed=seed, model=model)
    incidents = []
    for period, u in enumerate(dated_uniforms(key, begin, count, width=8).tolist(), start=begin):
        for start, duration, factor in (u[1:4], u[4:7])[: 1 if u[0] < 0.5 else 2]:  # noqa: PLR2004
            at = (period + start) * INCIDENT_PERIOD
            incidents.append(Incident(at, at + (0.5 + duration) * HOUR, 0.3 + 0.4 * factor))
    return incidents


def capacity(incidents: list[Incident], times: Array) -> Array:
    """Return the share of its capacity that an endpoint has left.

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


@dataclass(frozen=True)
class Load:
    """The state of an endpoint at given times; all arrays have the times' shape.

    Attributes:
        rho: utilisation rho(t) = min(0.9, rho S(t) drift(t) / capacity(t)).
        capacity: share of the normal capacity that is left.
        arrival_rate: accepted requests [1/s]: lambda = rho(t) * cap * capacity(t).
        completion_rate: accepted requests that complete [1/s].
        failure_rate: requests that fail [1/s]: the normal share, those lost with the capacity of
            an incident, and those refused because they exceed utilisation 0.9.
    """

    rho: Array
    capacity: Array
    arrival_rate: Array
    completion_rate: Array
    failure_rate: Array


def load_at(profile: Profile, times: Array, *, seed: int) -> Load:
    """Return the load of an endpoint.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, any shape but empty.
        seed: the user's seed.
    """
    workload = profile.workload
    incidents = list(profile.incidents)
    if profile.random_incidents:
        first, last = float(times.min()), float(times.max())
        incidents += random_incidents(first, last, seed=seed, model=profile.name)
    left = capacity(incidents, times)
    demand = profile.rho * season(workload, times)
    demand *= drift(workload.drift_sd, times, seed=seed, model=profile.name)
    rho = np.minimum(RHO_MAX, demand / left)
    arrivals = rho * left * profile.cap
    lost = LOST_REQUESTS * (1.0 - left)
    completed = arrivals * (1.0 - profile.failure_rate) * (1.0 - lost)
    return Load(
        rho=rho,
        capacity=left,
        arrival_rate=arrivals,
        completion_rate=completed,
        failure_rate=np.maximum(demand * profile.cap - completed, 0.0),
    )
