"""The requests of a slice: an observed request, and the history of requests before it.

All functions are vectorised over slices (rows). Column 0 of a history is the latest request: time
runs backwards along a row.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.calibration import Calibration, calibrated, prefill_utilisation
from sim_pipeline.simulator.draws import Draws, Normal, Uniform
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import Profile

MIN_HISTORY = 64
MAX_HISTORY = 1 << 15
RELAXATION_TIMES = 8.0
"""Relaxation times of the queue that a history covers: see `history_length`."""
SWEEPS = 3
DAMPING = 0.75

Array = npt.NDArray[np.float64]


def history_length(profile: Profile, rho: Array) -> npt.NDArray[np.int64]:
    """Return the number of history requests needed at utilisation ``rho``; same shape as ``rho``.

    A GI/G/1 queue forgets that it began empty within a few relaxation times. A relaxation time is
    (ca^2 + r^2 cs^2) / (1 - r)^2 arrivals, where r is the utilisation, and ca and cs are the
    coefficients of variation of inter-arrival and service times. The result is `RELAXATION_TIMES`
    of them, rounded up to a power of two; docs/simulator.md shows the measurement.
    """
    r = prefill_utilisation(profile, rho)
    spread = profile.workload.arrival_cv**2 + r**2 * profile.workload.input_lengths.squared_cv
    need = np.clip(RELAXATION_TIMES * spread / (1.0 - r) ** 2, MIN_HISTORY, MAX_HISTORY)
    return np.left_shift(np.int64(1), np.ceil(np.log2(need)).astype(np.int64))


def waits_looking_back(services: Array, gaps: Array) -> tuple[Array, Array]:
    """Return the queue waits of a history and of the request that follows it.

    This solves Lindley's recursion W = max(0, W' + s' - gap) in closed form: if x is the running
    sum of (s' - gap), W is x minus its running minimum. In reversed time, that is the running
    maximum from the far end, minus x. The oldest request finds an empty queue.

    Args:
        services: s of each request of the history [s], shape (rows, history), the latest first.
        gaps: time from each of these requests to the next one [s], same shape.

    Returns:
        The waits of the history [s], shape (rows, history), the latest first; and the waits of the
        request that follows it [s], shape (rows,).

    Raises:
        ValueError: the arguments are not two-dimensional or differ in shape.
    """
    if services.ndim != 2 or services.shape != gaps.shape:  # noqa: PLR2004
        raise ValueError(
            f"services has shape {services.shape} and gaps {gaps.shape}, but both must have the "
            "same shape (rows, history)"
        )
    x = np.cumsum(services - gaps, axis=1)
    highest = np.maximum.accumulate(x[:, ::-1], axis=1)[:, ::-1]
    return highest - x, np.maximum(highest[:, 0], 0.0)


@dataclass(frozen=True)
class Requests:
    """The observed requests and completed requests of a block of slices; arrays of shape (rows,).

    Attributes:
        n_in: prompt tokens.
        n_out: streamed tokens, >= 2.
        wait: time in the prefill queue [s].
        concurrency: other requests in the batch, or waiting for it, when prefill is done. Not an
            integer, because a damped iteration computes it.
        ttft: time to first token [s].
        itl: inter-token latency [s].
        completed: completed requests of the slice.
    """

    n_in: Array
    n_out: Array
    wait: Array
    concurrency: Array
    ttft: Array
    itl: Array
    completed: Array


def observe(
    profile: Profile,
    draws: Draws,
    *,
    rho: Array,
    speed: Array,
    expected: Array,
) -> Requests:
    """Compute the observed request of each slice from random numbers. Overwrites ``draws``.

    The requests are those of as many machines as serve `cap` requests/s: with twice the machines,
    each gets the same requests.

    Args:
        profile: the endpoint.
        draws: random numbers of the slices, with a history of sufficient length.
        rho: utilisation when the observed request arrives, shape (rows,), in (0, 0.9].
        speed: speed of the machines at that time, shape (rows,).
        expected: mean number of completed requests in the slice, shape (rows,).
    """
    calibration = calibrated(profile)
    workload = profile.workload
    normals, uniforms = draws.normals, draws.uniforms
    rate = rho * profile.cap
    # Gaps are in units of their mean, so that ages count arrivals at any load.
    shape = workload.arrival_cv**-2
    gaps = np.multiply(draws.gaps, 1.0 / shape, out=draws.gaps)
    ages = np.cumsum(gaps, axis=1)
    first_gap = gaps[:, 0].copy()
    residual = uniforms[:, Uniform.RESIDUAL] * draws.covering / shape
    completed = _count(
        ages, expected - residual, normals[:, Normal.OLDER_ARRIVALS], workload.arrival_cv
    )

    # Prefill time of one prompt token [s], while decode uses its share of the GPU.
    prefill, own_prefill = profile.prefill_times(rho)
    services = workload.input_lengths.from_normal(draws.prompts)
    services *= prefill[:, np.newaxis]
    seconds = (1.0 / rate)[:, np.newaxis]
    gaps *= seconds
    waits, wait = waits_looking_back(services, gaps)

    # Time that each request of the history has decoded, divided by its steps: the request is still
    # decoding if the ITL exceeds this. The batch is observed at an arbitrary instant, `residual`
    # after the latest request of the history, not at an arrival: arrivals come in bursts and would
    # count each other, while the law is about averages over time. The observer waits like the
    # observed request and has an average prefill. Every request of the history has begun to decode
    # by then, because prefill is first come, first served.
    shift = (residual - first_gap) / rate + wait
    decoding = np.multiply(ages, seconds, out=ages)
    decoding += shift[:, np.newaxis]
    horizon = decoding[:, -1].copy()
    decoding -= waits
    decoding -= services
    decoding += (prefill * workload.input_lengths.mean)[:, np.newaxis]
    steps = profile.decode_lengths.from_normal(draws.outputs)
    steps -= 1.0
    decoding /= steps
    concurrency = _concurrency(
        decoding,
        horizon,
        normals[:, Normal.OLDER_REQUESTS],
        profile=profile,
        calibration=calibration,
        rho=rho,
    )

    n_in = workload.input_lengths.from_normal(normals[:, Normal.PROMPT].copy())
    n_out = workload.output_lengths.from_normal(normals[:, Normal.OUTPUT].copy())
    # A request beyond the batch limit waits until enough requests have left the batch.
    limit = float(profile.batch_limit)
    departures = limit / (profile.mean_steps * calibration.itl(np.array(limit)))
    slot_wait = np.maximum(concurrency + 1.0 - limit, 0.0) / departures
    # The slow path (a cold cache, a detour) multiplies the request's own time, not its waits.
    slow = profile.slow_median * np.exp(profile.slow_log_sd * normals[:, Normal.SLOW_PATH])
    slow = np.where(uniforms[:, Uniform.SLOW] < profile.slow_share, slow, 1.0)
    ttft = (calibration.ttft_base + n_in * own_prefill) / speed * slow
    ttft *= np.exp(profile.ttft_jitter * normals[:, Normal.TTFT_JITTER])
    ttft += wait + slot_wait
    # The jitter has mean 1, so that the mean ITL follows the law.
    jitter = np.exp(
        profile.itl_jitter * normals[:, Normal.ITL_JITTER] - 0.5 * profile.itl_jitter**2
    )
    itl = calibration.itl(np.minimum(concurrency, limit)) / speed * jitter
    if profile.thinking is not None:
        thoughts = profile.thinking.tokens.from_normal(normals[:, Normal.THINKING].copy())
        thoughts *= uniforms[:, Uniform.THINKS] < profile.thinking.share
        if profile.thinking.visible:
            n_out += thoughts
        else:
            ttft += thoughts * itl
    return Requests(
        n_in=n_in,
        n_out=n_out,
        wait=wait,
        concurrency=concurrency,
        ttft=ttft,
        itl=itl,
        completed=completed,
    )


def _count(ages: Array, span: Array, z: Array, cv: float) -> Array:
    """Count the arrivals within ``span`` before a slice's end; times are in units of the mean gap.

    The slice's end is an arbitrary instant. The renewal process is then stationary if the gap that
    spans the end is length-biased, Gamma(1 + 1/cv^2), and cut by a uniform; ``span`` has this
    part already subtracted. Before it come the gaps of the history. If the history is shorter than
    the slice, the count continues from the oldest request by the law of the Gamma renewal process:
    P(N >= n) = P(Gamma(n a) <= a x), where a = 1/cv^2 and Gamma(k) is approximated by
    k + z sqrt(k). Solved for n, this gives the renewal process's mean x + (cv^2 - 1) / 2 and
    variance cv^2 x.

    Args:
        ages: ages of the history relative to the observed request, shape (rows, history).
        span: length of the slice, less its part of the gap that spans its end, shape (rows,).
        z: standard normals, shape (rows,).
        cv: coefficient of variation of the gaps.
    """
    listed = np.count_nonzero(ages <= span[:, np.newaxis], axis=1)
    shape = cv**-2
    beyond = np.maximum(span - ages[:, -1], 0.0) * shape
    root = 0.5 * (np.sqrt(z**2 + 4.0 * beyond) - z)
    # The first term is the observed request itself, of age 0.
    count: Array = (span >= 0.0) + listed + np.where(beyond > 0.0, np.floor(root**2 / shape), 0.0)
    return count


def _concurrency(
    decoding: Array,
    horizon: Array,
    z: Array,
    *,
    profile: Profile,
    calibration: Calibration,
    rho: Array,
) -> Array:
    """Return the number of requests that share the batch with the observed one, shape (rows,).

    The ITL depends on the number of requests, and the number on the ITL. The iteration starts from
    the mean by Little's law. Each sweep counts the requests that are still
    decoding at the ITL of c, and moves c three quarters of the way to this count. With three
    sweeps, the spread of c matches that of an event-driven processor-sharing queue.

    Requests older than the history are counted by their limit law. The count is normal with mean
    rate * integral of F(u) du and variance mean + rate (cv^2 - 1) * integral of F(u)^2 du, over
    ages u beyond the history; F(u) = P(decode lasts longer than u) (Krichagina and Puhalskii 1997
    for the G/GI/infinity queue).

    Args:
        decoding: time since each request of the history began to decode, divided by its steps [s],
            shape (rows, history).
        horizon: decode time of the oldest request of the history [s], shape (rows,).
        z: standard normals, shape (rows,).
        profile: the endpoint.
        calibration: its times per token.
        rho: utilisation, shape (rows,).
    """
    beyond, beyond_squared = _tail_integrals(profile.decode_lengths)
    grid = np.arange(beyond.size)
    rate = rho * profile.cap
    c = calibration.concurrency(rho)
    for _ in range(SWEEPS):
        itl = calibration.itl(c)
        listed = np.count_nonzero(decoding < itl[:, np.newaxis], axis=1)
        tokens = horizon / itl
        scale = rate * itl
        mean = scale * np.interp(tokens, grid, beyond)
        spread = scale * np.interp(tokens, grid, beyond_squared)
        variance = mean + (profile.workload.arrival_cv**2 - 1.0) * spread
        older = mean + z * np.sqrt(np.maximum(variance, 0.0))
        c = np.maximum(c + DAMPING * (listed + older - c), 0.0)
    return c


@lru_cache(maxsize=64)
def _tail_integrals(lengths: TokenLengths) -> tuple[Array, Array]:
    """Return the integrals of F and F^2 from n to infinity for n = 0, 1, ...

    F(u) = P(steps > u). Both have shape (maximum + 1,).
    """
    tail = lengths.survival[1:]
    return _suffix_sums(tail), _suffix_sums(tail**2)


def _suffix_sums(values: Array) -> Array:
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)
