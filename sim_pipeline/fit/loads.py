"""Measured loads: their rate and concurrency, the lengths of their requests, and ITL by load."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np

from sim_pipeline.fit.least_squares import Parameter, least_squares
from sim_pipeline.fit.measurement import Distribution, LoadPoint, MeasurementError
from sim_pipeline.simulator.lengths import MAX_TOKENS, TokenLengths
from sim_pipeline.simulator.profiles import Profile

METRICS: Final = ("ttft", "tps")
MEAN: Final = 0.0
"""In place of a quantile's level: the mean, for a file that has no quantile."""
MOST_DECODING: Final = 100_000
"""The largest batch limit."""

# Quantiles outside of these levels are of too few requests.
_LOWEST_LEVEL, _HIGHEST_LEVEL = 0.05, 0.99
_FEWEST_REQUESTS = 2
# The exponent of the ITL needs so many loads, and so much between the smallest and the largest.
_EXPONENT_LOADS, _EXPONENT_SPAN = 4, 4.0


@dataclass(frozen=True)
class Load:
    """A measured load.

    Attributes:
        point: what was measured.
        itl: mean time between tokens [s].
        rate: completed requests per second; None if unknown.
        decoding: mean number of requests that decode, by Little's law; None without a rate.
    """

    point: LoadPoint
    itl: float
    rate: float | None
    decoding: float | None


@dataclass(frozen=True)
class Curve:
    """ITL = base + cost c^exponent [s] while c requests decode, each for ``steps`` tokens."""

    base: float
    cost: float
    exponent: float
    steps: float

    def itl(self, decoding: float) -> float:
        """Return the ITL [s]."""
        return self.base + self.cost * math.pow(decoding, self.exponent)

    def rate(self, decoding: float) -> float:
        """Return the rate at which so many requests decode on average [1/s]: Little's law."""
        return decoding / (self.steps * self.itl(decoding))

    def decoding(self, rate: float) -> float:
        """Return how many requests decode at a rate, at most `MOST_DECODING`."""
        low, high = 0.0, float(MOST_DECODING)
        for _ in range(60):
            middle = 0.5 * (low + high)
            low, high = (middle, high) if self.rate(middle) < rate else (low, middle)
        return high


def middle(distribution: Distribution | None) -> float:
    """Return the median, else the mean, of a distribution that `check` accepts."""
    value = distribution.middle if distribution else None
    if value is None:
        raise ValueError("the distribution has neither a median nor a mean")
    return value


def check(point: LoadPoint) -> None:
    """Raise a `MeasurementError` if a load cannot be fitted."""
    for metric, expected in (
        ("ttft", "the time to first token: measure with streaming"),
        ("tps", "tokens per second, or the time per token"),
    ):
        distribution = getattr(point, metric)
        if distribution is None or distribution.middle is None:
            raise MeasurementError(
                f"{point.source}: {metric} is missing: a fit needs the median or mean of {expected}"
            )
    if point.completed is not None and point.completed < _FEWEST_REQUESTS:
        raise MeasurementError(
            f"{point.source}: completed requests are {point.completed}: a fit needs "
            f"{_FEWEST_REQUESTS} or more"
        )


def given_levels(point: LoadPoint, metric: str) -> dict[float, float]:
    """Return the quantiles to compare by level; only the mean if there is no median."""
    distribution: Distribution = getattr(point, metric)
    if 0.5 not in distribution.quantiles:  # noqa: PLR2004
        return {MEAN: middle(distribution)}
    return {
        level: value
        for level, value in distribution.quantiles.items()
        if _LOWEST_LEVEL <= level <= _HIGHEST_LEVEL
    }


def load_of(point: LoadPoint, steps: float) -> Load:
    """Return the load of a point, whose requests have ``steps`` tokens after the first."""
    itl = (point.itl.mean if point.itl else None) or 1.0 / middle(point.tps)
    latency = middle(point.ttft) + steps * itl
    rate = point.rate or (point.concurrency / latency if point.concurrency else None)
    return Load(point, itl, rate, rate * steps * itl if rate else None)


def fitted_lengths(
    found: Sequence[Distribution], usual: TokenLengths, minimum: int
) -> tuple[TokenLengths, str]:
    """Return token counts like the measured ones, and from what they were fitted.

    Args:
        found: the token counts of one or more loads.
        usual: the spread of counts of which only the mean is known.
        minimum: the smallest count.
    """
    samples = [value for one in found for value in one.samples if value > 0]
    quantiles = found[0].quantiles
    log_sd, highest, source = usual.log_sd, 0.0, "mean; the spread is the default"
    if samples:
        log_sd, highest, source = float(np.std(np.log(samples))), max(samples), "requests"
    elif len(quantiles) > 1:
        z = [NormalDist().inv_cdf(level) for level in quantiles]
        log_sd = max(float(np.polyfit(z, np.log(list(quantiles.values())), 1)[0]), 0.0)
        highest, source = max(quantiles.values()), "mean and quantiles"
    means = [mean for one in found if (mean := one.mean or one.middle)]
    mean = max(float(np.mean(means)), float(minimum))
    log_sd = round(min(log_sd, 3.0), 3)
    # Room for the tail, but none for a fixed length.
    tail = math.exp(3.0 * log_sd)
    maximum = min(MAX_TOKENS, max(math.ceil(highest), math.ceil(mean * tail), minimum + 1))
    log_median = math.log(mean) - 0.5 * log_sd**2
    for _ in range(8):
        lengths = TokenLengths(round(min(max(log_median, 0.0), 13.8), 4), log_sd, minimum, maximum)
        log_median += math.log(mean / lengths.mean)
    return lengths, source


def measured_curve(loads: Sequence[Load], steps: float) -> tuple[Curve, bool, float]:
    """Return the ITL by load, without simulation.

    Args:
        loads: with known `Load.decoding`, the smallest first.
        steps: mean number of tokens of a request after the first.

    Returns:
        The curve, whether its exponent was fitted, and the largest relative error.
    """
    decoding = np.array([load.decoding for load in loads])
    itl = np.array([load.itl for load in loads])
    free = len(loads) >= _EXPONENT_LOADS and decoding[-1] >= _EXPONENT_SPAN * decoding[0]
    usual = Profile.itl_exponent
    base = 0.7 * float(itl.min())
    cost = math.log(max(float(itl.max()) - base, 0.1 * base) / float(decoding[-1]) ** usual)
    parameters = [
        Parameter("base", math.log(base), -16.0, 4.0, 0.01),
        Parameter("cost", cost, cost - 6.0, cost + 4.0, 0.01),
    ]
    if free:
        parameters.append(Parameter("exponent", usual, 0.1, 1.0, 0.01, width=2.0))

    def curve(values: dict[str, float]) -> Curve:
        exponent = values.get("exponent", usual)
        return Curve(math.exp(values["base"]), math.exp(values["cost"]), exponent, steps)

    values, _ = least_squares(
        lambda values: np.log([curve(values).itl(c) for c in decoding.tolist()]) - np.log(itl),
        parameters,
        iterations=30,
    )
    found = curve(values)
    errors = [found.itl(c) / value - 1.0 for c, value in zip(decoding, itl, strict=True)]
    return found, free, max(map(abs, errors))
