"""The load of an endpoint at any time: demand over capacity, and the requests that fail."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.capacity import all_incidents, capacity_left, own_capacity, speed
from sim_pipeline.simulator.demand import fast_bursts, slow_demand
from sim_pipeline.simulator.failures import OVERLOADED, failure_shares
from sim_pipeline.simulator.profiles import RHO_MAX, Profile

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """The state of an endpoint at given times; all arrays but the last have the times' shape.

    Attributes:
        rho: utilisation rho(t) = min(0.9, rho * slow^elasticity * fast / capacity), where slow and
            fast are parts of the demand, and capacity is what incidents and the endpoint's own slow
            factor leave.
        speed: speed of the machines relative to that of the profile.
        arrival_rate: accepted requests [1/s]: rho * cap * slow * fast, less those refused.
        completion_rate: accepted requests that complete [1/s].
        failure_rates: requests that fail [1/s], by kind, shape (3, *times.shape): a share of the
            accepted ones, and those refused because they exceed utilisation 0.9.
    """

    rho: Array
    speed: Array
    arrival_rate: Array
    completion_rate: Array
    failure_rates: Array


def load_at(profile: Profile, times: Array, *, spacing: float, seed: int) -> Load:
    """Return the load of an endpoint.

    Args:
        profile: the endpoint.
        times: seconds since the Unix epoch, >= 0, one or more dimensions, not empty.
        spacing: of the instants [s]; bursts shorter than this are left out.
        seed: the user's seed.
    """
    incidents = all_incidents(profile, float(times.min()), float(times.max()), seed=seed)
    left = capacity_left(incidents, times)
    slow = slow_demand(profile, times, seed=seed)
    fast = fast_bursts(profile, times, seed=seed, spacing=spacing)
    demand = profile.rho * slow**profile.elasticity * fast
    demand /= left * own_capacity(profile, times, seed=seed)
    rho = np.minimum(RHO_MAX, demand)
    wanted = profile.rho * profile.cap * slow * fast
    arrivals = wanted * (rho / demand)
    failures = failure_shares(profile, times, left, seed=seed)
    failures *= arrivals
    completed = arrivals - failures.sum(axis=0)
    failures[OVERLOADED] += wanted - arrivals
    return Load(
        rho=rho,
        speed=speed(profile, times, seed=seed),
        arrival_rate=arrivals,
        completion_rate=completed,
        failure_rates=failures,
    )
