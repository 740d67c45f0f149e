"""Random processes over time: the value at an instant depends on its date only, not on a window.

Time is cut into cells. A cell's random numbers are a hash of a key and the cell's number, so that
any instant can be computed alone. The hash is SplitMix64 (Steele, Lea and Flood 2014): its output
function, applied to a counter.
"""

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_HALF, _LOW = np.uint64(32), np.uint64(0xFFFFFFFF)

FORGOTTEN = 1e-3
"""Weight of the oldest normal that an AR(1) process still sums, relative to the latest."""


def _mix(words: Words) -> Words:
    """Apply SplitMix64's output function in place, and return the words."""
    words ^= words >> np.uint64(30)
    words *= _FIRST
    words ^= words >> np.uint64(27)
    words *= _SECOND
    words ^= words >> np.uint64(31)
    return words


def uniforms(key: Words, cells: Integers, count: int = 2) -> Array:
    """Return uniforms in (0, 1) for each cell, shape (count, *cells.shape), with 32 bits each.

    Args:
        key: shape (2,), from `streams.stream_key`.
        cells: numbers of the cells, of one dimension or more.
        count: uniforms per cell, an even number.
    """
    seeds = cells.astype(np.uint64) * _GOLDEN
    seeds += key[0]
    _mix(seeds)
    offset = key[1:].copy()
    result = np.empty((count, *cells.shape))
    for lane in range(0, count, 2):
        words = _mix(seeds + offset)
        result[lane] = words >> _HALF
        words &= _LOW
        result[lane + 1] = words
        offset += _GOLDEN
    # Shifted by half a step: neither 0 nor 1 can occur.
    result += 0.5
    result *= 2.0**-32
    return result


def normals(key: Words, cells: Integers) -> Array:
    """Return a standard normal for each cell, same shape, by the Box-Muller transform (1958)."""
    return _box_muller(*uniforms(key, cells))


def _box_muller(radius: Array, angle: Array) -> Array:
    """Turn two uniforms into a standard normal, in place."""
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle *= 2.0 * np.pi
    np.cos(angle, out=angle)
    radius *= angle
    return radius


def place_in_cell(times: Array, length: float) -> tuple[Array, Integers]:
    """Return where in its cell each instant lies, from 0 to 1, and the number of the cell.

    Args:
        times: seconds since the Unix epoch, same shape as both results.
        length: of a cell [s].
    """
    place = times / length
    lower = np.floor(place)
    place -= lower
    return place, lower.astype(np.int64)


def wave(key: Words, times: Array, spacing: float, memory: float = 0.0) -> Array:
    """Return a standard normal process of time, same shape as ``times``.

    Each multiple of ``spacing`` has a standard normal Z; their sequence is an AR(1) process.
    Between two of them, the value is sqrt(1 - x) Z_k + sqrt(x) Z_(k+1), divided by its standard
    deviation, where x goes from 0 to 1. It is continuous.

    Args:
        key: shape (2,), from `streams.stream_key`.
        times: seconds since the Unix epoch, >= 0, of one dimension or more, not empty.
        spacing: [s], > 0.
        memory: correlation of neighbouring Z, in [0, 0.95].
    """
    place, cells = place_in_cell(times, spacing)
    first, last = int(cells.min()), int(cells.max())
    if last - first < cells.size:
        table = _innovations(key, np.arange(first, last + 2), memory)
        cells -= first
        before, after = table[cells], table[cells + 1]
    else:
        before, after = (_innovations(key, cells + step, memory) for step in (0, 1))
    after *= np.sqrt(place)
    rest = 1.0 - place
    before *= np.sqrt(rest)
    before += after
    if memory > 0.0:
        place *= rest
        before /= np.sqrt(1.0 + 2.0 * memory * np.sqrt(place))
    return before


def _innovations(key: Words, cells: Integers, memory: float) -> Array:
    """Return the AR(1) process at ``cells``: the weighted sum of the recent normals."""
    if memory == 0.0:
        return normals(key, cells)
    terms = math.ceil(math.log(FORGOTTEN) / math.log(memory))
    ages = np.arange(terms - 1, -1, -1).reshape(-1, *(1,) * cells.ndim)
    total = np.zeros(cells.shape)
    for recent in normals(key, cells - ages):
        total *= memory
        total += recent
    total *= math.sqrt((1.0 - memory**2) / (1.0 - memory ** (2 * terms)))
    return total


def wave_mean_variance(spacing: float, length: float) -> float:
    """Return the variance of a wave's mean over a ``length`` [s] much longer than its spacing.

    Each Z of a wave without memory has a weight of 2/3 spacing on either side.
    """
    return (4.0 / 3.0) ** 2 * spacing / length


def steps(key: Words, times: Array, spacing: float) -> Array:
    """Return a standard normal process that jumps once in each cell, same shape as ``times``.

    The jump of a cell comes at a uniform time in it. The value after it is a new normal.

    Args:
        key: shape (2,), from `streams.stream_key`.
        times: seconds since the Unix epoch, any shape but empty.
        spacing: length of a cell [s], > 0.
    """
    starts, levels = step_events(key, float(times.min()), float(times.max()), spacing)
    return levels[np.searchsorted(starts, times, side="right") - 1]


def step_events(key: Words, first: float, last: float, spacing: float) -> tuple[Array, Array]:
    """Return the jumps of `steps` that set its value in [first, last].

    Returns:
        The times of the jumps [s], ascending, and the level after each. The first jump is not after
        ``first``.
    """
    cells = np.arange(math.floor(first / spacing) - 1, math.floor(last / spacing) + 1)
    time, _, *level = uniforms(key, cells, 4)
    return (cells + time) * spacing, _box_muller(*level)
