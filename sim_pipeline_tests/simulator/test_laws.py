"""The simulator follows every law; independent random numbers break every law."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sim_pipeline.metrics import FAILURE_KINDS
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import Simulation, simulate
from sim_pipeline_tests.simulator.laws import LAWS, Simulator


def naive(
    profile: Profile,
    windows: npt.NDArray[np.integer[Any]] | Sequence[int],
    *,
    interval: int,
    points: int,
    seed: int,
) -> Simulation:
    """Draw every metric independently, uniformly around its published value."""
    generator = np.random.default_rng([seed, interval])
    shape = (len(windows), points)
    return Simulation(
        ttft=profile.ttft_ref * generator.uniform(0.5, 2.0, shape),
        tps=profile.tps_ref * generator.uniform(0.5, 1.5, shape),
        e2e_latency=generator.uniform(1.0, 30.0, shape),
        rps=profile.rho * profile.cap * generator.uniform(0.5, 1.5, shape),
        completed=generator.integers(0, 1000, len(windows)),
        failed=generator.integers(0, 10, (len(windows), len(FAILURE_KINDS))),
        utilisation=generator.uniform(0.0, 0.9, len(windows)),
    )


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_simulator_follows(law: Callable[[Simulator], None]) -> None:
    law(simulate)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_independent_uniform_draws_break(law: Callable[[Simulator], None]) -> None:
    with pytest.raises(AssertionError):
        law(naive)
