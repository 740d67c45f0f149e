"""Profiles: what a model's endpoint is like, and the workload it serves.

Each figure names its source; [E] marks our own estimate. Units are s, requests/s and tokens/s.
"""

import hashlib
import math
from dataclasses import dataclass, field, replace
from datetime import date
from functools import cached_property
from typing import Annotated

import numpy as np
import numpy.typing as npt

from sim_pipeline.metrics import MAX_MODEL_NAME_LENGTH
from sim_pipeline.simulator.arguments import Range, check_fields, field_ranges
from sim_pipeline.simulator.lengths import MAX_TOKENS, TokenLengths

Array = npt.NDArray[np.float64]

# Highest utilisation of an endpoint; requests beyond it are refused.
RHO_MAX = 0.9
# A request with fewer output tokens has no inter-token latency.
FEWEST_OUTPUT_TOKENS = 2
MEASURED = date(2026, 1, 1)
"""When the published medians hold, for a profile that gives no date."""


# Source: Azure LLM inference trace 2023, conversation.
AZURE_PROMPTS = TokenLengths(log_median=6.63, log_sd=0.98, minimum=1, maximum=8192)
AZURE_OUTPUTS = TokenLengths(log_median=5.02, log_sd=0.86, minimum=2, maximum=2048)


@dataclass(frozen=True)
class Slo:
    """Service level objectives: limits of a request's latency. No simulated number depends on them.

    A data point is good if it exceeds none of them; None is no limit.

    Attributes:
        ttft: highest TTFT [s], in (0, 3600].
        itl: highest inter-token latency, 1 / TPS [s], in (0, 60].
        e2e: highest e2e_latency [s], in (0, 86400].

    Raises:
        ValueError: on construction; the message names the field, its value and what is allowed.
    """

    ttft: Annotated[float | None, Range(0, 3_600, low_included=False)] = None
    itl: Annotated[float | None, Range(0, 60, low_included=False)] = None
    e2e: Annotated[float | None, Range(0, 86_400, low_included=False)] = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        check_fields(given, {name: field_ranges(Slo)[name] for name in given})

    def good(self, ttft: Array, tps: Array, e2e_latency: Array) -> npt.NDArray[np.bool_]:
        """Return which data points are within all limits; all arrays have the same shape."""
        latencies = ((self.ttft, ttft), (self.itl, 1.0 / tps), (self.e2e, e2e_latency))
        good = np.ones(ttft.shape, dtype=np.bool_)
        for limit, values in latencies:
            if limit is not None:
                good &= values <= limit
        return good


# Source: MLPerf Inference v4.0, server scenario of Llama 2 70B.
SERVER_SLO = Slo(ttft=2.0, itl=0.2)


@dataclass(frozen=True)
class Workload:
    """The requests that arrive: their lengths, their arrivals and how these vary over time.

    Attributes:
        input_lengths: prompt tokens of a request.
        output_lengths: generated tokens of a request, at least 2, without thinking.
        prefix_reuse: share of the prompt tokens whose prefill is cached, in [0, 0.99]. It has an
            effect if the profile gives prefill_per_token.
        arrival_cv: coefficient of variation of inter-arrival times at a steady rate, in [0.2, 5].
        peak_hour: hour of the day (UTC) of the daily peak h0, in [0, 24].
        daily_amplitude: A1 of the season's 24 h wave (log scale), in [0, 2].
        half_daily_amplitude: A2 of its 12 h wave, in [0, 2].
        weekend_factor: load on Saturday and Sunday relative to a weekday, in (0, 2].
        drift_sd: log-sd of the day-to-day drift of the load, in [0, 1].
        burst_sd: log-sd of the bursts of half an hour to hours, in [0, 1].
        fast_burst_sd: log-sd of the bursts of seconds to a minute, in [0, 1].
        heavy_share: share of the requests that heavy clients send on average, in [0, 0.9].
        heavy_clients: number of heavy clients, each of which comes and goes, in [1, 20].
        slo: limits that its requests should keep. No simulated number depends on it.
        name: the class from which it comes, by its name in a table of workloads. No simulated
            number depends on it.

    The defaults come from Azure's conversation traces: lengths and arrivals from 2023, seasonality
    from the plots of 2024. Bursts and heavy clients are set so that counts vary as in the trace of
    2023 and in ServeGen's (docs/realism.md). The drift is [E].

    Raises:
        ValueError: on construction; the message names the field, its value and what is allowed.
    """

    input_lengths: TokenLengths = AZURE_PROMPTS
    output_lengths: TokenLengths = AZURE_OUTPUTS
    prefix_reuse: Annotated[float, Range(0, 0.99)] = 0.0
    arrival_cv: Annotated[float, Range(0.2, 5)] = 1.1
    peak_hour: Annotated[float, Range(0, 24)] = 14.0
    daily_amplitude: Annotated[float, Range(0, 2)] = 0.34
    half_daily_amplitude: Annotated[float, Range(0, 2)] = 0.08
    weekend_factor: Annotated[float, Range(0, 2, low_included=False)] = 0.57
    drift_sd: Annotated[float, Range(0, 1)] = 0.15
    burst_sd: Annotated[float, Range(0, 1)] = 0.22
    fast_burst_sd: Annotated[float, Range(0, 1)] = 0.18
    heavy_share: Annotated[float, Range(0, 0.9)] = 0.15
    heavy_clients: Annotated[int, Range(1, 20, integer=True)] = 3
    slo: Slo = SERVER_SLO
    name: str = field(default="chat-2023", compare=False)

    def __post_init__(self) -> None:
        check_fields(vars(self), field_ranges(Workload))
        if self.output_lengths.minimum < FEWEST_OUTPUT_TOKENS:
            raise ValueError(
                f"output_lengths.minimum is {self.output_lengths.minimum}, but must be at least "
                f"{FEWEST_OUTPUT_TOKENS}: a request of one token has no inter-token latency"
            )


@dataclass(frozen=True)
class Thinking:
    """Tokens that a model generates before its answer.

    Attributes:
        tokens: number of these tokens in a request that thinks.
        share: share of the requests that think, in [0, 1].
        visible: whether they are streamed. Visible ones are part of the output tokens; TTFT
            contains the time of hidden ones.

    Raises:
        ValueError: on construction; the message names the field, its value and what is allowed.
    """

    tokens: TokenLengths
    share: Annotated[float, Range(0, 1)] = 1.0
    visible: bool = False

    def __post_init__(self) -> None:
        check_fields(vars(self), field_ranges(Thinking))


@dataclass(frozen=True, order=True)
class Incident:
    """A time span in which the endpoint has only part of its capacity.

    Attributes:
        start: first instant [s since the Unix epoch].
        end: first instant after the incident [s since the Unix epoch], > start.
        capacity_factor: share of the normal capacity that is left, in [0.01, 1].

    Raises:
        ValueError: on construction; the message names the field, its value and what is allowed.
    """

    start: Annotated[float, Range(-1e12, 1e12)]
    end: Annotated[float, Range(-1e12, 1e12)]
    capacity_factor: Annotated[float, Range(0.01, 1)]

    def __post_init__(self) -> None:
        check_fields(vars(self), field_ranges(Incident))
        if self.end <= self.start:
            raise ValueError(f"end is {self.end!r}, but must be after start, {self.start!r}")


@dataclass(frozen=True)
class Profile:
    """An endpoint: a model and the machines that serve it.

    Prefill and decode share one budget of GPU time. One second of it serves `cap` requests of the
    workload's mean lengths. `calibration.calibrated` computes the times per token from a profile.

    Attributes:
        name: the model's name, 1 to 50 characters; it is part of the key of its random streams.
        ttft_ref: published median time to first token [s], in (0, 60].
        tps_ref: published median output tokens/s of a request, in (0, 10000].
        cap: requests/s at which the endpoint saturates, in (0, 10000].
        rho: mean utilisation over a week, in (0, 0.9].
        batch_limit: requests that can decode at once, in [1, 100000].
        source: where ttft_ref and tps_ref come from. No simulated number depends on it.
        creator: who made the model; models of one creator share some shifts. May be empty.
        measured: last day of the 30 for which the medians were published. Shifts and the slow
            factor of the capacity are relative to these days.
        released: first day of full service, or None; before it, only a trickle of requests comes.
        retired: day on which the service ends, or None; the requests then fall to a trickle.
        workload: the requests that arrive.
        slo: the model's own limits, or None for those of the workload. No simulated number depends
            on it.
        thinking: what the model does before it answers, or None.
        incidents: incidents on given dates, in addition to the random ones.
        random_incidents: whether every 30 days have one or two incidents of about an hour [E].
        elasticity: how much of the demand's variation, on a log scale, the utilisation follows, in
            [0, 1]. 0: the provider scales with demand; 1: the number of machines is constant.
        capacity_sd: log-sd of the slow factor of the endpoint's own capacity, in [0, 1].
        shifts_per_year: how often the speed of the machines changes for good, in [0, 50].
        shift_sd: log-sd of such a change, in [0, 1].
        creator_share: share of these changes, and of the variance of the slow factor, that is
            common to the creator's models, in [0, 1] [E].
        prefill_share: share of the GPU time used for prefill, in [0.01, 0.99].
        prefill_per_token: how much a prompt token adds to TTFT at utilisation rho [s], in [0, 0.1];
            0: as much as it takes of the GPU time.
        itl_exponent: g in ITL = itl0 + kappa c^g, c requests decoding, in [0.1, 1].
        ttft_jitter: log-sd of TTFT, in [0, 2].
        itl_jitter: log-sd of the inter-token latency (ITL), in [0, 2].
        failure_rate: share of the requests that fail at any time, in [0, 0.5].
        spells_per_month: spells of further failures in 30 days, in [0, 300] [E].
        spell_failures: mean share of the requests that fail in a spell, in [0, 0.5] [E].
        slow_share: share of requests that take the slow path, in [0, 0.5].
        slow_median: median factor by which the slow path multiplies TTFT, in [1, 100].
        slow_log_sd: log-sd of that factor [E], in [0, 2].

    Raises:
        ValueError: on construction; the message names the field, its value and what is allowed.
    """

    name: str
    ttft_ref: Annotated[float, Range(0, 60, low_included=False)]
    tps_ref: Annotated[float, Range(0, 10_000, low_included=False)]
    cap: Annotated[float, Range(0, 10_000, low_included=False)]
    rho: Annotated[float, Range(0, RHO_MAX, low_included=False)]
    batch_limit: Annotated[int, Range(1, 100_000, integer=True)]
    source: str = ""
    creator: str = ""
    measured: date = MEASURED
    released: date | None = None
    retired: date | None = None
    workload: Workload = Workload()
    slo: Slo | None = None
    thinking: Thinking | None = None
    incidents: tuple[Incident, ...] = ()
    random_incidents: bool = True
    elasticity: Annotated[float, Range(0, 1)] = 0.25
    capacity_sd: Annotated[float, Range(0, 1)] = 0.14
    shifts_per_year: Annotated[float, Range(0, 50)] = 6.0
    shift_sd: Annotated[float, Range(0, 1)] = 0.12
    creator_share: Annotated[float, Range(0, 1)] = 0.65
    prefill_share: Annotated[float, Range(0.01, 0.99)] = 0.4
    prefill_per_token: Annotated[float, Range(0, 0.1)] = 0.0
    itl_exponent: Annotated[float, Range(0.1, 1)] = 0.65
    ttft_jitter: Annotated[float, Range(0, 2)] = 0.22
    itl_jitter: Annotated[float, Range(0, 2)] = 0.18
    failure_rate: Annotated[float, Range(0, 0.5)] = 0.001
    spells_per_month: Annotated[float, Range(0, 300)] = 15.0
    spell_failures: Annotated[float, Range(0, 0.5)] = 0.13
    slow_share: Annotated[float, Range(0, 0.5)] = 0.075
    slow_median: Annotated[float, Range(1, 100)] = 4.0
    slow_log_sd: Annotated[float, Range(0, 2)] = 0.5

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not 1 <= len(self.name) <= MAX_MODEL_NAME_LENGTH:
            raise ValueError(
                f"name is {self.name!r}, but must be a string of 1 to {MAX_MODEL_NAME_LENGTH}"
                " characters"
            )
        check_fields(vars(self), field_ranges(Profile))
        if self.released and self.retired and self.retired <= self.released:
            raise ValueError(f"retired is {self.retired}, but must be after {self.released}")

    @property
    def limits(self) -> Slo:
        """The limits of the model's requests: its own, else those of its workload.

        A workload's limit of TTFT does not apply to a model with hidden thinking: TTFT contains the
        time of the thoughts.
        """
        if self.slo is not None:
            return self.slo
        hidden = self.thinking is not None and not self.thinking.visible
        return replace(self.workload.slo, ttft=None) if hidden else self.workload.slo

    @cached_property
    def decode_lengths(self) -> TokenLengths:
        """Tokens that a request decodes: the answer and the thinking, as one distribution.

        With thinking, it is the lognormal with the mean and the variance of the sum.
        """
        answer = self.workload.output_lengths
        if self.thinking is None:
            return answer
        thought, share = self.thinking.tokens, self.thinking.share
        mean = answer.mean + share * thought.mean
        variance = answer.squared_cv * answer.mean**2 + thought.mean**2 * share * (
            1.0 + thought.squared_cv - share
        )
        log_variance = math.log1p(variance / mean**2)
        return TokenLengths(
            log_median=math.log(mean) - 0.5 * log_variance,
            log_sd=math.sqrt(log_variance),
            minimum=answer.minimum,
            maximum=min(answer.maximum + thought.maximum, MAX_TOKENS),
        )

    @cached_property
    def mean_steps(self) -> float:
        """Mean decode steps of a request: its tokens without the first, which prefill yields."""
        return self.decode_lengths.mean - 1.0

    @cached_property
    def prefill_cost(self) -> float:
        """GPU time k_p of a prompt token [s]: at saturation, prefill uses its share."""
        return self.prefill_share / (self.cap * self.workload.input_lengths.mean)

    def prefill_times(self, rho: Array) -> tuple[Array, Array]:
        """Return what a prompt token takes while decode uses its share of the GPU [s].

        Args:
            rho: utilisation, any shape.

        Returns:
            The time in the queue, and the time that it adds to its own request's TTFT; both of the
            shape of ``rho``.
        """
        decode_share = 1.0 - self.prefill_share
        slowdown = 1.0 / (1.0 - rho * decode_share)
        queue = self.prefill_cost * slowdown
        if self.prefill_per_token == 0.0:
            return queue, queue
        usual = self.prefill_per_token * (1.0 - self.workload.prefix_reuse)
        return queue, usual * (1.0 - self.rho * decode_share) * slowdown


DERIVED = "derived from the name"
"""The `Profile.source` of a model that is neither built in nor in a profiles file."""


def derived_profile(name: str) -> Profile:
    """Return a profile from nothing but the model's name, the same on every machine.

    A keyed digest of the name sets the model's size, TTFT and utilisation, inside the range of the
    built-in models of 2024.

    Args:
        name: the model's name, 1 to 50 characters.

    Raises:
        ValueError: the name is empty or too long.
    """
    if not 1 <= len(name) <= MAX_MODEL_NAME_LENGTH:
        raise ValueError(f"name is {name!r}, but must have 1 to {MAX_MODEL_NAME_LENGTH} characters")
    digest = hashlib.blake2b(name.encode(), key=b"sim_pipeline profile", digest_size=24).digest()
    size, ttft, rho = (int.from_bytes(digest[i : i + 8], "big") / 2**64 for i in (0, 8, 16))
    # A larger model is slower and serves fewer requests: size sets both within the range.
    return Profile(
        name,
        ttft_ref=round(0.30 * (1.00 / 0.30) ** ttft, 3),
        tps_ref=round(190.0 * (27.0 / 190.0) ** size, 1),
        cap=round(40.0 * (6.0 / 40.0) ** size, 1),
        rho=round(0.30 + 0.20 * rho, 3),
        batch_limit=256 if size < 0.5 else 128,  # noqa: PLR2004
        source=DERIVED,
    )
