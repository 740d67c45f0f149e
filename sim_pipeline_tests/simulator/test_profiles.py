"""Profiles: built-in models, profiles derived from a name, and invalid fields."""

import subprocess
import sys
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_pipeline.simulator.catalogue import MODELS, profile_for
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import DERIVED, Incident, Profile, Slo, Thinking, Workload

OURS = Profile("ours", 0.5, 90, 12, 0.4, 128)


@pytest.mark.parametrize("profile", MODELS.values(), ids=MODELS)
def test_saturation_uses_the_share_of_prefill(profile: Profile) -> None:
    prefill = profile.cap * profile.workload.input_lengths.mean * profile.prefill_cost
    assert prefill == pytest.approx(profile.prefill_share)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_decode_lengths_are_those_of_answer_and_thinking(share: float) -> None:
    thought = TokenLengths(6.0, 0.8, 1, 20_000)
    profile = replace(OURS, thinking=Thinking(thought, share=share))
    answers = OURS.workload.output_lengths
    generator = np.random.default_rng(1)
    tokens = answers.from_normal(generator.standard_normal(400_000))
    thinks = generator.random(tokens.size) < share
    tokens += thinks * thought.from_normal(generator.standard_normal(tokens.size))
    lengths = profile.decode_lengths
    assert lengths.mean == pytest.approx(tokens.mean(), abs=5.0 * tokens.std() / np.sqrt(400_000))
    # The error of a variance comes from the fourth moment.
    squares = (tokens - tokens.mean()) ** 2
    error = squares.std() / np.sqrt(tokens.size)
    assert lengths.squared_cv * lengths.mean**2 == pytest.approx(tokens.var(), abs=5.0 * error)
    assert profile.mean_steps == lengths.mean - 1.0
    assert OURS.decode_lengths is answers


def test_prefill_of_a_token_slows_down_with_decode() -> None:
    rho = np.array([0.0, OURS.rho, 0.9])
    slowdown = 1.0 / (1.0 - 0.6 * rho)
    queue, own = OURS.prefill_times(rho)
    assert queue == pytest.approx(OURS.prefill_cost * slowdown)
    assert np.array_equal(own, queue)
    # A measured prefill holds at the profile's own utilisation; cached tokens take no time.
    workload = Workload(prefix_reuse=0.75)
    measured = replace(OURS, prefill_share=0.4, prefill_per_token=1e-5, workload=workload)
    queue, own = measured.prefill_times(rho)
    assert queue == pytest.approx(OURS.prefill_cost * slowdown)
    assert own[1] == pytest.approx(0.25e-5)
    assert own == pytest.approx(0.25e-5 * slowdown / slowdown[1])


def test_unknown_name_gets_a_derived_profile() -> None:
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
        "from sim_pipeline.simulator.catalogue import profile_for; print(profile_for('Qwen-2.5'))"
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
        ("elasticity", 1.1, r"\[0, 1\]"),
        ("capacity_sd", -0.1, r"\[0, 1\]"),
        ("shifts_per_year", 51, r"\[0, 50\]"),
        ("shift_sd", 1.5, r"\[0, 1\]"),
        ("creator_share", 1.01, r"\[0, 1\]"),
        ("prefill_per_token", 0.2, r"\[0, 0.1\]"),
        ("itl_exponent", 0.0, r"\[0.1, 1\]"),
        ("spells_per_month", 301, r"\[0, 300\]"),
        ("spell_failures", 0.6, r"\[0, 0.5\]"),
    ],
)
def test_bad_field_is_named(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is .*{allowed}"):
        replace(OURS, **{field: value})  # type: ignore[arg-type]


def test_one_error_names_all_bad_fields() -> None:
    with pytest.raises(ValueError, match=r"tps_ref is -1,.*rho is 2,.*slow_share is 0.9,"):
        replace(OURS, tps_ref=-1, rho=2, slow_share=0.9)


def test_retirement_before_release_is_refused() -> None:
    day = date(2026, 1, 5)
    for retired in (day, date(2025, 12, 31)):
        with pytest.raises(ValueError, match=f"retired is {retired}, but must be after {day}"):
            replace(OURS, released=day, retired=retired)
    assert replace(OURS, released=day, retired=date(2026, 1, 6)).retired == date(2026, 1, 6)
    assert replace(OURS, retired=day).released is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prefix_reuse", 1.0),
        ("arrival_cv", 0.1),
        ("peak_hour", 25),
        ("daily_amplitude", -1),
        ("half_daily_amplitude", 3),
        ("weekend_factor", 0),
        ("drift_sd", float("nan")),
        ("burst_sd", 1.1),
        ("fast_burst_sd", -0.1),
        ("heavy_share", 0.95),
    ],
)
def test_bad_workload_is_named(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}, but must be a number in"):
        replace(Workload(), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0, 21, 1.5])
def test_heavy_clients_are_counted(value: float) -> None:
    with pytest.raises(ValueError, match=rf"heavy_clients is {value}, .* integer in \[1, 20\]"):
        Workload(heavy_clients=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("slo", "good"),
    [
        (Slo(), [True, True, True, True]),
        # A value equal to the limit is good.
        (Slo(ttft=2.0), [True, True, False, True]),
        (Slo(itl=0.05), [True, True, True, False]),
        (Slo(e2e=4.0), [False, False, True, False]),
        (Slo(ttft=2.0, itl=0.05, e2e=5.0), [True, False, False, False]),
    ],
)
def test_data_point_is_good_within_all_limits(slo: Slo, good: list[bool]) -> None:
    ttft = np.array([[0.5, 2.0, 2.5, 1.0]])
    tps = np.array([[25.0, 20.0, 50.0, 10.0]])
    e2e_latency = np.array([[5.0, 10.0, 4.0, 20.0]])
    assert slo.good(ttft, tps, e2e_latency).tolist() == [good]


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("ttft", 0, r"\(0, 3600\]"),
        ("ttft", float("nan"), r"\(0, 3600\]"),
        ("itl", -0.1, r"\(0, 60\]"),
        ("itl", True, r"\(0, 60\]"),
        ("e2e", 86_401, r"\(0, 86400\]"),
    ],
)
def test_bad_limit_is_named(field: str, value: float, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}, but must be a number in {allowed}"):
        Slo(**{field: value})


def test_own_limits_replace_those_of_the_workload() -> None:
    of_class = Slo(ttft=1.0, itl=0.1, e2e=9.0)
    profile = replace(OURS, workload=Workload(slo=of_class))
    assert profile.limits == of_class
    assert replace(profile, slo=Slo(e2e=5.0)).limits == Slo(e2e=5.0)
    assert replace(profile, slo=Slo()).limits == Slo()


def test_hidden_thinking_has_no_limit_of_ttft_but_its_own() -> None:
    of_class = Slo(ttft=1.0, itl=0.1, e2e=9.0)
    thinking = Thinking(TokenLengths(6.0, 0.8, 1, 20_000))
    profile = replace(OURS, workload=Workload(slo=of_class), thinking=thinking)
    assert profile.limits == Slo(itl=0.1, e2e=9.0)
    assert replace(profile, thinking=replace(thinking, visible=True)).limits == of_class
    assert replace(profile, slo=Slo(ttft=30.0)).limits == Slo(ttft=30.0)


def test_bad_share_of_thinking_is_named() -> None:
    with pytest.raises(ValueError, match=r"share is 1.5, but must be a number in \[0, 1\]"):
        Thinking(TokenLengths(6.0, 0.8, 1, 20_000), share=1.5)


def test_one_token_outputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"output_lengths.minimum is 1, but must be at least 2"):
        Workload(output_lengths=TokenLengths(5.0, 0.9, 1, 2048))


def test_bad_incident_is_named() -> None:
    with pytest.raises(ValueError, match=r"capacity_factor is 0.0, but must be .* \[0.01, 1\]"):
        Incident(0.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"end is 5.0, but must be after start, 5.0"):
        Incident(5.0, 5.0, 0.5)
