"""Requests and their waits, compared with event-driven queues."""

import heapq
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from sim_pipeline.simulator.calibration import calibrated, prefill_utilisation
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.simulator.draws import Draws
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import Profile, Thinking
from sim_pipeline.simulator.requests import (
    Requests,
    history_length,
    observe,
    waits_looking_back,
)
from sim_pipeline_tests.simulator.laws import STEADY, steady

Array = npt.NDArray[np.float64]


def observed(
    profile: Profile, rows: int, *, seed: int, speed: float = 1.0, expected: float = 1.0
) -> Requests:
    """Observe requests in ``rows`` slices at the profile's own utilisation."""
    generator = np.random.default_rng(seed)
    parts = []
    history = int(history_length(profile, np.array(profile.rho)))
    size = max(1, 4_000_000 // history)
    for first in range(0, rows, size):
        count = min(size, rows - first)
        draws = Draws.empty(count, history)
        draws.fill(slice(0, count), generator, profile.workload.arrival_cv)
        parts.append(
            observe(
                profile,
                draws,
                rho=np.full(count, profile.rho),
                speed=np.full(count, speed),
                expected=np.full(count, expected),
            )
        )
    return Requests(*(np.concatenate(values) for values in zip(*map(_values, parts), strict=True)))


def _values(requests: Requests) -> list[Array]:
    return list(vars(requests).values())


def first_come_first_served(arrivals: Array, services: Array) -> Array:
    """Serve requests one after another; return the time at which each service begins."""
    free = 0.0
    begins = np.empty_like(arrivals)
    for index, (arrival, service) in enumerate(zip(arrivals, services, strict=True)):
        begins[index] = max(arrival, free)
        free = begins[index] + service
    return begins


times = st.floats(0.0, 10.0)


@given(
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float64, shape, elements=times),
            hnp.arrays(np.float64, shape, elements=times),
        )
    )
)
@settings(max_examples=100, derandomize=True, deadline=None)
def test_waits_match_event_driven_queue(arrays: tuple[Array, Array]) -> None:
    services, gaps = arrays
    waits, wait = waits_looking_back(services, gaps)
    for row in range(services.shape[0]):
        # The oldest request is the last element and arrives at 0; the observed request follows.
        arrivals = np.concatenate(([0.0], np.cumsum(gaps[row, ::-1])))
        begins = first_come_first_served(arrivals, np.append(services[row, ::-1], 0.0))
        expected = begins - arrivals
        assert waits[row, ::-1] == pytest.approx(expected[:-1], abs=1e-9)
        assert wait[row] == pytest.approx(expected[-1], abs=1e-9)


def test_services_and_gaps_need_equal_shapes() -> None:
    with pytest.raises(ValueError, match=r"services has shape \(2, 3\) and gaps \(3, 2\)"):
        waits_looking_back(np.ones((2, 3)), np.ones((3, 2)))


@pytest.mark.parametrize(("rho", "cv"), [(0.3, 1.1), (0.6, 1.1), (0.85, 1.1), (0.5, 3.0)])
def test_history_gives_stationary_wait(rho: float, cv: float) -> None:
    profile = steady(MODELS["GPT-4o"], rho, workload=replace(STEADY, arrival_cv=cv))
    wait = observed(profile, 30_000, seed=1).wait

    # The same queue, event by event in one long run, with SciPy's distributions.
    generator = np.random.default_rng(2)
    size = 400_000
    gaps = stats.gamma(cv**-2, scale=cv**2 / (rho * 20)).rvs(size, random_state=generator)
    prompts = stats.lognorm(s=0.98, scale=np.exp(6.63)).rvs(size, random_state=generator)
    prompts = np.clip(np.rint(prompts), 1, 8192)
    services = prompts / prompts.mean() * (0.4 / 20) / (1.0 - 0.6 * rho)
    arrivals = np.cumsum(gaps)
    run = first_come_first_served(arrivals, services) - arrivals
    # Waits within a run are correlated: its standard error comes from the means of 50 parts.
    error = np.hypot(run.reshape(50, -1).mean(axis=1).std() / np.sqrt(50), wait.std() / 173.0)
    assert abs(wait.mean() - run.mean()) < 4.0 * error
    assert 4.0 * error < 0.16 * run.mean()
    assert np.mean(wait > 0.0) == pytest.approx(np.mean(run > 0.0), abs=0.02)
    assert np.quantile(wait, 0.99) == pytest.approx(np.quantile(run, 0.99), rel=0.12)


@pytest.mark.parametrize("rho", [0.2, 0.6, 0.9])
def test_poisson_wait_matches_pollaczek_khinchine(rho: float) -> None:
    profile = steady(MODELS["GPT-4o"], rho, workload=replace(STEADY, arrival_cv=1.0))
    wait = observed(profile, 40_000, seed=3).wait
    r = float(prefill_utilisation(profile, np.array(rho)))
    mean_service = r / (rho * profile.cap)
    spread = 1.0 + profile.workload.input_lengths.squared_cv
    expected = r * mean_service * spread / (2.0 * (1.0 - r))
    assert wait.mean() == pytest.approx(expected, abs=4.0 * wait.std() / np.sqrt(wait.size))


def test_history_grows_with_load_and_bursts() -> None:
    profile = MODELS["GPT-4o"]
    lengths = history_length(profile, np.array([0.1, 0.6, 0.85, 0.9]))
    assert lengths.tolist() == [64, 64, 256, 512]
    bursty = replace(profile, workload=replace(STEADY, arrival_cv=3.0))
    assert history_length(bursty, np.array([0.9])).tolist() == [2048]


def processor_sharing(profile: Profile, size: int, *, seed: int) -> tuple[Array, float]:
    """Simulate a batch event by event: each request gets one step every itl0 + kappa (others)^g.

    Returns:
        The mean ITL of each request [s], and the mean number of requests in the batch over time.
    """
    times = calibrated(profile)
    generator = np.random.default_rng(seed)
    shape = profile.workload.arrival_cv**-2
    gaps = generator.standard_gamma(shape, size) / (shape * profile.rho * profile.cap)
    steps = np.clip(np.rint(generator.lognormal(5.02, 0.86, size)), 2, 2048) - 1.0
    itl = np.full(size, np.nan)
    arrived = np.empty(size)
    batch: list[tuple[float, int]] = []  # (progress at which the request is done, its index)
    clock = progress = area = 0.0
    for index in range(size):
        left = gaps[index]
        while batch:
            step = times.itl_base + times.step_cost * (len(batch) - 1) ** times.exponent
            until_done = (batch[0][0] - progress) * step
            if until_done > left:
                progress += left / step
                break
            left -= until_done
            clock += until_done
            area += len(batch) * until_done
            progress, done = heapq.heappop(batch)
            itl[done] = (clock - arrived[done]) / steps[done]
        clock += left
        area += len(batch) * left
        arrived[index] = clock
        heapq.heappush(batch, (progress + steps[index], index))
    return itl[size // 10 :][~np.isnan(itl[size // 10 :])], area / clock


@pytest.mark.parametrize("rho", [0.2, 0.45, 0.7])
def test_batch_matches_processor_sharing(rho: float) -> None:
    profile = steady(MODELS["GPT-4o"], rho, itl_jitter=0.0)
    requests = observed(profile, 20_000, seed=4)
    itl, in_batch = processor_sharing(profile, 150_000, seed=5)
    assert requests.concurrency.mean() == pytest.approx(in_batch, rel=0.03)
    assert requests.itl.mean() == pytest.approx(itl.mean(), rel=0.02)
    # A simulated request has one ITL. The reference has the mean over its decode, which varies
    # less.
    assert requests.itl.std() == pytest.approx(itl.std(), rel=0.25)
    assert np.median(requests.itl) == pytest.approx(np.median(itl), rel=0.02)


@pytest.mark.parametrize("cv", [0.5, 1.1, 3.0])
@pytest.mark.parametrize("expected", [0.05, 1.0, 20.0, 300.0, 20_000.0])
def test_slice_count_has_expected_mean(cv: float, expected: float) -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, workload=replace(STEADY, arrival_cv=cv))
    count = observed(profile, 20_000, seed=6, expected=expected).completed
    assert (count == np.rint(count)).all()
    assert count.min() >= 0.0
    assert count.mean() == pytest.approx(expected, abs=4.5 * count.std() / np.sqrt(count.size))


@pytest.mark.parametrize("cv", [0.5, 1.1, 3.0])
@pytest.mark.parametrize("expected", [1.0, 20.0, 300.0])
def test_slice_count_matches_renewal_process(cv: float, expected: float) -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, workload=replace(STEADY, arrival_cv=cv))
    count = observed(profile, 8_000, seed=7, expected=expected).completed
    # Reference: a long renewal process, counted between instants independent of it.
    generator = np.random.default_rng(8)
    shape = cv**-2
    arrivals = np.cumsum(generator.standard_gamma(shape, int(8_200 * expected)) / shape)
    edges = np.arange(1, 8_001) * expected
    reference = np.diff(np.searchsorted(arrivals, edges))
    # Counts have ties, and neighbours are weakly dependent: use the 1 in 10,000 limit.
    limit = stats.kstwobign.isf(1e-4) * np.sqrt(2.0 / 8_000)
    assert stats.ks_2samp(count, reference).statistic < limit


def test_jitter_keeps_the_median_itl() -> None:
    profile = steady(MODELS["GPT-4o"], 0.3)
    calm = observed(replace(profile, itl_jitter=0.0), 20_000, seed=12).itl
    jittery = observed(replace(profile, itl_jitter=0.5), 20_000, seed=12).itl
    # The standard error of the median of a normal is 1.25 sd / sqrt(n).
    assert np.median(jittery) == pytest.approx(np.median(calm), rel=5.0 * 1.25 * 0.5 / 141.0)
    # Its mean is higher, and so is the concurrency.
    assert np.log(jittery / calm).std() == pytest.approx(0.5, rel=0.03)
    assert jittery.mean() / np.median(jittery) == pytest.approx(np.exp(0.125), rel=0.03)


def test_requests_wait_for_a_full_batch() -> None:
    profile = steady(MODELS["GPT-4o"], 0.8, ttft_jitter=0.0, slow_share=0.0, itl_jitter=0.0)
    # The smallest limit that is not reached on average.
    limit = np.ceil(calibrated(profile).full_batch)
    free = observed(profile, 5_000, seed=9)
    full = observed(replace(profile, batch_limit=int(limit)), 5_000, seed=9)
    assert (full.concurrency == free.concurrency).all()
    assert (full.wait == free.wait).all()
    more = full.concurrency + 1.0 - limit
    assert np.mean(more > 0.0) > 0.02
    waits = full.ttft - free.ttft
    assert waits[more <= 0.0] == pytest.approx(0.0, abs=1e-12)
    itl = float(calibrated(profile).itl(limit))
    expected = more[more > 0.0] * profile.mean_steps * itl / limit
    assert waits[more > 0.0] == pytest.approx(expected)
    assert full.itl.max() == pytest.approx(itl)


def test_prompt_lengths_and_their_effect_on_ttft() -> None:
    profile = steady(MODELS["GPT-4o"], 0.5)
    requests = observed(profile, 20_000, seed=10)
    prompts = np.sort(requests.n_in)
    inside = np.arange(1, 8192)
    found = np.searchsorted(prompts, inside, side="right") / prompts.size
    published = stats.lognorm(s=0.98, scale=np.exp(6.63)).cdf(inside + 0.5)
    assert np.abs(found - published).max() < stats.kstwo.isf(1e-3, prompts.size)
    limit = 4.0 / np.sqrt(prompts.size)
    assert stats.spearmanr(requests.n_in, requests.ttft).statistic > limit
    assert abs(stats.spearmanr(requests.n_in, requests.n_out).statistic) < limit
    assert abs(stats.spearmanr(requests.n_in, requests.itl).statistic) < limit


def test_faster_machines_serve_requests_faster() -> None:
    profile = steady(MODELS["GPT-4o"], 0.6, slow_share=0.0)
    usual = observed(profile, 5_000, seed=11)
    fast = observed(profile, 5_000, seed=11, speed=1.25)
    # The provider keeps the utilisation: waits and batch are the same.
    assert (fast.wait == usual.wait).all()
    assert (fast.concurrency == usual.concurrency).all()
    assert fast.itl == pytest.approx(usual.itl / 1.25)
    assert fast.ttft - fast.wait == pytest.approx((usual.ttft - usual.wait) / 1.25)


THOUGHTS = TokenLengths(log_median=6.0, log_sd=0.8, minimum=1, maximum=20_000)


def test_hidden_thinking_is_part_of_ttft() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, ttft_ref=7.0, slow_share=0.0, ttft_jitter=0.0)
    profile = replace(profile, thinking=Thinking(THOUGHTS, share=0.7))
    requests = observed(profile, 20_000, seed=13)
    base = calibrated(profile).ttft_base
    tokens = (requests.ttft - requests.wait - base) / requests.itl
    assert np.median(requests.ttft) == pytest.approx(7.0, rel=0.03)
    # Without prefill, the remaining time is that of whole tokens; 70 % of the requests think.
    prefill = requests.n_in * profile.prefill_times(np.array(0.4))[1] / requests.itl
    thoughts = tokens - prefill
    assert thoughts == pytest.approx(np.rint(thoughts), abs=1e-6)
    assert np.mean(np.rint(thoughts) > 0) == pytest.approx(0.7, abs=5.0 * 0.46 / 141.0)
    assert np.median(thoughts[np.rint(thoughts) > 0]) == pytest.approx(np.exp(6.0), rel=0.05)
    assert requests.n_out.max() <= 2048


def test_visible_thinking_is_part_of_the_output() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, batch_limit=100_000)
    answers = observed(profile, 20_000, seed=13)
    visible = replace(profile, thinking=Thinking(THOUGHTS, share=0.7, visible=True))
    both = observed(visible, 20_000, seed=13)
    thoughts = both.n_out - answers.n_out
    assert np.mean(thoughts > 0) == pytest.approx(0.7, abs=5.0 * 0.46 / 141.0)
    assert np.median(thoughts[thoughts > 0]) == pytest.approx(np.exp(6.0), rel=0.05)
    assert np.median(both.ttft) == pytest.approx(np.median(answers.ttft), rel=0.03)


@pytest.mark.parametrize("visible", [True, False])
def test_thinking_occupies_the_batch(*, visible: bool) -> None:
    profile = steady(MODELS["GPT-4o"], 0.5, ttft_ref=30.0, itl_jitter=0.0)
    profile = replace(profile, thinking=Thinking(THOUGHTS, share=0.7, visible=visible))
    requests = observed(profile, 30_000, seed=14)
    answer = profile.workload.output_lengths.mean - 1.0
    steps = answer + 0.7 * THOUGHTS.mean
    assert profile.mean_steps == pytest.approx(steps, rel=0.02)
    in_decode = 0.5 * profile.cap * steps * requests.itl.mean()
    assert requests.concurrency.mean() == pytest.approx(in_decode, rel=0.04)


def test_prefill_per_token_sets_the_slope_of_ttft() -> None:
    profile = steady(MODELS["GPT-4o"], 0.4, prefill_per_token=1e-4, slow_share=0.0, ttft_jitter=0.0)
    for reuse in (0.0, 0.6):
        workload = replace(STEADY, prefix_reuse=reuse)
        requests = observed(replace(profile, workload=workload), 2_000, seed=15)
        slope = np.polyfit(requests.n_in, requests.ttft - requests.wait, 1)[0]
        assert slope == pytest.approx(1e-4 * (1.0 - reuse))
