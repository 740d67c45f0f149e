"""The simulation of windows: the four metrics of one model, for any set of windows."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim_pipeline.metrics import FAILURE_KINDS
from sim_pipeline.simulator.arguments import check_run, check_windows
from sim_pipeline.simulator.demand import hidden_bursts
from sim_pipeline.simulator.draws import Draws, Normal, Uniform
from sim_pipeline.simulator.load import Load, load_at
from sim_pipeline.simulator.profiles import RHO_MAX, Profile
from sim_pipeline.simulator.requests import Requests, history_length, observe
from sim_pipeline.simulator.streams import SLICES_PER_STREAM, WindowStreams, stream_key

BLOCK_VALUES = 1 << 17
"""Largest number of values in an array of a block: 1 MiB, which fits a core's cache. No result
depends on it. An array is larger if the slices of one stream need it: they are never split."""
MIN_INSTANTS = 4
INSTANT_SPACING = 600.0
"""The load of a slice is evaluated at `MIN_INSTANTS` or more instants, at most `INSTANT_SPACING`
seconds apart."""

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """The metrics of a model in windows.

    Column i of the first four belongs to slice i of the window. ttft, tps and e2e_latency are of
    one request observed in the slice, rps counts all its requests. e2e_latency = ttft +
    (n_out - 1) / tps, where n_out >= 2 is the number of output tokens of the request.

    Attributes:
        ttft: time to first token [s], shape (n_windows, points).
        tps: output tokens per second of a request, 1 / ITL, shape (n_windows, points).
        e2e_latency: time to last token [s], shape (n_windows, points).
        rps: completed requests per second of a slice, shape (n_windows, points).
        completed: completed requests of a window, shape (n_windows,).
        failed: failed requests of a window by kind, shape (n_windows, 3), the second axis in the
            order of `FAILURE_KINDS`.
        utilisation: mean utilisation rho(t) of a window, shape (n_windows,).
    """

    ttft: Array
    tps: Array
    e2e_latency: Array
    rps: Array
    completed: Integers
    failed: Integers
    utilisation: Array


def simulate(
    profile: Profile,
    windows: npt.NDArray[np.integer[Any]] | Sequence[int],
    *,
    interval: int,
    points: int,
    seed: int,
) -> Simulation:
    """Simulate windows of one model.

    A window's numbers depend only on the profile, the window number, interval, points and seed.
    They do not depend on the other windows of the call, or on their order.

    Args:
        profile: the model's endpoint.
        windows: window numbers k, shape (n_windows,): window k is [k, k + 1) * interval seconds
            since the Unix epoch, UTC, from 1970 to 2261. Any order, repeats allowed.
        interval: length of a window [s], in [1, 604800].
        points: slices per window, in [1, 10000].
        seed: the user's seed, >= 0.

    Returns:
        The metrics, in the order of ``windows``.

    Raises:
        ValueError: an argument is out of range; the message names it and what is allowed.
    """
    check_run(interval=interval, points=points, seed=seed)
    numbers = check_windows(windows, interval)
    shape = (numbers.size, points)
    result = Simulation(
        ttft=np.empty(shape),
        tps=np.empty(shape),
        e2e_latency=np.empty(shape),
        rps=np.empty(shape),
        completed=np.zeros(numbers.size, dtype=np.int64),
        failed=np.zeros((numbers.size, len(FAILURE_KINDS)), dtype=np.int64),
        utilisation=np.empty(numbers.size),
    )
    streams = WindowStreams(stream_key("windows", seed=seed, model=profile.name, interval=interval))
    instants = max(MIN_INSTANTS, math.ceil(interval / points / INSTANT_SPACING))
    # A whole window always fits: it has at most 40,000 instants.
    step = BLOCK_VALUES // (points * instants)
    for first in range(0, numbers.size, step):
        rows = slice(first, first + step)
        block = Simulation(**{name: values[rows] for name, values in vars(result).items()})
        _fill(
            block,
            profile,
            numbers[rows],
            interval=interval,
            instants=instants,
            streams=streams,
            seed=seed,
        )
    return result


@dataclass(frozen=True)
class _Batch:
    """Streams that are drawn and computed together: their slices have equally long histories.

    Attributes:
        history: number of requests before the observed one.
        window: the window of each stream, by position in the block, shape (streams,).
        chunk: each stream's group of slices in its window, shape (streams,).
        start: the stream's first row in the batch, shape (streams,).
        stop: the first row after it, shape (streams,).
        slices: index of each row's slice in the block, window * points + slice, shape (rows,).
    """

    history: int
    window: Integers
    chunk: Integers
    start: Integers
    stop: Integers
    slices: Integers


def _batches(histories: Integers, points: int) -> Iterator[_Batch]:
    """Group the streams of a block by the length of their history.

    Args:
        histories: history length of each stream, shape (n_windows, chunks).
        points: slices per window.
    """
    first_slice = np.arange(0, points, SLICES_PER_STREAM)
    sizes = np.diff(np.append(first_slice, points))
    for history in np.unique(histories).tolist():
        windows, chunks = np.nonzero(histories == history)
        step = max(1, BLOCK_VALUES // (history * int(sizes[0])))
        for first in range(0, windows.size, step):
            window, chunk = windows[first : first + step], chunks[first : first + step]
            stop = np.cumsum(sizes[chunk])
            start = stop - sizes[chunk]
            slices = np.repeat(window * points + first_slice[chunk] - start, sizes[chunk])
            slices += np.arange(slices.size)
            yield _Batch(history, window, chunk, start, stop, slices)


def _fill(
    block: Simulation,
    profile: Profile,
    numbers: Integers,
    *,
    interval: int,
    instants: int,
    streams: WindowStreams,
    seed: int,
) -> None:
    """Simulate the windows ``numbers`` into ``block``, with ``instants`` load samples per slice."""
    points = block.ttft.shape[1]
    length = interval / points
    spacing = length / instants
    middles = (np.arange(points * instants) + 0.5) * spacing
    times = (numbers * interval)[:, np.newaxis] + middles
    load = load_at(profile, times.reshape(-1, instants), spacing=spacing, seed=seed)
    block.utilisation[:] = load.rho.reshape(numbers.size, -1).mean(axis=1)

    chunks = np.arange(0, points, SLICES_PER_STREAM)
    busiest = load.rho.max(axis=1).reshape(-1, points)
    at_instant, of_mean = hidden_bursts(profile.workload, spacing=spacing, length=length)
    busiest = np.minimum(RHO_MAX, busiest * math.exp(at_instant))
    histories = np.maximum.reduceat(history_length(profile, busiest), chunks, axis=1)
    failing = load.failure_rates.mean(axis=2).reshape(len(FAILURE_KINDS), -1, points)
    failures = np.moveaxis(np.add.reduceat(failing * length, chunks, axis=2), 0, 2)
    # Views of the result, and the counts, indexed by slice of the block.
    ttft, tps, e2e_latency = (
        values.reshape(-1) for values in (block.ttft, block.tps, block.e2e_latency)
    )
    completed = np.empty(ttft.size)
    for batch in _batches(histories, points):
        draws = Draws.empty(batch.slices.size, batch.history)
        for window, number, chunk, start, stop, failing in zip(
            batch.window.tolist(),
            numbers[batch.window].tolist(),
            batch.chunk.tolist(),
            batch.start.tolist(),
            batch.stop.tolist(),
            failures[batch.window, batch.chunk].tolist(),
            strict=True,
        ):
            generator = streams.at(number, chunk)
            draws.fill(slice(start, stop), generator, profile.workload.arrival_cv)
            # One call per kind: a call with an array takes three times as long.
            for kind, mean in enumerate(failing):
                block.failed[window, kind] += generator.poisson(mean)
        requests = _observe(
            profile, draws, load, batch.slices, length=length, hidden=(at_instant, of_mean)
        )
        ttft[batch.slices] = requests.ttft
        tps[batch.slices] = 1.0 / requests.itl
        e2e_latency[batch.slices] = requests.ttft + (requests.n_out - 1.0) * requests.itl
        completed[batch.slices] = requests.completed
    by_window = completed.reshape(-1, points)
    block.rps[:] = by_window / length
    block.completed[:] = by_window.sum(axis=1)


def _observe(
    profile: Profile,
    draws: Draws,
    load: Load,
    slices: Integers,
    *,
    length: float,
    hidden: tuple[float, float],
) -> Requests:
    """Observe one request in each of ``slices``, at a random instant of the slice.

    The probability of an instant is proportional to its arrival rate.
    """
    arrived = np.cumsum(load.arrival_rate[slices], axis=1)
    target = draws.uniforms[:, Uniform.INSTANT] * arrived[:, -1]
    instant = np.count_nonzero(arrived[:, :-1] <= target[:, np.newaxis], axis=1)
    rho = load.rho[slices, instant]
    expected = load.completion_rate[slices].mean(axis=1) * length
    at_instant, of_mean = hidden
    if at_instant > 0.0:
        # Most requests come in bursts: for them, the normal of the burst is shifted by its log-sd.
        rho *= np.exp(at_instant * draws.normals[:, Normal.BURST] + 0.5 * at_instant**2)
        np.minimum(rho, RHO_MAX, out=rho)
        expected *= np.exp(of_mean * draws.normals[:, Normal.MEAN_BURST] - 0.5 * of_mean**2)
    return observe(profile, draws, rho=rho, speed=load.speed[slices, instant], expected=expected)
