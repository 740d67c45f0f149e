"""The random numbers that a slice uses, and their order in its stream."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# Columns of Draws.normals ...
PROMPT, OUTPUT, TTFT, ITL, SLOW_PATH, OLDER_REQUESTS, MORE_ARRIVALS = range(7)
# ... and of Draws.uniforms.
INSTANT, SLOW, RESIDUAL = range(3)


@dataclass(frozen=True)
class Draws:
    """The random numbers of a block of slices; each row is from its own window's stream.

    Attributes:
        normals: standard normals of the observed request, shape (rows, 7).
        uniforms: uniforms in [0, 1) of the observed request, shape (rows, 3).
        covering: Gamma(1 + 1 / cv^2), shape (rows,): the gap that covers the slice's end.
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
        """Return room for the draws of ``rows`` slices with ``history`` earlier requests each."""
        return cls(
            normals=np.empty((rows, 7)),
            uniforms=np.empty((rows, 3)),
            covering=np.empty(rows),
            gaps=np.empty((rows, history)),
            prompts=np.empty((rows, history)),
            outputs=np.empty((rows, history)),
        )

    def fill(self, rows: slice, generator: np.random.Generator, arrival_cv: float) -> None:
        """Draw the numbers of ``rows`` from a stream. The order here defines every value."""
        shape = arrival_cv**-2
        generator.standard_normal(out=self.normals[rows])
        generator.random(out=self.uniforms[rows])
        generator.standard_gamma(1.0 + shape, out=self.covering[rows])
        generator.standard_gamma(shape, out=self.gaps[rows])
        generator.standard_normal(out=self.prompts[rows])
        generator.standard_normal(out=self.outputs[rows])
