"""The random numbers of a slice, and the order in which they come from its stream."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


class Normal(IntEnum):
    """Columns of `Draws.normals`: the purpose of each standard normal of an observed request."""

    PROMPT = 0
    OUTPUT = 1
    TTFT_JITTER = 2
    ITL_JITTER = 3
    SLOW_PATH = 4
    OLDER_REQUESTS = 5
    OLDER_ARRIVALS = 6
    BURST = 7
    MEAN_BURST = 8
    THINKING = 9


class Uniform(IntEnum):
    """Columns of `Draws.uniforms`: the purpose of each uniform of an observed request."""

    INSTANT = 0
    SLOW = 1
    RESIDUAL = 2
    THINKS = 3


@dataclass(frozen=True)
class Draws:
    """The random numbers of a block of slices; each row comes from its own window's stream.

    Attributes:
        normals: standard normals of the observed request, shape (rows, len(Normal)).
        uniforms: uniforms in [0, 1) of the observed request, shape (rows, len(Uniform)).
        covering: Gamma(1 + 1 / cv^2), shape (rows,): the gap that spans the slice's end.
        gaps: Gamma(1 / cv^2), shape (rows, history): the gaps before it, the latest first.
        prompts: standard normals, shape (rows, history): prompt lengths of the history.
        outputs: standard normals, shape (rows, history): output lengths of the history.
    """

    normals: Array
    uniforms: Array
    covering: Array
    gaps: Array
    prompts: Array
    outputs: Array

    @classmethod
    def empty(cls, rows: int, history: int) -> "Draws":
        """Allocate the draws of ``rows`` slices with ``history`` earlier requests each."""
        return cls(
            normals=np.empty((rows, len(Normal))),
            uniforms=np.empty((rows, len(Uniform))),
            covering=np.empty(rows),
            gaps=np.empty((rows, history)),
            prompts=np.empty((rows, history)),
            outputs=np.empty((rows, history)),
        )

    def fill(self, rows: slice, generator: np.random.Generator, arrival_cv: float) -> None:
        """Draw the numbers of ``rows`` from a stream.

        Every simulated value depends on the order of the calls below.
        """
        shape = arrival_cv**-2
        generator.standard_normal(out=self.normals[rows])
        generator.random(out=self.uniforms[rows])
        generator.standard_gamma(1.0 + shape, out=self.covering[rows])
        generator.standard_gamma(shape, out=self.gaps[rows])
        generator.standard_normal(out=self.prompts[rows])
        generator.standard_normal(out=self.outputs[rows])
