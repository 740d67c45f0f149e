"""What comes of a what-if: percentiles of each model and metric, beside the current ones.

Both sides are simulated: nothing is read from the database.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim_pipeline.feed.progress import Progress
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.fingerprint import fingerprints
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.what_if.form import Scenario

PERCENTILES = (50, 95)


@dataclass(frozen=True, eq=False)
class Side:
    """What inputs give.

    Attributes:
        percentiles: shape (models, 4, 2): metrics in the order of `METRICS`, percentiles in that
            of `PERCENTILES`.
        digest: of all that the numbers depend on: equal digests, equal numbers.
    """

    percentiles: NDArray[np.float64]
    digest: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a scenario gives.

    Attributes:
        now: of the current inputs.
        then: of those of the what-if.
    """

    now: Side
    then: Side

    @property
    def change(self) -> NDArray[np.float64]:
        """What becomes of each percentile, over what it is, less 1; shape (models, 4, 2)."""
        return self.then.percentiles / self.now.percentiles - 1.0


def simulate_scenario(scenario: Scenario) -> Outcome:
    """Simulate both sides of a scenario, one model at a time."""
    windows = np.asarray(scenario.windows, dtype=np.int64)
    shape = (len(scenario.llm_names), len(METRICS), len(PERCENTILES))
    progress = Progress("Simulated", "values", 2 * shape[0] * windows.size)
    done = made = 0
    sides = []
    for inputs in (scenario.now, scenario.then):
        percentiles = np.empty(shape)
        digest = hashlib.blake2b(digest_size=16)
        for place, llm_name in enumerate(scenario.llm_names):
            run = {
                "interval": scenario.cadence.interval,
                "points": inputs.points,
                "seed": inputs.seed,
            }
            profile = inputs.profiles[llm_name]
            for fingerprint in fingerprints(profile, windows, **run):
                digest.update(fingerprint.encode())
            simulation = simulate(profile, windows, **run)
            metrics = (simulation.ttft, simulation.tps, simulation.e2e_latency, simulation.rps)
            for metric, values in enumerate(metrics):
                percentiles[place, metric] = np.percentile(values, PERCENTILES)
            done += windows.size
            made += windows.size * inputs.points * len(METRICS)
            progress.report(done, made)
        sides.append(Side(percentiles, digest.hexdigest()))
    progress.end(done, made)
    return Outcome(*sides)
