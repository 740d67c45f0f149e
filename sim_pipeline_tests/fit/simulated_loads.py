"""Loads that the simulator makes from a known profile, in the form of a measurement."""

from collections.abc import Sequence

import numpy as np

from sim_pipeline.fit.measurement import Distribution, LoadPoint, complete
from sim_pipeline.simulator.draws import Draws
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.requests import history_length, observe

REQUESTS = 4000


def measure(profile: Profile, utilisations: Sequence[float]) -> list[LoadPoint]:
    """Return what a tool would measure at steady loads, one point for each utilisation."""
    return [
        _measure(profile, rho, np.random.default_rng(place))
        for place, rho in enumerate(utilisations)
    ]


def _measure(profile: Profile, rho: float, generator: np.random.Generator) -> LoadPoint:
    ones = np.ones(REQUESTS)
    draws = Draws.empty(REQUESTS, int(history_length(profile, rho * ones)[0]))
    draws.fill(slice(None), generator, profile.workload.arrival_cv)
    requests = observe(profile, draws, rho=rho * ones, speed=ones, expected=ones)
    return complete(
        LoadPoint(
            source=f"rho {rho}",
            tool="simulator",
            completed=REQUESTS,
            rate=rho * profile.cap,
            ttft=Distribution.of(requests.ttft.tolist()),
            itl=Distribution.of(requests.itl.tolist()),
            input_tokens=Distribution.of(requests.n_in.tolist()),
            output_tokens=Distribution.of(requests.n_out.tolist()),
        )
    )
