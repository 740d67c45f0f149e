"""Quantiles of simulated requests: at a steady load, or over the 30 days of published medians."""

from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt

from sim_pipeline.fit.loads import MEAN
from sim_pipeline.simulator.demand import DAY, HOUR, midnight
from sim_pipeline.simulator.draws import Draws, Normal, Uniform
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.requests import history_length, observe
from sim_pipeline.simulator.simulation import simulate

Array = npt.NDArray[np.float64]

_DAYS, _HOURS, _POINTS = 30, 72, 60
_LONGEST_HISTORY: Final = 512


@dataclass(frozen=True)
class Quantile:
    """A quantile of TTFT [s] or TPS [tokens/s] at a load.

    Attributes:
        load: index of the load.
        metric: ttft or tps.
        level: in (0, 1), or `MEAN`.
        measured: its value.
        simulated: its value in the simulation of the fitted profile; 0 before that.
    """

    load: int
    metric: str
    level: float
    measured: float
    simulated: float = 0.0

    @property
    def error(self) -> float:
        """The relative difference of the simulated value."""
        return self.simulated / self.measured - 1.0

    def of(self, values: Array) -> float:
        """Return this quantile of ``values``, any shape."""
        return float(values.mean() if self.level == MEAN else np.quantile(values, self.level))


def over_days(profile: Profile, seed: int) -> dict[str, Array]:
    """Return TTFT [s] and TPS in 72 hours, spread over the 30 days up to `Profile.measured`.

    The level shifts are left out: the published medians are relative to theirs.
    """
    start = midnight(profile.measured) - (_DAYS - 1) * DAY
    hours = np.linspace(0, _DAYS * 24 - 1, _HOURS).astype(np.int64) + int(start // HOUR)
    steady = replace(profile, shifts_per_year=0.0)
    result = simulate(steady, hours, interval=int(HOUR), points=_POINTS, seed=seed)
    return {"ttft": result.ttft, "tps": result.tps}


def at_steady_load(profile: Profile, rho: float, *, rows: int, seed: int) -> dict[str, Array]:
    """Return TTFT [s] and TPS of ``rows`` requests at utilisation ``rho``.

    Equal seeds use the same random numbers for all profiles and loads.
    """
    utilisation = np.full(rows, rho)
    history = min(int(history_length(profile, utilisation[:1])[0]), _LONGEST_HISTORY)
    pool = _draws(rows, profile.workload.arrival_cv, seed)
    draws = Draws(
        normals=pool.normals.copy(),
        uniforms=pool.uniforms.copy(),
        covering=pool.covering.copy(),
        gaps=pool.gaps[:, :history].copy(),
        prompts=pool.prompts[:, :history].copy(),
        outputs=pool.outputs[:, :history].copy(),
    )
    ones = np.ones(rows)
    requests = observe(profile, draws, rho=utilisation, speed=ones, expected=ones)
    return {"ttft": requests.ttft, "tps": 1.0 / requests.itl}


@lru_cache(maxsize=2)
def _draws(rows: int, arrival_cv: float, seed: int) -> Draws:
    """Return random numbers. Those of the observed requests are stratified: quantiles converge."""
    generator = np.random.Generator(np.random.Philox(seed))
    draws = Draws.empty(rows, _LONGEST_HISTORY)
    draws.fill(slice(None), generator, arrival_cv)
    middles = (np.arange(rows) + 0.5) / rows
    scores = np.array([NormalDist().inv_cdf(level) for level in middles.tolist()])
    for values, strata, columns in (
        (draws.normals, scores, len(Normal)),
        (draws.uniforms, middles, len(Uniform)),
    ):
        for column in range(columns):
            values[:, column] = generator.permutation(strata)
    return draws
