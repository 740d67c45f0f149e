"""The Markdown report of a what-if."""

from dataclasses import replace

import numpy as np

from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.catalogue import MODELS
from sim_pipeline.what_if.form import Inputs, Scenario
from sim_pipeline.what_if.report import inputs_table, largest_change, metric_table, slo_table
from sim_pipeline.what_if.simulate import Outcome, SideResult
from sim_pipeline.windows import EPOCH, Cadence

NAMES = ("GPT-4o", "Llama-3.1-8B")
INPUTS = Inputs(42, 5, {name: MODELS[name] for name in NAMES}, "built in")
SCENARIO = Scenario(
    NAMES,
    range(3),
    Cadence(3600, EPOCH),
    INPUTS,
    Inputs(7, 5, INPUTS.profiles, "/etc/fleet.toml"),
)


def side(percentiles: np.ndarray, digest: str, *, share: float = 0.5) -> SideResult:
    """Return a side in which both models keep their limits for this share of 10 requests/s."""
    shares = np.full(len(percentiles), share)
    return SideResult(percentiles, shares, 10 * shares, digest)


def outcome() -> Outcome:
    """The second model's TTFT grows by a tenth; the p95 of its RPS falls to a third."""
    baseline = np.broadcast_to([1.0, 3.0], (2, 4, 2)).copy()
    candidate = baseline.copy()
    candidate[1, 0] *= 1.1
    candidate[1, 3, 1] /= 3
    return Outcome(side(baseline, "abc"), side(candidate, "def"))


def test_metric_table_has_a_row_per_model() -> None:
    assert metric_table(SCENARIO, outcome(), "TTFT").splitlines()[2:] == [
        "| GPT-4o | 1 | 1 | none | 3 | 3 | none |",
        "| Llama-3.1-8B | 1 | 1.1 | +10.0% | 3 | 3.3 | +10.0% |",
    ]
    assert metric_table(SCENARIO, outcome(), "RPS").splitlines()[3] == (
        "| Llama-3.1-8B | 1 | 1 | none | 3 | 1 | -66.7% |"
    )


def test_slo_table_shows_attainment_and_goodput_of_both_sides() -> None:
    result = outcome()
    result.candidate.attainment[:] = [0.5, 0.25]
    result.candidate.goodput[:] = [5.0, 2.5]
    assert slo_table(SCENARIO, result).splitlines()[2:] == [
        "| GPT-4o | 50.00% | 50.00% | 5 | 5 | none |",
        "| Llama-3.1-8B | 50.00% | 25.00% | 5 | 2.5 | -50.0% |",
    ]


def test_slo_table_has_no_change_from_zero() -> None:
    result = outcome()
    result.baseline.goodput[:] = 0.0
    result.candidate.goodput[:] = [0.0, 2.5]
    changes = [line.split(" | ")[-1] for line in slo_table(SCENARIO, result).splitlines()[2:]]
    assert changes == ["none |", " |"]


def test_inputs_table_shows_both_sides() -> None:
    assert inputs_table(SCENARIO, outcome()).splitlines()[2:] == [
        "| seed | 42 | 7 |",
        "| points | 5 | 5 |",
        "| profiles | built in | /etc/fleet.toml |",
        "| digest | abc | def |",
    ]


def test_largest_change_is_chosen_by_ratio() -> None:
    assert largest_change(SCENARIO, outcome()) == "Llama-3.1-8B RPS p95: 3 to 1 requests/s, -66.7%"


def test_no_change_is_reported() -> None:
    side = outcome().baseline
    assert largest_change(SCENARIO, Outcome(side, side)) == "none, the metrics are the same"


def test_zeros_are_no_change() -> None:
    result = outcome()
    result.baseline.percentiles[:, 2] = result.candidate.percentiles[:, 2] = 0.0
    result.baseline.percentiles[0, 1, 0] = 0.0
    assert largest_change(SCENARIO, result).startswith("Llama-3.1-8B RPS p95: 3 to 1")
    rows = metric_table(SCENARIO, result, "e2e_latency").splitlines()[2:]
    assert rows[0] == "| GPT-4o | 0 | 0 | none | 0 | 0 | none |"
    assert metric_table(SCENARIO, result, "TPS").splitlines()[2].startswith("| GPT-4o | 0 | 1 |  |")


def test_model_names_are_escaped() -> None:
    names = ("__init__", "<b>x")
    lines = metric_table(replace(SCENARIO, llm_names=names), outcome(), "TTFT").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `__init__`", "| `<b>x`"]


def test_default_models_fit_into_the_uis_preview() -> None:
    """The UI shows text of less than 1,000 characters without a click."""
    baseline = np.full((len(DEFAULT_MODELS), 4, 2), 0.12345)
    scenario = replace(SCENARIO, llm_names=DEFAULT_MODELS)
    for metric in METRICS:
        result = Outcome(side(baseline, "abc"), side(baseline / 9, "def", share=0.43217))
        for text in (metric_table(scenario, result, metric), slo_table(scenario, result)):
            assert len(text.splitlines()) == 2 + len(DEFAULT_MODELS)
            assert len(text) < 1000
