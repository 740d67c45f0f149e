"""The built-in models: their figures, where these come from, and the workloads."""

from datetime import date

import numpy as np
import pytest

from sim_pipeline.simulator.calibration import calibrated
from sim_pipeline.simulator.catalogue import MODELS, WORKLOADS
from sim_pipeline.simulator.demand import midnight
from sim_pipeline.simulator.profiles import Profile, Workload
from sim_pipeline.simulator.simulation import simulate

HOUR = 3600
# TTFT [s], TPS [tokens/s] and creator as published.
PUBLISHED = {
    "GPT-4o": (0.39, 81, "OpenAI"),
    "GPT-4o-mini": (0.58, 61, "OpenAI"),
    "Claude-3.5-Sonnet": (0.81, 64, "Anthropic"),
    "Gemini-1.5-Flash": (0.41, 190, "Google"),
    "Llama-3.1-8B": (0.30, 180, "Meta"),
    "Llama-3.1-70B": (0.45, 50, "Meta"),
    "Llama-3.1-405B": (0.90, 27, "Meta"),
    "Mistral-Large": (0.52, 40, "Mistral"),
    "DeepSeek-V3": (1.00, 60, "DeepSeek"),
    "GPT-5.6-Terra": (0.74, 132, "OpenAI"),
    "GPT-5.6-Sol-high": (7.0, 73, "OpenAI"),
    "GPT-5.4-mini": (0.66, 164, "OpenAI"),
    "Claude-Sonnet-5-low": (1.6, 66, "Anthropic"),
    "Claude-Opus-4.7": (1.4, 45, "Anthropic"),
    "Gemini-3.5-Flash-minimal": (0.92, 164, "Google"),
    "DeepSeek-V4-Pro": (1.8, 78, "DeepSeek"),
    "Kimi-K2.7-Code": (2.3, 53, "Moonshot AI"),
    "gpt-oss-120b": (0.90, 271, "OpenAI"),
}

each_model = pytest.mark.parametrize("profile", MODELS.values(), ids=lambda one: one.name)


def test_models_have_the_published_figures() -> None:
    rows = {name: (one.ttft_ref, one.tps_ref, one.creator) for name, one in MODELS.items()}
    assert rows == PUBLISHED


@each_model
def test_figures_have_a_source_and_a_date(profile: Profile) -> None:
    assert profile.source
    assert profile.source != "the catalogue"
    assert date(2024, 5, 1) < profile.measured <= date(2026, 7, 10)


@each_model
def test_models_have_these_medians_at_that_date(profile: Profile) -> None:
    last = int(midnight(profile.measured)) // HOUR + 24
    run = {"interval": HOUR, "points": 10, "seed": 2}
    result = simulate(profile, np.arange(last - 672, last), **run)
    # 6,720 requests: a standard error of 0.4 % for TPS; 1 % for TTFT with hidden thinking.
    assert np.median(result.tps) == pytest.approx(profile.tps_ref, rel=0.05)
    assert np.median(result.ttft) == pytest.approx(profile.ttft_ref, rel=0.05)


def test_highest_utilisation_fits_the_batch_of_every_model() -> None:
    for profile in MODELS.values():
        assert calibrated(profile).concurrency(np.array(0.9)) < profile.batch_limit


def test_workloads_have_the_published_prompts() -> None:
    assert WORKLOADS["chat-2023"] == Workload()
    chat, code = WORKLOADS["chat"].input_lengths, WORKLOADS["code"].input_lengths
    assert np.exp(chat.log_median) == pytest.approx(1_000, rel=0.01)
    assert np.exp(code.log_median) == pytest.approx(7_000, rel=0.01)
    assert np.exp(code.log_median + 1.645 * code.log_sd) == pytest.approx(40_000, rel=0.02)
    assert WORKLOADS["code"].prefix_reuse > 0.5


@pytest.mark.parametrize("name", MODELS)
def test_limits_tell_good_days_from_bad_ones(name: str) -> None:
    """Most data points are within the limits of each model, but not all."""
    profile = MODELS[name]
    last = int(midnight(profile.measured)) // HOUR + 24
    result = simulate(profile, np.arange(last - 672, last), interval=HOUR, points=5, seed=3)
    good = profile.limits.good(result.ttft, result.tps, result.e2e_latency)
    assert 0.5 < good.mean() < 0.995


def test_hidden_thinking_has_the_published_tail() -> None:
    profile = MODELS["GPT-5.6-Sol-high"]
    last = int(midnight(profile.measured)) // HOUR + 24
    result = simulate(profile, np.arange(last - 672, last), interval=HOUR, points=10, seed=3)
    # The published p95 is 48 s.
    assert np.quantile(result.ttft, 0.95) == pytest.approx(48.0, rel=0.15)
