"""Least squares by the method of Levenberg and Marquardt, for functions without derivatives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Attempts per iteration, each with more damping.
_TRIALS = 6
# It has converged if the sum of squares falls by a smaller share.
_LEAST_GAIN = 1e-2
# Weight of the distance to the first guess.
_PULL = 0.02
# Smallest standard deviation of a residual: that of the simulated quantiles.
_LEAST_NOISE = 0.02


@dataclass(frozen=True)
class Parameter:
    """A number to fit.

    Attributes:
        name: what it is.
        start: the first guess.
        low: smallest value.
        high: largest value.
        step: of the numeric derivative.
        width: how far from `start` the usual values are. Data that do not determine the parameter
            leave it near `start`.
    """

    name: str
    start: float
    low: float
    high: float
    step: float
    width: float = 10.0


def least_squares(
    residuals: Callable[[dict[str, float]], Array | None],
    parameters: Sequence[Parameter],
    *,
    iterations: int,
) -> tuple[dict[str, float], dict[str, float]]:
    """Return the values with the least sum of squares, and their standard errors, by name.

    Args:
        residuals: of values by name, shape (n,), or None if the values are impossible.
        parameters: what to fit.
        iterations: at most so many.

    Raises:
        ValueError: the first guess is impossible.
    """
    if not parameters:
        return {}, {}
    names = [one.name for one in parameters]
    start, low, high, width = np.array(
        [(p.start, p.low, p.high, p.width) for p in parameters], dtype=np.float64
    ).T

    def evaluate(x: Array) -> Array | None:
        found = residuals(dict(zip(names, x.tolist(), strict=True)))
        return None if found is None else np.append(found, _PULL * (x - start) / width)

    x = np.clip(start, low, high)
    current = evaluate(x)
    if current is None:
        raise ValueError("the first guess is impossible")
    damping = 1e-2
    for _ in range(iterations):
        slopes = _slopes(evaluate, x, current, parameters)
        normal = slopes.T @ slopes
        for _ in range(_TRIALS):
            damped = normal + np.diag(damping * np.diag(normal) + 1e-12)
            tried = np.clip(x - np.linalg.solve(damped, slopes.T @ current), low, high)
            there = evaluate(tried)
            if there is not None and there @ there < current @ current:
                break
            damping *= 10.0
        else:
            break
        gain = 1.0 - (there @ there) / (current @ current)
        x, current, damping = tried, there, damping / 10.0
        if gain < _LEAST_GAIN:
            break
    noise = max(current @ current / max(current.size - 2 * x.size, 1), _LEAST_NOISE**2)
    errors = np.sqrt(noise * np.diag(np.linalg.pinv(normal)))
    return dict(zip(names, x.tolist(), strict=True)), dict(zip(names, errors.tolist(), strict=True))


def _slopes(
    evaluate: Callable[[Array], Array | None],
    x: Array,
    current: Array,
    parameters: Sequence[Parameter],
) -> Array:
    """Return the derivative of ``evaluate`` at ``x`` by each parameter, shape (values, parameters).

    It is the forward difference, or the backward one at the upper bound and where the forward
    value is impossible.
    """
    slopes = np.zeros((current.size, x.size))
    for place, parameter in enumerate(parameters):
        for step in (parameter.step, -parameter.step):
            moved = x.copy()
            moved[place] += step
            inside = parameter.low <= moved[place] <= parameter.high
            there = evaluate(moved) if inside else None
            if there is not None:
                slopes[:, place] = (there - current) / step
                break
    return slopes
