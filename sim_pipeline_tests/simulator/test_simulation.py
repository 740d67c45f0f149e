"""A window has the same numbers in any range, order and process, and memory is bounded."""

import hashlib
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sim_pipeline.simulator import simulation
from sim_pipeline.simulator.catalogue import MODELS, profile_for
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.profiles import Incident, Profile, Thinking, Workload
from sim_pipeline.simulator.simulation import Simulation, simulate
from sim_pipeline_tests.simulator.laws import HOUR, MONDAY, WEEK, output_tokens

# These windows include an incident and histories of several lengths.
BUSY = replace(
    MODELS["DeepSeek-V3"],
    incidents=(Incident((MONDAY + 30) * HOUR + 500, (MONDAY + 32) * HOUR, 0.4),),
)


def assert_equal(first: Simulation, second: Simulation) -> None:
    for name, values in vars(first).items():
        assert np.array_equal(values, getattr(second, name)), name


def picked(result: Simulation, index: Any) -> Simulation:
    return Simulation(**{name: values[index] for name, values in vars(result).items()})


@pytest.mark.parametrize(("interval", "points"), [(HOUR, 5), (60, 1), (WEEK, 3), (1, 150)])
def test_numbers_do_not_depend_on_range_or_order(interval: int, points: int) -> None:
    start = MONDAY * HOUR // interval
    windows = np.arange(start, start + 60)
    run: dict[str, Any] = {"interval": interval, "points": points, "seed": 42}
    whole = simulate(BUSY, windows, **run)

    @given(st.lists(st.integers(0, 59), min_size=1, max_size=20))
    @settings(max_examples=25, derandomize=True, deadline=None)
    def any_selection(selection: list[int]) -> None:
        assert_equal(simulate(BUSY, windows[selection], **run), picked(whole, selection))

    any_selection()


@pytest.mark.parametrize("exponent", [9, 13, 20])
def test_numbers_do_not_depend_on_block_size(
    monkeypatch: pytest.MonkeyPatch, exponent: int
) -> None:
    windows = np.arange(MONDAY, MONDAY + 40)
    run: dict[str, Any] = {"interval": HOUR, "points": 70, "seed": 1}
    expected = simulate(BUSY, windows, **run)
    monkeypatch.setattr(simulation, "BLOCK_VALUES", max(1 << exponent, 70 * 4))
    assert_equal(simulate(BUSY, windows, **run), expected)


def test_numbers_are_same_in_other_process() -> None:
    program = """
import hashlib, numpy as np
from sim_pipeline.simulator.lengths import TokenLengths
from sim_pipeline.simulator.catalogue import profile_for
from sim_pipeline.simulator.simulation import simulate
windows = np.arange(490_000, 490_050)
result = simulate(profile_for("Qwen-2.5"), windows, interval=3600, points=5, seed=7)
print(hashlib.sha256(b"".join(values.tobytes() for values in vars(result).values())).hexdigest())
"""
    output = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONHASHSEED": "3"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    result = simulate(
        profile_for("Qwen-2.5"), np.arange(490_000, 490_050), interval=HOUR, points=5, seed=7
    )
    parts = b"".join(values.tobytes() for values in vars(result).values())
    assert output == hashlib.sha256(parts).hexdigest()


def test_seed_model_and_window_change_numbers() -> None:
    run: dict[str, Any] = {"interval": HOUR, "points": 5}
    twin = replace(MODELS["GPT-4o"], name="GPT-4o twin")
    results = [
        simulate(MODELS["GPT-4o"], [MONDAY, MONDAY + 1], seed=1, **run),
        simulate(MODELS["GPT-4o"], [MONDAY, MONDAY + 1], seed=2, **run),
        simulate(twin, [MONDAY, MONDAY + 1], seed=1, **run),
    ]
    ttft = np.concatenate([result.ttft.ravel() for result in results])
    assert np.unique(ttft).size == ttft.size


def test_result_has_documented_shapes() -> None:
    result = simulate(MODELS["GPT-4o"], [5, 3, 5], interval=HOUR, points=7, seed=1)
    for name in ("ttft", "tps", "e2e_latency", "rps"):
        values = getattr(result, name)
        assert values.shape == (3, 7)
        assert values.dtype == np.float64
        assert values.flags.c_contiguous
        assert np.array_equal(values[0], values[2])
    for name, shape, dtype in (
        ("completed", (3,), "int64"),
        ("failed", (3, 3), "int64"),
        ("utilisation", (3,), "float64"),
    ):
        values = getattr(result, name)
        assert values.shape == shape
        assert values.dtype == dtype
    assert simulate(MODELS["GPT-4o"], [], interval=HOUR, points=7, seed=1).ttft.shape == (0, 7)


@given(
    interval=st.integers(1, WEEK),
    points=st.integers(1, 300),
    seed=st.integers(0, 2**70),
    window=st.integers(0, 15_000),
    name=st.text(min_size=1, max_size=50),
)
@settings(max_examples=60, derandomize=True, deadline=None)
def test_any_model_and_window_gives_valid_numbers(
    interval: int, points: int, seed: int, window: int, name: str
) -> None:
    result = simulate(profile_for(name), [window], interval=interval, points=points, seed=seed)
    tokens = output_tokens(result)
    assert (result.ttft > 0.0).all()
    assert (result.e2e_latency > result.ttft).all()
    assert (np.abs(tokens - np.rint(tokens)) <= 1e-6 * tokens).all()
    assert (np.rint(tokens) >= 2.0).all()
    assert np.isfinite(result.rps).all()
    assert (result.rps >= 0.0).all()
    assert 0.0 < result.utilisation[0] <= 0.9 + 1e-12
    counted = np.rint(result.rps * interval / points).sum()
    assert result.completed[0] == counted


EXTREMES = [
    {"cap": 1e-3, "ttft_ref": 60.0, "prefill_share": 0.01, "batch_limit": 1},
    {"cap": 10_000.0, "tps_ref": 10_000.0, "batch_limit": 400, "failure_rate": 0.5},
    {"rho": 0.9, "incidents": (Incident(0.0, 1e10, 0.01),)},
    {"rho": 1e-9},
    {"ttft_jitter": 2.0, "slow_share": 0.5, "slow_log_sd": 2.0},
    {"itl_jitter": 2.0, "batch_limit": 100_000},
    {"elasticity": 0.0, "capacity_sd": 1.0, "shifts_per_year": 50.0, "shift_sd": 1.0},
    {"spells_per_month": 300.0, "spell_failures": 0.5, "failure_rate": 0.5},
    {"itl_exponent": 1.0},
    {"itl_exponent": 0.1},
    {"workload": Workload(burst_sd=1.0, fast_burst_sd=1.0, heavy_share=0.9, heavy_clients=1)},
    {
        "thinking": Thinking(TokenLengths(8.0, 1.5, 1, 100_000), 0.5),
        "ttft_ref": 60.0,
        "batch_limit": 2_000,
    },
    {"prefill_per_token": 0.0001, "workload": Workload(prefix_reuse=0.99)},
    {"released": date(1970, 2, 1), "retired": date(1970, 3, 1)},
]


@pytest.mark.parametrize("changes", EXTREMES, ids=",".join)
def test_extreme_profiles_give_valid_numbers(changes: dict[str, Any]) -> None:
    profile = replace(MODELS["GPT-4o"], **changes)
    result = simulate(profile, np.arange(20), interval=HOUR, points=5, seed=1)
    for values in vars(result).values():
        assert np.isfinite(values).all()
    tokens = output_tokens(result)
    assert (result.ttft > 0.0).all()
    assert (result.e2e_latency > result.ttft).all()
    assert (np.abs(tokens - np.rint(tokens)) <= 1e-6 * tokens).all()


def peak_beyond_result(profile: Profile, windows: int, points: int) -> int:
    """Return the peak memory of a simulation, without its result [bytes]."""
    tracemalloc.start()
    try:
        result = simulate(profile, np.arange(windows), interval=HOUR, points=points, seed=1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    kept: int = sum(values.nbytes for values in vars(result).values())
    return peak - kept


def test_memory_does_not_grow_with_windows() -> None:
    simulate(MODELS["GPT-4o"], [0], interval=HOUR, points=5, seed=1)
    some = peak_beyond_result(MODELS["GPT-4o"], 7_000, 5)
    many = peak_beyond_result(MODELS["GPT-4o"], 14_000, 5)
    # The window numbers take 8 bytes each.
    assert many - some < 0.1 * some + 8 * 7_000


def test_memory_does_not_grow_with_points() -> None:
    some = peak_beyond_result(MODELS["GPT-4o"], 20, 2_000)
    many = peak_beyond_result(MODELS["GPT-4o"], 20, 10_000)
    assert many < 1.5 * some


# (model, interval, points, window) at seed 42.
GOLDEN: dict[tuple[str, int, int, int], dict[str, list[float]]] = {
    ("GPT-4o", 3600, 3, 491000): {
        "ttft": [0.5284309576023372, 0.3011518318878727, 0.31024055917121846],
        "tps": [95.23581482815398, 64.01071443416741, 77.62987569457495],
        "e2e_latency": [2.0824681679423245, 1.6134321390603668, 2.1007883187332475],
        "rps": [5.7825, 6.861666666666666, 9.6475],
        "completed": [26750],
        "failed": [13, 4, 9],
        "utilisation": [0.2854669661136045],
    },
    ("DeepSeek-V3", 604800, 2, 2922): {
        "ttft": [1.2601234766338696, 0.6232864167617869],
        "tps": [64.9911263517685, 76.82734687802134],
        "e2e_latency": [4.522107256581563, 4.437032587968188],
        "rps": [10.022367724867724, 10.332681878306879],
        "completed": [6155367],
        "failed": [5106, 4205, 4157],
        "utilisation": [0.5096818358405807],
    },
    ("Qwen-2.5", 1, 2, 1767571200): {
        "ttft": [0.2795127401571969, 0.19018396846020102],
        "tps": [37.76250040450702, 38.10955001681119],
        "e2e_latency": [9.389079011328768, 10.607520300819731],
        "rps": [0.0, 2.0],
        "completed": [1],
        "failed": [1, 0, 0],
        "utilisation": [0.42787286245203643],
    },
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_golden_numbers(case: tuple[str, int, int, int]) -> None:
    """Stored data depends on these numbers: a change needs a new SIMULATOR_VERSION."""
    name, interval, points, window = case
    result = simulate(profile_for(name), [window], interval=interval, points=points, seed=42)
    for metric, expected in GOLDEN[case].items():
        # NumPy's exp and log may differ in the last digit between processors.
        assert getattr(result, metric).ravel().tolist() == pytest.approx(expected, rel=1e-12)
