"""Solves a profile for its times per token: the published medians hold where the endpoint runs.

The medians are those over a long time at the profile's own utilisation, demand and capacity; not
at a fixed utilisation.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from sim_pipeline.simulator.demand import HOUR, season
from sim_pipeline.simulator.profiles import RHO_MAX, Profile

LEAST_BASE = 0.5
"""Smallest share of the ITL at the profile's own load that does not depend on concurrency [E]; see
GLM-4.7's measured curve in docs/realism.md. A batch limit can only raise it."""
WEEK_HOURS = 168
SAMPLE = 4_096
HALVINGS = 40
ROUNDS = 300
GRID = 512

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Calibration:
    """Times of an endpoint whose machines have the speed 1.

    Attributes:
        itl_base: itl0, ITL of a request alone in the batch [s].
        step_cost: kappa in ITL = itl0 + kappa c^g [s].
        exponent: g.
        full_batch: requests decoding when the endpoint serves `cap` requests/s.
        ttft_base: t0, TTFT without prefill and waits [s].
        decode_load: cap * E[steps]: c = rho * decode_load * ITL by Little's law [1/s].
    """

    itl_base: float
    step_cost: float
    exponent: float
    full_batch: float
    ttft_base: float
    decode_load: float

    def itl(self, concurrency: Array) -> Array:
        """Return the ITL [s] with ``concurrency`` requests in the batch, any shape."""
        result: Array = np.power(concurrency, self.exponent)
        result *= self.step_cost
        result += self.itl_base
        return result

    def concurrency(self, rho: Array) -> Array:
        """Return the mean concurrency at utilisation ``rho``: c = rho * decode_load * ITL(c)."""
        return np.interp(rho, *self._curve)

    @cached_property
    def _curve(self) -> tuple[Array, Array]:
        """Utilisation and concurrency: the first follows from the second in closed form."""
        # The fourth power: dense where the concurrency is small.
        concurrency = self.full_batch * np.linspace(0.0, 1.0, GRID) ** 4
        return concurrency / (self.decode_load * self.itl(concurrency)), concurrency


def prefill_utilisation(profile: Profile, rho: Array) -> Array:
    """Return the utilisation of prefill as a server slowed down by decode; same shape as ``rho``.

    Decode uses rho (1 - f_p) of the GPU time. Prefill needs rho f_p, and gets the remaining time.
    """
    return rho * profile.prefill_share / (1.0 - rho * (1.0 - profile.prefill_share))


@lru_cache(maxsize=4_096)
def calibrated(profile: Profile) -> Calibration:
    """Return the times of an endpoint.

    Args:
        profile: the endpoint.

    Raises:
        ValueError: no times give the published medians; the message names the field, its value and
            what is allowed.
    """
    utilisations = _utilisations(profile)
    typical = float(np.median(utilisations))
    # The jitter of ITL has mean 1, and so a median below 1.
    itl = math.exp(0.5 * profile.itl_jitter**2) / profile.tps_ref
    decode_load = profile.cap * profile.mean_steps
    decoding = typical * decode_load * itl
    # At saturation c is `full` times as large, and the ITL has grown to base + (1 - base) full^g
    # times the typical one. By Little's law, this is also typical * full.
    if profile.batch_limit * typical < decoding:
        raise ValueError(
            f"batch_limit is {profile.batch_limit!r}, but must be at least "
            f"{math.ceil(decoding / typical)}: so many requests decode at once when the endpoint "
            f"serves cap, {profile.cap!r} requests/s, at tps_ref, {profile.tps_ref!r}; raise "
            "batch_limit or tps_ref, or lower cap"
        )
    base, full = LEAST_BASE, 1.0
    for _ in range(ROUNDS):
        full = (base + (1.0 - base) * full**profile.itl_exponent) / typical
    if full * decoding > profile.batch_limit:
        full = profile.batch_limit / decoding
        growth = full**profile.itl_exponent
        base = (growth - typical * full) / (growth - 1.0)
    times = Calibration(
        itl_base=base * itl,
        step_cost=(1.0 - base) * itl / decoding**profile.itl_exponent,
        exponent=profile.itl_exponent,
        full_batch=full * decoding,
        ttft_base=0.0,
        decode_load=decode_load,
    )
    return replace(times, ttft_base=_ttft_base(profile, times, utilisations))


def _utilisations(profile: Profile) -> Array:
    """Return utilisations that requests meet at random times, shape (SAMPLE,), without incidents.

    The processes of the demand and the capacity are replaced by their distributions.
    """
    workload = profile.workload
    times = HOUR * (np.arange(SAMPLE, dtype=np.float64) % WEEK_HOURS)
    slow_variance = workload.drift_sd**2 + workload.burst_sd**2
    slow, fast, own = np.random.Generator(np.random.Philox(1)).standard_normal((3, SAMPLE))
    logs = np.log(season(workload, times))
    logs += math.sqrt(slow_variance) * slow - 0.5 * slow_variance
    logs *= profile.elasticity
    # A burst holds more requests than a lull: they see the log of the factor shifted upwards.
    logs += workload.fast_burst_sd * fast + 0.5 * workload.fast_burst_sd**2
    logs += profile.capacity_sd * own
    return np.minimum(RHO_MAX, profile.rho * np.exp(logs))


def _ttft_base(profile: Profile, times: Calibration, rho: Array) -> float:
    """Return t0 [s]: the median of (t0 + prefill) * jitter + wait + thinking is the published one.

    The wait of a GI/G/1 queue is about exponential if it is not 0, with the mean of Allen and
    Cunneen's formula (1978).

    Args:
        profile: the endpoint.
        times: its times, but for t0.
        rho: utilisations that requests meet, shape (SAMPLE,).
    """
    generator = np.random.Generator(np.random.Philox(2))
    prompts, jitter, slow, thoughts, itl_jitter = generator.standard_normal((5, SAMPLE))
    detour, waiting, thinks = generator.random((3, SAMPLE))
    lengths = profile.workload.input_lengths
    busy = prefill_utilisation(profile, rho)
    queue, own_prefill = profile.prefill_times(rho)
    spread = 0.5 * (profile.workload.arrival_cv**2 + lengths.squared_cv)
    mean_if_any = lengths.mean * queue * spread / (1.0 - busy)
    fixed = np.where(waiting < busy, -mean_if_any * np.log(waiting / busy), 0.0)
    factor = np.exp(profile.ttft_jitter * jitter)
    slowed = profile.slow_median * np.exp(profile.slow_log_sd * slow)
    factor *= np.where(detour < profile.slow_share, slowed, 1.0)
    fixed += lengths.from_normal(prompts) * own_prefill * factor
    parts = "prefill and queue"
    if profile.thinking is not None and not profile.thinking.visible:
        sd = profile.itl_jitter
        itl = times.itl(times.concurrency(rho)) * np.exp(sd * itl_jitter - 0.5 * sd**2)
        tokens = profile.thinking.tokens.from_normal(thoughts)
        fixed += np.where(thinks < profile.thinking.share, tokens * itl, 0.0)
        parts = "prefill, queue and thinking"
    shortest = float(np.median(fixed))
    if shortest >= profile.ttft_ref:
        raise ValueError(
            f"ttft_ref is {profile.ttft_ref!r}, but must be more than {shortest:.6g} s, which "
            f"{parts} take at cap {profile.cap!r} and rho {profile.rho!r}; raise ttft_ref or cap, "
            "or lower rho"
        )
    low, high = 0.0, 2.0 * profile.ttft_ref
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if float(np.median(fixed + middle * factor)) < profile.ttft_ref:
            low = middle
        else:
            high = middle
    return low
