"""Token counts of requests: a rounded, clipped lognormal distribution and its exact moments."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.arguments import Range, check_fields, field_ranges

MAX_TOKENS = 1_000_000


@dataclass(frozen=True)
class TokenLengths:
    """The distribution of a token count N = clip(rint(X), minimum, maximum).

    X is lognormal: ln X ~ N(log_median, log_sd^2).

    Attributes:
        log_median: ln of the median number of tokens, in [0, 14].
        log_sd: standard deviation of ln X, in [0, 3].
        minimum: smallest count, in [1, 1000000].
        maximum: largest count, in [1, 1000000], greater than minimum.

    Raises:
        ValueError: on construction; the message names the field, its value and what is allowed.
    """

    log_median: Annotated[float, Range(0, 14)]
    log_sd: Annotated[float, Range(0, 3)]
    minimum: Annotated[int, Range(1, MAX_TOKENS, integer=True)]
    maximum: Annotated[int, Range(1, MAX_TOKENS, integer=True)]

    def __post_init__(self) -> None:
        check_fields(vars(self), field_ranges(TokenLengths))
        if self.maximum <= self.minimum:
            raise ValueError(
                f"maximum is {self.maximum}, but must be more than minimum, {self.minimum}"
            )

    def from_normal(self, z: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Convert standard normal draws (any shape) to token counts in place, and return them."""
        np.multiply(z, self.log_sd, out=z)
        np.add(z, self.log_median, out=z)
        np.exp(z, out=z)
        np.rint(z, out=z)
        np.clip(z, self.minimum, self.maximum, out=z)
        return z

    @cached_property
    def survival(self) -> npt.NDArray[np.float64]:
        """P(N > n) for n = 0 ... maximum, shape (maximum + 1,), exact up to rounding."""
        exceed = np.ones(self.maximum + 1)
        # N > n means that X rounds to at least n + 1.
        tail = np.arange(self.minimum, self.maximum) + 0.5
        if self.log_sd == 0.0:
            exceed[self.minimum : -1] = tail < math.exp(self.log_median)
        else:
            z = (np.log(tail) - self.log_median) / (self.log_sd * math.sqrt(2.0))
            exceed[self.minimum : -1] = [0.5 * math.erfc(value) for value in z]
        exceed[-1] = 0.0
        return exceed

    @cached_property
    def mean(self) -> float:
        """E[N] = sum of P(N > n) over n >= 0 [tokens]."""
        return float(self.survival.sum())

    @cached_property
    def squared_cv(self) -> float:
        """Squared coefficient of variation Var[N] / E[N]^2, from E[N^2] = sum (2n + 1) P(N > n)."""
        second = float(((2.0 * np.arange(self.maximum + 1) + 1.0) * self.survival).sum())
        return second / self.mean**2 - 1.0
