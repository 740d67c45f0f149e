"""Benchmark: how often the 95 % intervals of a comparison contain the truth.

The truth is the percentile of a metric over a period if the same period were observed again and
again: the slow state of the endpoint (season, day-to-day drift, capacity, level shifts, incidents,
failures) is that of the period, and bursts, heavy clients and requests are drawn again. So each
week is simulated many times, and the truth is the percentile of all these values together.

Each simulation is one observation: the intervals of its week and of its seven days are those that a
comparison would store. It needs no server. docs/comparison.md has the figures.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from benchmarks.figures import Limit, Row
from sim_pipeline.comparison.intervals import QUANTILES, dependence, intervals, percentiles
from sim_pipeline.comparison.ranking import PERIODS
from sim_pipeline.comparison.sampling import Series
from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator import demand, simulation
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.simulation import simulate
from sim_pipeline.simulator.streams import stream_key

HOUR: Final = 3_600
WEEK: Final = PERIODS[-1]
"""Length of the simulated period [h]; it contains the shorter ones several times."""
REDRAWN: Final = ("burst", "heavy client", "windows")
"""First words of the purposes of the streams that differ between observations of a period."""
FIRST: Final = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp()) // HOUR
DAYS: Final = 300
"""The weeks begin at a random hour of these days after `FIRST`."""
NOMINAL, TOLERANCE = 95.0, 2.0
"""The intended share of intervals that contain the truth, and the accepted distance from it [%]."""

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Feed:
    """A feed whose intervals are measured.

    Attributes:
        interval: length of a window [s].
        points: values per metric and window.
        seeds: one week of each model is simulated for each.
        observations: number of simulations of each week.
        limited: whether the limits apply.
    """

    interval: int
    points: int
    seeds: range
    observations: int
    limited: bool = False

    def __str__(self) -> str:
        """Return a description for the table."""
        return f"windows of {self.interval:,} s with {self.points} values"


# Other seeds than those with which the lengths of the blocks were chosen, which are 101 to 308.
FEEDS: Final = (
    Feed(HOUR, 5, range(401, 409), 50, limited=True),
    Feed(HOUR, 20, range(401, 404), 30),
    Feed(600, 5, range(401, 404), 30),
)


def measure(*, quick: bool) -> Iterator[Row]:
    """Measure the coverage for each period, metric and percentile.

    Args:
        quick: simulate one week of the default feed ten times, as a smoke test.
    """
    for feed in (Feed(HOUR, 5, range(401, 402), 10),) if quick else FEEDS:
        profiles = [profile_for(name) for name in DEFAULT_MODELS]
        # Shape (seeds, models, 2, periods, metrics, percentiles).
        shares = np.array(
            [[coverage(profile, feed, seed) for profile in profiles] for seed in feed.seeds]
        )
        by_seed, by_model = 100.0 * shares.mean(axis=1), 100.0 * shares.mean(axis=0)
        for place in np.ndindex(by_seed.shape[2:]):
            period, metric, quantile = place
            models = by_model[(slice(None), 0, *place)]
            yield Row(
                f"p{QUANTILES[quantile]:.0%}".rstrip("%")
                + f" of {METRICS[metric]}, {PERIODS[period]} h, {feed}:"
                " intervals that contain the truth",
                "%",
                tuple(by_seed[(slice(None), 0, *place)].tolist()),
                limit=Limit(NOMINAL - TOLERANCE, at_least=True) if feed.limited else None,
                note=f"by model {models.min():.1f} to {models.max():.1f};"
                f" without correlation {by_seed[(slice(None), 1, *place)].mean():.1f}",
            )
        distance = np.abs(by_seed.mean(axis=0)[0] - NOMINAL).max()
        yield Row(
            f"{feed}: largest distance from {NOMINAL:g} %",
            "percentage points",
            (float(distance),),
            limit=Limit(TOLERANCE) if feed.limited else None,
            note=f"{len(feed.seeds) * len(profiles) * feed.observations:,} comparisons",
        )


def coverage(profile: Profile, feed: Feed, seed: int) -> Array:
    """Return the share of intervals that contain the truth, for a week of a model.

    Returns:
        Shape (2, periods, 4, percentiles): with the estimated correlation, and without; metrics in
        the order of `METRICS`.
    """
    seen, starts = observe(profile, feed, seed)
    found = np.zeros((2, len(PERIODS), len(METRICS), len(QUANTILES)))
    for metric in range(len(METRICS)):
        factors = [
            dependence(Series(starts, values), np.sort(values), timedelta(seconds=feed.interval))
            for values in seen[:, metric]
        ]
        for period, hours in enumerate(PERIODS):
            # Shape (observations, periods in the week, values).
            ordered = np.sort(seen[:, metric].reshape(len(seen), WEEK // hours, -1))
            truths = [percentiles(np.sort(part, axis=None)) for part in ordered.swapaxes(0, 1)]
            for parts, factor in zip(ordered, factors, strict=True):
                for part, truth in zip(parts, truths, strict=True):
                    for row, used in enumerate((factor, np.ones(len(QUANTILES)))):
                        low, high = np.array(intervals(part, used), dtype=np.float64).T
                        found[row, period, metric] += (low <= truth) & (truth <= high)
            found[:, period, metric] /= ordered.shape[0] * ordered.shape[1]
    return found


def observe(profile: Profile, feed: Feed, seed: int) -> tuple[Array, Array]:
    """Simulate a week of a model many times under the same slow state.

    Returns:
        The values in order of time, shape (observations, 4, values), metrics in the order of
        `METRICS`; and the start of each value's window [s since 1970], shape (values,).
    """
    generator = np.random.default_rng([seed, *profile.name.encode()])
    first = FIRST + int(generator.integers(24 * DAYS))
    windows = first * HOUR // feed.interval + np.arange(WEEK * HOUR // feed.interval)
    seen = np.empty((feed.observations, len(METRICS), windows.size * feed.points))
    for number, values in enumerate(seen):
        with ExitStack() as stack:
            for module in (demand, simulation):
                stack.enter_context(patch.object(module, "stream_key", redrawn(number)))
            result = simulate(
                profile, windows, interval=feed.interval, points=feed.points, seed=seed
            )
        values[:] = np.stack([result.ttft, result.tps, result.e2e_latency, result.rps]).reshape(
            len(METRICS), -1
        )
    return seen, np.repeat(windows * float(feed.interval), feed.points)


def redrawn(number: int) -> Callable[..., npt.NDArray[np.uint64]]:
    """Return a `stream_key` with other keys for the streams of `REDRAWN`."""

    def key(purpose: str, *, seed: int, model: str, interval: int = 0) -> npt.NDArray[np.uint64]:
        if purpose.startswith(REDRAWN):
            purpose = f"{purpose}, observation {number}"
        return stream_key(purpose, seed=seed, model=model, interval=interval)

    return key
