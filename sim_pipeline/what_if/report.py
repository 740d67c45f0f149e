"""The result of a what-if as Markdown tables."""

import numpy as np

from sim_pipeline import markdown
from sim_pipeline.metrics import METRICS, UNITS
from sim_pipeline.what_if.form import Scenario
from sim_pipeline.what_if.simulate import PERCENTILES, Outcome


def inputs_table(scenario: Scenario, outcome: Outcome) -> str:
    """Return the inputs of both sides, with the digest of everything the metrics depend on."""
    baseline, candidate = scenario.baseline, scenario.candidate
    rows = (
        ("seed", baseline.seed, candidate.seed),
        ("points", baseline.points, candidate.points),
        ("profiles", markdown.literal(baseline.source), markdown.literal(candidate.source)),
        ("digest", outcome.baseline.digest, outcome.candidate.digest),
    )
    return markdown.table(("input", "current", "what if"), "lll", rows)


def metric_table(scenario: Scenario, outcome: Outcome, metric: str) -> str:
    """Return each model's p50 and p95 of a metric: current, what if, and the change."""
    place = METRICS.index(metric)
    heads = ["model"]
    for percentile in PERCENTILES:
        heads += [f"p{percentile} current", f"p{percentile} what if", "change"]
    rows = []
    for llm_name, baseline, candidate in zip(
        scenario.llm_names,
        outcome.baseline.percentiles[:, place],
        outcome.candidate.percentiles[:, place],
        strict=True,
    ):
        row = [markdown.literal(llm_name)]
        for before, after in zip(baseline, candidate, strict=True):
            row += [f"{before:.3g}", f"{after:.3g}", _change(before, after)]
        rows.append(row)
    return markdown.table(heads, "lrrrrrr", rows)


def slo_table(scenario: Scenario, outcome: Outcome) -> str:
    """Return each model's SLO attainment and goodput [requests/s]: current and what if."""
    heads = ("model", "attainment current", "what if", "goodput current", "what if", "change")
    baseline, candidate = outcome.baseline, outcome.candidate
    rows = [
        (
            markdown.literal(llm_name),
            f"{baseline.attainment[place]:.2%}",
            f"{candidate.attainment[place]:.2%}",
            f"{baseline.goodput[place]:.4g}",
            f"{candidate.goodput[place]:.4g}",
            _change(baseline.goodput[place], candidate.goodput[place]),
        )
        for place, llm_name in enumerate(scenario.llm_names)
    ]
    return markdown.table(heads, "lrrrrr", rows)


def largest_change(scenario: Scenario, outcome: Outcome) -> str:
    """Return one line that names the percentile, model and metric with the largest change."""
    if outcome.baseline.digest == outcome.candidate.digest:
        return "none, the metrics are the same"
    # On a log scale: a half is as large a change as a double. One from or to 0 has no size.
    baseline, candidate = outcome.baseline.percentiles, outcome.candidate.percentiles
    known = (baseline > 0.0) & (candidate > 0.0)
    sizes = np.abs(np.log(np.divide(candidate, baseline, where=known, out=np.ones_like(candidate))))
    model, metric, percentile = np.unravel_index(np.argmax(sizes), sizes.shape)
    place = model, metric, percentile
    name = METRICS[metric]
    return (
        f"{scenario.llm_names[model]} {name} p{PERCENTILES[percentile]}:"
        f" {baseline[place]:.4g} to {candidate[place]:.4g}"
        f" {UNITS[name]}, {_change(baseline[place], candidate[place])}"
    )


def _change(before: float, after: float) -> str:
    if before == after:
        return "none"
    return f"{after / before - 1.0:+.1%}" if before else ""
