"""Checks of what the simulator's public functions are given.

Each raises a ValueError that names the argument, its value and what is allowed.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MIN_INTERVAL = 1
MAX_INTERVAL = 604_800
MIN_POINTS = 1
MAX_POINTS = 10_000
# 2262-01-01T00:00:00Z: the last year that nanosecond timestamps (pandas, Arrow) can hold.
MAX_EPOCH_SECONDS = 9_214_646_400


def check_number(
    name: str, value: object, low: float, high: float, *, low_included: bool = True
) -> None:
    """Raise unless ``value`` is a finite real number in [low, high] (or (low, high])."""
    allowed = f"a number in {'[' if low_included else '('}{low:g}, {high:g}]"
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high  # nor is NaN
        or (value == low and not low_included)
    ):
        raise ValueError(f"{name} is {value!r}, but must be {allowed}")


def check_integer(name: str, value: object, low: int, high: int | None = None) -> None:
    """Raise unless ``value`` is an int (not a bool) in [low, high]; no ``high`` is no bound."""
    allowed = f"an integer >= {low}" if high is None else f"an integer in [{low}, {high}]"
    if (
        isinstance(value, bool)
        or not isinstance(value, int)
        or value < low
        or (high is not None and value > high)
    ):
        raise ValueError(f"{name} is {value!r}, but must be {allowed}")


def check_run(*, interval: int, points: int, seed: int) -> None:
    """Raise unless interval [s], points a window and seed are allowed."""
    check_integer("interval", interval, MIN_INTERVAL, MAX_INTERVAL)
    check_integer("points", points, MIN_POINTS, MAX_POINTS)
    check_integer("seed", seed, 0)


def check_windows(
    windows: npt.NDArray[np.int64] | Sequence[int], interval: int
) -> npt.NDArray[np.int64]:
    """Return ``windows`` as a one-dimensional int64 array.

    Args:
        windows: window numbers k, shape (n_windows,); window k is [k, k + 1) * interval.
        interval: length of a window [s].

    Raises:
        ValueError: if it is no one-dimensional array of integers, or a window begins before 1970
            or ends after 2261.
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
