"""Argument checks of the simulator's public functions.

Each raises a ValueError that names the argument, its value and what is allowed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt

from sim_pipeline.metrics import MAX_POINTS
from sim_pipeline.windows import MAX_INTERVAL

# 2262-01-01T00:00:00Z. Nanosecond timestamps (pandas, Arrow) end in 2262.
MAX_EPOCH_SECONDS = 9_214_646_400


@dataclass(frozen=True)
class Range:
    """The allowed values of a number. No range allows a bool, infinity or NaN.

    Attributes:
        low: lower bound.
        high: largest value; None means no upper bound.
        low_included: whether the lower bound itself is allowed.
        integer: whether only an int is allowed.
    """

    low: float
    high: float | None
    low_included: bool = True
    integer: bool = False

    def __str__(self) -> str:
        kind = "an integer" if self.integer else "a number"
        above = f"{'>=' if self.low_included else '>'} {self.low}"
        if self.high is None:
            return f"{kind} {above}"
        return f"{kind} in {'[' if self.low_included else '('}{self.low}, {self.high}]"

    def allows(self, value: object) -> bool:
        """Return whether ``value`` is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int if self.integer else (int, float)):
            return False
        # NaN compares false with everything.
        above = value >= self.low if self.low_included else value > self.low
        return above and (value < float("inf") if self.high is None else value <= self.high)


def check_fields(values: Mapping[str, object], ranges: Mapping[str, Range]) -> None:
    """Raise one ValueError that names every value out of its range.

    Args:
        values: values by name.
        ranges: allowed ranges by name.
    """
    problems = [
        f"{name} is {values[name]!r}, but must be {allowed}"
        for name, allowed in ranges.items()
        if not allowed.allows(values[name])
    ]
    if problems:
        raise ValueError("; ".join(problems))


@cache
def field_ranges(kind: type) -> dict[str, Range]:
    """Return the ranges in the annotations of a dataclass, such as `Annotated[float, Range(0, 1)]`.

    Args:
        kind: the dataclass.

    Returns:
        The range of each field that has one, by name.
    """
    return {
        name: allowed
        for name, hint in get_type_hints(kind, include_extras=True).items()
        for allowed in getattr(hint, "__metadata__", ())
        if isinstance(allowed, Range)
    }


RUN_RANGES = {
    "interval": Range(1, MAX_INTERVAL, integer=True),
    "points": Range(1, MAX_POINTS, integer=True),
    "seed": Range(0, None, integer=True),
}


def check_run(*, interval: int, points: int, seed: int) -> None:
    """Raise a ValueError if interval [s], points per window or seed is out of range."""
    check_fields({"interval": interval, "points": points, "seed": seed}, RUN_RANGES)


def check_windows(
    windows: npt.NDArray[np.integer[Any]] | Sequence[int], interval: int
) -> npt.NDArray[np.int64]:
    """Return ``windows`` as a one-dimensional int64 array.

    Args:
        windows: window numbers k, shape (n_windows,); window k is [k, k + 1) * interval.
        interval: length of a window [s].

    Raises:
        ValueError: ``windows`` is not a one-dimensional array of integers, or a window starts
            before 1970 or ends after 2261.
    """
    array = np.asarray(windows)
    if array.ndim != 1:
        raise ValueError(f"windows has shape {array.shape}, but must have one dimension")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise ValueError(f"windows has dtype {array.dtype}, but must hold integers")
    last = MAX_EPOCH_SECONDS // interval - 1
    for value in (array.min(), array.max()):
        if not 0 <= value <= last:
            raise ValueError(
                f"windows holds {value}, but every window number must be in [0, {last}] "
                f"for interval {interval}"
            )
    return np.ascontiguousarray(array, dtype=np.int64)
