"""What came of a what-if, for people: Markdown tables."""

import numpy as np

from sim_pipeline import markdown
from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline.what_if.form import Scenario
from sim_pipeline.what_if.simulate import PERCENTILES, Outcome


def inputs_table(scenario: Scenario, outcome: Outcome) -> str:
    """Return the inputs of both sides, with the digest of all that the numbers depend on."""
    now, then = scenario.now, scenario.then
    rows = (
        ("seed", now.seed, then.seed),
        ("points", now.points, then.points),
        ("profiles", markdown.literal(now.source), markdown.literal(then.source)),
        ("digest", outcome.now.digest, outcome.then.digest),
    )
    return markdown.table(("input", "current", "what if"), "lll", rows)


def metric_table(scenario: Scenario, outcome: Outcome, metric: str) -> str:
    """Return p50 and p95 of each model by one metric: current, what if, and the change."""
    place = METRICS.index(metric)
    heads = ["model"]
    for percentile in PERCENTILES:
        heads += [f"p{percentile} current", f"p{percentile} what if", "change"]
    rows = []
    for llm_name, now, then, change in zip(
        scenario.llm_names,
        outcome.now.percentiles[:, place],
        outcome.then.percentiles[:, place],
        outcome.change[:, place],
        strict=True,
    ):
        row = [markdown.literal(llm_name)]
        for before, after, share in zip(now, then, change, strict=True):
            row += [f"{before:.4g}", f"{after:.4g}", _percent(share)]
        rows.append(row)
    return markdown.table(heads, "lrrrrrr", rows)


def largest_change(scenario: Scenario, outcome: Outcome) -> str:
    """Say in one line which percentile of which model and metric changes most."""
    if outcome.now.digest == outcome.then.digest:
        return "none, the inputs are the same"
    # By its logarithm: to a half is as much as to the double.
    sizes = np.abs(np.log1p(outcome.change))
    model, metric, percentile = np.unravel_index(np.argmax(sizes), sizes.shape)
    place = model, metric, percentile
    name = METRICS[metric]
    return (
        f"{scenario.llm_names[model]} {name} p{PERCENTILES[percentile]}:"
        f" {outcome.now.percentiles[place]:.4g} to {outcome.then.percentiles[place]:.4g}"
        f" {UNITS[name]}, {_percent(outcome.change[place])}"
    )


def _percent(share: float) -> str:
    return f"{share:+.1%}" if share else "none"
