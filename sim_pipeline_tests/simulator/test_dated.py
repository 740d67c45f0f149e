"""Processes over time depend on the date only, and have the documented laws."""

import math

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from sim_pipeline.simulator import dated
from sim_pipeline.simulator.dated import (
    normals,
    step_events,
    steps,
    uniforms,
    wave,
    wave_mean_variance,
)
from sim_pipeline.simulator.streams import stream_key

Array = npt.NDArray[np.float64]

KEY = stream_key("test", seed=1, model="m")
CELLS = np.arange(-100_000, 100_000)
SPACING = 900.0
WORD = 2**64 - 1


def assert_independent(first: Array, second: Array) -> None:
    """Fail if pairs of uniforms are not equally frequent in 256 squares (1 in 10,000)."""
    squares = np.floor(16.0 * first) * 16.0 + np.floor(16.0 * second)
    counts = np.bincount(squares.astype(np.int64), minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-4


def splitmix64(state: int) -> int:
    """Return the output of SplitMix64 for a state."""
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & WORD
    return state ^ (state >> 31)


def test_uniforms_are_splitmix64_words() -> None:
    golden = 0x9E3779B97F4A7C15
    # The first outputs for seed 1234567, as Rosetta Code lists them.
    assert [splitmix64(1_234_567 + n * golden & WORD) for n in (1, 2, 3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]
    cells = [0, 1, 2, -1, -7, 2**40, 2**62, -(2**63)]
    found = uniforms(KEY, np.array(cells), 4)
    first, second = KEY.tolist()
    for index, cell in enumerate(cells):
        state = splitmix64(cell * golden + first & WORD) + second
        words = [splitmix64(state + lane * golden & WORD) for lane in (0, 1)]
        halves = [half for word in words for half in (word >> 32, word & 0xFFFFFFFF)]
        assert found[:, index].tolist() == [(half + 0.5) / 2**32 for half in halves]


@pytest.mark.parametrize("offset", [0, -(2**40), 2**62])
def test_uniforms_are_uniform(offset: int) -> None:
    for lane in uniforms(KEY, CELLS + offset, 4):
        assert stats.kstest(lane, "uniform").pvalue > 1e-4
        # The lower half of the bits, too.
        assert stats.kstest(lane * 2**16 % 1.0, "uniform").pvalue > 1e-4


def test_lanes_and_neighbouring_cells_are_independent() -> None:
    lanes = uniforms(KEY, CELLS, 8)
    for lane in range(8):
        for other in range(8):
            assert_independent(lanes[lane, :-1], lanes[other, 1:])
            if lane != other:
                assert_independent(lanes[lane], lanes[other])


@pytest.mark.parametrize("word", [0, 1])
@pytest.mark.parametrize("bit", [0, 31, 63])
def test_neighbouring_keys_are_independent(word: int, bit: int) -> None:
    other = KEY.copy()
    other[word] ^= np.uint64(1 << bit)
    for one, two in zip(uniforms(KEY, CELLS), uniforms(other, CELLS), strict=True):
        assert_independent(one, two)
        assert_independent(one[:-1], two[1:])


@pytest.mark.parametrize("bits", [0, WORD])
def test_uniforms_are_never_0_or_1(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dated, "_mix", lambda words: np.full_like(words, bits))
    values = uniforms(KEY, CELLS[:3])
    assert (values > 0.0).all()
    assert (values < 1.0).all()
    assert np.isfinite(normals(KEY, CELLS[:3])).all()


def test_cell_has_same_numbers_in_any_array() -> None:
    cells = CELLS[-3_000:]
    whole, bell = uniforms(KEY, cells, 6), normals(KEY, cells)
    order = np.random.default_rng(1).permutation(cells.size)
    assert np.array_equal(uniforms(KEY, cells[order], 6), whole[:, order])
    assert np.array_equal(normals(KEY, cells[order]), bell[order])
    assert np.array_equal(uniforms(KEY, cells.reshape(30, 2, 50), 6), whole.reshape(6, 30, 2, 50))
    assert np.array_equal(normals(KEY, cells.reshape(30, 2, 50)), bell.reshape(30, 2, 50))
    assert np.array_equal(uniforms(KEY, cells, 2), whole[:2])
    # Arrays of any length, which begin at any place in a vector register.
    for size in range(1, 40):
        part = slice(size, 2 * size)
        assert np.array_equal(uniforms(KEY, cells[part], 6), whole[:, part])
        assert np.array_equal(normals(KEY, cells[part]), bell[part])


def test_normals_are_standard_normal() -> None:
    values = normals(KEY, CELLS)
    assert stats.kstest(values, "norm").pvalue > 1e-4
    radius, angle = uniforms(KEY, CELLS)
    assert values == pytest.approx(np.sqrt(-2.0 * np.log(radius)) * np.cos(2.0 * np.pi * angle))
    assert np.abs(values).max() < 6.8
    for lag in (1, 2, 3):
        assert abs(np.mean(values[:-lag] * values[lag:])) < 5.0 / math.sqrt(values.size)


@pytest.mark.parametrize("memory", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("phase", [0.0, 0.01, 0.3, 0.5, 0.99])
def test_wave_is_standard_normal_at_any_phase(memory: float, phase: float) -> None:
    cells = np.arange(100_000.0)
    values = wave(KEY, (cells + phase) * SPACING, SPACING, memory)
    # Cells this far apart have a correlation of less than 0.01.
    apart = 2 + 45 * (memory > 0.0)
    assert stats.kstest(values[::apart], "norm").pvalue > 1e-4
    # Correlation between cells widens the error of a variance; interpolation hardly adds to it.
    error = math.sqrt(2.0 / cells.size * (1.0 + (memory + 0.1) ** 2) / (1.0 - memory**2))
    assert values.var() == pytest.approx(1.0, abs=5.0 * error)


@pytest.mark.parametrize("memory", [0.0, 0.3, 0.5, 0.9])
def test_wave_forgets_by_its_memory(memory: float) -> None:
    cells = np.arange(100_000.0)
    values = wave(KEY, cells * SPACING, SPACING, memory)
    error = math.sqrt((1.0 + memory**2) / (1.0 - memory**2) / cells.size)
    for lag in (1, 2, 5):
        found = np.corrcoef(values[:-lag], values[lag:])[0, 1]
        assert found == pytest.approx(memory**lag, abs=5.0 * error)


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_wave_is_continuous(memory: float) -> None:
    # Next to a multiple of the spacing, a difference is at most 1e-4 of a normal.
    for phase in (0.0, 0.37):
        place = np.arange(1.0, 10_000.0) + phase
        below, above = (
            wave(KEY, (place + side) * SPACING, SPACING, memory) for side in (-1e-8, 1e-8)
        )
        assert np.abs(above - below).max() < 2e-3


@pytest.mark.parametrize("memory", [0.0, 0.5])
def test_wave_has_same_values_in_any_array(memory: float) -> None:
    generator = np.random.default_rng(2)
    times = 1.7e9 + generator.uniform(0.0, 600.0 * SPACING, 3_000)
    times[:600] = np.arange(600) * SPACING
    whole = wave(KEY, times, SPACING, memory)
    # Distant instants are computed one by one, others from a table.
    assert np.ptp(times) / SPACING > times.size
    near = times[600:]
    assert np.ptp(near) / SPACING < near.size
    assert np.array_equal(wave(KEY, near, SPACING, memory), whole[600:])
    assert np.array_equal(wave(KEY, times[:600], SPACING, memory), whole[:600])
    order = generator.permutation(times.size)
    assert np.array_equal(wave(KEY, times[order], SPACING, memory), whole[order])
    shaped = wave(KEY, near.reshape(40, 60), SPACING, memory)
    assert np.array_equal(shaped, whole[600:].reshape(40, 60))
    singles = [wave(KEY, times[[index]], SPACING, memory)[0] for index in range(550, 650)]
    assert np.array_equal(singles, whole[550:650])


def test_wave_leaves_its_times_alone() -> None:
    times = np.linspace(0.0, 1e6, 500)
    kept = times.copy()
    wave(KEY, times, SPACING, 0.5)
    steps(KEY, times, SPACING)
    assert np.array_equal(times, kept)


def test_mean_of_wave_has_given_variance() -> None:
    length, count = 100, 4_000
    middles = (np.arange(count * length * 4) + 0.5) / 4
    means = wave(KEY, middles * SPACING, SPACING).reshape(count, -1).mean(axis=1)
    expected = wave_mean_variance(SPACING, length * SPACING)
    # Both ends of the length take away 0.6 %.
    assert means.var() == pytest.approx(expected, rel=0.006 + 5.0 * math.sqrt(2.0 / count))


def test_steps_jump_once_in_each_cell() -> None:
    count = 20_000
    starts, levels = step_events(KEY, -50.0 * SPACING, (count - 50.5) * SPACING, SPACING)
    cells = np.floor(starts / SPACING)
    assert cells.tolist() == list(range(-51, count - 50))
    assert stats.kstest(starts / SPACING - cells, "uniform").pvalue > 1e-4
    assert stats.kstest(levels, "norm").pvalue > 1e-4
    limit = 5.0 / math.sqrt(count)
    assert abs(np.corrcoef(levels[:-1], levels[1:])[0, 1]) < limit
    assert_independent(starts / SPACING - cells, stats.norm.cdf(levels))


def test_steps_change_at_their_events_only() -> None:
    starts, levels = step_events(KEY, 0.0, 1_000.0 * SPACING, SPACING)
    before = np.nextafter(starts[1:], -np.inf)
    assert np.array_equal(steps(KEY, starts, SPACING), levels)
    assert np.array_equal(steps(KEY, before, SPACING), levels[:-1])


def test_steps_have_same_values_in_any_array() -> None:
    generator = np.random.default_rng(3)
    start = 1_900_000 * SPACING
    times = start + generator.uniform(0.0, 500.0 * SPACING, 2_000)
    # The edges of cells and the jumps themselves.
    times[:100] = start + np.arange(100) * SPACING
    times[100:200] = step_events(KEY, start, start + 100.0 * SPACING, SPACING)[0][1:101]
    whole = steps(KEY, times, SPACING)
    assert np.unique(whole).size > 400
    order = generator.permutation(times.size)
    assert np.array_equal(steps(KEY, times[order], SPACING), whole[order])
    shaped = steps(KEY, times.reshape(40, 50), SPACING)
    assert np.array_equal(shaped, whole.reshape(40, 50))
    singles = [steps(KEY, times[[index]], SPACING)[0] for index in range(400)]
    assert np.array_equal(singles, whole[:400])


def test_step_events_cover_their_range() -> None:
    wide = set(zip(*step_events(KEY, 0.0, 200.0 * SPACING, SPACING), strict=True))
    generator = np.random.default_rng(4)
    for first in generator.uniform(SPACING, 150.0 * SPACING, 50):
        last = first + generator.uniform(0.0, 40.0 * SPACING)
        starts, levels = step_events(KEY, first, last, SPACING)
        found = set(zip(starts, levels, strict=True))
        assert starts[0] <= first
        assert {event for event in wide if first < event[0] <= last} <= found <= wide
