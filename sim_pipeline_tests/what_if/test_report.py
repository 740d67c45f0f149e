"""A what-if as people read it."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from sim_pipeline.config import DEFAULT_MODELS
from sim_pipeline.metrics import METRICS
from sim_pipeline.simulator.profiles import MODELS
from sim_pipeline.what_if.form import Inputs, Scenario
from sim_pipeline.what_if.report import inputs_table, largest_change, metric_table
from sim_pipeline.what_if.simulate import Outcome, Side
from sim_pipeline.windows import Cadence

NAMES = ("GPT-4o", "Llama-3.1-8B")
INPUTS = Inputs(42, 5, {name: MODELS[name] for name in NAMES}, "built in")
SCENARIO = Scenario(
    NAMES,
    range(3),
    Cadence(3600, datetime(1970, 1, 1, tzinfo=UTC)),
    INPUTS,
    Inputs(7, 5, INPUTS.profiles, "/etc/fleet.toml"),
)


def outcome() -> Outcome:
    """TTFT of the second model a tenth longer, its RPS at p95 a third of what it was."""
    now = np.broadcast_to([1.0, 3.0], (2, 4, 2)).copy()
    then = now.copy()
    then[1, 0] *= 1.1
    then[1, 3, 1] /= 3
    return Outcome(Side(now, "abc"), Side(then, "def"))


def test_a_metric_has_a_line_a_model() -> None:
    assert metric_table(SCENARIO, outcome(), "TTFT").splitlines()[2:] == [
        "| GPT-4o | 1 | 1 | none | 3 | 3 | none |",
        "| Llama-3.1-8B | 1 | 1.1 | +10.0% | 3 | 3.3 | +10.0% |",
    ]
    assert metric_table(SCENARIO, outcome(), "RPS").splitlines()[3] == (
        "| Llama-3.1-8B | 1 | 1 | none | 3 | 1 | -66.7% |"
    )


def test_the_inputs_stand_side_by_side() -> None:
    assert inputs_table(SCENARIO, outcome()).splitlines()[2:] == [
        "| seed | 42 | 7 |",
        "| points | 5 | 5 |",
        "| profiles | built in | /etc/fleet.toml |",
        "| digest | abc | def |",
    ]


def test_the_largest_change_is_so_by_its_ratio() -> None:
    assert largest_change(SCENARIO, outcome()) == "Llama-3.1-8B RPS p95: 3 to 1 requests/s, -66.7%"


def test_that_nothing_differs_is_said() -> None:
    side = outcome().now
    assert largest_change(SCENARIO, Outcome(side, side)) == "none, the inputs are the same"


def test_names_are_text() -> None:
    names = ("__init__", "<b>x")
    lines = metric_table(replace(SCENARIO, llm_names=names), outcome(), "TTFT").splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| `__init__`", "| `<b>x`"]


def test_a_table_of_the_default_models_is_shown_without_being_asked_for() -> None:
    """The UI shows as it is what has less than 1,000 characters."""
    now = np.full((len(DEFAULT_MODELS), 4, 2), 0.0012345)
    scenario = replace(SCENARIO, llm_names=DEFAULT_MODELS)
    for metric in METRICS:
        text = metric_table(scenario, Outcome(Side(now, "abc"), Side(now / 9, "def")), metric)
        assert len(text.splitlines()) == 2 + 9
        assert len(text) < 1000
