"""Simulate windows: the four metrics of one model, for any set of windows at once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.arguments import check_run, check_windows
from sim_pipeline.simulator.draws import Draws, Uniform
from sim_pipeline.simulator.load import Load, load_at
from sim_pipeline.simulator.profiles import Profile
from sim_pipeline.simulator.requests import Requests, history_length, observe
from sim_pipeline.simulator.streams import SLICES_PER_STREAM, WindowStreams, stream_key

BLOCK_VALUES = 1 << 17
"""How many values an array of a block holds at most: 1 MiB, near the core. No result depends on
it, except that one stream's slices with their history are never split."""
MIN_INSTANTS = 4
INSTANT_SPACING = 600.0
"""The load of a slice is evaluated at `MIN_INSTANTS` instants at least, `INSTANT_SPACING` seconds
apart at most."""

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Simulation:
    """The metrics of a model in windows.

    Column i of the first four belongs to slice i of the window: to one request observed in it, and
    for rps to all of them. e2e_latency = ttft + (n_out - 1) / tps with n_out >= 2 the request's
    output tokens.

    Attributes:
        ttft: time to first token [s], shape (n_windows, points).
        tps: output tokens per second of a request, 1 / ITL, shape (n_windows, points).
        e2e_latency: time to last token [s], shape (n_windows, points).
        rps: completed requests per second of a slice, shape (n_windows, points).
        completed: completed requests of a window, shape (n_windows,).
        failed: failed requests of a window, shape (n_windows,).
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

    A window's numbers depend on the profile, the window, interval, points and seed alone: not on
    which other windows are simulated with it, nor on their order.

    Args:
        profile: the model's endpoint.
        windows: window numbers k, shape (n_windows,): window k is [k, k + 1) * interval seconds
            since the Unix epoch, UTC, from 1970 to 2261. Any order, repeats allowed.
        interval: length of a window [s], in [1, 604800].
        points: slices of a window, in [1, 10000].
        seed: the user's seed, >= 0.

    Returns:
        The metrics, windows in the order given.

    Raises:
        ValueError: if an argument is out of its range, naming it and what is allowed.
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
        failed=np.zeros(numbers.size, dtype=np.int64),
        utilisation=np.empty(numbers.size),
    )
    streams = WindowStreams(stream_key("windows", seed=seed, model=profile.name, interval=interval))
    instants = max(MIN_INSTANTS, math.ceil(interval / points / INSTANT_SPACING))
    # A whole window always fits: it has 40,000 instants at most.
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
    """Simulate the windows ``numbers``, with so many ``instants`` a slice, into ``block``."""
    points = block.ttft.shape[1]
    slice_length = interval / points
    middle = (np.arange(points * instants) + 0.5) * (slice_length / instants)
    times = (numbers * interval)[:, np.newaxis] + middle
    load = load_at(profile, times.reshape(-1, points, instants), seed=seed)
    block.utilisation[:] = load.rho.reshape(numbers.size, -1).mean(axis=1)
    rows_load = Load(*(values.reshape(-1, instants) for values in vars(load).values()))

    # Slices that share a stream share the length of their history.
    chunks = np.arange(0, points, SLICES_PER_STREAM)
    sizes = np.diff(np.append(chunks, points))
    histories = np.maximum.reduceat(history_length(profile, load.rho.max(axis=2)), chunks, axis=1)
    failures = np.add.reduceat(load.failure_rate.mean(axis=2) * slice_length, chunks, axis=1)
    counts = np.empty(block.rps.shape)
    for history in np.unique(histories).tolist():
        items = np.nonzero(histories == history)
        step = max(1, BLOCK_VALUES // (history * int(sizes[0])))
        for first in range(0, items[0].size, step):
            window, chunk = (index[first : first + step] for index in items)
            size = sizes[chunk]
            offset = np.cumsum(size) - size
            draws = Draws.empty(int(size.sum()), history)
            for w, c, start, n, mean in zip(
                window.tolist(),
                chunk.tolist(),
                offset.tolist(),
                size.tolist(),
                failures[window, chunk].tolist(),
                strict=True,
            ):
                generator = streams.at(int(numbers[w]), c)
                draws.fill(slice(start, start + n), generator, profile.workload.arrival_cv)
                block.failed[w] += generator.poisson(mean)
            rows = np.repeat(window * points + chunks[chunk] - offset, size)
            rows += np.arange(rows.size)
            requests = _observe(profile, draws, rows_load, rows, slice_length)
            _row_view(block.ttft)[rows] = requests.ttft
            _row_view(block.tps)[rows] = 1.0 / requests.itl
            _row_view(block.e2e_latency)[rows] = (
                requests.ttft + (requests.n_out - 1.0) * requests.itl
            )
            _row_view(counts)[rows] = requests.completed
    block.rps[:] = counts / slice_length
    block.completed[:] = counts.sum(axis=1)


def _observe(
    profile: Profile, draws: Draws, load: Load, rows: Integers, slice_length: float
) -> Requests:
    """Observe a request in each of the slices ``rows``, at an instant of its own.

    Requests are where they arrive: of the slice's instants one is taken with a chance in
    proportion to its arrival rate.
    """
    arrived = np.cumsum(load.arrival_rate[rows], axis=1)
    target = draws.uniforms[:, Uniform.INSTANT] * arrived[:, -1]
    instant = np.count_nonzero(arrived[:, :-1] <= target[:, np.newaxis], axis=1)
    return observe(
        profile,
        draws,
        rho=load.rho[rows, instant],
        capacity=load.capacity[rows, instant],
        expected=load.completion_rate[rows].mean(axis=1) * slice_length,
    )


def _row_view(values: Array) -> Array:
    """Return contiguous ``values`` of shape (n_windows, points) by flat row number."""
    return values.reshape(-1)
