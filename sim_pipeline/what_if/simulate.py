"""The simulation of a what-if: percentiles of each model and metric for baseline and candidate.

Both sides are simulated; the database is not read.
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
class SideResult:
    """The result of one side of a what-if.

    Attributes:
        percentiles: in the metric's unit, shape (models, 4, 2): metrics in the order of `METRICS`,
            percentiles in the order of `PERCENTILES`.
        attainment: share of the data points within the model's limits, shape (models,).
        goodput: RPS times attainment, mean over the windows [requests/s], shape (models,).
        digest: digest of everything the metrics depend on; equal digests mean equal metrics.
    """

    percentiles: NDArray[np.float64]
    attainment: NDArray[np.float64]
    goodput: NDArray[np.float64]
    digest: str


@dataclass(frozen=True, eq=False)
class Outcome:
    """The results of both sides of a what-if.

    Attributes:
        baseline: from the current inputs.
        candidate: from the inputs of the what-if.
    """

    baseline: SideResult
    candidate: SideResult


def simulate_scenario(scenario: Scenario) -> Outcome:
    """Simulate both sides of a scenario, one model at a time."""
    windows = np.asarray(scenario.windows, dtype=np.int64)
    shape = (len(scenario.llm_names), len(METRICS), len(PERCENTILES))
    progress = Progress("Simulated", "values", 2 * shape[0] * windows.size)
    done = made = 0
    sides = []
    for inputs in (scenario.baseline, scenario.candidate):
        percentiles = np.empty(shape)
        attainment, goodput = np.empty(shape[0]), np.empty(shape[0])
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
            good = profile.limits.good(*metrics[:3])
            attainment[place] = good.mean()
            goodput[place] = np.mean(good.mean(axis=1) * simulation.rps.mean(axis=1))
            done += windows.size
            made += windows.size * inputs.points * len(METRICS)
            progress.report(done, made)
        sides.append(SideResult(percentiles, attainment, goodput, digest.hexdigest()))
    progress.end(done, made)
    return Outcome(*sides)
