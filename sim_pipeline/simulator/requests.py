"""The requests of a slice: one that is observed, and the history that it meets.

Everything is vectorised over slices (rows). A slice's history is the requests that arrived before
the observed one, in column 0 the latest: time runs backwards along a row.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.draws import Draws, Normal, Uniform
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import Profile

MIN_HISTORY = 64
MAX_HISTORY = 1 << 15
RELAXATION_TIMES = 8.0
"""How many relaxation times of its queue a history covers: see `history_length`."""
SWEEPS = 3
DAMPING = 0.75

Array = npt.NDArray[np.float64]


def prefill_utilisation(profile: Profile, rho: Array) -> Array:
    """Return the utilisation of prefill, seen as a server that decode slows down; rho's shape.

    Decode holds rho (1 - f_p) of the GPU time; prefill's rho f_p has what is left of it.
    """
    return rho * profile.prefill_share / (1.0 - rho * (1.0 - profile.prefill_share))


def history_length(profile: Profile, rho: Array) -> npt.NDArray[np.int64]:
    """Return how many requests of history a slice at utilisation ``rho`` needs; rho's shape.

    A GI/G/1 queue forgets that it began empty within a few relaxation times of
    (ca^2 + r^2 cs^2) / (1 - r)^2 arrivals, with r its utilisation, ca and cs the coefficients of
    variation of inter-arrival and service times. The answer is `RELAXATION_TIMES` of them, rounded
    up to a power of two; docs/simulator.md shows the measurement.
    """
    r = prefill_utilisation(profile, rho)
    spread = profile.workload.arrival_cv**2 + r**2 * profile.workload.input_lengths.squared_cv
    need = np.clip(RELAXATION_TIMES * spread / (1.0 - r) ** 2, MIN_HISTORY, MAX_HISTORY)
    return np.left_shift(np.int64(1), np.ceil(np.log2(need)).astype(np.int64))


def waits_looking_back(services: Array, gaps: Array) -> tuple[Array, Array]:
    """Return the queue waits of a history and of the request that follows it.

    Lindley's recursion W = max(0, W' + s' - gap), solved in closed form: with x the running sum of
    (s' - gap), W is x minus its running minimum. Along reversed time that is the running maximum
    from the far end, minus x. The oldest request finds an empty queue.

    Args:
        services: s of each request of the history [s], shape (rows, history), the latest first.
        gaps: time from each of these requests to the next one [s], the same shape.

    Returns:
        waits of the history, shape (rows, history), the latest first; waits of the request that
        comes after it, shape (rows,). Both in seconds.

    Raises:
        ValueError: if the arguments do not have one and the same two-dimensional shape.
    """
    if services.ndim != 2 or services.shape != gaps.shape:  # noqa: PLR2004
        raise ValueError(
            f"services has shape {services.shape} and gaps {gaps.shape}, but both must have the "
            "same (rows, history)"
        )
    x = np.cumsum(services - gaps, axis=1)
    highest = np.maximum.accumulate(x[:, ::-1], axis=1)[:, ::-1]
    return highest - x, np.maximum(highest[:, 0], 0.0)


@dataclass(frozen=True)
class Requests:
    """The observed requests of a block of slices, and what arrived in the slices; shape (rows,).

    Attributes:
        n_in: prompt tokens.
        n_out: output tokens, >= 2.
        wait: time in the prefill queue [s].
        concurrency: other requests in the batch, or waiting for it, when its prefill is done.
            Settled by a damped iteration, so no integer.
        ttft: time to first token [s].
        itl: inter-token latency [s].
        completed: requests of the slice that are completed.
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
    capacity: Array,
    expected: Array,
) -> Requests:
    """Turn random numbers into the observed request of each slice. Overwrites ``draws``.

    Args:
        profile: the endpoint.
        draws: random numbers of the slices, with a history of the length they need.
        rho: utilisation that the observed request meets, shape (rows,), in (0, 0.9].
        capacity: share of the capacity that is left at that time, shape (rows,).
        expected: mean number of completed requests in the slice, shape (rows,).
    """
    workload = profile.workload
    normals, uniforms = draws.normals, draws.uniforms
    rate = rho * capacity * profile.cap
    # Gaps in units of their mean: ages then count arrivals, whatever the load.
    shape = workload.arrival_cv**-2
    gaps = np.multiply(draws.gaps, 1.0 / shape, out=draws.gaps)
    ages = np.cumsum(gaps, axis=1)
    first_gap = gaps[:, 0].copy()
    residual = uniforms[:, Uniform.RESIDUAL] * draws.covering / shape
    completed = _count(
        ages, expected - residual, normals[:, Normal.OLDER_ARRIVALS], workload.arrival_cv
    )

    # Seconds of prefill for one prompt token, while decode holds its share of the GPU.
    prefill = profile.prefill_cost / (capacity * (1.0 - rho * (1.0 - profile.prefill_share)))
    services = workload.input_lengths.from_normal(draws.prompts)
    services *= prefill[:, np.newaxis]
    seconds = (1.0 / rate)[:, np.newaxis]
    gaps *= seconds
    waits, wait = waits_looking_back(services, gaps)

    # How long each request of the history has decoded, over its steps: it still does if the ITL
    # exceeds that. The batch is seen at an arbitrary instant, `residual` after the latest of them,
    # not at an arrival: arrivals come in bursts and would count each other, while the law is one of
    # averages over time. Seen by one with an average prefill after the same wait, every request of
    # the history has begun to decode: prefill is first come, first served.
    shift = (residual - first_gap) / rate + wait
    decoding = np.multiply(ages, seconds, out=ages)
    decoding += shift[:, np.newaxis]
    horizon = decoding[:, -1].copy()
    decoding -= waits
    decoding -= services
    decoding += (prefill * workload.input_lengths.mean)[:, np.newaxis]
    steps = workload.output_lengths.from_normal(draws.outputs)
    steps -= 1.0
    decoding /= steps
    step_cost = profile.step_cost / capacity
    concurrency = _concurrency(
        decoding,
        horizon,
        normals[:, Normal.OLDER_REQUESTS],
        profile=profile,
        rate=rate,
        rho=rho,
        step_cost=step_cost,
    )

    n_in = workload.input_lengths.from_normal(normals[:, Normal.PROMPT].copy())
    n_out = workload.output_lengths.from_normal(normals[:, Normal.OUTPUT].copy())
    # What exceeds the batch waits until so many have left it as stand before this one.
    batch = profile.batch_limit * capacity
    departures = batch / (profile.mean_steps * (profile.itl_base + step_cost * batch))
    slot_wait = np.maximum(concurrency + 1.0 - batch, 0.0) / departures
    # The slow path is the request's own (a cold cache, a detour); the waits are everyone's.
    slow = profile.slow_median * np.exp(profile.slow_log_sd * normals[:, Normal.SLOW_PATH])
    slow = np.where(uniforms[:, Uniform.SLOW] < profile.slow_share, slow, 1.0)
    ttft = (profile.ttft_base + n_in * prefill) * slow
    ttft *= np.exp(profile.ttft_jitter * normals[:, Normal.TTFT_JITTER])
    ttft += wait + slot_wait
    # Jitter of mean 1: the mean of ITL is the law's.
    jitter = np.exp(
        profile.itl_jitter * normals[:, Normal.ITL_JITTER] - 0.5 * profile.itl_jitter**2
    )
    itl = (profile.itl_base + step_cost * np.minimum(concurrency, batch)) * jitter
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
    """Count the arrivals within ``span`` before a slice's end, in units of the mean gap.

    The slice's end is an arbitrary instant, so the renewal process is stationary when the gap that
    covers it is length-biased, Gamma(1 + 1/cv^2), and cut by a uniform: that has been subtracted
    from ``span``. Before it come the history's own gaps. Where these do not reach back to the
    slice's beginning, the count goes on from the oldest by the law of the Gamma renewal process,
    P(N >= n) = P(Gamma(n a) <= a x) with a = 1/cv^2, and Gamma(k) taken as k + z sqrt(k): solving
    for n gives the count the renewal process's own mean x + (cv^2 - 1) / 2 and variance cv^2 x.

    Args:
        ages: ages of the history, the observed request being 0, shape (rows, history).
        span: length of the slice less the covering gap's part in it, shape (rows,).
        z: standard normals, shape (rows,).
        cv: coefficient of variation of the gaps.
    """
    listed = np.count_nonzero(ages <= span[:, np.newaxis], axis=1)
    shape = cv**-2
    beyond = np.maximum(span - ages[:, -1], 0.0) * shape
    root = 0.5 * (np.sqrt(z**2 + 4.0 * beyond) - z)
    # The first is the observed request itself, of age 0.
    count: Array = (span >= 0.0) + listed + np.where(beyond > 0.0, np.floor(root**2 / shape), 0.0)
    return count


def _concurrency(
    decoding: Array,
    horizon: Array,
    z: Array,
    *,
    profile: Profile,
    rate: Array,
    rho: Array,
    step_cost: Array,
) -> Array:
    """Settle how many requests share the batch with the observed one, shape (rows,).

    The ITL of the requests around depends on their number, and their number on the ITL. From
    the mean c = rate * E[steps] * itl0 / (1 - rho), each sweep counts the requests that are still
    decoding at the ITL that c gives, and goes three quarters of the way there: with these three
    sweeps the spread of c is that of a processor-sharing queue run event by event.

    Those too old for the history are not listed but counted by their limit law: a sum of many
    small chances, normal with mean rate * integral of F(u) du and variance mean + rate (cv^2 - 1)
    * integral of F(u)^2 du over ages u beyond the history, F(u) = P(decode lasts longer than u)
    (Krichagina and Puhalskii 1997 for the G/GI/infinity queue).

    Args:
        decoding: time since each request of the history began to decode, over its steps [s],
            shape (rows, history).
        horizon: decode time of the oldest in the history [s], shape (rows,).
        z: standard normals, shape (rows,).
        profile: the endpoint.
        rate: arrivals [1/s], shape (rows,).
        rho: utilisation, shape (rows,).
        step_cost: kappa [s], shape (rows,).
    """
    beyond, beyond_squared = _tail_integrals(profile.workload.output_lengths)
    grid = np.arange(beyond.size)
    c = rate * profile.mean_steps * profile.itl_base / (1.0 - rho)
    for _ in range(SWEEPS):
        itl = profile.itl_base + step_cost * c
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
    """Return the integrals of F and F^2 from n to infinity, n = 0, 1, ...; F(u) = P(steps > u)."""
    tail = lengths.survival[1:]
    return _suffix_sums(tail), _suffix_sums(tail**2)


def _suffix_sums(values: Array) -> Array:
    return np.append(np.cumsum(values[::-1])[::-1], 0.0)
