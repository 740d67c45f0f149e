"""Profiles: built-in models, profiles derived from a name, and invalid fields."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import (
    DERIVED,
    MODELS,
    RHO_REF,
    Incident,
    Profile,
    Workload,
    profile_for,
)

OURS = Profile("ours", 0.5, 90, 12, 0.4, 128)


def test_built_in_models_have_published_figures() -> None:
    rows = {
        name: (p.ttft_ref, p.tps_ref, p.cap, p.rho, p.batch_limit) for name, p in MODELS.items()
    }
    assert rows == {
        "GPT-4o": (0.39, 81, 20, 0.45, 256),
        "GPT-4o-mini": (0.58, 61, 40, 0.40, 256),
        "Claude-3.5-Sonnet": (0.81, 64, 15, 0.50, 256),
        "Gemini-1.5-Flash": (0.41, 190, 40, 0.35, 256),
        "Llama-3.1-8B": (0.30, 180, 40, 0.30, 256),
        "Llama-3.1-70B": (0.45, 50, 12, 0.45, 128),
        "Llama-3.1-405B": (0.90, 27, 6, 0.45, 128),
        "Mistral-Large": (0.52, 40, 10, 0.40, 128),
        "DeepSeek-V3": (1.00, 60, 20, 0.60, 256),
    }
    assert all(profile.source for profile in MODELS.values())


@pytest.mark.parametrize("profile", MODELS.values(), ids=MODELS)
def test_saturation_uses_all_gpu_time(profile: Profile) -> None:
    prefill = profile.cap * profile.workload.input_lengths.mean * profile.prefill_cost
    assert prefill == pytest.approx(profile.prefill_share)
    # kappa c = rho ITL: at rho_ref, the batch size of Little's law gives the published TPS.
    itl = 1.0 / profile.tps_ref
    batch = RHO_REF * profile.cap * profile.mean_steps * itl
    assert profile.itl_base + profile.step_cost * batch == pytest.approx(itl)


def test_order_of_override_table_and_name() -> None:
    other = replace(MODELS["GPT-4o"], rho=0.2)
    assert profile_for("GPT-4o", {"GPT-4o": other}) is other
    assert profile_for("GPT-4o") is MODELS["GPT-4o"]
    assert profile_for("unheard of").source == DERIVED


@given(st.text(min_size=1, max_size=50).filter(lambda name: name not in MODELS))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_derived_profile_is_within_table_range(name: str) -> None:
    profile = profile_for(name)
    assert profile.name == name
    for field in ("ttft_ref", "tps_ref", "cap", "rho", "batch_limit"):
        values = [getattr(row, field) for row in MODELS.values()]
        assert min(values) <= getattr(profile, field) <= max(values)
    assert profile == profile_for(name)


def test_derived_profiles_cover_table_range() -> None:
    tps = [profile_for(f"model {number}").tps_ref for number in range(200)]
    assert np.ptp(np.log(tps)) > 0.9 * np.log(190 / 27)


def test_derived_profile_is_same_in_other_process() -> None:
    program = (
        "from sim_pipeline.simulator.profiles import profile_for; print(profile_for('Qwen-2.5'))"
    )
    answers = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert answers == {str(profile_for("Qwen-2.5"))}


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("name", "", "1 to 50 characters"),
        ("name", "x" * 51, "1 to 50 characters"),
        ("ttft_ref", 0.0, r"\(0, 60\]"),
        ("tps_ref", float("inf"), r"\(0, 10000\]"),
        ("cap", float("nan"), r"\(0, 10000\]"),
        ("rho", 0.91, r"\(0, 0.9\]"),
        ("batch_limit", 1.5, r"an integer in \[1, 100000\]"),
        ("prefill_share", 1.0, r"\[0.01, 0.99\]"),
        ("failure_rate", -0.1, r"\[0, 0.5\]"),
        ("slow_median", 0.5, r"\[1, 100\]"),
    ],
)
def test_bad_field_is_named(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is .*{allowed}"):
        replace(OURS, **{field: value})  # type: ignore[arg-type]


def test_one_error_names_all_bad_fields() -> None:
    with pytest.raises(ValueError, match=r"tps_ref is -1,.*rho is 2,.*slow_share is 0.9,"):
        replace(OURS, tps_ref=-1, rho=2, slow_share=0.9)


def test_ttft_shorter_than_prefill_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ttft_ref is 0\.03, but must be more than 0\.0366"):
        replace(OURS, ttft_ref=0.03)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("arrival_cv", 0.1),
        ("peak_hour", 25),
        ("daily_amplitude", -1),
        ("half_daily_amplitude", 3),
        ("weekend_factor", 0),
        ("drift_sd", float("nan")),
    ],
)
def test_bad_workload_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}, but must be a number in"):
        replace(Workload(), **{field: value})  # type: ignore[arg-type]


def test_one_token_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"output_lengths.minimum is 1, but must be at least 2"):
        Workload(output_lengths=TokenLengths(5.0, 0.9, 1, 2048))


def test_bad_incident_is_named() -> None:
    with pytest.raises(ValueError, match=r"capacity_factor is 0.0, but must be .* \[0.01, 1\]"):
        Incident(0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"end is 5.0, but must be after start, 5.0"):
        Incident(5.0, 5.0, 0.5)
